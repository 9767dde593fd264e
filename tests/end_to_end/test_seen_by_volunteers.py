"""Will volunteers see galaxies, and is it my survey? What check says, and what upload does."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from PIL import Image

from zoo_bridge.sandbox.survey import invent, render
from zoo_bridge.service.check import Line, check
from zoo_bridge.service.sample import read_sample, write_sheet
from zoo_bridge.steps.inputs import find_survey, open_store

MakeProject = Callable[..., Any]


def write_survey(folder: Path, count: int, change: Callable[[int, np.ndarray], np.ndarray]) -> Path:
    """Cutouts of three bands on disk, with a catalogue."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["object_id,key,magnitude"]
    for number, galaxy in enumerate(invent(count, 3)):
        counts = render(galaxy, 3)
        values = change(number, np.stack([0.3 * counts, 0.7 * counts, counts]).astype("f4"))
        out = io.BytesIO()
        fits.PrimaryHDU(values.astype("f4")).writeto(out)
        (folder / f"{galaxy.object_id}.fits").write_bytes(out.getvalue())
        lines.append(f"{galaxy.object_id},{galaxy.object_id}.fits,{15 + number}")
    (folder / "catalogue.csv").write_text("\n".join(lines) + "\n")
    return folder / "catalogue.csv"


def lines_of(project: Any, pictures: Path | None = None) -> dict[str, Line]:
    return {line.what: line for line in check(project.settings, pictures)}


def test_a_survey_that_would_be_black_is_refused_everywhere(
    make_project: MakeProject, tmp_path: Path
) -> None:
    """Forty cutouts in MJy/sr with Lupton's colours: the report that began it all."""
    path = write_survey(tmp_path / "dark", 40, lambda number, values: values * np.float32(1e-3))
    lupton = {"size": 64, "colour": "rgb", "stretch": "lupton"}
    project = make_project(
        {"galaxies": 10}, survey={"catalogue": str(path)}, cutouts=lupton, upload={"per_run": 20}
    )
    line = lines_of(project, tmp_path / "seen")["cutouts"]
    assert (line.ok, line.exit_code) == (False, 3)
    assert "20 of 20 sample cutouts cannot be used (20 too dark)" in line.text
    with Image.open(tmp_path / "seen" / "pictures.jpg") as sheet:
        assert sheet.width > 1000
    ended = project.run("upload")
    assert (ended.outcome, ended.exit_code) == ("refused", 3)
    assert "20 of 20 objects cannot be shown (20 too dark)" in ended.message
    assert project.box.state.all("SELECT * FROM subjects") == []
    # What it proposes is what makes them visible.
    found = dict(re.findall(r"cutouts\.(\w+) = ([\d.e+-]+)", line.hint))
    values = {name: float(value) for name, value in found.items()}
    assert set(values) >= {"lupton_stretch", "lupton_minimum"}
    project.change(
        survey={"catalogue": str(path)}, cutouts={**lupton, **values}, upload={"per_run": 20}
    )
    assert lines_of(project)["cutouts"].ok
    assert project.done("upload").counts["created"] == 20
    pictures = sorted((project.settings.work / "batches").glob("*/previews/*.jpg"))
    for picture in pictures[-20:]:
        with Image.open(picture) as image:
            light = np.asarray(image.convert("L"), np.float32)
        assert np.quantile(light, 0.995) - np.median(light) > 60, picture


def test_one_that_cannot_be_seen_is_skipped_and_named(
    make_project: MakeProject, tmp_path: Path
) -> None:
    path = write_survey(
        tmp_path / "one", 12, lambda number, values: values * np.float32(1e-3 if number == 4 else 1)
    )
    lupton = {"size": 64, "colour": "rgb", "stretch": "lupton", "lupton_stretch": 20}
    project = make_project(
        {"galaxies": 10}, survey={"catalogue": str(path)}, cutouts=lupton, upload={"per_run": 12}
    )
    line = lines_of(project)["cutouts"]
    assert line.ok
    assert "1 of 12 cannot be used (1 too dark)" in line.text
    counts = project.done("upload").counts
    assert (counts["created"], counts["skipped"]) == (11, 1)


