"""A few galaxies of the survey, as the network and as volunteers would see them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from zoo_bridge.config import Settings
from zoo_bridge.cutouts.advice import advise
from zoo_bridge.cutouts.images import MAX_BANDS
from zoo_bridge.cutouts.preprocess import (
    BadCutoutError,
    Image32,
    preprocess,
    preview,
)
from zoo_bridge.cutouts.store import Store, whole
from zoo_bridge.cutouts.survey import Survey
from zoo_bridge.cutouts.visible import FEWEST_TO_COMPARE, MOST_ALIKE, Look, share_alike
from zoo_bridge.errors import InputError, RefusedError, ZooBridgeError
from zoo_bridge.steps.batches.pictures import ENDINGS, frames_of
from zoo_bridge.steps.inputs import LIMITED, preprocessing_of

if TYPE_CHECKING:
    from zoo_bridge.report.figures import Pair

SAMPLE = 20
LOOK = "Look at them: zoo-bridge check --pictures FOLDER."
# Faults of the stretch, not of the file.
UNSEEN = ("too dark", "too bright", "too faint", "blank")


@dataclass(frozen=True)
class SampleCutout:
    """A galaxy of the sample: its file, what became of it, or why nothing did."""

    object_id: str
    uri: str
    data: bytes | None = None
    array: Image32 | None = None
    pictures: tuple[bytes, ...] = ()
    fault: BadCutoutError | None = None


def read_sample(settings: Settings, store: Store, survey: Survey) -> list[SampleCutout]:
    """Read a sample that is spread over the survey, and make of it what would be made of it.

    Parameters
    ----------
    settings : Settings
        How cutouts are prepared and shown.
    store : Store
        Where they are.
    survey : Survey
        What there is.

    Returns
    -------
    list of SampleCutout
        `SAMPLE` of them, or all of a small survey.
    """
    rows = survey.sample_objects(SAMPLE)
    with ThreadPoolExecutor(store.threads) as pool:
        files = store.read_many([uri for _, uri in rows], pool)
        return [
            _see(settings, ident, uri, data) for (ident, uri), data in zip(rows, files, strict=True)
        ]


def _see(
    settings: Settings, ident: str, uri: str, found: bytes | BadCutoutError | None
) -> SampleCutout:
    config = settings.upload
    seen = SampleCutout(ident, uri)
    try:
        data = whole(found)
        seen = replace(seen, data=data)
        array = preprocess(data, preprocessing_of(settings))
        seen = replace(seen, array=array)
        frames, kind = frames_of(settings), config.preview_format
        shown = tuple(
            preview(data, preprocessing, config.preview_size, kind) for preprocessing in frames
        )
        return replace(seen, pictures=shown)
    except BadCutoutError as error:
        return replace(seen, fault=error)


def judge_sample(settings: Settings, sample: Sequence[SampleCutout]) -> str:
    """Say what the sample looks like; raise if too much of it cannot be used or seen.

    Parameters
    ----------
    settings : Settings
        What is tolerated.
    sample : sequence of SampleCutout
        Of the survey.

    Returns
    -------
    str
        In one line.

    Raises
    ------
    RefusedError
        If there is nothing to see, with the setting to change.
    InputError
        If the files are at fault.
    """
    bad = [each for each in sample if each.fault is not None]
    kinds = Counter(each.fault.reason for each in bad if each.fault)
    told = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
    if bad and (wrong := _too_many(settings, kinds, len(sample))):
        one = next(each for each in bad if each.fault and each.fault.reason == wrong)
        assert one.fault is not None
        text = f"{len(bad)} of {len(sample)} sample cutouts cannot be used ({told})"
        text += f", such as {one.object_id}, {one.uri}: {one.fault}."
        raise _explained(settings, sample, wrong, text)
    arrays = [each.array for each in sample if each.array is not None]
    if not arrays:
        raise InputError(
            f"None of {len(sample)} sample cutouts can be used ({told or 'there is none'}).",
            "Check the [survey] and [cutouts] tables and the files.",
        )
    alike = share_alike(arrays)
    if alike > MOST_ALIKE and len(arrays) >= FEWEST_TO_COMPARE:
        raise RefusedError(
            f"{alike:.0%} of {len(arrays)} sample cutouts look the same.",
            f"Is survey.uri_column the right one? {LOOK}",
        )
    preprocessing = preprocessing_of(settings)
    # What a network sees is rounded to this.
    looks = [Look.of(array.astype(np.float16).astype(np.float32)) for array in arrays]
    least, most = (f(look.contrast for look in looks) for f in (min, max))
    text = (
        f"{len(looks)} samples seen as {preprocessing.size} px {preprocessing.colour}, contrast "
        f"{least:.2f} to {most:.2f}"
    )
    if bad:
        one = bad[0]
        text += f"; {len(bad)} of {len(sample)} cannot be used ({told}), such as {one.uri}"
    return text


def _too_many(settings: Settings, kinds: Counter[str], count: int) -> str:
    """The reason that stands for more of the sample than may; empty if none does.

    By more than chance would have it: a sample is small.
    """

    def most(share: float) -> float:
        return share * count + (share * (1 - share) * count) ** 0.5

    config = settings.score
    for kind, name in LIMITED.items():
        if kinds[kind] > most(getattr(config, name)):
            return kind
    total = sum(kinds.values())
    return kinds.most_common(1)[0][0] if total > most(config.max_reject_share) else ""


def _explained(
    settings: Settings, sample: Sequence[SampleCutout], kind: str, text: str
) -> ZooBridgeError:
    """The error for a sample that is no good, with what to do about this kind of fault."""
    if kind in UNSEEN:
        files = [each.data for each in sample if each.data is not None]
        proposal = advise(files, frames_of(settings))
        hint = (
            f"Set {proposal}: with that they can be seen. "
            if proposal
            else "Correct [cutouts] (or [upload.second_frame]), or make the files anew, stretched "
            "otherwise. "
        )
        return RefusedError(text, f"{hint}{LOOK}")
    if kind in LIMITED:
        return InputError(
            text,
            f"Leave such objects out of the survey, or raise score.{LIMITED[kind]}; "
            "cutouts.max_empty_share and cutouts.max_missing_bands say what counts as one.",
        )
    return InputError(text, "Check the [survey] and [cutouts] tables and the files.")


def write_sheet(settings: Settings, sample: Sequence[SampleCutout], folder: Path) -> Path:
    """Draw the sample on one page: the network's view beside that of volunteers.

    Parameters
    ----------
    settings : Settings
        For the title.
    sample : sequence of SampleCutout
        What is drawn; what cannot be seen has its reason in place of a picture.
    folder : Path
        Where ``pictures.jpg`` is written, and the volunteers' pictures as they would be sent.

    Returns
    -------
    Path
        The page.
    """
    from zoo_bridge.report.figures import Pair, pair_sheet

    folder.mkdir(parents=True, exist_ok=True)
    ending = ENDINGS[settings.upload.preview_format]
    pairs: list[Pair] = []
    for number, each in enumerate(sample, 1):
        for frame, picture in enumerate(each.pictures, 1):
            (folder / f"{number:02d}-{frame}{ending}").write_bytes(picture)
        pairs.append(Pair(each.object_id, str(each.fault or ""), *_views(settings, each)))
    preprocessing = preprocessing_of(settings)
    title = (
        f"{settings.project.slug}: left as the network sees it ({preprocessing.size} px "
        f"{preprocessing.colour}), "
        "right as volunteers would"
    )
    path = folder / "pictures.jpg"
    path.write_bytes(pair_sheet(pairs, title))
    return path


def _views(settings: Settings, each: SampleCutout) -> tuple[Image32 | None, bytes | None]:
    """Both views; of what is refused for what is in it, what there would be."""
    if each.fault is None or each.data is None:
        return each.array, each.pictures[0] if each.pictures else None
    blind = replace(
        preprocessing_of(settings),
        min_contrast=0.0,
        max_empty_share=1.0,
        max_missing_bands=MAX_BANDS,
    )
    try:
        array = preprocess(each.data, blind)
        return array, preview(each.data, blind, settings.upload.preview_size)
    except BadCutoutError:
        return None, None
