"""Galaxies with votes: which are learned from, which are held out for ever, and their images."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from zoo_bridge.acquisition.select import share_of
from zoo_bridge.balance import Balance
from zoo_bridge.cutouts.load import Loader, Reject
from zoo_bridge.cutouts.visible import FEWEST_TO_COMPARE, MOST_ALIKE, share_alike
from zoo_bridge.errors import InputError, NotReadyError
from zoo_bridge.rows import read_rows
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.inputs import open_loader, open_store, read_survey, subjects_export

if TYPE_CHECKING:
    from zoo_bridge.steps.training.trunks import Trunk

Array = NDArray[Any]
MIN_HELDOUT = 10


class Pictures:
    """Images of galaxies whose features are there, loaded as they are asked for.

    Parameters
    ----------
    loader : Loader
        How they are prepared.
    objects : sequence of (object_id, uri)
        Of N galaxies.
    """

    def __init__(self, loader: Loader, objects: Sequence[tuple[str, str]]) -> None:
        self.loader = loader
        self.objects = list(objects)

    def __len__(self) -> int:
        return len(self.objects)

    def __getitem__(self, places: Any) -> Array:
        """Those at some places; blank where a cutout cannot be used any more."""
        chosen = np.atleast_1d(np.arange(len(self))[places])
        batch = self.loader.load([self.objects[place] for place in chosen])
        images = np.zeros((len(chosen), *batch.images.shape[1:]), np.float32)
        images[batch.places] = batch.images
        return images[0] if np.ndim(np.arange(len(self))[places]) == 0 else images


@dataclass(frozen=True)
class Labelled:
    """Galaxies with votes: ids, images, and the votes on every answer.

    ``images`` has shape (N, size, size, channels), or gives them when they are asked for.
    ``features`` is what a trunk that stays sees in them, one array of shape (N, D) for each
    network, and ``trunk`` its name; none where a whole network is trained. ``votes``, shape (N, V),
    has for each question the k of every answer in the settings' order, then n, as `model.heads`
    lays them out. ``k`` and ``n``, shape (N, Q), are the target answers'. ``heldout`` marks the
    galaxies that are never trained on.
    """

    ids: list[str]
    images: Array | Pictures
    votes: Array
    k: Array
    n: Array
    heldout: NDArray[np.bool_]
    features: Sequence[Array] = ()
    trunk: str = ""

    @property
    def learned_ids(self) -> list[str]:
        """Ids of those that are learned from, in order."""
        return [name for name, held in zip(self.ids, self.heldout, strict=True) if not held]

    def target(self, question: int) -> tuple[Array, Array]:
        """k and n of one question's target answer: shape (N,)."""
        return self.k[:, question], self.n[:, question]


def heldout_roles(ctx: Context, frame: pl.DataFrame) -> dict[str, bool]:
    """For every labelled object whose role was settled when it was planned: whether it is held out.

    What BALD chose is for learning; the random share of every batch is held out. The random first
    batch, made before there was a model, is split by a hash like everything else, and so is what
    had votes before it was planned: a role never changes.

    Parameters
    ----------
    ctx : Context
        Its ledger knows what was planned for what.
    frame : polars.DataFrame
        Labels, with a column object_id.

    Returns
    -------
    dict
        By object id.
    """
    labelled = set(frame["object_id"])
    roles = ctx.ledger.settled_roles()
    return {name: heldout for name, heldout in roles.items() if name in labelled}


