"""Reading from S3 over HTTP and from the disk, and surveys of either kind."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from botocore.loaders import JSONFileLoader

from zoo_bridge.cutouts.load import Loader
from zoo_bridge.cutouts.preprocess import Preprocessing
from zoo_bridge.cutouts.store import Store, split
from zoo_bridge.cutouts.survey import Source, Survey, open_survey
from zoo_bridge.errors import InputError, SettingsError, StorageError
from zoo_bridge.sandbox.server import Sandbox

BoxMaker = Callable[..., Sandbox]


def read_catalogue(
    store: Store, path: str, ids: str, uris: str
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The survey of a catalogue on disk, and what was set aside."""
    with tempfile.TemporaryDirectory() as folder:
        survey = open_survey(store, Source(path, None, None, ids, uris), Path(folder))
        return pl.read_parquet(survey.path).to_dicts(), survey.rejects.to_pylist()


def list_prefix(store: Store, prefix: str, pattern: str, folder: Path) -> Survey:
    return open_survey(store, Source(None, prefix, pattern, "object_id", "uri"), folder)


@pytest.fixture
def box(make_sandbox: BoxMaker) -> Sandbox:
    return make_sandbox(galaxies=12)


@pytest.fixture
def store(box: Sandbox) -> Store:
    return Store(box.urls["s3"])


def test_objects_are_read_and_missing_ones_are_none(box: Sandbox, store: Store) -> None:
    uri = f"s3://{box.plan.bucket}/cutouts/ZB000001.fits"
    assert store.read(uri) == (box.folder / "survey/cutouts/ZB000001.fits").read_bytes()
    assert store.read(uri + ".gz") is None
    store.check(uri)
    listed = [entry.uri for entry in store.walk(f"s3://{box.plan.bucket}/cutouts/")]
    assert len(listed) == 12
    assert uri in listed


def test_clients_share_what_botocore_knows_and_no_credentials(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def key_of(one: Store) -> str:
        signer = one.s3.client._request_signer
        return str(signer._credentials.access_key)

    first = key_of(store)
    read: list[str] = []
    load_file = JSONFileLoader.load_file

    def counted(loader: JSONFileLoader, path: str) -> Any:
        read.append(path)
        return load_file(loader, path)

    monkeypatch.setattr(JSONFileLoader, "load_file", counted)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "another-account")
    assert key_of(Store("http://127.0.0.1:9")) == "another-account" != first
    assert key_of(store) == first
    assert read == []


def test_a_missing_bucket_is_a_setting_to_correct(store: Store) -> None:
    for act in (store.read, store.check, lambda uri: list(store.walk(uri))):
        with pytest.raises(SettingsError, match="There is no bucket nowhere-1"):
            act("s3://nowhere-1/x")


