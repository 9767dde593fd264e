"""What was set aside, and why: rows of exports, rows of the survey's catalogue, cutouts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from zoo_bridge.config import Settings
from zoo_bridge.ledger import Ledger
from zoo_bridge.redact import redact
from zoo_bridge.service.show import print_json, show_rows
from zoo_bridge.tables import REJECTS, read_table

SHOWN = ("object_id", "by", "reason", "detail", "uri")


def find_rejects(ledger: Ledger) -> pl.DataFrame:
    """The rejects of the newest labels and of the newest scores.

    Parameters
    ----------
    ledger : Ledger
        Which these are.

    Returns
    -------
    polars.DataFrame
        ``by`` (aggregate or score), and the columns of the table of rejects.
    """
    frames = [pl.DataFrame(schema={"by": pl.String, **dict.fromkeys(REJECTS.names, pl.String)})]
    for kind, job in (("labels", "aggregate"), ("scores", "score")):
        artifact = ledger.newest(kind)
        path = artifact.path / "rejects.parquet" if artifact else None
        if path is not None and path.is_file():
            table = read_table(path, REJECTS).select(REJECTS.names).cast(REJECTS)
            frame = pl.DataFrame(table)
            frames.append(frame.select(pl.lit(job).alias("by"), *REJECTS.names))
    return pl.concat(frames)


def show_rejects(
    settings: Settings,
    ledger: Ledger,
    objects: Sequence[str],
    reason: str,
    limit: int,
    csv: Path | None,
    as_json: bool,
) -> None:
    """Show what was set aside: how many for which reason, and each.

    Parameters
    ----------
    settings : Settings
        Of the project.
    ledger : Ledger
        What was made.
    objects : sequence of str
        Only these, if any are named.
    reason : str
        Only what was set aside for this one; empty for all.
    limit : int
        How many to list; the counts are of all.
    csv : Path, optional
        Write all of them here instead.
    as_json : bool
        JSON in place of a table.
    """
    found = find_rejects(ledger)
    if objects:
        found = found.filter(pl.col("object_id").is_in(list(objects)))
    if reason:
        found = found.filter(pl.col("reason") == reason)
    if csv is not None:
        texts = pl.col("uri", "detail").map_elements(redact, return_dtype=pl.String)
        found.with_columns(texts).write_csv(csv)
        print(f"Wrote {len(found)} rows to {csv}.")
        return
    counts = Counter(zip(found["by"], found["reason"], strict=True))
    rows: list[dict[str, Any]] = found.head(limit).to_dicts()
    if as_json:
        totals = [
            {"by": by, "reason": why, "count": count} for (by, why), count in counts.most_common()
        ]
        print_json({"counts": totals, "rejects": rows})
        return
    if not rows:
        print("Nothing was set aside.")
        return
    for (by, why), count in counts.most_common():
        print(f"{count} by {by}: {why}")
    print()
    for row in rows:
        # Rows of exports have no object: their place in the file names them.
        row["object_id"] = row["object_id"] or row["uri"]
    show_rows(rows, SHOWN, False)
    if len(found) > len(rows):
        print(f"... and {len(found) - len(rows)} more: --limit, or --csv FILE for all.")