def usable_labels(
    ctx: Context, frame: pl.DataFrame, roles: dict[str, bool]
) -> tuple[pl.DataFrame, dict[str, int]]:
    """One row a galaxy that can be used, and a tally of those that cannot.

    Parameters
    ----------
    ctx : Context
        Its settings say which labels can be used.
    frame : polars.DataFrame
        Labels, a row for each answer of a subject.
    roles : dict
        By object id, whether it is held out: see `heldout_roles`.

    Returns
    -------
    table : polars.DataFrame
        object_id, uri, k_<question>_<answer> and n_<question> by their places, heldout.
    tally : dict
        labelled, not_in_survey, too_few_votes, from_subject_media.
    """
    survey = read_survey(ctx, open_store(ctx.settings))
    places = survey.find(frame["object_id"].unique())
    if ctx.settings.votes.same_object == "apart":
        # Subjects of one object may show it differently: the one with most votes speaks for it.
        most = (
            frame.group_by("object_id", "subject_id")
            .agg(pl.col("n").sum())
            .sort(["n", "subject_id"], descending=[True, False])
            .unique("object_id", keep="first")
        )
        frame = frame.join(most, on=["object_id", "subject_id"], how="semi")
    wide = frame.select("object_id").unique()
    for place, question in enumerate(ctx.settings.question):
        asked = frame.filter(question=question.name)
        for number, answer in enumerate(question.answers):
            votes = (
                asked.filter(answer=answer)
                .group_by("object_id")
                .agg(pl.col("k").sum().alias(f"k_{place}_{number}"), pl.col("n").sum())
                .rename({"n": f"n_{place}_{number}"})
            )
            wide = wide.join(votes, on="object_id", how="left")
        of_any = pl.max_horizontal(f"n_{place}_{i}" for i in range(len(question.answers)))
        wide = wide.with_columns(of_any.alias(f"n_{place}"))
    wide = wide.fill_null(0)
    found = wide.join(places, on="object_id", how="inner")
    missing = wide.join(places, on="object_id", how="anti").sort("object_id")
    own = _subject_media(ctx, frame, missing["object_id"])
    found = pl.concat([found, missing.join(own, on="object_id", how="inner")]).sort("object_id")
    enough = found.filter(pl.col("n_0") >= ctx.settings.model.min_votes)
    share, seed = ctx.settings.model.heldout_share, ctx.settings.seed
    held = [
        roles.get(name, share_of(name, seed, "held out") < share) for name in enough["object_id"]
    ]
    tally = {
        "labelled": len(wide),
        "not_in_survey": len(wide) - len(found),
        "too_few_votes": len(found) - len(enough),
        "from_subject_media": len(own),
    }
    if len(own):
        ctx.say(
            f"{len(own)} labelled objects are not in the survey: the pictures that volunteers saw "
            f"are learned from, such as {own['uri'][0]}"
        )
    if tally["not_in_survey"]:
        names = missing.join(own, on="object_id", how="anti")["object_id"][:3].to_list()
        ctx.say(
            f"{tally['not_in_survey']} labelled objects are not in the survey, such as "
            + ", ".join(names)
        )
    return enough.with_columns(pl.Series("heldout", held, dtype=pl.Boolean)), tally


def _subject_media(ctx: Context, frame: pl.DataFrame, missing: pl.Series) -> pl.DataFrame:
    """The first picture of each object that the survey lacks: object_id, uri.

    It is looked up in the subjects export, if one was pulled.
    """
    none = pl.DataFrame(schema={"object_id": pl.String, "uri": pl.String})
    if not ctx.settings.model.subject_media or missing.is_empty():
        return none
    path = subjects_export(ctx)
    if path is None:
        return none
    wanted = frame.filter(pl.col("object_id").is_in(missing.implode()))
    subjects = dict(wanted.select(pl.col("subject_id").cast(pl.String), "object_id").iter_rows())
    found: dict[str, str] = {}
    for piece in read_rows(path, ("subject_id", "locations"), "subjects"):
        columns = (column.to_pylist() for column in piece.table.columns)
        for subject, locations in zip(*columns, strict=True):
            if (shown := subjects.get(subject)) and (uri := _first_location(locations)):
                found.setdefault(shown, uri)
    return pl.DataFrame(list(found.items()), schema=none.schema, orient="row")


def _first_location(text: str) -> str | None:
    """The address of a subject's first frame, from the export's column ``locations``."""
    try:
        locations = json.loads(text)
        first = locations.get("0") or next(iter(locations.values()))
    except (ValueError, AttributeError, StopIteration):
        return None
    return first if isinstance(first, str) and first.startswith(("http://", "https://")) else None


def check_enough(ctx: Context, table: pl.DataFrame) -> None:
    """Raise `NotReadyError` if there are too few galaxies to learn from or to judge by."""
    needed = ctx.settings.model.min_labels
    if len(table) < needed:
        raise NotReadyError(
            f"There are labels for {len(table)} galaxies of the survey, fewer than the {needed} "
            "needed to train.",
            "Wait for more votes, check votes.object_id_keys, or lower model.min_labels.",
        )
    if table["heldout"].sum() < MIN_HELDOUT:
        raise NotReadyError(
            f"Only {table['heldout'].sum()} labelled galaxies are held out, too few to judge a "
            f"model by (at least {MIN_HELDOUT}).",
            "Wait for more votes, or raise model.heldout_share.",
        )


