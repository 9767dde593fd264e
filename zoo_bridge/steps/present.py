"""The workflow as volunteers have it now, held against the settings: an answer that was edited in
the project builder must not cost the votes for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

from zoo_bridge.config import Settings
from zoo_bridge.errors import SettingsError
from zoo_bridge.votes.rules import Question, Texts, clean
from zoo_bridge.votes.workflows import answer_labels


@dataclass(frozen=True)
class Present:
    """What the workflow's newest version asks.

    Parameters
    ----------
    version : (int, int)
        That version.
    labels : dict
        The labels of each task's answers, in their order; a task without answers has none.
    """

    version: tuple[int, int]
    labels: Mapping[str, Sequence[str]]

    @classmethod
    def of_tasks(cls, version: str, tasks: Mapping[str, Any]) -> Self:
        """From what the API says of a workflow."""
        major, _, minor = version.partition(".")
        labels = {
            name: _once(label for _, label in answer_labels(task)) for name, task in tasks.items()
        }
        return cls((int(major), int(minor or 0)), labels)

    @classmethod
    def of_texts(cls, texts: Texts) -> Self | None:
        """From a workflows export; None without one."""
        if texts.newest is None:
            return None
        labels = {
            task: _once(versions[texts.newest].values())
            for task, versions in texts.by_version.items()
            if texts.newest in versions
        }
        return cls(texts.newest, labels)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """As it was kept by `as_facts`."""
        major, minor = facts["version"]
        return cls((major, minor), facts["labels"])

    def as_facts(self) -> dict[str, Any]:
        """For JSON."""
        return {"version": list(self.version), "labels": dict(self.labels)}

    def differences(
        self, settings: Settings, questions: Sequence[Question], texts: Texts
    ) -> list[tuple[str, str]]:
        """What of it the settings do not know: what is wrong, and what to do, a pair for each.

        Parameters
        ----------
        settings : Settings
            Whose ``votes.from_version`` says from which version on votes count.
        questions : sequence of Question
            What is asked.
        texts : Texts
            What answers were called before: to tell which one was edited.
        """
        if self.version < settings.votes.first_version:
            return []
        number = ".".join(str(part) for part in self.version)
        found = []
        for question in questions:
            if question.task not in self.labels:
                had = ", ".join(self.labels) or "none"
                found.append(
                    (
                        f"{question.name}: version {number} of the workflow has no task "
                        f"{question.task}; it has {had}.",
                        "Correct question.task, or put the task back in the project builder.",
                    )
                )
                continue
            unknown = [
                label
                for label in self.labels[question.task]
                if clean(label) not in question.aliases
            ]
            if unknown:
                shown = ", ".join(repr(clean(label)) for label in unknown)
                what = "answer" if len(unknown) == 1 else "answers"
                found.append(
                    (
                        f"{question.name}: the {what} {shown} of the workflow's version {number} "
                        "stand for nothing in the settings."
                        if len(unknown) > 1
                        else f"{question.name}: the {what} {shown} of the workflow's version "
                        f"{number} stands for nothing in the settings.",
                        self._advice(question, unknown[0], texts),
                    )
                )
        return found

    def _advice(self, question: Question, label: str, texts: Texts) -> str:
        """The line to change; if the answer in this place had another label, which one it is."""
        place = self.labels[question.task].index(label)
        for version in sorted(texts.by_version.get(question.task, {}), reverse=True):
            before = texts.by_version[question.task][version].get(str(place), "")
            known = question.aliases.get(clean(before))
            gone = clean(before) not in {clean(each) for each in self.labels[question.task]}
            if known is not None and gone and version != self.version:
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
            question.task,
            question.answers,
            question.multiple,
            (question.asked_after.question, question.asked_after.answers)
            if question.asked_after
            else None,
        )
        for question in settings.question
    ]
