"""The catalogue: looked up, filtered, counted, taken away, and sent to other programs."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

import polars as pl
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response

from zoo_bridge.console import asking
from zoo_bridge.console.asking import ORDERS, Asked
from zoo_bridge.console.site import Visit
from zoo_bridge.cutouts.positions import in_degrees
from zoo_bridge.errors import BusyError, SettingsError, ZooBridgeError
from zoo_bridge.ledger import Artifact
from zoo_bridge.report.moc import coverage_of
from zoo_bridge.service.reporting.facts import look_columns
from zoo_bridge.service.scores import Wanted, write_scores
from zoo_bridge.steps.inputs import scored_survey
from zoo_bridge.tables import SCORES

PAGE = 50
KINDS = {
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
    "fits": "application/fits",
    "vot": "application/x-votable+xml",
}
# What another program is sent: as many rows as it shows with ease.
MOST_SENT = 100_000
NEAR_ARCSEC = 60.0
_writing = threading.BoundedSemaphore(2)


def catalogue_page(visit: Visit) -> Response:
    """The newest scores, as somebody wants to see them."""
    scores = visit.ledger.newest("scores")
    if scores is None:
        return visit.show("catalogue.html", scores=None)
    if name := visit.asked("id").strip():
        return RedirectResponse(visit.url("galaxy", id=name), 303)
    survey = scored_survey(visit.settings, scores)
    question = _question(visit)
    facts: dict[str, Any] = {"rows": [], "total": 0, "columns": [], "spread": None}
    fault, where, column = "", visit.asked("where"), visit.asked("column", "mean") or "mean"
    sort = visit.asked("sort", "informative") or "informative"
    asked = Asked(where, sort, visit.number("offset", 0, 10**9), PAGE)
    try:
        if near := visit.asked("near").strip():
            facts["near"] = _near(visit, scores, near)
        found, spread = asking.ask_catalogue(visit.settings, scores, question.name, asked, column)
        facts |= {"rows": found.rows, "total": found.total, "columns": found.columns}
        facts["spread"] = spread
    except ZooBridgeError as error:
        fault = f"{error.message} {error.hint}"
    looks = list(look_columns(survey.path)) if survey else []
    names = [row["object_id"] for row in facts["rows"]]
    values = asking.survey_rows(visit.settings, scores, names, looks)
    return visit.show(
        "catalogue.html",
        status=400 if fault else 200,
        scores=scores,
        question=question,
        questions=[each.name for each in visit.settings.question],
        asked=asked,
        column=column,
        fault=fault,
        orders={key: title for key, (title, _) in ORDERS.items()},
        looks=looks,
        values=values,
        kinds=list(KINDS),
        has_positions=survey is not None and _has_positions(visit, survey.columns),
        page=PAGE,
        near_text=visit.asked("near"),
        **{"near": None, **facts},
    )


def _question(visit: Visit) -> Any:
    by_name = {each.name: each for each in visit.settings.question}
    return by_name.get(visit.asked("question"), visit.settings.question[0])


def _has_positions(visit: Visit, columns: Any) -> bool:
    config = visit.settings.survey
    return config.ra_column in columns and config.dec_column in columns


def _positions(visit: Visit, scores: Artifact) -> pl.DataFrame:
    """Every object's position in degrees: object_id, ra, dec."""
    survey = scored_survey(visit.settings, scores)
    config = visit.settings.survey
    if survey is None or not _has_positions(visit, survey.columns):
        raise SettingsError(
            f"The survey has no columns {config.ra_column} and {config.dec_column}.",
            "Set survey.ra_column and survey.dec_column.",
        )
    names = (config.ra_column, config.dec_column)
    frame = pl.read_parquet(survey.path, columns=["object_id", *names])
    ra, dec = (
        in_degrees(frame[name], survey.meanings.get(name, {}), name == names[0]) for name in names
    )
    return frame.select("object_id").with_columns(pl.Series("ra", ra), pl.Series("dec", dec))


