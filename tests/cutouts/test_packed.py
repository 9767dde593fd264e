"""Cutouts packed into tars and Parquet files are the same survey, read by range."""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from zoo_bridge.cutouts.load import Loader
from zoo_bridge.cutouts.packed import place_of
from zoo_bridge.cutouts.preprocess import Preprocessing
from zoo_bridge.cutouts.store import Store
from zoo_bridge.cutouts.survey import Source, Survey, open_survey
from zoo_bridge.errors import InputError
from zoo_bridge.sandbox.server import Sandbox

HOW = Preprocessing(size=32)
PREFIX = Source(None, "", r"([^/]+)\.fits", "object_id", "uri")


def tar_of(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:", format=tarfile.PAX_FORMAT) as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return buffer.getvalue()


@pytest.fixture
def box(make_sandbox: Callable[..., Sandbox]) -> Sandbox:
    return make_sandbox(galaxies=40)


def cutouts(box: Sandbox) -> dict[str, bytes]:
    folder = box.folder / "survey" / "cutouts"
    return {path.stem: path.read_bytes() for path in sorted(folder.iterdir())}


def put(box: Sandbox, key: str, data: bytes) -> None:
    s3 = boto3.client("s3", endpoint_url=box.urls["s3"], region_name="us-east-1")
    s3.put_object(Bucket=box.plan.bucket, Key=key, Body=data)


def read_all(store: Store, survey: Survey) -> dict[str, bytes | None]:
    table = pq.read_table(survey.path)
    with ThreadPoolExecutor(4) as pool:
        found = list(store.read_many(table["uri"].to_pylist(), pool))
    return dict(zip(table["object_id"].to_pylist(), found, strict=True))


@pytest.mark.parametrize("fast", [True, False], ids=["obstore", "boto3"])
@pytest.mark.parametrize("where", ["s3", "disk"])
def test_tars_below_a_prefix_are_looked_into(
    box: Sandbox, tmp_path: Path, where: str, fast: bool
) -> None:
    files = cutouts(box)
    names = list(files)
    long = "a/deep/folder/" + "x" * 120 + ".fits"
    shards = {
        "packed/one.tar": {f"in/{name}.fits": files[name] for name in names[:25]},
        "packed/two.tar": {f"{name}.fits": files[name] for name in names[25:39]}
        | {long: files[names[0]], "readme.txt": b"not one"},
        "packed/none.tar": {},
    }
    base = f"s3://{box.plan.bucket}/packed/" if where == "s3" else str(tmp_path / "packed") + "/"
    for key, members in shards.items():
        path = tmp_path / key
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(tar_of(members))
        put(box, key, path.read_bytes())
    # A file of its own beside them is one more.
    (tmp_path / "packed" / f"{names[39]}.fits").write_bytes(files[names[39]])
    put(box, f"packed/{names[39]}.fits", files[names[39]])
    store = Store(box.urls["s3"], 4, fast)
    source = Source(None, base, PREFIX.id_pattern, "object_id", "uri")
    survey = open_survey(store, source, tmp_path / "survey")
    assert len(survey) == 41
    assert survey.ignored == 1
    assert read_all(store, survey) == files | {"x" * 120: files[names[0]]}
    # Nothing changed: the tars are not read again, and it is the same survey.
    for path in (tmp_path / "packed").glob("*.tar"):
        assert path.is_file()
    again = open_survey(store, source, tmp_path / "survey")
    assert again.digest == survey.digest
    assert len(list((tmp_path / "survey" / ".tars").iterdir())) == 3
    assert store.read(f"{base}gone.tar#512+100") is None
    # What lies beyond the end is cut short, a matter of one cutout.
    _, rejects = _load(store, f"{base}one.tar#{10**9}+2880", f"{base}one.tar#512+100")
    assert [reject.reason for reject in rejects] == ["empty", "truncated"]


def _load(store: Store, *uris: str) -> tuple[np.ndarray, list]:
    batch = Loader(store, HOW, None).load([(uri, uri) for uri in uris])
    return batch.images, batch.rejects


@pytest.mark.parametrize("struct", [False, True], ids=["bytes", "struct"])
def test_a_parquet_catalogue_may_hold_its_cutouts(
    box: Sandbox, tmp_path: Path, struct: bool
) -> None:
    files = cutouts(box)
    store = Store(box.urls["s3"], 4)
    column = [{"bytes": data, "path": name} for name, data in files.items()]
    table = pa.table(
        {
            "object_id": list(files),
            "image": column if struct else list(files.values()),
            "magnitude": np.linspace(15, 20, len(files)),
        }
    )
    for number in range(2):
        buffer = io.BytesIO()
        pq.write_table(table.slice(20 * number, 20), buffer, row_group_size=6, compression="zstd")
        put(box, f"shards/{number}.parquet", buffer.getvalue())
    base = f"s3://{box.plan.bucket}/shards/"
    source = Source(base, None, None, "object_id", "uri")
    survey = open_survey(store, source, tmp_path / "survey")
    assert len(survey) == 40
    assert survey.columns == ["object_id", "uri", "magnitude"]
    assert read_all(store, survey) == files
    assert store.read(f"{base}0.parquet#20") is None
    assert store.read(f"{base}7.parquet#0") is None
    put(box, "shards/bad.parquet", b"PAR1 not so")
    # What reads of such a shard gives is a matter of its cutouts, not of the run.
    _, rejects = _load(store, f"{base}bad.parquet#0", f"{base}bad.parquet#1")
    assert [reject.reason for reject in rejects] == ["unreadable"] * 2


@pytest.mark.parametrize("kind", ["tar", "parquet"])
def test_a_shard_that_was_rewritten_is_another_one(box: Sandbox, tmp_path: Path, kind: str) -> None:
    """The same place in it may hold another galaxy: the cache must not answer for it."""
    files = cutouts(box)
    names = list(files)[:6]
    store, base = Store(box.urls["s3"], 4), f"s3://{box.plan.bucket}/shard/"
    if kind == "tar":
        source = Source(None, base, PREFIX.id_pattern, "object_id", "uri")
    else:
        source = Source(base, None, None, "object_id", "uri")
    for order in (names, names[::-1]):
        if kind == "tar":
            put(box, "shard/one.tar", tar_of({f"{name}.fits": files[name] for name in order}))
        else:
            buffer = io.BytesIO()
            columns = {"object_id": order, "data": [files[name] for name in order]}
            pq.write_table(pa.table(columns), buffer)
            put(box, "shard/one.parquet", buffer.getvalue())
        survey = open_survey(store, source, tmp_path / "survey")
        table = pq.read_table(survey.path)
        objects = list(zip(table["object_id"].to_pylist(), table["uri"].to_pylist(), strict=True))
        batch = Loader(store, HOW, tmp_path / "cache").load(objects)
        plain = Loader(store, HOW, None).load(
            [(name, str(box.folder / f"survey/cutouts/{name}.fits")) for name, _ in objects]
        )
        np.testing.assert_array_equal(batch.images, plain.images)


def test_an_empty_member_is_an_empty_cutout(box: Sandbox, tmp_path: Path) -> None:
    data = next(iter(cutouts(box).values()))
    put(box, "odd/one.tar", tar_of({"a.fits": data, "b.fits": b"", "c.fits": data}))
    store = Store(box.urls["s3"], 4)
    source = Source(None, f"s3://{box.plan.bucket}/odd/", r"(\w)\.fits", "object_id", "uri")
    survey = open_survey(store, source, tmp_path)
    assert read_all(store, survey) == {"a": data, "b": b"", "c": data}


def test_a_broken_tar_is_named(box: Sandbox, tmp_path: Path) -> None:
    files = cutouts(box)
    whole = tar_of({f"{name}.fits": data for name, data in files.items()})
    store = Store(box.urls["s3"], 4)
    for number, data in enumerate((whole[:30_000], gzip.compress(whole), b"<html>")):
        put(box, f"bad{number}/shard.tar", data)
        source = Source(None, f"s3://{box.plan.bucket}/bad{number}/", r"(\w+)\.f", "id", "uri")
        with pytest.raises(InputError, match=r"The tar .*shard.tar cannot be read"):
            open_survey(store, source, tmp_path / "survey")


@pytest.mark.parametrize(
    ("uri", "packed"),
    [
        ("s3://b/x.tar#512+100", True),
        ("s3://b/x.tar#512+100@1a2b", True),
        ("s3://b/x.parquet#7@1a2b", True),
        ("/disk/x.parquet#3", True),
        ("s3://b/x.tar#512", False),
        ("s3://b/x.parquet#3+4", False),
        ("s3://b/odd#name.fits", False),
        ("s3://b/x.tar", False),
    ],
)
def test_only_a_place_is_a_place(uri: str, packed: bool) -> None:
    assert (place_of(uri) is not None) == packed
