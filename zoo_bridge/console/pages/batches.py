"""Batches: what is to be put before volunteers, looked at and decided on."""

from __future__ import annotations

import io
import json
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image
from starlette.responses import RedirectResponse, Response

from zoo_bridge.console import asking
from zoo_bridge.console.acts import command_of, environment
from zoo_bridge.console.asking import PLAN_ORDERS, Asked
from zoo_bridge.console.site import Visit
from zoo_bridge.errors import SettingsError, ZooBridgeError
from zoo_bridge.ledger import HIDDEN, Artifact, Batch, BatchState, ObjectState
from zoo_bridge.service.reporting.facts import look_columns
from zoo_bridge.steps.batches.publish import find_batch
from zoo_bridge.steps.inputs import scored_survey
from zoo_bridge.steps.shelf import here

PAGE = 60
SIDE = 200
FOLLOW_SECONDS = 60.0
# What may be done to a batch in each state; each by the command of that name.
MAY = {
    BatchState.STAGING: ("abandon",),
    BatchState.STAGED: ("publish", "abandon"),
    BatchState.PUBLISHED: ("withdraw",),
    BatchState.WITHDRAWN: ("publish", "abandon"),
    BatchState.ABANDONED: (),
}
TITLES = {
    "publish": "Show it to volunteers",
    "withdraw": "Take it back from volunteers",
    "abandon": "Give it up",
}
MEANING = {
    "publish": "Volunteers see these galaxies from then on. You can take them back at any time; "
    "the votes that were given stay.",
    "withdraw": "Volunteers see these galaxies no longer. Nothing is deleted, the votes that were "
    "given stay, and you can show them again.",
    "abandon": "The batch can be neither finished nor shown afterwards. Nothing is deleted: its "
    "subjects, which were paid for from the quota, may be linked by a later batch.",
}


@dataclass(frozen=True)
class Cost:
    """What a batch asks of volunteers; None where it is not known."""

    galaxies: int
    votes: int | None
    days: float | None
    hours: float | None


def cost_of(visit: Visit, batch: Batch) -> Cost:
    """Galaxies times the votes that retire one, at the project's pace."""
    exports = visit.ledger.newest("exports")
    limit = exports.facts.get("retirement_limit") if exports else None
    limit = limit or visit.settings.score.expected_votes
    pace = visit.ledger.measures().get("votes_a_day")
    votes = batch.size * int(limit) if limit else None
    seconds = visit.settings.console.seconds_per_classification
    return Cost(
        batch.size,
        votes,
        votes / pace if votes and pace else None,
        votes * seconds / 3600 if votes else None,
    )


def list_batches(visit: Visit) -> Response:
    """All of them, newest first."""
    return visit.show("batches.html", batches=visit.ledger.list_batches())


def follow(visit: Visit) -> Response:
    """How far volunteers have come: Zooniverse is asked, by the command that does so."""
    rows, note = visit.place.asked_lately(lambda: _follow(visit))
    return visit.part("_following.html", rows=rows, note=note)


def _follow(visit: Visit) -> tuple[list[dict[str, Any]], str]:
    command = command_of(["batches", "--json"], visit.settings.path)
    try:
        ended = subprocess.run(
            command, capture_output=True, timeout=FOLLOW_SECONDS, env=environment(), check=False
        )
    except subprocess.TimeoutExpired:
        return [], f"Zooniverse did not answer within {FOLLOW_SECONDS:.0f} s."
    rows = json.loads(ended.stdout or b"[]") if ended.returncode == 0 else []
    return rows, ended.stderr.decode(errors="replace").strip()


def _batch(visit: Visit) -> Batch:
    return find_batch(visit.context, visit.param("batch"))


def _asked(visit: Visit) -> Asked:
    return Asked(
        visit.asked("where"),
        visit.asked("sort", "rank") or "rank",
        visit.number("offset", 0, 10**6),
        PAGE,
    )