def _near(visit: Visit, scores: Artifact, text: str) -> list[dict[str, Any]]:
    """Objects near a position, the nearest first."""
    from astropy import units
    from astropy.coordinates import SkyCoord, angular_separation

    try:
        parts = text.replace(",", " ").split()
        plain = len(parts) == 2 and all(_is_number(part) for part in parts)
        unit = "deg" if plain else (units.hourangle, units.deg)
        at = SkyCoord(" ".join(parts), unit=unit)
    except (ValueError, TypeError) as error:
        raise SettingsError(
            f"{text!r} is no position: {error}.",
            "Such as: 150.1 2.2 (degrees), or 10:00:24 +02:12:00.",
        ) from None
    frame = _positions(visit, scores)
    import numpy as np

    away = angular_separation(
        np.radians(frame["ra"].to_numpy()), np.radians(frame["dec"].to_numpy()),
        at.ra.radian, at.dec.radian,
    )  # fmt: skip
    found = frame.with_columns(arcsec=pl.Series(np.degrees(away) * 3600))
    near = found.filter(pl.col("arcsec") <= NEAR_ARCSEC).sort("arcsec").head(20)
    return near.to_dicts()


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


# files


def export(visit: Visit) -> Response:
    """What is asked for, as a file."""
    scores = visit.ledger.newest("scores")
    kind = visit.param("kind")
    if scores is None or kind not in KINDS:
        return Response(status_code=404)
    # A VOTable is made in memory.
    return _file(visit, scores, kind, _wanted(visit, scores, MOST_SENT if kind == "vot" else None))


def _wanted(visit: Visit, scores: Artifact, limit: int | None) -> Wanted:
    where = visit.asked("where")
    survey = scored_survey(visit.settings, scores)
    columns = [*SCORES.names, *(survey.columns if survey else ())]
    order = asking.order_of(visit.asked("sort") or "informative", ORDERS, columns)
    condition = f"\n{where}\n" if where.strip() else ""
    return Wanted(condition, order, limit, (), _question(visit).name)


def _file(visit: Visit, scores: Artifact, kind: str, wanted: Wanted) -> Response:
    """As ``zoo-bridge scores --out`` writes it; some at a time: they take time and memory."""
    if not _writing.acquire(blocking=False):
        raise BusyError("Others take files away now.", "Try again in a moment.")
    folder = tempfile.TemporaryDirectory(prefix="zoo-bridge-export-")
    path = Path(folder.name) / f"{scores.name}.{kind}"
    try:
        write_scores(visit.settings, scores, wanted, path, confined=True)
    except BaseException:
        folder.cleanup()
        raise
    finally:
        _writing.release()
    return FileResponse(
        path,
        media_type=KINDS[kind],
        filename=path.name,
        background=BackgroundTask(folder.cleanup),
    )


def moc(visit: Visit) -> Response:
    """The sky that was scored."""
    scores = visit.ledger.newest("scores")
    if scores is None:
        return Response(status_code=404)

    def make() -> bytes:
        frame = _positions(visit, scores)
        return coverage_of(frame["ra"].to_numpy(), frame["dec"].to_numpy())

    data = visit.site.drawn.get(("moc", visit.place.key, scores.name), make, alone=False)
    headers = {"Content-Disposition": f'attachment; filename="{scores.name}-moc.fits"'}
    return Response(data, media_type="application/fits", headers=headers)


def lend(visit: Visit) -> Response:
    """An address of the selection, for a program on somebody's own machine that has no log-in."""
    scores = visit.ledger.newest("scores")
    if scores is None:
        return Response(status_code=404)
    wanted = _wanted(visit, scores, MOST_SENT)
    key = visit.site.lend(lambda: _file(visit, scores, "vot", wanted))
    base = visit.site.config.public_url or str(visit.request.base_url).rstrip("/")
    path = f"/lent/{key}/{scores.name}.vot"
    return JSONResponse({"url": f"{base}{path}", "path": path, "name": scores.name})


def lent(visit: Visit) -> Response:
    """What such an address gives."""
    make = visit.site.lent(visit.param("key"))
    return make() if make is not None else Response("This address has ended.", 404)
