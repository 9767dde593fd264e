"""The survey: every object there is, with the URI of its cutout.

A survey is made once from its catalogue (CSV, Parquet, FITS tables or VOTables, in one file or in
many) or from a bucket's listing, and kept as one Parquet file, sorted by object id, whose row
groups are what later steps read one after the other. DuckDB sorts it, on disk where memory is
short: a hundred million objects need no more of it than a thousand.

Cutouts may be packed: a tar below the prefix is looked into, and a Parquet catalogue with a column
of bytes holds its own.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from zoo_bridge import trouble
from zoo_bridge.cutouts import packed
from zoo_bridge.cutouts.catalogues import BROKEN, READ_ERRORS, Read, read_catalogue
from zoo_bridge.cutouts.columns import Columns
from zoo_bridge.cutouts.store import Entry, Store
from zoo_bridge.errors import InputError, SettingsError, ZooBridgeError
from zoo_bridge.files import DIGEST_LENGTH, digest_value, read_json, replacing, write_json
from zoo_bridge.tables import REJECTS, SURVEY, read_table, sql_name, sql_text

ROW_GROUP = 10_000
MEMORY = "1GiB"
KEPT = 4
STALE_SECONDS = 86_400
# Anything that changes what is made of the same catalogue.
FORM = 5
TARS_AT_ONCE = 8
# What changes with each cutout's file.
VERSIONS = pa.schema([("uri", pa.string()), ("stamp", pa.string())])


@dataclass(frozen=True)
class Source:
    """Where a survey comes from: see ``[survey]`` in the settings."""

    catalogue: str | None
    prefix: str | None
    id_pattern: str | None
    object_id_column: str
    uri_column: str
    missing_values: tuple[str, ...] = ()


@dataclass(frozen=True)
class Survey:
    """A survey on disk.

    Parameters
    ----------
    folder : Path
        ``objects.parquet``, with ``object_id``, ``uri`` and the catalogue's columns, sorted by id;
        ``rejects.parquet``; ``survey.json``.
    """

    folder: Path

    @property
    def digest(self) -> str:
        """Changes when the survey does."""
        return self.folder.name

    @property
    def content(self) -> str:
        """Changes when an object comes, goes, or is another file: not when the catalogue moves."""
        return str(self._facts["content"])

    @property
    def path(self) -> Path:
        """The objects."""
        return self.folder / "objects.parquet"

    @property
    def versions(self) -> Path:
        """The version of each cutout, where listing a prefix told it: columns uri and stamp."""
        return self.folder.with_name(f".{self.folder.name}-versions.parquet")

    @cached_property
    def _facts(self) -> dict[str, Any]:
        return dict(read_json(self.folder / "survey.json"))

    def __len__(self) -> int:
        return int(self._facts["objects"])

    @property
    def columns(self) -> list[str]:
        """Of the catalogue, ``object_id`` and ``uri`` first."""
        return list(self._facts["columns"])

    @property
    def meanings(self) -> dict[str, dict[str, str]]:
        """``unit`` and ``description`` of columns, where the catalogue gives them."""
        return dict(self._facts["meanings"])

    @property
    def left_out(self) -> dict[str, str]:
        """Columns of the catalogue that are not kept, and why."""
        return dict(self._facts["left_out"])

    @property
    def ignored(self) -> int:
        """Keys below a prefix that do not match the pattern."""
        return int(self._facts["ignored"])

    @property
    def rejects(self) -> pa.Table:
        """Rows of the catalogue that cannot be used."""
        # DuckDB notes which columns have no nulls; a schema without that is asked for elsewhere.
        return read_table(self.folder / "rejects.parquet", REJECTS).cast(REJECTS)

    def find(self, object_ids: Collection[str], columns: Sequence[str] = ("uri",)) -> pl.DataFrame:
        """Some objects: a table of ``object_id`` and the columns, sorted by id."""
        wanted = pl.Series(sorted(object_ids), dtype=pl.String)
        chosen = pl.scan_parquet(self.path).select("object_id", *columns)
        return chosen.filter(pl.col("object_id").is_in(wanted.implode())).collect(
            engine="streaming"
        )

    def sample(self, count: int, together: int = 1) -> list[str]:
        """URIs of objects that are spread evenly over the survey, so many neighbours together."""
        return [uri for _, uri in self.sample_objects(count, together)]

    def sample_objects(self, count: int, together: int = 1) -> list[tuple[str, str]]:
        """The same, as pairs of id and URI."""
        step = max(1, len(self) // count)
        place = pl.col("place") // together % step
        rows = pl.scan_parquet(self.path).select("object_id", "uri").with_row_index("place")
        chosen = rows.filter(place == 0).head(count).collect(engine="streaming")
        return list(zip(chosen["object_id"], chosen["uri"], strict=True))


def open_survey(store: Store, source: Source, folder: Path) -> Survey:
    """The survey of a source, made from it unless that was done before.

    Parameters
    ----------
    store : Store
        Where it is read from.
    source : Source
        The catalogue or folder, and which columns hold ids and addresses.
    folder : Path
        Where surveys are kept; one of its own is made for each.

    Returns
    -------
    Survey

    Raises
    ------
    SettingsError
        If there is no such catalogue, it lacks a column, or no key below the prefix matches.
    InputError
        If the catalogue cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob(".*-*"):
        # Of a process that was killed while it made or sorted something.
        if left.is_dir() and time.time() - left.stat().st_mtime > STALE_SECONDS:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".making-", dir=folder) as scratch_name:
        scratch = Path(scratch_name)
        if source.catalogue is not None:
            entries = store.entries(source.catalogue)
            if not entries:
                raise SettingsError(
                    f"There is no catalogue {source.catalogue}.",
                    "Correct survey.catalogue in the settings.",
                )
            digest = digest_value([FORM, asdict(source), [asdict(entry) for entry in entries]])
            if (made := folder / digest).is_dir():
                return Survey(made)
            frames = _read_catalogue(store, entries, scratch, source)
            ids, uris, ignored = source.object_id_column, source.uri_column, 0
        else:
            frames, listed, ignored = _list_keys(store, source, scratch, folder / ".tars")
            digest = digest_value([FORM, asdict(source), listed])
            made = folder / digest
            (scratch / "versions.parquet").replace(Survey(made).versions)
            if made.is_dir():
                return Survey(made)
            ids, uris = SURVEY.names
        _make(frames, source, ids, uris, ignored, scratch)
        # Where two jobs made it at once, the first one's is as good.
        if not made.is_dir():
            (scratch / "made").rename(made)
    old = [path for path in folder.iterdir() if path.name[0] != "." and path != made]
    for path in sorted(old, key=lambda each: each.stat().st_mtime)[: -(KEPT - 1)]:
        shutil.rmtree(path, ignore_errors=True)
        Survey(path).versions.unlink(missing_ok=True)
    return Survey(made)


