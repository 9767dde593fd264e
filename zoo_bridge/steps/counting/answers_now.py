"""The workflow as volunteers have it now, held against the settings: an answer that was edited in
the project builder must not cost the votes for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from zoo_bridge.config import Question as Asked
from zoo_bridge.config import Settings
from zoo_bridge.errors import SettingsError
from zoo_bridge.votes.rules import Place, Question, Texts, clean
from zoo_bridge.votes.workflows import answer_labels


@dataclass(frozen=True)
class Present:
    """What a workflow's newest version asks.

    Parameters
    ----------
    workflow : int
        The workflow's number on Zooniverse.
    version : (int, int)
        Major and minor version that it had then.
    labels : dict
        The labels of each task's answers, in their order; a task without answers has none.
    """

    workflow: int
    version: tuple[int, int]
    labels: Mapping[str, Sequence[str]]

    @classmethod
    def of_tasks(cls, workflow: int, version: str, tasks: Mapping[str, Any]) -> Self:
        """From what the API says of a workflow."""
        major, _, minor = version.partition(".")
        labels = {name: _once(answer_labels(task)) for name, task in tasks.items()}
        return cls(workflow, (int(major), int(minor or 0)), labels)

    @classmethod
    def of_texts(cls, workflow: int, texts: Texts) -> Self | None:
        """From a workflows export; None if it has nothing of the workflow."""
        if texts.newest is None:
            return None
        labels = {
            task: _once(texts.by_version.get(task, {}).get(texts.newest, {}).values())
            for task in texts.newest_tasks
        }
        return cls(workflow, texts.newest, labels)

    @classmethod
    def from_facts(cls, workflow: str, facts: Mapping[str, Any]) -> Self:
        """As it was kept by `as_facts`."""
        major, minor = facts["version"]
        return cls(int(workflow), (major, minor), facts["labels"])

    def as_facts(self) -> dict[str, Any]:
        """For JSON."""
        return {"version": list(self.version), "labels": dict(self.labels)}

    def differences(self, questions: Sequence[Question], texts: Texts) -> list[tuple[str, str]]:
        """What of it the settings do not know: what is wrong, and what to do, a pair for each.

        Parameters
        ----------
        questions : sequence of Question
            What is asked, with its places: those whose versions still go on count.
        texts : Texts
            What answers were called before: to tell which one was edited.
        """
        found = []
        for question in questions:
            tasks = [
                place.task for place in question.places if place.holds(self.workflow, self.version)
            ]
            # Of several tasks some may be of the past.
            there = [task for task in tasks if task in self.labels]
            for task in there or tasks[:1]:
                found += self._at(question, task, texts)
        return found

    def _at(self, question: Question, task: str, texts: Texts) -> list[tuple[str, str]]:
        number = ".".join(str(part) for part in self.version)
        where = f"version {number} of workflow {self.workflow}"
        if task not in self.labels:
            had = ", ".join(self.labels) or "none"
            return [
                (
                    f"{question.name}: {where} has no task {task}; it has {had}.",
                    "Correct question.task, or put the task back in the project builder. If it was "
                    "asked until then, say so with to_version in [[question.source]].",
                )
            ]
        unknown = [
            label
            for label in self.labels[task]
            if question.place_of(label) is None and clean(label) not in question.names
        ]
        if not unknown:
            return []
        shown = ", ".join(repr(clean(label)) for label in unknown)
        told = (
            f"answers {shown} of {where} stand"
            if unknown[1:]
            else f"answer {shown} of {where} stands"
        )
        return [
            (
                f"{question.name}: the {told} for nothing in the settings.",
                self._advice(question, task, unknown[0], texts),
            )
        ]

    def _advice(self, question: Question, task: str, label: str, texts: Texts) -> str:
        """The line to change; if the answer in this place had another label, which one it is."""
        place = list(self.labels[task]).index(label)
        present = {clean(each) for each in self.labels[task]}
        for version in sorted(texts.by_version.get(task, {}), reverse=True):
            before = texts.by_version[task][version].get(str(place), "")
            known = question.place_of(before)
            if known is not None and clean(before) not in present and version != self.version:
                return (
                    f"It was {clean(before)!r} before: if it means the same, add {clean(label)!r} "
                    f"to the labels of {question.answers[known]} in question.answers."
                )
        return f"Add {clean(label)!r} to the labels of one of question.answers."


def require_known(differences: Sequence[tuple[str, str]]) -> None:
    """Raise `SettingsError` for the first difference, counting the others."""
    if differences:
        message, hint = differences[0]
        more = f" ({len(differences) - 1} more like this.)" if differences[1:] else ""
        raise SettingsError(message + more, hint)


def _once(labels: Any) -> list[str]:
    return list(dict.fromkeys(labels))


def declared(settings: Settings) -> list[Question]:
    """The questions of the settings as votes need them."""
    return [
        Question.declare(
            question.name,
            question.tasks,
            question.answers,
            question.multiple,
            (question.asked_after.question, question.asked_after.answers)
            if question.asked_after
            else None,
            _places(settings, question),
        )
        for question in settings.question
    ]


def _places(settings: Settings, question: Asked) -> list[Place]:
    """Where a question is asked."""
    first = settings.votes.first_version
    own = settings.project.workflow
    if not question.source:
        return [Place(own, task, first) for task in question.tasks]
    return [
        Place(
            source.workflow or own,
            task,
            # Versions of another workflow are other versions.
            source.first or (first if source.workflow in (None, own) else (0, 0)),
            source.last,
        )
        for source in question.source
        for task in ([source.task] if source.task else question.tasks)
    ]


def check_tasks(settings: Settings, tasks: dict[str, object]) -> None:
    """See that every question's task is one of the workflow's."""
    for question in declared(settings):
        asked = [
            place.task
            for place in question.places
            if place.workflow == settings.project.workflow and place.last is None
        ]
        if asked and not set(asked) & set(tasks):
            raise SettingsError(
                f"The workflow {settings.project.workflow} has no task {' or '.join(asked)} "
                f"(question {question.name}).",
                f"Correct question.task: it has {', '.join(tasks) or 'none'}.",
            )
