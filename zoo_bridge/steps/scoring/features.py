"""What networks saw in cutouts, kept: whatever needs no pixel goes on from there.

``features/<trunk>/part-*``: for each part an Arrow file of the numbers alone, float16, a column for
each trunk of an ensemble, that is mapped into memory and used as it lies; and beside it a Parquet
file that says whose they are, and of which version of each cutout. A part is there when the latter
is. Parts are never changed; of an object that stands in several the last one counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from zoo_bridge.errors import InputError
from zoo_bridge.files import digest_value, replacing
from zoo_bridge.tables import write_table

if TYPE_CHECKING:
    from zoo_bridge.ledger import Artifact
    from zoo_bridge.steps.shelf import Shelf

Features = list[NDArray[np.float16]]
HOME = "features"
# Whose a row is; ``stamp`` changes with the file, and is null where none could be had.
WHOSE = pa.schema([("object_id", pa.string()), ("uri", pa.string()), ("stamp", pa.string())])


def folder_name(trunk: str, server: str | None) -> str:
    """The folder of a trunk's features: the same address on another server is another cutout."""
    return digest_value([trunk, server])


def trunk_of(model: Artifact) -> str:
    """A model's trunk; of models of earlier versions nobody knows it: each has its own."""
    return str(model.facts.get("trunk") or model.name)


@dataclass(frozen=True)
class Kept:
    """The features of one trunk.

    Parameters
    ----------
    folder : Path
        ``features/<trunk>``.
    shelf : Shelf or None
        Where they are, too, if artifacts are in S3.
    """

    folder: Path
    shelf: Shelf | None = None

    def parts(self) -> list[Path]:
        """The Parquet files that say whose features there are; from the shelf what is not here."""
        elsewhere: set[Path] = set()
        if self.shelf is not None:
            elsewhere.update(self.shelf.names_below(self.folder))
            for path in elsewhere:
                if path.suffix == ".parquet":
                    self.shelf.bring(path)
        found = sorted(self.folder.glob("part-*.parquet"))
        numbers = ((path, path.with_suffix(".arrow")) for path in found)
        return [path for path, each in numbers if each.exists() or each in elsewhere]

    def write(self, name: str, whose: pa.Table, features: Sequence[NDArray[Any]]) -> None:
        """Write a part.

        Parameters
        ----------
        name : str
            Such as ``part-20261126-00012``.
        whose : pyarrow.Table
            Of the schema ``WHOSE``, N rows.
        features : sequence of ndarray, shape (N, D)
            One for each trunk.
        """
        path = self.folder / f"{name}.parquet"
        columns = {}
        for place, features_ND in enumerate(features):
            flat = pa.array(np.ascontiguousarray(features_ND, dtype=np.float16).ravel())
            # Of no galaxies the width is still known.
            columns[f"features_{place}"] = pa.FixedSizeListArray.from_arrays(
                flat, features_ND.shape[1]
            )
        table = pa.table(columns)
        with (
            replacing(path.with_suffix(".arrow")) as scratch,
            pa.OSFile(str(scratch), "wb") as file,
            pa.ipc.new_file(file, table.schema) as writer,
        ):
            # One piece, so that it is one array when it is read.
            writer.write_table(table, max_chunksize=max(1, len(table)))
        write_table(path, whose, WHOSE)
        if self.shelf is not None:
            # What says that it is there last.
            for each in (path.with_suffix(".arrow"), path):
                self.shelf.put(each)

    def open(self, path: Path) -> Features:
        """A part's numbers, as they lie on disk: shape (N, D) each.

        Raises
        ------
        InputError
            If the file is damaged.
        """
        numbers = path.with_suffix(".arrow")
        if self.shelf is not None:
            self.shelf.bring(numbers)
        try:
            with pa.memory_map(str(numbers)) as file:
                table = pa.ipc.open_file(file).read_all()
            if len(table) != pq.read_metadata(path).num_rows:
                raise ValueError("it has other galaxies than the file beside it")
            return [_matrix(column) for column in table.columns]
        except (OSError, ValueError, pa.ArrowException) as error:
            raise InputError(
                f"The kept features in {numbers} cannot be read: {error}.",
                f"Delete {self.folder}: they are made again from the cutouts.",
            ) from None

    def find(self, objects: Sequence[tuple[str, str]]) -> tuple[list[int], Features]:
        """Features of some galaxies, as far as they are kept.

        Parameters
        ----------
        objects : sequence of (object_id, uri)
            Which galaxies.

        Returns
        -------
        places : list of int
            Of the galaxies that there are features of, in their order.
        features : list of ndarray, shape (N, D)
            One for each trunk; none at all of no galaxies.
        """
        import polars as pl

        parts = self.parts()
        if not parts or not objects:
            return [], []
        wanted = pl.DataFrame(
            list(objects), schema={"object_id": pl.String, "uri": pl.String}, orient="row"
        ).with_row_index("place")
        whose = [
            pl.scan_parquet(path)
            .select("object_id", "uri")
            .with_row_index("row")
            .with_columns(file=pl.lit(path.name))
            for path in parts
        ]
        # What was kept last counts.
        found = (
            wanted.lazy()
            .join(pl.concat(whose), on=["object_id", "uri"], how="inner")
            .sort("place", "file", "row")
            .unique("place", keep="last")
            .sort("place")
            .collect()
        )
        if found.is_empty():
            return [], []
        rows = found["row"].to_numpy().astype(np.int64)
        return found["place"].to_list(), self.take(found["file"].to_list(), rows)

    def take(self, files: Sequence[str], rows: NDArray[np.int64]) -> Features:
        """Features from several parts, in the order asked for.

        Parameters
        ----------
        files : sequence of str
            The name of each galaxy's part.
        rows : ndarray of int, shape (N,)
            Its row there.

        Returns
        -------
        list of ndarray, shape (N, D)
        """
        names = np.asarray(files)
        out: Features = []
        for name in np.unique(names):
            at = np.flatnonzero(names == name)
            for place, numbers in enumerate(self.open(self.folder / str(name))):
                if place == len(out):
                    out.append(np.empty((len(names), numbers.shape[1]), np.float16))
                out[place][at] = numbers[rows[at]]
        return out


def _matrix(column: pa.ChunkedArray) -> NDArray[np.float16]:
    width = column.type.list_size
    if not len(column):
        return np.empty((0, width), np.float16)
    # `write` wrote one piece.
    (whole,) = column.chunks
    flat: NDArray[np.float16] = whole.flatten().to_numpy(zero_copy_only=True)
    return flat.reshape(-1, width)