def batch_page(visit: Visit) -> Response:
    """One batch: what it means, its galaxies, its history."""
    batch = _batch(visit)
    states = visit.ledger.states_of(batch.name)
    left_out = [name for name, state in states.items() if state == ObjectState.LEFT_OUT]
    events = visit.ledger.list_events(batch.name)
    gallery, fault = None, ""
    try:
        gallery = _gallery(visit, batch, states)
    except ZooBridgeError as error:
        fault = f"{error.message} {error.hint}"
    return visit.show(
        "batch.html",
        status=400 if fault and visit.asked("where") else 200,
        batch=batch,
        cost=cost_of(visit, batch),
        may=MAY[batch.state],
        titles=TITLES,
        can_leave_out=batch.state in HIDDEN,
        left_out=left_out,
        why={event.facts.get("object"): event for event in events if event.what == "left out"},
        events=[event for event in events if event.what != "left out"][::-1],
        fault=fault,
        orders={name: title for name, (title, _) in PLAN_ORDERS.items()},
        running=visit.site.acts.running(visit.place.key),
        target=visit.settings.question[0].target,
        **(gallery or EMPTY),
    )


EMPTY: dict[str, Any] = {
    "rows": [],
    "total": 0,
    "columns": [],
    "looks": [],
    "asked": Asked(sort="rank"),
    "more": "",
    "curves": "",
}


def galaxies(visit: Visit) -> Response:
    """More of a batch's galaxies: a part of its page."""
    batch = _batch(visit)
    target = visit.settings.question[0].target
    can = batch.state in HIDDEN
    facts = _gallery(visit, batch, visit.ledger.states_of(batch.name))
    return visit.show("_galaxies.html", batch=batch, target=target, can_leave_out=can, **facts)


def _gallery(visit: Visit, batch: Batch, states: dict[str, ObjectState]) -> dict[str, Any]:
    asked = _asked(visit)
    found = asking.ask_gallery(asking.gallery_of(visit.settings, visit.ledger, batch), asked)
    more = ""
    if asked.offset + len(found.rows) < found.total:
        more = visit.url(
            "batches", batch.name, "galaxies",
            where=asked.where, sort=asked.sort, offset=asked.offset + len(found.rows),
        )  # fmt: skip
    scores = _scores_of(visit, batch)
    model = _model_of(visit, scores, found.rows)
    known = visit.place.posteriors.known(*model, _names(found.rows)) if model else {}
    rows = [
        {
            **row,
            "curve": known.get(row["object_id"], {}).get("p"),
            "state": states.get(
                row["object_id"], "skipped" if row["action"] == "skip" else "in another batch"
            ),
        }
        for row in found.rows
    ]
    lacks = any(row["curve"] is None and row["mean"] is not None for row in rows)
    curves = ""
    if lacks and model is not None:
        curves = visit.url(
            "batches", batch.name, "strips",
            where=asked.where, sort=asked.sort, offset=asked.offset,
        )  # fmt: skip
    return {
        "rows": rows,
        "total": found.total,
        "columns": found.columns,
        "looks": _looks(visit, scores, found.columns),
        "asked": asked,
        "more": more,
        "curves": curves,
    }


def _scores_of(visit: Visit, batch: Batch) -> Artifact | None:
    """What a batch was chosen by."""
    return visit.ledger.find_artifact("scores", batch.scores) if batch.scores else None


def _names(rows: Sequence[dict[str, Any]]) -> list[str]:
    return [row["object_id"] for row in rows]


def _looks(visit: Visit, scores: Artifact | None, columns: Sequence[str]) -> list[str]:
    """Columns of the survey that stand with each galaxy: how it looks, and where it is."""
    survey = scored_survey(visit.settings, scores) if scores else None
    if survey is None:
        return []
    return [name for name in look_columns(survey.path) if name in columns]


def _model_of(
    visit: Visit, scores: Artifact | None, rows: Sequence[dict[str, Any]]
) -> tuple[str, int] | None:
    """The model whose scores these are, if it can be asked still, and for how many volunteers."""
    version = scores.facts.get("model") if scores else None
    model = visit.ledger.find_artifact("model", version) if version else None
    n = next((row["n_expected"] for row in rows if row["n_expected"]), None)
    if model is None or not model.exists or n is None:
        return None
    return model.name, n


