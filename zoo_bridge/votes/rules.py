"""Which votes count, and what each answer is called: one row of an export at a time."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_IMAGE = re.compile(r"!\[[^\]]*\]\([^)]*\)")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_MARKS = re.compile(r"[*_`#>~]+")
_SPACE = re.compile(r"\s+")
UNKNOWN_LABEL = "unknown answer label"


def clean(label: str) -> str:
    """A label as people read it: no images, no links, no markdown, single spaces, case folded.

    Parameters
    ----------
    label : str
        Such as ``"![smooth.png](https://… =60x) Smooth"``.

    Returns
    -------
    str
        Such as ``"smooth"``.
    """
    text = _LINK.sub(r"\1", _IMAGE.sub(" ", label))
    return _SPACE.sub(" ", _MARKS.sub(" ", text)).strip().casefold()


@dataclass(frozen=True)
class Question:
    """A question as votes need it.

    Parameters
    ----------
    name, task : str
        Its name here and its task key in the workflow.
    aliases : dict
        From a cleaned label to the answer it stands for.
    """

    name: str
    task: str
    aliases: Mapping[str, str]

    @classmethod
    def declare(cls, name: str, task: str, answers: Mapping[str, Sequence[str]]) -> Question:
        """From the settings: each answer and the labels that stand for it."""
        aliases = {clean(alias): answer for answer, labels in answers.items() for alias in labels}
        return cls(name, task, {**{clean(answer): answer for answer in answers}, **aliases})


@dataclass(frozen=True)
class Rules:
    """Which rows of an export count. See the ``[votes]`` table of the settings."""

    workflow: int
    first_version: tuple[int, int] = (1, 1)
    before_launch: bool = False
    training_subjects: bool = False
    gold_standard: bool = False
    excluded_users: frozenset[str] = field(default_factory=frozenset)
    repeats: str = "first"
    anonymous_repeats: str = "all"
    object_id_keys: tuple[str, ...] = ("#zoo_bridge_id",)


def parse_version(text: str) -> tuple[int, int]:
    """A workflow version as two integers: "28.30" is (28, 30), not the number 28.3.

    Raises
    ------
    ValueError
        If it is not one.
    """
    major, _, minor = text.strip().partition(".")
    return int(major), int(minor or 0)


def drop_reason(row: Mapping[str, str], rules: Rules, metadata: Mapping[str, Any]) -> str | None:
    """Why a row does not count, or None if it does.

    Parameters
    ----------
    row : mapping
        A row of a classifications export.
    rules : Rules
        What counts.
    metadata : mapping
        The row's ``metadata``, parsed.

    Returns
    -------
    str or None
    """
    if row["workflow_id"].strip() != str(rules.workflow):
        return "other workflow"
    if parse_version(row["workflow_version"]) < rules.first_version:
        return "before from_version"
    if not rules.before_launch and metadata.get("live_project") is False:
        return "before launch"
    if not rules.gold_standard and row["gold_standard"].strip().lower() == "true":
        return "gold standard"
    if row["user_name"] in rules.excluded_users:
        return "excluded user"
    if ";" in row["subject_ids"]:
        return "several subjects"
    return None


def is_training(subject: Mapping[str, Any]) -> bool:
    """Whether a subject's metadata marks it as a training image."""
    keys = ("#training_subject", "training_subject", "#training", "!training_subject")
    return any(str(subject.get(key)).strip().lower() == "true" for key in keys)


def find_object_id(subject: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The survey's object id in a subject's metadata: the first key that is there and not empty."""
    for key in keys:
        value = subject.get(key)
        if value is not None and str(value).strip():
            return str(value).strip()
    return None


def answers_of(annotations: Any) -> dict[str, Any]:
    """The first answer given to each task in a row; combined tasks are opened, one level deep.

    Parameters
    ----------
    annotations : object
        The row's ``annotations``, parsed.

    Returns
    -------
    dict
        From task key to value: a label, an index, a list of them, or None.

    Raises
    ------
    ValueError
        If it is not a list of annotations.
    """
    if not isinstance(annotations, list):
        raise ValueError("annotations are not a list")
    found: dict[str, Any] = {}
    for item in annotations:
        if not isinstance(item, dict):
            raise ValueError("an annotation is not an object")
        value = item.get("value")
        inner = value if isinstance(value, list) else []
        if inner and all(isinstance(part, dict) and "task" in part for part in inner):
            for part in inner:
                found.setdefault(str(part["task"]), part.get("value"))
        else:
            found.setdefault(str(item.get("task")), value)
    return found


Labels = Mapping[tuple[int, int, str, int], str]


def match(value: Any, question: Question, version: tuple[int, int], labels: Labels) -> str | None:
    """The answer that a value stands for, or None if it stands for none.

    Parameters
    ----------
    value : object
        A label text, or an index when the server had lost the workflow version or the vote came
        from the classifications API.
    question : Question
        Whose answers.
    version : (int, int)
        The workflow version of the row.
    labels : mapping
        From (major, minor, task, index) to label, from the workflows export; may be empty.

    Returns
    -------
    str or None
    """
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, dict | list | bool) or value is None:
        return None
    text = str(value)
    if text.strip().isdigit():
        label = _label_at(labels, version, question.task, int(text))
        if label is not None:
            return question.aliases.get(clean(label))
    return question.aliases.get(clean(text))


def _label_at(labels: Labels, version: tuple[int, int], task: str, index: int) -> str | None:
    """An index's label in the first version not older than the row's, as Panoptes does it."""
    versions = sorted({key[:2] for key in labels if key[2] == task and key[3] == index})
    newer = [candidate for candidate in versions if candidate >= version]
    chosen = newer[0] if newer else (versions[-1] if versions else None)
    return labels[(*chosen, task, index)] if chosen else None


def read_json(text: str) -> Any:
    """Parse a JSON cell; an empty one is an empty object."""
    return json.loads(text) if text else {}
