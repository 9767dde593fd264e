"""Models: whether each may be trusted, which is in use, and what it asks for."""

from __future__ import annotations

import functools
import json
from typing import Any

import numpy as np
from starlette.responses import Response

from zoo_bridge.console.pages.batches import start
from zoo_bridge.console.site import Visit
from zoo_bridge.errors import SettingsError
from zoo_bridge.ledger import Artifact, Batch, ObjectState
from zoo_bridge.redact import redact
from zoo_bridge.report import loop_figures
from zoo_bridge.report.figures import to_png
from zoo_bridge.service.reporting import facts
from zoo_bridge.service.reporting.facts import Plan
from zoo_bridge.steps.shelf import here

METRICS = {
    "galaxies": "held-out galaxies",
    "rmse": "RMSE of the vote fraction",
    "log_likelihood": "log-likelihood, nats a galaxy",
    "coverage_90": "90 % intervals hold",
    "coverage_50": "50 % intervals hold",
}
COMPARED = 6


def list_models(visit: Visit) -> Response:
    """Every version, which is in use, and the history of that."""
    models = visit.ledger.list_artifacts("model")
    question = visit.settings.question[0].name
    return visit.show(
        "models.html",
        models=models,
        metrics={model.name: model.facts.get("metrics", {}).get(question, {}) for model in models},
        in_use=visit.ledger.model_in_use(),
        promotions=visit.ledger.list_promotions(),
        compared=models[:COMPARED],
        names=METRICS,
    )


def _model(visit: Visit) -> Artifact:
    found = visit.ledger.find_artifact("model", visit.param("version"))
    if found is None or not found.exists:
        raise SettingsError(f"There is no model {visit.param('version')}.", "See: Models.")
    return found


def model_page(visit: Visit) -> Response:
    """One version: the gate's verdict, its figures, what it was made from."""
    model = _model(visit)
    path = model.path / "model.json"
    record = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return visit.show(
        "model.html",
        model=model,
        baselines=record.get("baselines", {}),
        figures=facts.card_figures(model),
        in_use=visit.ledger.model_in_use(),
        metrics=model.facts.get("metrics", {}),
        names=METRICS,
        lineage=_lineage(visit, model, record),
        used=[row for row in visit.ledger.list_promotions() if row.version == model.name],
    )


def _lineage(visit: Visit, model: Artifact, record: dict[str, Any]) -> list[tuple[str, str]]:
    """What a model was made from and by, as its record has it."""
    digest = record.get("labels_digest", "")
    labels = next((a for a in visit.ledger.list_artifacts("labels") if a.digest == digest), None)
    training = record.get("training", {})
    design, shown = record.get("design", {}), record.get("preprocessing", {})
    parts = {
        "labels": f"{labels.name}: {digest}" if labels else digest,
        "trained on": f"{training.get('galaxies', '?')} galaxies, "
        f"from {training.get('start', '?')}",
        "network": f"{design.get('name', '?')}, {len(record.get('seeds', []))} of them, seeds "
        f"{', '.join(map(str, record.get('seeds', [])))}; "
        f"{design.get('likelihood', '?')} likelihood",
        "cutouts": ", ".join(f"{name} {value}" for name, value in shown.items()),
        "software": ", ".join(f"{n} {v}" for n, v in record.get("software", {}).items()),
        "weights": ", ".join(f"{n} {v[:19]}…" for n, v in record.get("digests", {}).items()),
    }
    return [(name, redact(str(text))) for name, text in parts.items() if text]


def figure(visit: Visit) -> Response:
    """A figure of a model's card."""
    model, name = _model(visit), visit.param("figure")
    known = {file.name: file for file in (model.path / "figures").glob("*.png")}
    if name not in known:
        return Response(status_code=404)
    headers = {"Cache-Control": "private, max-age=86400"}
    return Response(known[name].read_bytes(), media_type="image/png", headers=headers)


def decide(visit: Visit) -> Response:
    """Put a model in use, or the one before."""
    what, why = visit.param("what"), visit.given("why")
    if what not in ("promote", "rollback"):
        raise SettingsError(f"There is no such act as {what}.", "Go back, and look again.")
    if not why:
        raise SettingsError("No reason is given.", "Say why: it is kept beside who did it.")
    words = [what, f"--why={why}"]
    if what == "promote":
        words += ["--", visit.given("version")]
    return start(visit, words, visit.url("models"))


