"""What volunteers will see of a batch: its pictures, and a contact sheet of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from zoo_bridge.config import Settings
from zoo_bridge.cutouts.preprocess import BadCutoutError, Preprocessing, preview
from zoo_bridge.cutouts.store import Found, Store, whole
from zoo_bridge.steps.batches.plan import Planned
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.inputs import preprocessing_of

# Of pictures' files, by upload.preview_format.
ENDINGS = {"jpeg": ".jpg", "png": ".png"}


def frames_of(settings: Settings) -> list[Preprocessing]:
    """How each picture of a subject is made: the first as the network sees it."""
    first, second = preprocessing_of(settings), settings.upload.second_frame
    if second is None:
        return [first]
    changes = {name: value for name, value in second.model_dump().items() if value is not None}
    return [first, replace(first, **changes)]


AT_ONCE = 100


def draw(
    ctx: Context, plan: Sequence[Planned], store: Store, folder: Path
) -> tuple[list[Planned], Counter[str]]:
    """Draw what volunteers will see; an object that cannot be shown is planned to be skipped.

    Parameters
    ----------
    ctx : Context
        The settings say how pictures are made.
    plan : sequence of Planned
        Lines of the batch's plan, in order.
    store : Store
        Where cutouts are.
    folder : Path
        The batch's; pictures go to ``previews/``.

    Returns
    -------
    tuple of list of Planned, Counter
        The plan, with what is skipped; and for what reasons, how many each.
    """
    faults: Counter[str] = Counter()
    frames = frames_of(ctx.settings)
    out: list[Planned] = []
    previews = folder / "previews"
    previews.mkdir(parents=True, exist_ok=True)
    with (
        ctx.progress.bar("previews", len(plan)) as advance,
        ThreadPoolExecutor(store.threads) as pool,
    ):
        for start in range(0, len(plan), AT_ONCE):
            some = plan[start : start + AT_ONCE]
            files = store.read_many([row.uri for row in some], pool)
            for row, data in zip(some, files, strict=True):
                out.append(_draw_one(ctx, row, data, frames, previews, faults))
                advance(1)
    return out, faults


def _draw_one(
    ctx: Context,
    row: Planned,
    data: Found,
    frames: list[Preprocessing],
    folder: Path,
    faults: Counter[str],
) -> Planned:
    config = ctx.settings.upload
    try:
        kind = config.preview_format
        pictures = [
            preview(whole(data), preprocessing, config.preview_size, kind)
            for preprocessing in frames
        ]
    except BadCutoutError as error:
        faults[error.reason] += 1
        if row.action == "link" and not row.redrawn:
            # It is shown already, by a picture of its own.
            return row
        ctx.say(f"{row.object_id} is skipped, it cannot be shown: {error}")
        return replace(row, action="skip", why=f"{row.why}; cannot be shown: {error}")
    for number, picture in enumerate(pictures, 1):
        path = folder / f"{row.rank:06d}-{number}{ENDINGS[kind]}"
        path.write_bytes(picture)
    return row


def write_contact_sheet(ctx: Context, folder: Path, plan: Sequence[Planned]) -> None:
    """All pictures of a plan on one page, with rank, id and BALD: ``contact-sheet.jpg``."""
    from zoo_bridge.report.figures import Thumb, contact_sheet

    ending = ENDINGS[ctx.settings.upload.preview_format]
    by_chance = all(row.reason == "random" for row in plan)
    thumbs = [
        Thumb(
            path,
            f"{row.rank}  {row.object_id}",
            "random" if row.reason == "random" else f"{row.bald or 0:.3f} nats",
            row.reason == "random" and not by_chance,
        )
        for row in plan
        if (path := folder / "previews" / f"{row.rank:06d}-1{ending}").exists()
    ]
    if thumbs:
        order = (
            "drawn at random" if by_chance else "best first; the random share is framed in white"
        )
        title = f"{folder.name}: {len(plan)} objects, {order}"
        (folder / "contact-sheet.jpg").write_bytes(contact_sheet(thumbs, title))
