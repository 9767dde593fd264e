"""The folder of a scoring under way: its parts, which of them are done, and what was rejected."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from zoo_bridge.cutouts.load import Reject
from zoo_bridge.files import read_json, write_json, write_text
from zoo_bridge.steps.context import (
    Context,
)
from zoo_bridge.steps.scoring import catalogue
from zoo_bridge.steps.scoring.todo import Asked, opened, take_over, write_new
from zoo_bridge.tables import REJECTS, SCORES, read_table, write_table


@dataclass(frozen=True)
class Work:
    """A folder that waits for its parts.

    ``todo.parquet`` has the objects to score, a row group for each part. A part is done when its
    file is there; files appear whole.
    """

    folder: Path

    @property
    def todo(self) -> Path:
        """The list of objects."""
        return self.folder / "todo.parquet"

    @property
    def objects(self) -> int:
        """How many there are."""
        return int(pq.read_metadata(self.todo).num_rows)

    @property
    def parts(self) -> int:
        """How many there are to be."""
        return int(pq.read_metadata(self.todo).num_row_groups)

    @property
    def done(self) -> list[int]:
        """The parts that are there."""
        return [part for part in range(self.parts) if self.scores(part).exists()]

    @property
    def missing(self) -> list[int]:
        """The parts that are not."""
        return [part for part in range(self.parts) if not self.scores(part).exists()]

    def scores(self, part: int) -> Path:
        """A part's file."""
        return self.folder / f"part-{part:05d}.parquet"

    def rejects(self, part: int) -> Path:
        """What was rejected of a part."""
        return self.folder / f"rejects-{part:05d}.parquet"

    def sizes(self) -> list[int]:
        """Objects in each part."""
        facts = pq.read_metadata(self.todo)
        return [int(facts.row_group(part).num_rows) for part in range(facts.num_row_groups)]

    def table(self, part: int) -> pa.Table:
        """The objects of a part, of the schema `todo.TODO`."""
        with pq.ParquetFile(self.todo) as file:
            return file.read_row_group(part)

    def read(self, part: int) -> list[tuple[str, str]]:
        """The objects of a part: (object_id, uri)."""
        table = self.table(part)
        return list(zip(table["object_id"].to_pylist(), table["uri"].to_pylist(), strict=True))

    def from_features(self) -> set[int]:
        """The parts whose features are kept: of the others the cutouts are read."""
        facts = pq.read_metadata(self.todo)
        column = facts.schema.names.index("file")
        groups = (facts.row_group(part).column(column) for part in range(facts.num_row_groups))
        return {
            part
            for part, group in enumerate(groups)
            if group.statistics is not None and group.statistics.null_count == 0
        }

    @property
    def outside(self) -> int:
        """Objects of the survey that are not to have scores."""
        return int(read_json(self.folder / FACTS)["outside"])

    @property
    def changed(self) -> list[str]:
        """Addresses of cutouts that are others than those that were seen before."""
        return list(read_json(self.folder / FACTS)["changed"])

    def write(self, part: int, tables: list[pa.Table], rejects: list[Reject]) -> None:
        """Write a part."""
        rows = pa.Table.from_pylist([vars(reject) for reject in rejects], schema=REJECTS)
        # In this order: a part that is there has its rejects beside it.
        write_table(self.rejects(part), rows, REJECTS)
        write_table(self.scores(part), pa.concat_tables([SCORES.empty_table(), *tables]), SCORES)

    def count_rejects(self, part: int) -> int:
        """How many objects of a part were rejected."""
        return int(pq.read_metadata(self.rejects(part)).num_rows)

    def tally_rejects(self, parts: Iterable[int]) -> Counter[str]:
        """How many objects of some parts were rejected, by reason."""
        tally: Counter[str] = Counter()
        for part in parts:
            if self.count_rejects(part):
                tally.update(read_table(self.rejects(part), REJECTS)["reason"].to_pylist())
        return tally

    def first_reject(self, parts: Sequence[int], reason: str = "") -> dict[str, str] | None:
        """One of them, to show; of a reason, if one is named."""
        for part in parts:
            for row in read_table(self.rejects(part), REJECTS).to_pylist():
                if reason in ("", row["reason"]):
                    return dict(row)
        return None

    def forget(self, part: int) -> None:
        """Let a part be done again."""
        self.scores(part).unlink()
        self.rejects(part).unlink()


# Files that say what a folder of parts is made of, until that is in the ledger.
KIND, FACTS = "made-by.txt", "todo.json"


def open_work(ctx: Context, asked: Asked, folder: Path, kind: str) -> Work:
    """Go on with the folder of a run that was stopped, or begin one.

    Where the survey has changed since, what that run had done is taken over. The list of what is to
    be done is written last: with it the folder is ready.
    """
    _take_back(ctx, folder)
    work = Work(folder)
    others = [path for path in folder.parent.glob(".work-*") if path != folder]
    if not work.todo.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        write_text(folder / KIND, kind)
        # What a stopped run took over itself lies in its folder, too.
        stopped = [path for path in others if _kind_of(path) == kind and catalogue.parts(path)]
        if stopped:
            asked = replace(asked, old=max(stopped, key=catalogue.count_rows))
        scratch = folder / "todo.new"
        with opened(asked) as db:
            outside, changed = write_new(db, asked, scratch, ctx.settings.score.part_objects)
            write_json(folder / FACTS, {"outside": outside, "changed": changed})
            if asked.old is not None:
                take_over(db, asked, folder, pq.read_metadata(scratch).num_row_groups)
        scratch.rename(work.todo)
    for path in others:
        shutil.rmtree(path, ignore_errors=True)
    if done := work.done:
        ctx.say(f"going on where a run was stopped: {len(done)} of {work.parts} parts are done")
    return work


def leftovers_of(folder: Path) -> list[Path]:
    """What a folder of parts holds beside the catalogue, until that is in the ledger."""
    names = (KIND, FACTS, "todo.parquet")
    return [*folder.glob("rejects-*.parquet"), *(folder / name for name in names)]


def _take_back(ctx: Context, folder: Path) -> None:
    """A run may have been killed when all was done and nothing said of it in the ledger."""
    known = {artifact.home for artifact in ctx.ledger.list_artifacts("scores")}
    for path in folder.parent.glob("[!.]*"):
        if path not in known and (path / KIND).exists() and not folder.exists():
            path.rename(folder)


def _kind_of(folder: Path) -> str:
    path = folder / KIND
    return path.read_text(encoding="utf-8") if path.exists() else ""