def strips(visit: Visit) -> Response:
    """The same galaxies' posteriors, by the model: they take the place of intervals."""
    batch = _batch(visit)
    gallery = asking.gallery_of(visit.settings, visit.ledger, batch)
    found = asking.ask_gallery(gallery, _asked(visit))
    model = _model_of(visit, _scores_of(visit, batch), found.rows)
    if model is None:
        return Response("")
    objects = [(row["object_id"], row["uri"]) for row in found.rows]
    try:
        said = visit.place.posteriors.ask(*model, objects)
    except RuntimeError:
        # The intervals stay: they say the same, with less.
        return Response("")
    rows = [{**row, "curve": said.get(row["object_id"], {}).get("p")} for row in found.rows]
    target = visit.settings.question[0].target
    return visit.show("_strips.html", rows=rows, target=target)


def picture(visit: Visit) -> Response:
    """What volunteers see of a galaxy in a batch: small for the gallery, or whole."""
    batch = _batch(visit)
    rank = visit.number("rank", 0, 10**6)
    folder = here(visit.settings, batch.path) / "previews"
    frame = visit.number("frame", 1, 9)
    found = sorted(folder.glob(f"{rank:06d}-{frame}.*"))
    if not found:
        return Response(status_code=404)
    return picture_of(visit, found[0], small=visit.asked("size") == "small")


def picture_of(visit: Visit, path: Path, small: bool) -> Response:
    """A file of a picture; a batch's do not change once they are drawn."""
    kind = "image/png" if path.suffix == ".png" else "image/jpeg"
    if small:
        key = ("thumbnail", str(path), path.stat().st_mtime_ns)
        data = visit.site.drawn.get(key, lambda: _thumbnail(path), alone=False)
        kind = "image/jpeg"
    else:
        data = path.read_bytes()
    return Response(data, media_type=kind, headers={"Cache-Control": "private, max-age=3600"})


def _thumbnail(path: Path) -> bytes:
    with Image.open(path) as opened:
        opened.draft("RGB", (SIDE, SIDE))
        small = opened.convert("RGB")
        small.thumbnail((SIDE, SIDE))
    kept = io.BytesIO()
    small.save(kept, "JPEG", quality=82)
    return kept.getvalue()


# decisions


def confirm(visit: Visit) -> Response:
    """What a decision means, before it is made."""
    batch, what = _batch(visit), visit.param("what")
    if what not in MAY[batch.state]:
        raise SettingsError(f"{batch.name} is {batch.state}: it cannot be done now.", "Look again.")
    return visit.show(
        "confirm.html",
        batch=batch,
        what=what,
        title=TITLES[what],
        meaning=MEANING[what],
        cost=cost_of(visit, batch),
    )


def decide(visit: Visit) -> Response:
    """Start the command of a decision."""
    batch, what = _batch(visit), visit.param("what")
    words = [what]
    why = visit.given("why")
    if what not in TITLES:
        raise SettingsError(f"There is no such act as {what}.", "Go back, and look again.")
    if what == "abandon":
        words.append("--yes")
    if why:
        # An equals sign: whatever a person writes is no option.
        words.append(f"--why={why}")
    return start(visit, [*words, "--", batch.name], visit.url("batches", batch.name))


def leave_out(visit: Visit) -> Response:
    """Start leaving galaxies out."""
    batch = _batch(visit)
    chosen = visit.chosen("object")
    back = visit.url("batches", batch.name)
    if not chosen:
        raise SettingsError("No galaxy is marked.", "Mark those that are to be left out.")
    if not visit.given("why"):
        raise SettingsError("No reason is given.", "Say why: it is kept beside who did it.")
    words = ["leave-out", f"--why={visit.given('why')}"]
    if visit.given("replace"):
        words.append("--replace")
    return start(visit, [*words, "--", batch.name, *chosen], back)


def start(visit: Visit, words: Sequence[str], back: str) -> Response:
    """Start a command, and show how it goes."""
    act = visit.site.acts.start(visit.place.key, visit.settings.path, words, visit.person, back)
    return RedirectResponse(visit.url("acts", act.key), 303)
