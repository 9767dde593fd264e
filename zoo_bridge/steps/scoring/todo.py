"""What is to be scored: what a catalogue lacks, from kept features where there are some.

Everything here is a query of DuckDB over Parquet files: a hundred million objects need no more
memory than a thousand.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from zoo_bridge.cutouts.packed import SQL_PATTERN
from zoo_bridge.cutouts.survey import Survey
from zoo_bridge.files import replacing
from zoo_bridge.steps.scoring.catalogue import connect, parts, sql_uniform
from zoo_bridge.tables import SCORES, sql_text, write_table

# ``stamp`` changes with the cutout; ``file`` and ``row`` say where its features are kept, if so.
TODO = pa.schema(
    [
        ("object_id", pa.string()),
        ("uri", pa.string()),
        ("stamp", pa.string()),
        ("file", pa.string()),
        ("row", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Pool:
    """The objects that are always scored: those whose number, from their id, is below a share.

    Parameters
    ----------
    share : float
        Of the survey, when it was drawn.
    seed : int
        Of the numbers.
    before : Survey or None
        What was there when scores were made last: what has come since is scored, too.
    """

    share: float
    seed: int
    before: Survey | None = None

    @property
    def holds(self) -> str:
        """In SQL: whether an object belongs to it, whenever it came; as `select.in_pool`."""
        return f"{sql_uniform(self.seed, 'pool')} < {self.share!r}"


@dataclass(frozen=True)
class Asked:
    """What scores are made of.

    Parameters
    ----------
    survey : Survey
        All objects that there are now.
    old : Path or None
        A folder with scores of the same making, whole or not.
    kept : sequence of Path
        Parquet files of the parts of kept features.
    versions : Path or None
        The version of each cutout, as far as it is known: see `cutouts.versions`.
    pool : Pool or None
        Of what; None for everything.
    """

    survey: Survey
    old: Path | None = None
    kept: Sequence[Path] = ()
    versions: Path | None = None
    pool: Pool | None = None


@contextmanager
def opened(asked: Asked) -> Iterator[duckdb.DuckDBPyConnection]:
    """A database with views ``survey``, ``chosen`` of it, ``seen`` of the features, and ``old``."""
    with connect(asked.survey.folder) as db:
        db.read_parquet(str(asked.survey.path)).create_view("survey")
        none = "SELECT '' AS object_id, '' AS uri, {} WHERE false"
        if asked.versions is not None:
            db.read_parquet(str(asked.versions)).create_view("versions")
        else:
            db.execute("CREATE VIEW versions AS SELECT '' AS uri, '' AS stamp WHERE false")
        db.execute(
            "CREATE VIEW dated AS SELECT object_id, survey.uri, stamp "
            "FROM survey LEFT JOIN versions ON survey.uri = versions.uri"
        )
        if asked.kept:
            files = ", ".join(sql_text(str(path)) for path in asked.kept)
            # What was read when nobody could say which version it was counts for any.
            db.execute(
                f"""
                CREATE TEMP TABLE seen AS
                SELECT k.object_id, k.uri, parse_filename(k.filename) AS file,
                       k.file_row_number AS row,
                       k.stamp IS NULL OR d.stamp IS NULL OR k.stamp = d.stamp AS good
                FROM read_parquet([{files}], filename = true, file_row_number = true) k
                JOIN dated d ON k.object_id = d.object_id AND k.uri = d.uri
                QUALIFY row_number() OVER (
                    PARTITION BY k.object_id ORDER BY good DESC, file DESC, row DESC
                ) = 1
                """
            )
        else:
            db.execute(f"CREATE VIEW seen AS {none.format('0 AS row, true AS good, 0 AS file')}")
        if asked.old is not None and (scored := [str(path) for path in parts(asked.old)]):
            db.read_parquet(scored).create_view("scored")
        else:
            db.execute(f"CREATE VIEW scored AS {none.format('0 AS nothing')}")
        changed = "(SELECT object_id, uri FROM seen WHERE NOT good)"
        db.execute(
            f"CREATE VIEW old AS SELECT * FROM scored ANTI JOIN {changed} USING (object_id, uri)"
        )
        condition = "true"
        if asked.pool is not None:
            condition = asked.pool.holds
            if asked.pool.before is not None:
                db.read_parquet(str(asked.pool.before.path)).create_view("before")
                condition += " OR object_id NOT IN (SELECT object_id FROM before)"
        db.execute(f"CREATE VIEW chosen AS SELECT * FROM dated WHERE {condition}")
        db.execute(
            """
            CREATE VIEW todo AS SELECT c.object_id, c.uri, c.stamp, s.file, s.row
            FROM (SELECT * FROM chosen ANTI JOIN old USING (object_id, uri)) c
            LEFT JOIN (SELECT * FROM seen WHERE good) s
                ON c.object_id = s.object_id AND c.uri = s.uri
            """
        )
        yield db


def count_new(asked: Asked) -> int:
    """How many objects are to be scored."""
    with opened(asked) as db:
        ((count,),) = db.execute("SELECT count(*) FROM todo").fetchall()
    return int(count)


def write_new(
    db: duckdb.DuckDBPyConnection, asked: Asked, path: Path, part_objects: int
) -> tuple[int, list[str]]:
    """Write what is to be scored, a row group for each part to come.

    A part is read from the cutouts, or from kept features: none from both.

    Parameters
    ----------
    db : duckdb.DuckDBPyConnection
        As `opened` gives it.
    asked : Asked
        What scores are made of.
    path : Path
        Where to; the file appears whole. Sorted by id; of packed cutouts, as they lie in shards;
        of kept features, as these lie.
    part_objects : int
        Objects in a part.

    Returns
    -------
    outside : int
        Objects of the survey that are not to have scores.
    changed : list of str
        Addresses of cutouts that are others than those that features were kept of.
    """
    place = f"regexp_extract(uri, '{SQL_PATTERN}', {{}})"
    shards = f"{place.format(1)}, TRY_CAST({place.format(2)} AS BIGINT)"
    names = ", ".join(TODO.names)
    orders = {"file IS NULL": f"{shards}, object_id", "file IS NOT NULL": "file, row"}
    written = 0
    with (
        replacing(path) as scratch,
        pq.ParquetWriter(scratch, TODO, compression="zstd") as writer,
    ):
        for kind, order in orders.items():
            waiting = TODO.empty_table()
            query = f"SELECT {names} FROM todo WHERE {kind} ORDER BY {order}"
            for batch in db.sql(query).to_arrow_reader(part_objects):
                waiting = pa.concat_tables([waiting, pa.Table.from_batches([batch]).cast(TODO)])
                while len(waiting) >= part_objects:
                    writer.write_table(waiting.slice(0, part_objects), part_objects)
                    written += part_objects
                    waiting = waiting.slice(part_objects)
            if len(waiting):
                writer.write_table(waiting, part_objects)
                written += len(waiting)
    held = "SELECT count(DISTINCT object_id) FROM old SEMI JOIN survey USING (object_id, uri)"
    ((before,),) = db.execute(held).fetchall()
    changed = db.execute("SELECT uri FROM seen WHERE NOT good ORDER BY uri").fetchall()
    return len(asked.survey) - written - int(before), [uri for (uri,) in changed]


def take_over(db: duckdb.DuckDBPyConnection, asked: Asked, folder: Path, first: int) -> None:
    """Put the rows of an earlier catalogue that still hold into a folder, as parts of it.

    A file of which all holds is linked, not copied. Objects that left the survey, have another URI
    now, or whose cutout is another, are left out.

    Parameters
    ----------
    db : duckdb.DuckDBPyConnection
        As `opened` gives it.
    asked : Asked
        With the earlier catalogue, and what the objects must be in.
    folder : Path
        The folder of the new catalogue, where parts are linked or written.
    first : int
        The number of the first part.
    """
    assert asked.old is not None
    for number, path in enumerate(parts(asked.old), first):
        target = folder / f"part-{number:05d}.parquet"
        db.read_parquet(str(path)).create_view("part", replace=True)
        holds = (
            "SELECT part.* FROM part SEMI JOIN survey USING (object_id, uri) "
            "ANTI JOIN (SELECT * FROM seen WHERE NOT good) USING (object_id, uri)"
        )
        ((left,),) = db.execute(holds.replace("part.*", "count(*)")).fetchall()
        if left == pq.read_metadata(path).num_rows:
            _link(path, target)
        else:
            write_table(target, db.sql(holds).to_arrow_table(), SCORES)


def _link(path: Path, target: Path) -> None:
    target.unlink(missing_ok=True)
    try:
        os.link(path, target)
    except OSError:
        # Not every disk has hard links.
        with replacing(target) as scratch:
            shutil.copyfile(path, scratch)
