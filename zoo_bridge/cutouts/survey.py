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
import warnings
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from isal import igzip

from zoo_bridge import trouble
from zoo_bridge.cutouts import packed
from zoo_bridge.cutouts.store import Entry, Store
from zoo_bridge.errors import InputError, SettingsError, ZooBridgeError
from zoo_bridge.files import DIGEST_LENGTH, digest_value, read_json, replacing, write_json
from zoo_bridge.tables import REJECTS, SURVEY, read_table, sql_name, sql_text

ROW_GROUP = 10_000
SLICE = 500_000
MEMORY = "1GiB"
KEPT = 4
STALE_SECONDS = 86_400
# Anything that changes what is made of the same catalogue.
FORM = 4
TARS_AT_ONCE = 8


@dataclass(frozen=True)
class Source:
    """Where a survey comes from: see ``[survey]`` in the settings."""

    catalogue: str | None
    prefix: str | None
    id_pattern: str | None
    object_id_column: str
    uri_column: str


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
        step = max(1, len(self) // count)
        place = pl.col("place") // together % step
        rows = pl.scan_parquet(self.path).select("uri").with_row_index("place")
        return rows.filter(place == 0).head(count).collect(engine="streaming")["uri"].to_list()


def open_survey(store: Store, source: Source, folder: Path) -> Survey:
    """The survey of a source, made from it unless that was done before.

    Parameters
    ----------
    store : Store
        Where it is read from.
    source : Source
        Which.
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
            frames = _read_catalogue(store, entries, scratch, source.uri_column)
            ids, uris, ignored = source.object_id_column, source.uri_column, 0
        else:
            frames, listed, ignored = _list_keys(store, source, scratch, folder / ".tars")
            digest = digest_value([FORM, asdict(source), listed])
            if (made := folder / digest).is_dir():
                return Survey(made)
            ids, uris = SURVEY.names
        _make(frames, source, ids, uris, ignored, scratch)
        # Where two jobs made it at once, the first one's is as good.
        if not made.is_dir():
            (scratch / "made").rename(made)
    old = [path for path in folder.iterdir() if path.name[0] != "." and path != made]
    for path in sorted(old, key=lambda each: each.stat().st_mtime)[: -(KEPT - 1)]:
        shutil.rmtree(path, ignore_errors=True)
    return Survey(made)


@dataclass(frozen=True)
class _Frames:
    """Parquet files to make a survey from; ``texts`` if they come from CSV, all columns texts."""

    paths: list[Path]
    texts: bool
    name: str


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
            paths = ", ".join(sql_text(str(path)) for path in frames.paths)
            more = "union_by_name = true, filename = '__file', file_row_number = true"
            db.execute(f"CREATE VIEW raw AS SELECT * FROM read_parquet([{paths}], {more})")
            described = db.execute("SELECT * FROM raw LIMIT 0").description or []
            names = [name for name, *_ in described]
            kinds = {name: kind for name, kind, *_ in described}
            columns = [name for name in names if name not in ("__file", "file_row_number")]
            _check_columns(columns, source, ids, uris, frames.name)
            rest = [name for name in columns if name not in (ids, uris, *SURVEY.names)]
            numbers = _numbers(db, rest) if frames.texts else set()

            def column(name: str) -> str:
                quoted = value = sql_name(name)
                if name in numbers:
                    value = f"CAST({quoted} AS DOUBLE)"
                elif str(kinds[name]) not in ("FLOAT", "DOUBLE"):
                    return quoted
                # No number is no value: a condition must not take it for a large one.
                return f"nullif({value}, 'nan') AS {quoted}"

            chosen = [column(name) for name in rest]
            base = frames.name.rpartition("/")[0] + "/" if "/" in frames.name else ""
            db.execute(
                f"""
                CREATE VIEW named AS SELECT
                    nullif(trim(CAST({sql_name(ids)} AS VARCHAR)), '') AS object_id,
                    nullif(trim(CAST({sql_name(uris)} AS VARCHAR)), '') AS __key, __file,
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
                """
                CREATE VIEW judged AS SELECT *, CASE
                    WHEN object_id IS NULL THEN 'no object id'
                    WHEN uri IS NULL THEN 'no uri'
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


def _numbers(db: duckdb.DuckDBPyConnection, names: list[str]) -> set[str]:
    """Columns of texts that hold decimal numbers, unless one would lose a leading zero."""
    if not names:
        return set()
    tests = ", ".join(
        f"""count({n}) = count(TRY_CAST({n} AS DOUBLE)) AND bool_or(contains({n}, '.'))
            AND NOT bool_or(regexp_matches({n}, '^0[0-9]'))"""
        for n in map(sql_name, names)
    )
    answer = db.execute(f"SELECT {tests} FROM raw").fetchone() or ()
    return {name for name, good in zip(names, answer, strict=True) if good}


def _read_catalogue(store: Store, entries: list[Entry], scratch: Path, uris: str) -> _Frames:
    """The files of a catalogue as Parquet, in their order."""
    paths, texts = [], True
    for number, entry in enumerate(entries):
        path = scratch / f"{number:06d}.parquet"
        try:
            if entry.uri.endswith(".parquet") and _read_shard(store, entry, path, uris):
                paths.append(path)
                texts = False
                continue
            got = store.copy_to(entry.uri, scratch / f"{number:06d}.got")
            with got.open("rb") as file:
                head = file.read(1000)
            if head[:2] == b"\x1f\x8b":
                unpacked = scratch / f"{number:06d}.unpacked"
                with igzip.open(got, "rb") as source, unpacked.open("wb") as target:
                    shutil.copyfileobj(source, target, 2**20)
                got, head = unpacked, unpacked.open("rb").read(1000)
            if head[:4] == b"PAR1":
                pq.read_metadata(got)
                path, texts = got, False
            elif head[:6] == b"SIMPLE" or b"<VOTABLE" in head:
                _convert_astropy(got, path, "fits" if head[:6] == b"SIMPLE" else "votable")
                texts = False
            else:
                # Ids are texts: "000123" must not become the number 123.
                pl.scan_csv(got, infer_schema_length=0).sink_parquet(path)
        except (pl.exceptions.PolarsError, pa.ArrowException, ValueError, OSError) as error:
            raise _unreadable(entry.uri, error) from None
        paths.append(path)
    return _Frames(paths, texts, entries[0].uri)


def _read_shard(store: Store, entry: Entry, path: Path, uris: str) -> bool:
    """The columns of a Parquet file that holds cutouts, without them; False if it holds none."""
    uri, version = entry.uri, _version(entry)
    if uri.startswith(("http://", "https://")):
        return False
    file = store.open(uri)
    if file.read(4) != b"PAR1":
        return False
    with pq.ParquetFile(file) as shard:
        held = packed.bytes_column(shard.schema_arrow)
        if held is None or uris in shard.schema_arrow.names:
            return False
        rest = [name for name in shard.schema_arrow.names if name != held]
        schema = pa.schema([shard.schema_arrow.field(name) for name in rest])
        row = 0
        with pq.ParquetWriter(path, schema.append(pa.field(uris, pa.string()))) as writer:
            for batch in shard.iter_batches(columns=rest):
                places = [f"{uri}#{row + number}@{version}" for number in range(len(batch))]
                row += len(batch)
                writer.write_batch(batch.append_column(uris, pa.array(places, pa.string())))
    return True


def _version(entry: Entry) -> str:
    """A few letters that change when a file does."""
    return digest_value([entry.size, entry.version])[:8]


def _convert_astropy(source: Path, target: Path, kind: str) -> None:
    from astropy.table import Table

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        more = {"memmap": True} if kind == "fits" else {}
        table = Table.read(source, format=kind, **more)
    names = [name for name in table.colnames if table[name].ndim == 1]
    writer = None
    for start in range(0, max(1, len(table)), SLICE):
        columns: dict[str, Any] = {}
        for name in names:
            column = table[name][start : start + SLICE]
            values = column.astype(str) if column.dtype.kind == "S" else column
            columns[name] = values.tolist()
            if column.dtype.kind in "SU":
                columns[name] = [text and text.strip() for text in columns[name]]
        fields = [
            pa.field(name, array.type, metadata=_meaning(table[name]))
            for name, array in ((name, pa.array(values)) for name, values in columns.items())
        ]
        part = pa.table(list(columns.values()), schema=pa.schema(fields))
        writer = writer or pq.ParquetWriter(target, part.schema)
        writer.write_table(part.cast(writer.schema))
    if writer is not None:
        writer.close()


def _meaning(column: Any) -> dict[str, str]:
    """Unit and description of a column of astropy, where it has them."""
    found = {"unit": str(column.unit or ""), "description": str(column.description or "")}
    return {key: text for key, text in found.items() if text}


def _meanings(path: Path) -> dict[str, dict[str, str]]:
    """Unit and description of a file's columns, by name."""
    found = {}
    for field in pq.read_schema(path):
        facts = {key.decode(): text.decode() for key, text in (field.metadata or {}).items()}
        if known := {key: facts[key] for key in ("unit", "description") if facts.get(key)}:
            found[field.name] = known
    return found


def _list_keys(store: Store, source: Source, scratch: Path, tars: Path) -> tuple[_Frames, str, int]:
    """Every key below a prefix that gives an object id; what tells one listing from another."""
    assert source.prefix is not None
    assert source.id_pattern is not None
    matcher = re.compile(source.id_pattern)
    path, seen, found = scratch / "listed.parquet", 0, 0
    content = hashlib.sha256()
    names = _walk(store, source.prefix, tars)
    with pq.ParquetWriter(path, SURVEY) as writer:
        while some := list(islice(names, ROW_GROUP)):
            seen += len(some)
            pairs = [(m.group(1), uri) for name, uri in some if (m := matcher.search(name))]
            found += len(pairs)
            content.update(repr(pairs).encode())
            ids, uris = [ident for ident, _ in pairs], [uri for _, uri in pairs]
            writer.write_table(pa.table([ids, uris], schema=SURVEY))
    if not found:
        raise SettingsError(
            f"None of the {seen} objects below {source.prefix} matches {source.id_pattern!r}.",
            "Correct survey.prefix or survey.id_pattern.",
        )
    return _Frames([path], False, source.prefix), content.hexdigest(), seen - found


def _walk(store: Store, prefix: str, tars: Path) -> Iterator[tuple[str, str]]:
    """What below a prefix is matched against the pattern, and the URI that goes with it."""
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
                yield entry.uri, entry.uri
                continue
            for batch in pq.ParquetFile(future.result()).iter_batches():
                for name, uri in zip(*(column.to_pylist() for column in batch), strict=True):
                    yield f"{entry.uri}/{name}", uri


def _look_into(store: Store, entry: Entry, tars: Path) -> Path:
    """A table of a tar's members, made once for each version of it."""
    path = tars / f"{digest_value(asdict(entry))}.parquet"
    if path.exists():
        return path
    schema = pa.schema([("name", pa.string()), ("uri", pa.string())])
    try:
        with replacing(path) as scratch, pq.ParquetWriter(scratch, schema) as writer:
            members = packed.tar_members(entry.uri, store.open(entry.uri), _version(entry))
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
