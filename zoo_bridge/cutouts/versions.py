"""Which version of each cutout there is: what changes when a file is written anew.

S3 and disks tell it when a folder is listed, a thousand files an answer. A packed cutout's address
says it itself, and a web server is not asked.
"""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from zoo_bridge.cutouts.packed import SQL_PATTERN
from zoo_bridge.cutouts.store import Store
from zoo_bridge.cutouts.survey import VERSIONS, Survey
from zoo_bridge.errors import ZooBridgeError
from zoo_bridge.files import replacing

ROWS = 10_000
# Folders are listed if they hold so many of the survey's files, and not much else.
FEWEST_IN_A_FOLDER, MOST_OTHERS = 20, 20


def list_versions(store: Store, survey: Survey) -> tuple[Path | None, str]:
    """List the folders that a survey's cutouts are in.

    Parameters
    ----------
    store : Store
        Where they are.
    survey : Survey
        Whose cutouts are meant. A survey that was made by listing has its versions already.

    Returns
    -------
    path : Path or None
        A Parquet file with the columns uri and stamp; None if nothing can be told.
    why : str
        Why not, or an empty text.
    """
    if survey.versions.exists():
        return survey.versions, ""
    folders, files = _folders(survey)
    if not files:
        return None, ""
    if len(folders) * FEWEST_IN_A_FOLDER > max(files, FEWEST_IN_A_FOLDER):
        return None, f"they lie in {len(folders)} folders, too many to be listed each time"
    most = MOST_OTHERS * files + ROWS
    listed = 0
    path = survey.folder / "versions.parquet"
    try:
        with replacing(path) as scratch, pq.ParquetWriter(scratch, VERSIONS) as writer:
            for folder in folders:
                entries = store.walk(folder)
                while some := list(islice(entries, ROWS)):
                    listed += len(some)
                    if listed > most:
                        return None, f"their folders hold more than {most} files"
                    columns = [[each.uri for each in some], [each.digest for each in some]]
                    writer.write_table(pa.table(columns, schema=VERSIONS))
    except ZooBridgeError as error:
        return None, error.message
    return path, ""


def digest_versions(path: Path | None, survey: Survey) -> str | None:
    """What changes when a cutout of the survey does; None if nothing is known."""
    if path is None:
        return None
    with duckdb.connect() as db:
        db.read_parquet(str(path)).create_view("versions")
        db.read_parquet(str(survey.path)).create_view("survey")
        ours = "FROM versions SEMI JOIN survey USING (uri)"
        query = f"SELECT bit_xor(hash(uri || ' ' || stamp)) {ours}"
        ((found,),) = db.execute(query).fetchall()
    return f"{found:x}" if found is not None else None


def _folders(survey: Survey) -> tuple[list[str], int]:
    """Folders of cutouts in files of their own, none inside another; and how many files."""
    with duckdb.connect() as db:
        db.read_parquet(str(survey.path)).create_view("survey")
        rows = db.execute(
            f"""
            SELECT regexp_extract(uri, '^(.*/)[^/]*$', 1) AS folder, count(*) FROM survey
            WHERE NOT regexp_matches(uri, '{SQL_PATTERN}')
              AND NOT regexp_matches(uri, '^https?://')
            GROUP BY folder ORDER BY folder
            """
        ).fetchall()
    folders: list[str] = []
    for folder, _ in rows:
        if folder and not (folders and folder.startswith(folders[-1])):
            folders.append(folder)
    return folders, sum(count for _, count in rows)
