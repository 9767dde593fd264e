"""Simulated volunteers: they classify what is published to their workflow until it retires.

Each subject's chance of an answer scatters around the truth (Dirichlet-multinomial: real votes are
more spread than a binomial), some people are logged in and some are not, and now and then somebody
sees a subject again.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from zoo_bridge.sandbox.workers import Workers

WEEK = 7 * 24 * 3600.0
TASKS: dict[str, Any] = {
    "T0": {
        "type": "single",
        "question": "T0.question",
        "answers": [
            {"label": "T0.answers.0.label"},
            {"label": "T0.answers.1.label", "next": "T1"},
            {"label": "T0.answers.2.label"},
        ],
    },
    "T1": {
        "type": "single",
        "question": "T1.question",
        "answers": [{"label": "T1.answers.0.label"}, {"label": "T1.answers.1.label"}],
    },
}
_ICON = "https://panoptes-uploads.zooniverse.org/production/project_attached_image"
STRINGS = {
    "T0.question": "Is the galaxy simply smooth and rounded, with no sign of a disk?",
    "T0.answers.0.label": f"![smooth.png]({_ICON}/5dde31b3.png =60x) Smooth",
    "T0.answers.1.label": f"![features.png]({_ICON}/0aa1e2c4.png =60x) Features or Disk",
    "T0.answers.2.label": f"![star.png]({_ICON}/9f0b77d1.png =60x) Star or Artifact",
    "T1.question": "Is there a bar feature through the centre of the galaxy?",
    "T1.answers.0.label": "**Bar**",
    "T1.answers.1.label": "No Bar",
}


@dataclass(frozen=True)
class Crowd:
    """Who the volunteers are.

    Parameters
    ----------
    people : int
        Logged-in volunteers; some are far busier than others.
    anonymous : float
        Share of classifications without a log-in.
    repeats : float
        Share of logged-in classifications that are made twice.
    concentration : float
        Of the Dirichlet around the truth: 20 gives an overdispersion of 1/21.
    """

    people: int = 400
    anonymous: float = 0.35
    repeats: float = 0.03
    concentration: float = 20.0


class Volunteers:
    """The crowd of one sandbox.

    Parameters
    ----------
    workers : Workers
        Of the sandbox's Panoptes.
    truth : dict
        ``truth[object_id][task]``: the chance of each answer.
    seed : int
        The same seed and subjects give the same votes.
    crowd : Crowd
        Who they are.
    """

    def __init__(
        self,
        workers: Workers,
        truth: dict[str, dict[str, list[float]]],
        seed: int,
        crowd: Crowd | None = None,
    ) -> None:
        self.workers = workers
        self.state = workers.state
        self.truth = truth
        self.seed = seed
        self.crowd = crowd or Crowd()
        busy = np.random.default_rng(seed).pareto(1.2, self.crowd.people) + 0.1
        self.activity = busy / busy.sum()

    def classify(self, workflow_id: int, max_subjects: int | None = None) -> dict[str, int]:
        """A week of work: everything published and not retired is classified until it retires.

        Parameters
        ----------
        workflow_id : int
            The workflow whose subjects are classified.
        max_subjects : int, optional
            Stop after so many.

        Returns
        -------
        dict
            subjects, classifications, retired.
        """
        state = self.state
        # What the server had to do before these votes is done before them.
        state.advance(0)
        workflow = state.one("SELECT * FROM workflows WHERE id = ?", (workflow_id,))
        limit = json.loads(workflow["retirement"])["options"]["count"]
        open_subjects = state.all(
            "SELECT DISTINCT s.*, COALESCE(t.classifications_count, 0) AS made FROM subjects s"
            " JOIN set_subjects m ON m.subject_id = s.id"
            " JOIN workflow_sets w ON w.subject_set_id = m.subject_set_id"
            " LEFT JOIN statuses t ON t.subject_id = s.id AND t.workflow_id = w.workflow_id"
            " WHERE w.workflow_id = ? AND t.retired_at IS NULL ORDER BY s.id",
            (workflow_id,),
        )
        seen = [row for row in open_subjects if self._has_image(row)][:max_subjects]
        votes: list[tuple[float, dict[str, Any]]] = []
        for row in seen:
            votes += self._votes_on(row, limit - row["made"])
        votes.sort(key=lambda vote: vote[0])
        with state.write() as db:
            for moment, vote in votes:
                self._insert(workflow, moment, vote)
            for row in seen:
                db.execute(
                    "INSERT INTO statuses (subject_id, workflow_id, classifications_count,"
                    " retired_at, retirement_reason, created_at, updated_at)"
                    " VALUES (?, ?, ?, ?, 'classification_count', ?, ?)"
                    " ON CONFLICT (subject_id, workflow_id) DO UPDATE SET classifications_count ="
                    " excluded.classifications_count, retired_at = excluded.retired_at,"
                    " retirement_reason = excluded.retirement_reason,"
                    " updated_at = excluded.updated_at",
                    (row["id"], workflow_id, limit, *[state.stamp(state.time() + WEEK)] * 3),
                )
        state.advance(WEEK)
        self.workers.ask("retired", workflow_id)
        return {"subjects": len(seen), "classifications": len(votes), "retired": len(seen)}

    def _has_image(self, row: dict[str, Any]) -> bool:
        """Nobody can classify a subject whose image never arrived."""
        media = self.state.folder / "media"
        return all(
            "url" in item or (media / item["path"].rpartition("/")[2]).is_file()
            for item in json.loads(row["locations"])
        )

    def _name_of(self, row: dict[str, Any]) -> str:
        """The object that a subject shows, or the subject's number if it shows none of ours."""
        values = map(str, json.loads(row["metadata"]).values())
        return next((value for value in values if self.truth.get(value)), str(row["id"]))

    def _object_of(self, row: dict[str, Any]) -> dict[str, list[float]]:
        return self.truth.get(self._name_of(row)) or {"T0": [0.4, 0.4, 0.2]}

    def _votes_on(self, row: dict[str, Any], missing: int) -> list[tuple[float, dict[str, Any]]]:
        """The classifications that retire one subject, and repeats on top."""
        # By the object and not by the subject, whose number is a matter of who came first.
        named = zlib.crc32(self._name_of(row).encode())
        rng = np.random.default_rng([self.seed, named, row["made"]])
        chances = {
            task: rng.dirichlet(np.maximum(probabilities, 1e-3) * self.crowd.concentration)
            for task, probabilities in self._object_of(row).items()
        }
        people = rng.choice(
            self.crowd.people, size=min(missing, self.crowd.people), replace=False, p=self.activity
        )
        votes: list[tuple[float, dict[str, Any]]] = []
        for person in people:
            logged_in = rng.uniform() >= self.crowd.anonymous
            vote = {
                "subject_id": row["id"],
                "person": int(person) if logged_in else None,
                "ip": f"10.{rng.integers(256)}.{rng.integers(256)}.{rng.integers(256)}",
                "answers": _answers(chances, rng),
                "again": False,
            }
            moment = float(rng.uniform(0, WEEK * 0.9))
            votes.append((moment, vote))
            if logged_in and rng.uniform() < self.crowd.repeats:
                again = {**vote, "answers": _answers(chances, rng), "again": True}
                votes.append((moment + float(rng.uniform(60, WEEK * 0.1)), again))
        return votes

    def _insert(self, workflow: dict[str, Any], moment: float, vote: dict[str, Any]) -> None:
        person = vote["person"]
        began = self.state.time() + moment
        metadata = {
            "source": "api",
            "session": hashlib.sha256(vote["ip"].encode()).hexdigest(),
            "viewport": {"width": 1280, "height": 690},
            "started_at": self.state.stamp(began - 9),
            "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
            "utc_offset": "0",
            "finished_at": self.state.stamp(began),
            "live_project": True,
            "interventions": {"opt_in": False, "messageShown": False},
            "user_language": "en",
            "user_group_ids": [],
            "subject_dimensions": [
                {"clientWidth": 424, "clientHeight": 424, "naturalWidth": 424, "naturalHeight": 424}
            ],
            "subject_selection_state": {
                "retired": False,
                "already_seen": vote["again"],
                "selection_state": "normal",
                "finished_workflow": False,
            },
            "workflow_translation_id": "1",
            **({"seen_before": True} if vote["again"] else {}),
        }
        self.state.insert(
            "classifications",
            created_at=self.state.stamp(began),
            project_id=workflow["project_id"],
            workflow_id=workflow["id"],
            major=workflow["major"],
            minor=workflow["minor"],
            user_id=None if person is None else 5000 + person,
            user_name="" if person is None else f"volunteer-{person:04d}",
            user_ip=vote["ip"],
            subject_id=vote["subject_id"],
            annotations=json.dumps(vote["answers"]),
            metadata=json.dumps(metadata),
        )


