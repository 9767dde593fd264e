"""Rows put on disk by subject: all rows of a subject come back together, in little memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import polars as pl

ROWS_IN_MEMORY = 150_000


class Spill:
    """A table too large for memory, to be read back a bucket of subjects at a time.

    Parameters
    ----------
    folder : Path
        Where files go when there are more rows than `rows_in_memory`; it must be empty.
    rows_in_memory : int
        Small tables never touch the disk.
    buckets : int
        How many pieces a large one comes back in.
    key : str
        The column whose rows are to come back together.
    """

    def __init__(
        self, folder: Path, rows_in_memory: int, buckets: int, key: str = "subject_id"
    ) -> None:
        self.key = key
        self.folder = folder
        self.rows_in_memory = rows_in_memory
        self.buckets = buckets
        self._frames: list[pl.DataFrame] = []
        self._rows = 0
        self._flushes = 0

    def add(self, frame: pl.DataFrame) -> None:
        """Take rows; they have the column of the key."""
        if len(frame):
            self._frames.append(frame)
            self._rows += len(frame)
        if self._rows > self.rows_in_memory:
            self._flush()

    def parts(self) -> Iterator[pl.DataFrame]:
        """Everything, each subject in one part only."""
        if not self._flushes:
            if self._frames:
                yield pl.concat(self._frames)
            return
        self._flush()
        for bucket in range(self.buckets):
            files = sorted(self.folder.glob(f"{bucket}-*.arrow"))
            if files:
                yield pl.concat([pl.read_ipc(file.read_bytes()) for file in files])
            for file in files:
                file.unlink()

    def _flush(self) -> None:
        if not self._frames:
            return
        whole = pl.concat(self._frames).with_columns(bucket=pl.col(self.key) % self.buckets)
        self._frames, self._rows = [], 0
        self.folder.mkdir(parents=True, exist_ok=True)
        for (bucket,), part in whole.partition_by("bucket", as_dict=True).items():
            path = self.folder / f"{bucket}-{self._flushes}.arrow"
            part.drop("bucket").write_ipc(path, compression="lz4")
        self._flushes += 1