def load_galaxies(
    ctx: Context, table: pl.DataFrame, counts: dict[str, Any], trunk: Trunk | None = None
) -> Labelled:
    """Fetch the cutouts of labelled galaxies, or what a trunk that stays sees in them.

    Parameters
    ----------
    ctx : Context
        The settings say where cutouts are, and how they are prepared.
    table : polars.DataFrame
        One row a galaxy, as `usable_labels` gives them.
    counts : dict
        ``bad_cutouts`` is noted in it.
    trunk : Trunk, optional
        One that stays: only cutouts that it has not seen yet are fetched.

    Returns
    -------
    Labelled
        Without the galaxies whose cutout cannot be used.

    Raises
    ------
    InputError
        If none can be used.
    """
    loader = open_loader(ctx, open_store(ctx.settings))
    objects = list(zip(table["object_id"].to_list(), table["uri"].to_list(), strict=True))
    rejects: list[Reject] = []

    def load(some: Sequence[tuple[str, str]]) -> tuple[list[int], Array]:
        with ctx.progress.bar("cutouts", len(some)) as advance:
            batch = loader.load(some, advance)
        rejects.extend(batch.rejects)
        return batch.places, batch.images

    images: Array | Pictures
    features: Sequence[Array] = ()
    if trunk is None:
        places, images = load(objects)
    else:
        places, features = trunk.features(ctx, objects, load)
        images = Pictures(loader, [objects[place] for place in places])
    counts["bad_cutouts"] = len(rejects)
    _tell_rejects(ctx, rejects, len(objects))
    if not places:
        first = rejects[0]
        raise InputError(
            f"None of the {len(objects)} cutouts can be used, such as {first.uri}: {first.reason} "
            f"({first.detail}).",
            "Look at some: zoo-bridge check --pictures FOLDER; check [survey] and [cutouts].",
        )
    kept = table[places]
    asked = list(enumerate(ctx.settings.question))
    columns, targets = [], []
    for place, question in asked:
        columns += [f"k_{place}_{number}" for number in range(len(question.answers))]
        columns.append(f"n_{place}")
        targets.append(f"k_{place}_{list(question.answers).index(question.target)}")
    return Labelled(
        kept["object_id"].to_list(),
        images,
        kept.select(columns).to_numpy(),
        kept.select(targets).to_numpy(),
        kept.select(f"n_{place}" for place, _ in asked).to_numpy(),
        kept["heldout"].to_numpy(),
        features,
        trunk.name if trunk else "",
    )


def _tell_rejects(ctx: Context, rejects: Sequence[Reject], of: int) -> None:
    for reject in rejects[:3]:
        ctx.say(f"cutout {reject.uri} set aside: {reject.reason} ({reject.detail})")
    kinds = Counter(reject.reason for reject in rejects)
    if kinds:
        told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        ctx.say(f"{len(rejects)} of {of} cutouts set aside: {told}")


def check_images(data: Labelled) -> None:
    """Raise `InputError` if there is nothing to learn in the images that are learned from."""
    learn = np.flatnonzero(~data.heldout)
    flat = [
        data.ids[place]
        for place in learn
        if not np.isfinite(image := data.images[place]).all() or image.min() == image.max()
    ]
    hint = "Look at some: zoo-bridge check --pictures FOLDER; check [survey] and [cutouts]."
    if flat:
        raise InputError(
            f"{len(flat)} of {len(learn)} training images are of one value, or no numbers, such as "
            f"{', '.join(flat[:3])}.",
            hint,
        )
    alike = share_alike(data.images[place] for place in learn)
    if alike > MOST_ALIKE and len(learn) >= FEWEST_TO_COMPARE:
        raise InputError(
            f"{alike:.0%} of {len(learn)} training images look the same, such as that of "
            f"{data.ids[learn[0]]}: there is nothing to learn.",
            hint,
        )


def balance_of(counts: dict[str, Any], used: int) -> Balance:
    """What became of the labelled objects."""
    aside = ("not_in_survey", "too_few_votes", "bad_cutouts")
    parts = {name: counts.get(name, 0) for name in aside}
    return Balance("labelled objects", counts["labelled"], {"used": used, **parts})