@dataclass(frozen=True)
class _Frames:
    """Parquet files to make a survey from; ``texts`` if they come from CSV, all columns texts."""

    paths: list[Path]
    texts: bool
    name: str
    left_out: dict[str, str] = field(default_factory=dict)


def _make(
    frames: _Frames, source: Source, ids: str, uris: str, ignored: int, scratch: Path
) -> None:
    """Objects with an id and a URI, each once; everything else is set aside with a reason."""
    made = scratch / "made"
    made.mkdir()
    try:
        with duckdb.connect() as db:
            db.execute(f"SET memory_limit = '{MEMORY}'")
            db.execute("SET temp_directory = ?", [str(scratch / "spill")])
            table = Columns.of(db, frames.paths, frames.texts, source.missing_values)
            _check_columns(list(table.kinds), source, ids, uris, frames.name)
            left_out = {**frames.left_out, **table.broken_texts((ids, uris))}
            unused = {name.lower() for name in (ids, uris, *SURVEY.names)} | set(left_out)
            rest = [name for name in table.kinds if not {name, name.lower()} & unused]
            chosen = table.select(rest)
            base = frames.name.rpartition("/")[0] + "/" if "/" in frames.name else ""
            db.execute(
                f"""
                CREATE VIEW named AS SELECT
                    nullif(trim({table.as_id(ids, frames.name)}), '') AS object_id,
                    nullif(trim({table.declared(uris)}), '') AS __key, __file,
                    file_row_number, {", ".join(chosen) or "0 AS nothing"}
                FROM raw
                """
            )
            # Of a view's own columns only those named here are spoken of below: a catalogue may
            # have columns of any other name.
            db.execute(
                f"""
                CREATE VIEW placed AS SELECT *,
                    CASE WHEN contains(__key, '://') OR starts_with(__key, '/') THEN __key
                         ELSE {sql_text(base)} || __key END AS uri
                FROM named
                """
            )
            db.execute(
                f"""
                CREATE VIEW judged AS SELECT *, CASE
                    WHEN object_id IS NULL THEN 'no object id'
                    WHEN uri IS NULL THEN 'no uri'
                    WHEN contains(concat(object_id, uri), {sql_text(BROKEN)})
                        THEN 'bytes that are no UTF-8'
                    WHEN row_number() OVER (
                        PARTITION BY object_id ORDER BY uri IS NULL, __file, file_row_number
                    ) > 1 THEN 'object id twice' END AS __why
                FROM placed
                """
            )
            kept = ", ".join([*SURVEY.names, *(sql_name(name) for name in rest)])
            _copy(db, f"SELECT {kept} FROM judged WHERE __why IS NULL ORDER BY object_id", made)
            detail = "'in the survey''s catalogue' AS detail"
            why = "__why AS reason"
            aside = f"SELECT object_id, uri, {why}, {detail} FROM judged WHERE __why IS NOT NULL"
            _copy(db, f"{aside} ORDER BY __file, file_row_number", made, "rejects")
    except duckdb.Error as error:
        raise _unreadable(frames.name, error) from None
    facts = {
        "source": asdict(source),
        "objects": pq.read_metadata(made / "objects.parquet").num_rows,
        "rejects": pq.read_metadata(made / "rejects.parquet").num_rows,
        "ignored": ignored,
        "content": _digest_objects(made / "objects.parquet"),
        "columns": [*SURVEY.names, *rest],
        "left_out": left_out,
        "meanings": _meanings(frames.paths[0]),
    }
    write_json(made / "survey.json", facts)