def _answers(chances: dict[str, Any], rng: np.random.Generator) -> list[dict[str, Any]]:
    """One person's way through the decision tree."""
    first = int(rng.choice(len(chances["T0"]), p=chances["T0"]))
    answers = [{"task": "T0", "value": first}]
    if first == 1 and "T1" in chances:
        second = int(rng.choice(len(chances["T1"]), p=chances["T1"]))
        answers.append({"task": "T1", "value": second})
    return answers


def truth_from_fractions(
    rows: dict[str, dict[str, float]], columns: dict[str, str], answers: Callable[[str], int]
) -> dict[str, dict[str, list[float]]]:
    """Chances of the first question's answers from a table of vote fractions.

    Parameters
    ----------
    rows : dict
        ``rows[object_id][column]``: fractions, on any scale.
    columns : dict
        Which column holds which answer's fraction.
    answers : callable
        The answer's place among the task's answers.

    Returns
    -------
    dict
        As `Volunteers` takes it.
    """
    truth = {}
    for object_id, row in rows.items():
        chances = [0.0] * len(columns)
        for answer, column in columns.items():
            chances[answers(answer)] = max(row[column], 0.0)
        total = sum(chances) or 1.0
        truth[object_id] = {"T0": [chance / total for chance in chances]}
    return truth
