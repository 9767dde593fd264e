"""One galaxy: its picture, what networks say of it, its votes and its history."""

from __future__ import annotations

import base64
from typing import Any
from urllib.parse import quote, urlencode

import numpy as np
import polars as pl
from starlette.responses import Response

from zoo_bridge.console import asking
from zoo_bridge.console.pages.batches import picture_of
from zoo_bridge.console.site import Visit
from zoo_bridge.cutouts.positions import in_degrees
from zoo_bridge.cutouts.preprocess import BadCutoutError, preview
from zoo_bridge.cutouts.store import whole
from zoo_bridge.cutouts.survey import Survey
from zoo_bridge.errors import ZooBridgeError
from zoo_bridge.ledger import Batch, PlannedObject
from zoo_bridge.redact import redact
from zoo_bridge.steps.inputs import (
    open_store,
    preprocessing_of,
    scored_survey,
)
from zoo_bridge.steps.shelf import here

NETWORKS = 30
SHOWN_SIDE = 424


def galaxy_page(visit: Visit) -> Response:
    """The page."""
    name = visit.asked("id")
    scores = visit.ledger.newest("scores")
    said = asking.rows_of(visit.settings, scores, name) if scores else []
    survey = scored_survey(visit.settings, scores) if scores else None
    row = asking.survey_row(visit.settings, scores, name) if scores else None
    planned = visit.ledger.find_object(name)
    batch = _batch_of(visit, planned)
    votes = _votes(visit, name)
    if not said and row is None and planned is None and not votes:
        return visit.site.sorry(
            visit,
            404,
            f"{name}: neither in the survey that was scored, nor in a batch, nor labelled.",
            "Object ids are those of survey.object_id_column.",
        )
    place = _position(visit, survey, row)
    question = visit.settings.question[0]
    target = _target_of(said, question.name)
    events = [
        event
        for event in (visit.ledger.list_events(planned.batch) if planned else [])
        if event.facts.get("object") == name
    ]
    known = {**(row or {})}
    uri = known.pop("uri", None) or (said[0]["uri"] if said else "")
    known.pop("object_id", None)
    return visit.show(
        "galaxy.html",
        name=name,
        said=said,
        target=target,
        values={key: value for key, value in known.items() if value is not None},
        uri=redact(str(uri)),
        planned=planned,
        is_ours=batch is not None,
        plan=_plan_row(visit, batch, name),
        votes=votes,
        links=_links(visit, place, planned, votes),
        position=place,
        events=events,
    )


def _target_of(said: list[dict[str, Any]], question: str) -> dict[str, Any] | None:
    """What is said of the answer that is learned and ranked."""
    return next((row for row in said if row["target"] and row["question"] == question), None)


def _batch_of(visit: Visit, planned: PlannedObject | None) -> Batch | None:
    """The batch that planned an object, if it is one of this workflow."""
    batches = visit.ledger.list_batches() if planned else []
    return next((each for each in batches if planned and each.name == planned.batch), None)


def _plan_row(visit: Visit, batch: Batch | None, name: str) -> dict[str, Any] | None:
    """An object's line of a batch's plan."""
    if batch is None:
        return None
    try:
        frame = asking.gallery_of(visit.settings, visit.ledger, batch).frame
    except ZooBridgeError:
        # Its folder was freed.
        return None
    rows = frame.filter(pl.col("object_id") == name).to_dicts()
    return rows[0] if rows else None


def _votes(visit: Visit, name: str) -> list[dict[str, Any]]:
    """Votes so far: a line for each question and answer."""
    labels = visit.ledger.newest("labels")
    if labels is None:
        return []
    rows = pl.scan_parquet(labels.path / "labels.parquet")
    return rows.filter(pl.col("object_id") == name).collect().to_dicts()


def _position(
    visit: Visit, survey: Survey | None, row: dict[str, Any] | None
) -> tuple[float, float] | None:
    """Right ascension and declination, in degrees."""
    config = visit.settings.survey
    columns = config.ra_column, config.dec_column
    if survey is None or row is None or any(row.get(name) is None for name in columns):
        return None
    try:
        ra, dec = (
            float(
                in_degrees(
                    pl.Series(name, [row[name]]), survey.meanings.get(name, {}), name == columns[0]
                )[0]
            )
            for name in columns
        )
    except (ZooBridgeError, ValueError, TypeError):
        return None
    good = np.isfinite(ra) and np.isfinite(dec) and abs(dec) <= 90
    return (ra, dec) if good else None