def test_no_credentials_and_no_server_are_said(
    box: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"s3://{box.plan.bucket}/catalogue.csv"
    with pytest.raises(StorageError, match="failed at"):
        Store("http://127.0.0.1:9").read(uri)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent")
    with pytest.raises(SettingsError, match="no credentials"):
        Store(box.urls["s3"]).read(uri)


def test_paths_and_uris_are_told_apart() -> None:
    assert split("s3://b/k/x.fits") == ("b", "k/x.fits")
    assert split("file:///a/b.fits") == (None, "/a/b.fits")
    assert split("a/b.fits") == (None, "a/b.fits")


def test_a_catalogue_sets_aside_what_it_cannot_use(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.csv"
    path.write_text("name,file,ra\n0007,a.fits,1.5\n,b.fits,2\n8,,3.1\n0007,c.fits,4\n")
    survey, rejects = read_catalogue(Store(), str(path), "name", "file")
    assert survey == [
        {"object_id": "0007", "uri": f"{tmp_path}/a.fits", "ra": 1.5},
    ]
    assert sorted(row["reason"] for row in rejects) == ["no object id", "no uri", "object id twice"]


@pytest.mark.parametrize("kind", ["parquet", "fits", "votable"])
def test_catalogues_of_the_fields_formats_are_read(tmp_path: Path, kind: str) -> None:
    from astropy.table import Table

    path = tmp_path / f"catalogue.{kind}"
    columns = {"object_id": ["G1", "G2"], "uri": ["a.fits", "b.fits"], "z": [0.1, 0.2]}
    if kind == "parquet":
        pl.DataFrame(columns).write_parquet(path)
    else:
        buffer = io.BytesIO()
        Table(columns).write(buffer, format=kind)
        path.write_bytes(buffer.getvalue())
    survey, rejects = read_catalogue(Store(), str(path), "object_id", "uri")
    assert [row["object_id"] for row in survey] == ["G1", "G2"]
    assert [row["z"] for row in survey] == pytest.approx([0.1, 0.2])
    assert not rejects


def test_a_catalogue_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.parquet"
    path.write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match="cannot be read"):
        read_catalogue(Store(), str(path), "object_id", "uri")
    with pytest.raises(SettingsError, match="no catalogue"):
        read_catalogue(Store(), str(tmp_path / "absent.csv"), "object_id", "uri")
    path.write_text("id,uri\n1,a\n")
    with pytest.raises(SettingsError, match="no column 'object_id'") as caught:
        read_catalogue(Store(), str(path), "object_id", "uri")
    assert "survey.object_id_column to one of: id, uri" in caught.value.hint


def test_a_survey_can_be_a_prefix(box: Sandbox, store: Store, tmp_path: Path) -> None:
    prefix = f"s3://{box.plan.bucket}/cutouts/"
    survey = list_prefix(store, prefix, r"([^/]+)\.fits", tmp_path)
    assert len(survey) == 12
    assert survey.ignored == 0
    assert survey.rejects.num_rows == 0
    some = list_prefix(store, prefix, r"(ZB00000[0-4])\.fits", tmp_path)
    assert (len(some), some.ignored) == (5, 7)
    with pytest.raises(SettingsError, match="None of the 12 objects"):
        list_prefix(store, prefix, r"([^/]+)\.jpg", tmp_path)


def test_cutouts_come_from_the_cache_the_second_time(
    box: Sandbox, store: Store, tmp_path: Path
) -> None:
    bucket = box.plan.bucket
    objects = [(f"ZB{n:06d}", f"s3://{bucket}/cutouts/ZB{n:06d}.fits") for n in range(12)]
    objects.insert(3, ("gone", f"s3://{bucket}/cutouts/gone.fits"))
    objects.append(("page", f"s3://{bucket}/catalogue.csv"))
    preprocessing = Preprocessing(size=32)
    first = Loader(store, preprocessing, tmp_path).load(objects)
    assert first.places == [0, 1, 2, *range(4, 13)]
    assert first.images.shape == (12, 32, 32, 1)
    assert [(r.object_id, r.reason) for r in first.rejects] == [
        ("gone", "missing"),
        ("page", "not an image"),
    ]
    # With no server to ask, what was read before is still there.
    good = [objects[place] for place in first.places]
    box.stop()
    again = Loader(Store(store.endpoint_url), preprocessing, tmp_path).load(good)
    assert (again.images == first.images).all()
    # The same keys of another server are other cutouts.
    with pytest.raises(StorageError):
        Loader(Store("http://127.0.0.1:9"), preprocessing, tmp_path).load(good[:1])


def test_a_catalogue_may_have_columns_of_any_name(tmp_path: Path) -> None:
    path = tmp_path / "catalogue.csv"
    path.write_text(
        "object_id,uri,key,reason,z,nothing\na,/x/a.fits,k1,bright,nan,\nb,/x/b.fits,k2,,0.5,\n"
    )
    survey = open_survey(Store(), Source(str(path), None, None, "object_id", "uri"), tmp_path / "s")
    rows = pl.read_parquet(survey.path)
    assert rows["uri"].to_list() == ["/x/a.fits", "/x/b.fits"]
    assert rows["key"].to_list() == ["k1", "k2"]
    assert survey.rejects.num_rows == 0
    # No number is no value: it must not pass for a large one.
    assert rows["z"].to_list() == [None, 0.5]