# what it asks for


def asks(visit: Visit) -> Response:
    """What each round's picks were like, beside the survey."""
    rounds, missing = _looked_at(visit)
    names = list(dict.fromkeys(each["name"] for found in rounds for each in found["quantities"]))
    return visit.show(
        "_asks.html" if visit.is_fragment else "asks.html",
        rounds=rounds,
        missing=missing,
        names=names,
        target=visit.settings.question[0].target,
        stamp=f"{rounds[-1]['batch']}-{len(rounds)}" if rounds else "",
    )


def _looked_at(visit: Visit) -> tuple[list[dict[str, Any]], int]:
    """Rounds that were looked at, and how many are not yet: they are, from now on, one by one."""
    rounds, missing = [], 0
    for batch in _rounds(visit):
        question = visit.settings.question[0]
        key = ("asked", visit.place.key, batch.name, batch.size, question.name, question.target)
        done, found = visit.site.later.get(key, functools.partial(asked_of, visit, batch))
        missing += not done
        if found is not None:
            rounds.append(found)
    return rounds, missing


def _rounds(visit: Visit) -> list[Batch]:
    """Batches that a model chose, oldest first."""
    return [batch for batch in reversed(visit.ledger.list_batches()) if batch.scores is not None]


def asked_of(visit: Visit, batch: Batch) -> dict[str, Any] | None:
    """Middles of what a batch's picks were like, as they are shown, and of the survey."""
    scores = visit.ledger.find_artifact("scores", batch.scores) if batch.scores else None
    plan = Plan.of(here(visit.settings, batch.path))
    if scores is None or not scores.exists or plan is None:
        return None
    states = visit.ledger.states_of(batch.name)
    shown = [row for row in plan.rows if states.get(row["object_id"]) != ObjectState.LEFT_OUT]
    plan = Plan(shown, plan.folder)
    compared = facts.compare_with_survey(visit.context, scores, plan)
    if not compared:
        return None
    quantities = [
        {
            "name": each.name,
            "picks": _middle(place, each.picks),
            "survey": _middle(place, each.survey),
        }
        for place, each in enumerate(compared)
    ]
    found = {"batch": batch.name, "at": batch.created_at, "picks": len(plan.picks)}
    return {**found, "quantities": quantities}


def _middle(place: int, values: Any) -> float:
    """Of the predicted shares, which come first, the mean; of how galaxies look, the median."""
    return float(np.mean(values) if place == 0 else np.median(values))


def drawn(visit: Visit) -> Response:
    """A figure of the loop: the same as in the weekly report."""
    name = visit.param("figure").removesuffix(".png")
    draw = {"weeks": _weeks, "models": _models, "asks": _asks}.get(name)
    found = draw(visit) if draw else None
    if found is None:
        return Response(status_code=404)
    headers = {"Cache-Control": "private, max-age=60"}
    return Response(found, media_type="image/png", headers=headers)


def _weeks(visit: Visit) -> bytes | None:
    labels = visit.ledger.newest("labels")
    if labels is None:
        return None

    def draw() -> bytes:
        weeks, counts, goes_on = facts.votes_by_week(labels)
        return to_png(loop_figures.draw_weeks(weeks, counts, goes_on)) if weeks else b""

    return visit.site.drawn.get(("weeks", labels.name, labels.digest), draw) or None


def _models(visit: Visit) -> bytes | None:
    points = facts.models_so_far(visit.context, "rmse")
    if not points:
        return None

    def draw() -> bytes:
        what = "held-out RMSE of the vote fraction"
        return to_png(loop_figures.draw_models(points, what))

    return visit.site.drawn.get(("models", visit.place.key, tuple(points)), draw)


def _asks(visit: Visit) -> bytes | None:
    rounds, _ = _looked_at(visit)
    if not rounds:
        return None
    names = list(dict.fromkeys(each["name"] for found in rounds for each in found["quantities"]))
    panels = []
    for name in names:
        picks, survey = [], []
        for found in rounds:
            each = next((row for row in found["quantities"] if row["name"] == name), None)
            picks.append(each["picks"] if each else float("nan"))
            survey.append(each["survey"] if each else float("nan"))
        panels.append(loop_figures.ByRound(name, picks, survey))
    key = ("asks", visit.place.key, json.dumps(rounds))
    return visit.site.drawn.get(key, lambda: to_png(loop_figures.draw_by_round(panels)))