def _links(
    visit: Visit,
    place: tuple[float, float] | None,
    planned: PlannedObject | None,
    votes: list[dict[str, Any]],
) -> list[tuple[str, str]]:
    """Pages elsewhere: by position, and by subject."""
    found: list[tuple[str, str]] = []
    if place is not None:
        ra, dec = (f"{value:.6f}" for value in place)
        viewer = urlencode(
            {"ra": ra, "dec": dec, "layer": "ls-dr10", "zoom": 15, "mark": f"{ra},{dec}"}
        )
        found.append(("Legacy Survey viewer", f"https://www.legacysurvey.org/viewer?{viewer}"))
        aladin = urlencode({"target": f"{ra} {dec}", "fov": 0.05})
        found.append(("Aladin Lite", f"https://aladin.cds.unistra.fr/AladinLite/?{aladin}"))
        simbad = urlencode(
            {"Coord": f"{ra} {dec}", "CooFrame": "ICRS", "Radius": 10, "Radius.unit": "arcsec"}
        )
        found.append(("SIMBAD", f"https://simbad.cds.unistra.fr/simbad/sim-coo?{simbad}"))
    subject = planned.subject_id if planned and planned.subject_id else None
    if subject is None and votes:
        subject = str(votes[0]["subject_id"])
    if subject is not None:
        project = visit.settings.project
        slug = "/".join(quote(part, safe="") for part in project.slug.split("/"))
        base = f"{project.endpoint}/projects/{slug}"
        found.append((f"Talk about subject {subject}", f"{base}/talk/subjects/{subject}"))
        classify = f"{base}/classify/workflow/{project.workflow}"
        found.append(("The project on Zooniverse", classify))
    return found


def galaxy_picture(visit: Visit) -> Response:
    """As volunteers see it, or would: drawn from the cutout where no batch has it."""
    name = visit.asked("id")
    batch = _batch_of(visit, visit.ledger.find_object(name))
    if batch is not None and (row := _plan_row(visit, batch, name)) is not None:
        folder = here(visit.settings, batch.path) / "previews"
        if found := sorted(folder.glob(f"{row['rank']:06d}-1.*")):
            return picture_of(visit, found[0], small=False)
    scores = visit.ledger.newest("scores")
    said = asking.rows_of(visit.settings, scores, name) if scores else []
    if not said:
        return Response(status_code=404)
    uri = said[0]["uri"]
    key = ("cutout", visit.place.key, uri, str(visit.settings.cutouts))
    try:
        data = visit.site.drawn.get(key, lambda: _drawn(visit, uri), alone=False)
    except (BadCutoutError, ZooBridgeError):
        return Response(status_code=404)
    headers = {"Cache-Control": "private, max-age=600"}
    return Response(data, media_type="image/jpeg", headers=headers)


def _drawn(visit: Visit, uri: str) -> bytes:
    from concurrent.futures import ThreadPoolExecutor

    store = open_store(visit.settings)
    with ThreadPoolExecutor(1) as pool:
        (found,) = store.read_many([uri], pool)
    return preview(whole(found), preprocessing_of(visit.settings), SHOWN_SIDE, "jpeg")


def posterior(visit: Visit) -> Response:
    """Many networks in grey, their mean in colour, and the votes: drawn when it is known."""
    name = visit.asked("id")
    scores = visit.ledger.newest("scores")
    question = visit.settings.question[0]
    said = asking.rows_of(visit.settings, scores, name) if scores else []
    target = _target_of(said, question.name)
    if scores is None or target is None:
        return visit.part("_posterior.html", picture="", told="Nothing is predicted of it yet.")
    n = int(target["n_expected"])
    try:
        found = visit.place.posteriors.ask(
            scores.facts["model"], n, [(name, target["uri"])], NETWORKS
        )[name]
    except RuntimeError as error:
        return visit.part("_posterior.html", picture="", told=redact(str(error)))
    if "fault" in found:
        return visit.part("_posterior.html", picture="", told=redact(found["fault"]))
    votes = [
        row
        for row in _votes(visit, name)
        if row["question"] == question.name and row["answer"] == question.target
    ]
    k, of = sum(row["k"] for row in votes), sum(row["n"] for row in votes)
    key = ("posterior", visit.place.key, scores.digest, question.target, name, n, k, of)
    data = visit.site.drawn.get(
        key, lambda: _draw(found, question.target, n, round(k / of * n) if of else None, target)
    )
    told = (
        f"{target['mean']:.0%} of {n} volunteers would say {question.target}; with 90 % "
        f"probability {target['lo']:.0%} to {target['hi']:.0%}."
    )
    if of:
        told += f" {k} of {of} did so far."
    encoded = base64.b64encode(data).decode()
    return visit.part("_posterior.html", picture=encoded, told=told, networks=NETWORKS)


def _draw(
    found: dict[str, Any], answer: str, n: int, votes: int | None, target: dict[str, Any]
) -> bytes:
    from zoo_bridge.report.figures import draw_posterior, to_png

    ends = round(target["lo"] * n), round(target["hi"] * n)
    p_TK = np.array(found["networks"])
    return to_png(draw_posterior(np.array(found["p"]), p_TK, answer, votes, ends))