def _digest_objects(path: Path) -> str:
    """Of every object's id and URI, in their order."""
    digest = hashlib.sha256()
    for batch in pq.ParquetFile(path).iter_batches(columns=SURVEY.names):
        for column in batch.columns:
            lengths = pc.binary_length(column).to_numpy(zero_copy_only=False)
            digest.update(lengths.astype("<i8").tobytes())
            # Not the array's own buffer, which may hold what other rows have.
            digest.update(b"".join(column.cast(pa.binary()).to_pylist()))
    return digest.hexdigest()[:DIGEST_LENGTH]


def _copy(db: duckdb.DuckDBPyConnection, query: str, folder: Path, name: str = "objects") -> None:
    path = sql_text(str(folder / f"{name}.parquet"))
    db.execute(
        f"COPY ({query}) TO {path} (FORMAT parquet, COMPRESSION zstd, ROW_GROUP_SIZE {ROW_GROUP})"
    )


def _check_columns(columns: list[str], source: Source, ids: str, uris: str, name: str) -> None:
    for key, column in (("object_id_column", ids), ("uri_column", uris)):
        if column not in columns:
            raise SettingsError(
                f"The catalogue {name} has no column {column!r}.",
                f"Set survey.{key} to one of: {', '.join(columns[:20])}.",
            )


def _read_catalogue(store: Store, entries: list[Entry], scratch: Path, source: Source) -> _Frames:
    """The files of a catalogue as Parquet, in their order."""
    reads: list[Read] = []
    for number, entry in enumerate(entries):
        try:
            needed = source.object_id_column, source.uri_column
            reads.append(read_catalogue(store, entry, scratch / f"{number:06d}", *needed))
        except READ_ERRORS as error:
            raise _unreadable(entry.uri, error) from None
    left_out = {name: why for each in reads for name, why in each.left_out.items()}
    texts = all(each.texts for each in reads)
    return _Frames([each.path for each in reads], texts, entries[0].uri, left_out)


