"""Pack: a survey's cutouts, each a file of its own, into tars that are read by range."""

from __future__ import annotations

import io
import tarfile
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import quote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from zoo_bridge.cutouts.store import Store
from zoo_bridge.cutouts.survey import Survey
from zoo_bridge.files import digest_value
from zoo_bridge.steps.context import Context
from zoo_bridge.steps.inputs import open_store, read_survey

# Cutouts in memory at a time.
AT_ONCE = 200
BLOCK = tarfile.BLOCKSIZE
# Of what cannot be packed, in each shard.
EXAMPLES = 3


@dataclass(frozen=True)
class Packed:
    """What was done: shards written and found there, objects, and those without a cutout."""

    catalogue: str
    shards: int
    written: int
    objects: int
    missing: int


def pack(ctx: Context, to: str, shard_objects: int) -> Packed:
    """Write a survey's cutouts into tars, with a catalogue that says where each lies.

    Shard after shard, each ``cutouts-SURVEY-NUMBER.tar`` with its part of the catalogue beside it
    in a ``.parquet``, which is written last: what is there is not done again. SURVEY changes with
    the survey: another one is packed anew, into shards of its own.

    Parameters
    ----------
    ctx : Context
        The settings; ``[survey]`` says what is packed.
    to : str
        A folder, on disk or ``s3://bucket/prefix``.
    shard_objects : int
        Cutouts in a tar.

    Returns
    -------
    Packed
    """
    store = open_store(ctx.settings)
    # What is read may be public; what is written is one's own.
    own = open_store(ctx.settings, signed=True)
    survey = read_survey(ctx, store)
    to = to.rstrip("/")
    series = f"cutouts-{digest_value([survey.digest, shard_objects])[:8]}"
    there = {entry.uri.rpartition("/")[2] for entry in own.entries(f"{to}/*.parquet")}
    shards = written = missing = 0
    with (
        tempfile.TemporaryDirectory(prefix="zoo-bridge-") as scratch,
        ThreadPoolExecutor(store.threads) as pool,
        ctx.progress.bar("packing", len(survey)) as advance,
    ):
        for number, rows in enumerate(_slices(survey, shard_objects)):
            name = f"{series}-{number:06d}"
            shards += 1
            if f"{name}.parquet" not in there:
                folder = Path(scratch)
                lost: list[str] = []
                uris = _write_tar(store, rows, folder / f"{name}.tar", pool, lost)
                for told in lost[:EXAMPLES]:
                    ctx.say(f"not packed: {told}")
                _write_catalogue(survey, rows, uris, folder / f"{name}.parquet")
                for ending in ("tar", "parquet"):
                    own.put(folder / f"{name}.{ending}", f"{to}/{name}.{ending}")
                    (folder / f"{name}.{ending}").unlink()
                written, missing = written + 1, missing + len(lost)
            advance(len(rows))
    return Packed(f"{to}/{series}-*.parquet", shards, written, len(survey), missing)


def _slices(survey: Survey, size: int) -> Iterator[pa.Table]:
    """The survey's rows, some at a time; no slice goes over a row group's end."""
    with pq.ParquetFile(survey.path) as file:
        for group in range(file.num_row_groups):
            table = file.read_row_group(group)
            for start in range(0, len(table), size):
                yield table.slice(start, size)


def _write_tar(
    store: Store, rows: pa.Table, path: Path, pool: ThreadPoolExecutor, lost: list[str]
) -> list[str]:
    """Write the cutouts of some objects; their new URIs, beside the catalogue."""
    ids, uris = rows["object_id"].to_pylist(), rows["uri"].to_pylist()
    out: list[str] = []
    with tarfile.open(path, "w:", format=tarfile.PAX_FORMAT) as tar:
        for start in range(0, len(uris), AT_ONCE):
            some = slice(start, start + AT_ONCE)
            for ident, uri, data in zip(
                ids[some], uris[some], store.read_many(uris[some], pool), strict=True
            ):
                there = isinstance(data, bytes)
                if not isinstance(data, bytes):
                    lost.append(f"{ident}: {data or 'there is no such object'}")
                out.append(_add(tar, path.name, ident, uri, data) if there else uri)
    return out


def _add(tar: tarfile.TarFile, shard: str, ident: str, uri: str, data: Any) -> str:
    # Of a web address its path alone: what it asks for may be a token.
    path = urlsplit(uri).path if uri.startswith(("http://", "https://")) else uri.partition("#")[0]
    ending = "".join(PurePosixPath(path).suffixes[-2:])
    member = tarfile.TarInfo(quote(ident, safe="") + ending)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))
    # Where its last block ends, the next header begins.
    return f"{shard}#{tar.offset - -(-len(data) // BLOCK) * BLOCK}+{len(data)}"


def _write_catalogue(survey: Survey, rows: pa.Table, uris: Sequence[str], path: Path) -> None:
    place = rows.schema.get_field_index("uri")
    table = rows.set_column(place, "uri", pa.array(uris, pa.string()))
    meanings = survey.meanings
    fields = [field.with_metadata(meanings.get(field.name)) for field in table.schema]
    pq.write_table(table.cast(pa.schema(fields)), path, compression="zstd")