def test_pictures_that_are_all_the_same_are_refused(
    make_project: MakeProject, tmp_path: Path
) -> None:
    first: list[np.ndarray] = []

    def same(number: int, values: np.ndarray) -> np.ndarray:
        first.append(values)
        return first[0]

    path = write_survey(tmp_path / "same", 10, same)
    project = make_project({"galaxies": 10}, survey={"catalogue": str(path)})
    line = lines_of(project)["cutouts"]
    assert (line.ok, line.exit_code) == (False, 3)
    assert "look the same" in line.text


@pytest.mark.parametrize("kind", ["partial sky", "missing band"])
def test_a_survey_with_too_many_of_a_kind_is_refused(
    make_project: MakeProject, tmp_path: Path, kind: str
) -> None:
    def spoil(number: int, values: np.ndarray) -> np.ndarray:
        if number % 5 == 0:
            if kind == "partial sky":
                values[:, :, :48] = 0
            else:
                values[1] = np.nan
        return values

    path = write_survey(tmp_path / "spoilt", 20, spoil)
    project = make_project({"galaxies": 10}, survey={"catalogue": str(path)})
    line = lines_of(project)["cutouts"]
    assert line.ok is False
    assert f"(4 {kind})" in line.text
    assert f"score.max_{kind.replace(' ', '_')}_share" in line.hint
    key = f"max_{kind.replace(' ', '_')}_share"
    project.change(survey={"catalogue": str(path)}, score={key: 0.3})
    line = lines_of(project)["cutouts"]
    assert line.ok
    assert f"4 of 20 cannot be used (4 {kind})" in line.text


def test_check_says_whether_it_has_met_the_survey_before(
    make_project: MakeProject, tmp_path: Path
) -> None:
    project = make_project({"galaxies": 30}, upload={"per_run": 5})
    line = lines_of(project)["known"]
    assert (line.ok, line.warning) == (True, False)
    assert line.text == "0 of 30 objects are known from earlier uploads"
    project.done("upload")
    assert lines_of(project)["known"].text == "5 of 30 objects are known from earlier uploads"
    path = write_survey(tmp_path / "other", 8, lambda number, values: values)
    text = path.read_text().replace("\nZB", "\nXX")
    path.write_text(text.replace("XX", "NEW", 8))
    project.change(survey={"catalogue": str(path)})
    line = lines_of(project)["known"]
    assert (line.ok, line.warning) == (True, True)
    assert "0 of 8 objects are known from earlier uploads, though there are 5" in line.text
    assert "right survey" in line.hint


def test_check_asks_the_condition_of_the_settings(
    make_project: MakeProject, tmp_path: Path
) -> None:
    path = write_survey(tmp_path / "some", 10, lambda number, values: values)

    def said(where: str) -> Line:
        project.change(survey={"catalogue": str(path)}, upload={"where": where})
        return lines_of(project)["survey"]

    project = make_project({"galaxies": 10}, survey={"catalogue": str(path)})
    assert "upload.where chooses 5 of them" in said("magnitude < 20").text
    line = said("magnitude < 2")
    assert (line.ok, line.exit_code) == (False, 2)
    assert "chooses none of the survey's 10 objects" in line.text


def test_the_sheet_shows_both_views_and_what_is_wrong(
    make_project: MakeProject, tmp_path: Path
) -> None:
    path = write_survey(
        tmp_path / "mixed", 6, lambda number, values: values * np.float32(1e-3 if number else 1)
    )
    project = make_project(
        {"galaxies": 10},
        survey={"catalogue": str(path)},
        cutouts={"size": 64, "colour": "rgb", "stretch": "lupton"},
    )
    store = open_store(project.settings)
    sample = read_sample(project.settings, store, find_survey(project.settings, store))
    assert [each.fault is None for each in sample] == [True] + [False] * 5
    sheet = write_sheet(project.settings, sample, tmp_path / "sheet")
    with Image.open(sheet) as image:
        pixels = np.asarray(image.convert("L"), np.float32)
    # Left and right of the first galaxy are bright in the middle, of the second they are dark.
    assert pixels[38 + 80, 8 + 80] > 80
    assert pixels[38 + 80, 8 + 162 + 80] > 80
    assert pixels[38 + 80, 8 + 344 + 80] < 40
    assert len(list((tmp_path / "sheet").glob("01-*.jpg"))) == 1
