"""What a sandbox is filled with."""

from __future__ import annotations

import csv
import io
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from PIL import Image

from zoo_bridge.errors import InputError, SettingsError
from zoo_bridge.progress import Progress
from zoo_bridge.sandbox.survey import KINDS, invent, write
from zoo_bridge.sandbox.world import Plan, build


def test_the_survey_has_every_kind_over_a_range(tmp_path: Path) -> None:
    galaxies = invent(600, 0)
    kinds = Counter(galaxy.kind for galaxy in galaxies)
    assert set(kinds) == set(KINDS)
    assert max(g.redshift for g in galaxies) > 5 * min(g.redshift for g in galaxies)
    assert max(g.magnitude for g in galaxies) - min(g.magnitude for g in galaxies) > 2.5
    assert all(abs(g.smooth + g.featured + g.artifact - 1) < 1e-9 for g in galaxies)
    assert invent(20, 0) == invent(20, 0) != invent(20, 1)


def test_the_survey_on_disk_is_fits_with_wcs_jpeg_and_a_catalogue(tmp_path: Path) -> None:
    write(tmp_path, 5, 0, lambda steps: None)
    rows = list(csv.DictReader((tmp_path / "catalogue.csv").open()))
    assert len(rows) == 5
    for row in rows:
        with fits.open(tmp_path / row["key"]) as file:
            centre = WCS(file[0].header).pixel_to_world(47.5, 47.5)
            assert centre.ra.deg == pytest.approx(float(row["ra"]), abs=1e-4)
            assert file[0].data.std() > 0.5
        image = Image.open(tmp_path / "jpeg" / f"{row['object_id']}.jpg")
        assert np.asarray(image).std() > 5


def own_survey(folder: Path) -> tuple[Path, Path]:
    images = folder / "images"
    images.mkdir()
    noise = np.random.default_rng(0)
    for name in ("10", "11", "12"):
        buffer = io.BytesIO()
        Image.fromarray(noise.integers(0, 255, (40, 40, 3), "uint8")).save(buffer, "JPEG")
        (images / f"{name}.jpg").write_bytes(buffer.getvalue())
    catalogue = folder / "fractions.csv"
    catalogue.write_text("galaxy,a,b,c\n10,0.5,0.25,0.25\n11,1,0,0\n99,1,0,0\n")
    return images, catalogue


def test_a_survey_of_ones_own_is_laid_out_with_its_fractions(tmp_path: Path) -> None:
    images, catalogue = own_survey(tmp_path)
    columns = {"smooth": "a", "featured": "b", "artifact": "c"}
    plan = Plan(images=images, catalogue=catalogue, id_column="galaxy", fractions=columns)
    build(tmp_path / "box", plan, Progress())
    survey = tmp_path / "box" / "survey"
    assert [r["object_id"] for r in csv.DictReader((survey / "catalogue.csv").open())] == [
        "10",
        "11",
    ]
    truth = json.loads((survey / "truth.json").read_text())
    assert truth == {"10": {"T0": [0.5, 0.25, 0.25]}, "11": {"T0": [1.0, 0.0, 0.0]}}


def test_mistakes_about_ones_own_survey_are_explained(tmp_path: Path) -> None:
    images, catalogue = own_survey(tmp_path)

    def attempt(**plan: object) -> None:
        build(tmp_path / "box", Plan(images=images, **plan), Progress())  # type: ignore[arg-type]

    with pytest.raises(SettingsError, match="--images needs --catalogue"):
        attempt()
    with pytest.raises(SettingsError, match="has no column 'object_id'"):
        attempt(catalogue=catalogue)
    with pytest.raises(InputError, match="No image"):
        attempt(catalogue=catalogue, id_column="a")
    with pytest.raises(SettingsError, match="no column of numbers 'zz'"):
        attempt(catalogue=catalogue, id_column="galaxy", fractions={"smooth": "zz"})
    with pytest.raises(SettingsError, match="no such answer"):
        attempt(catalogue=catalogue, id_column="galaxy", fractions={"bars": "a"})
    assert not (tmp_path / "box" / "plan.json").exists()


def test_another_plan_does_not_overwrite_a_sandbox(tmp_path: Path) -> None:
    build(tmp_path, Plan(galaxies=3), Progress())
    build(tmp_path, Plan(galaxies=3), Progress())
    with pytest.raises(SettingsError, match="already holds another sandbox"):
        build(tmp_path, Plan(galaxies=4), Progress())