def _meanings(path: Path) -> dict[str, dict[str, str]]:
    """Unit and description of a file's columns, by name."""
    found = {}
    for column in pq.read_schema(path):
        facts = {key.decode(): text.decode() for key, text in (column.metadata or {}).items()}
        if known := {key: facts[key] for key in ("unit", "description") if facts.get(key)}:
            found[column.name] = known
    return found


def _list_keys(store: Store, source: Source, scratch: Path, tars: Path) -> tuple[_Frames, str, int]:
    """Every key below a prefix that gives an object id; what tells one listing from another."""
    assert source.prefix is not None
    assert source.id_pattern is not None
    matcher = re.compile(source.id_pattern)
    path, seen, found = scratch / "listed.parquet", 0, 0
    content = hashlib.sha256()
    names = _walk(store, source.prefix, tars)
    with (
        pq.ParquetWriter(path, SURVEY) as writer,
        pq.ParquetWriter(scratch / "versions.parquet", VERSIONS, compression="zstd") as versions,
    ):
        while some := list(islice(names, ROW_GROUP)):
            seen += len(some)
            matched = [(m[1], uri, s) for name, uri, s in some if (m := matcher.search(name))]
            pairs = [(ident, uri) for ident, uri, _ in matched]
            found += len(pairs)
            content.update(repr(pairs).encode())
            ids, uris = [ident for ident, _ in pairs], [uri for _, uri in pairs]
            writer.write_table(pa.table([ids, uris], schema=SURVEY))
            dated = [(uri, stamp) for _, uri, stamp in matched if stamp is not None]
            columns = [[uri for uri, _ in dated], [stamp for _, stamp in dated]]
            versions.write_table(pa.table(columns, schema=VERSIONS))
    if not found:
        raise SettingsError(
            f"None of the {seen} objects below {source.prefix} matches {source.id_pattern!r}.",
            "Correct survey.prefix or survey.id_pattern.",
        )
    return _Frames([path], False, source.prefix), content.hexdigest(), seen - found


def _walk(store: Store, prefix: str, tars: Path) -> Iterator[tuple[str, str, str | None]]:
    """What below a prefix is matched against the pattern, its URI, and its version.

    None of what is packed, whose URI says it.
    """
    # Tars are looked into ahead, several at once: each of their members costs an answer of S3.
    with ThreadPoolExecutor(TARS_AT_ONCE) as pool:
        waiting: deque[tuple[Entry, Future[Path] | None]] = deque()
        entries = store.walk(prefix)
        while True:
            for entry in islice(entries, 2 * TARS_AT_ONCE - len(waiting)):
                tar = entry.uri.endswith(".tar")
                waiting.append(
                    (entry, pool.submit(_look_into, store, entry, tars) if tar else None)
                )
            if not waiting:
                return
            entry, future = waiting.popleft()
            if future is None:
                yield entry.uri, entry.uri, entry.digest
                continue
            for batch in pq.ParquetFile(future.result()).iter_batches():
                for name, uri in zip(*(column.to_pylist() for column in batch), strict=True):
                    yield f"{entry.uri}/{name}", uri, None


def _look_into(store: Store, entry: Entry, tars: Path) -> Path:
    """A table of a tar's members, made once for each version of it."""
    path = tars / f"{digest_value(asdict(entry))}.parquet"
    if path.exists():
        return path
    schema = pa.schema([("name", pa.string()), ("uri", pa.string())])
    try:
        with replacing(path) as scratch, pq.ParquetWriter(scratch, schema) as writer:
            members = packed.tar_members(entry.uri, store.open(entry.uri), entry.digest)
            while some := list(islice(members, ROW_GROUP)):
                columns = [list(column) for column in zip(*some, strict=True)]
                writer.write_table(pa.table(columns, schema=schema))
    except (tarfile.TarError, OSError) as error:
        raise InputError(
            f"The tar {entry.uri} cannot be read: {error}.",
            "It must be whole and not compressed (the cutouts in it may be).",
        ) from None
    return path


def _unreadable(name: str, error: Exception) -> ZooBridgeError:
    if (disk := trouble.explain(error, "the survey")) is not None:
        return disk
    why = (str(error).splitlines() or ["?"])[0].rstrip(".")
    return InputError(
        f"The catalogue {name} cannot be read: {why}.",
        "It must be CSV, Parquet, a FITS table or a VOTable.",
    )
