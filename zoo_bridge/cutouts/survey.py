"""The survey: every object there is, with the URI of its cutout."""

from __future__ import annotations

import io
import re
import warnings
from typing import Any

import polars as pl
import pyarrow as pa

from zoo_bridge.cutouts.store import Store, join
from zoo_bridge.errors import InputError, SettingsError
from zoo_bridge.tables import REJECTS, SURVEY


def read_catalogue(
    store: Store, uri: str, id_column: str, uri_column: str
) -> tuple[pa.Table, pa.Table]:
    """Read a survey's catalogue: CSV, Parquet, FITS table or VOTable.

    Parameters
    ----------
    store : Store
        Where it is read from.
    uri : str
        The catalogue.
    id_column, uri_column : str
        Which columns hold the object id and the cutout's URI, or its key beside the catalogue.

    Returns
    -------
    survey, rejects : pyarrow.Table
        The objects, sorted by id, with all columns; and the rows that cannot be used.

    Raises
    ------
    SettingsError
        If the catalogue or one of its columns is not there.
    InputError
        If it cannot be read.
    """
    data = store.read(uri)
    if data is None:
        raise SettingsError(
            f"There is no catalogue {uri}.", "Correct survey.catalogue in the settings."
        )
    frame = _parse(data, uri)
    for key, column in (("object_id_column", id_column), ("uri_column", uri_column)):
        if column not in frame.columns:
            raise SettingsError(
                f"The catalogue {uri} has no column {column!r}.",
                f"Set survey.{key} to one of: {', '.join(frame.columns[:20])}.",
            )
    renamed = {id_column: "object_id", uri_column: "uri"}
    clash = [name for name in SURVEY.names if name in frame.columns and name not in renamed]
    frame = frame.drop(clash).rename(renamed)
    frame = frame.with_columns(pl.col("object_id", "uri").cast(pl.String).str.strip_chars())
    frame = frame.with_columns(
        pl.col("uri").map_elements(lambda key: join(uri, key), return_dtype=pl.String)
    )
    return _sound(frame)


def list_prefix(store: Store, prefix: str, pattern: str) -> tuple[pa.Table, pa.Table]:
    """The survey as a bucket prefix: object ids are cut out of the keys by a pattern.

    Parameters
    ----------
    store : Store
        Where.
    prefix : str
        Such as ``s3://bucket/cutouts/``.
    pattern : str
        A regular expression whose first group is the object id.

    Returns
    -------
    survey, rejects : pyarrow.Table

    Raises
    ------
    SettingsError
        If nothing below the prefix matches.
    """
    matcher = re.compile(pattern)
    uris = list(store.list(prefix))
    matches = [(match.group(1), uri) for uri in uris if (match := matcher.search(uri))]
    if not matches:
        raise SettingsError(
            f"None of the {len(uris)} objects below {prefix} matches {pattern!r}.",
            "Correct survey.prefix or survey.id_pattern.",
        )
    frame = pl.DataFrame(matches, schema={"object_id": pl.String, "uri": pl.String}, orient="row")
    return _sound(frame)


def _sound(frame: pl.DataFrame) -> tuple[pa.Table, pa.Table]:
    """Objects with an id and a URI, each once; everything else is set aside with a reason."""
    frame = frame.with_columns(
        reason=pl.when(pl.col("object_id").is_null() | (pl.col("object_id") == ""))
        .then(pl.lit("no object id"))
        .when(pl.col("uri").is_null() | (pl.col("uri") == ""))
        .then(pl.lit("no uri"))
        .when(~pl.col("object_id").is_first_distinct())
        .then(pl.lit("object id twice"))
    )
    good = frame.filter(pl.col("reason").is_null()).drop("reason").sort("object_id")
    bad = frame.filter(pl.col("reason").is_not_null()).with_columns(
        detail=pl.lit("in the survey's catalogue")
    )
    first = [*SURVEY.names, *(name for name in good.columns if name not in SURVEY.names)]
    survey = good.select(first).to_arrow()
    for index, name in enumerate(SURVEY.names):
        survey = survey.set_column(index, name, survey[name].cast(pa.string()))
    return survey, bad.select(REJECTS.names).to_arrow().cast(REJECTS)


def _parse(data: bytes, uri: str) -> pl.DataFrame:
    try:
        if data[:4] == b"PAR1":
            return pl.read_parquet(io.BytesIO(data))
        if data[:6] == b"SIMPLE" or b"<VOTABLE" in data[:1000]:
            return _astropy_table(data)
        # Ids are texts: "000123" must not become the number 123.
        frame = pl.read_csv(io.BytesIO(data), infer_schema_length=0)
        return _numbers(frame)
    except (pl.exceptions.PolarsError, ValueError, OSError) as error:
        raise InputError(
            f"The catalogue {uri} cannot be read: {str(error).splitlines()[0]}.",
            "It must be CSV, Parquet, a FITS table or a VOTable.",
        ) from None


def _astropy_table(data: bytes) -> pl.DataFrame:
    from astropy.table import Table

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        kind = "fits" if data[:6] == b"SIMPLE" else "votable"
        table = Table.read(io.BytesIO(data), format=kind)
    columns: dict[str, Any] = {}
    for name in table.colnames:
        if table[name].ndim == 1:
            column = table[name]
            if column.dtype.kind == "S":
                columns[name] = [text.strip() for text in column.astype(str).tolist()]
            else:
                columns[name] = column.tolist()
    return pl.DataFrame(columns)


def _numbers(frame: pl.DataFrame) -> pl.DataFrame:
    """Columns of a CSV that hold decimal numbers become numbers, unless a leading zero is lost."""
    changes = []
    for name in frame.columns:
        column = frame[name]
        number = column.cast(pl.Float64, strict=False)
        padded = column.str.contains(r"^0\d").any()
        if (
            number.null_count() == column.null_count()
            and not padded
            and column.str.contains(r"\.").any()
        ):
            changes.append(number.alias(name))
    return frame.with_columns(changes)
