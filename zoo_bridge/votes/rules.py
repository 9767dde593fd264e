"""Which votes count, and what each answer is called: one value of an export at a time."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from zoo_bridge.errors import SettingsError

_IMAGE = re.compile(r"!\[([^\]]*)\]\((?:[^()]|\([^()]*\))*\)")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_MARKS = re.compile(r"[*_`#>~]+")
_INVISIBLE = re.compile("[\u200b\u200c\u200d\u2060\ufeff]")
_SPACE = re.compile(r"\s+")
_JSON = msgspec.json.Decoder()
# The answers of a classification to a question are a number with a bit for each answer.
UNMATCHED = -1
NOT_ANSWERED = -2


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
    return unicodedata.normalize("NFC", plain(label).casefold())


def plain(label: str) -> str:
    """A label without images, links and markdown, with single spaces.

    One that is nothing but an image goes by the image's description, or else stays as it is.
    """
    label = unicodedata.normalize("NFC", _INVISIBLE.sub("", label))
    for text in (_IMAGE.sub(" ", label), _IMAGE.sub(r"\1", label)):
        marked = _MARKS.sub(" ", _LINK.sub(r"\1", text))
        if shown := _SPACE.sub(" ", marked).strip():
            return shown
    return label.strip()


@dataclass(frozen=True)
class Question:
    """A question as votes need it.

    Parameters
    ----------
    name, task : str
        Its name here and its task key in the workflow.
    answers : tuple of str
        Their names; an answer's place here is its bit.
    aliases : dict
        From a cleaned label to the place of the answer that it stands for.
    multiple : bool
        Whether a volunteer may choose several answers, or none of them.
    asked_after : (str, frozenset of str), optional
        The question, and its answers, that lead to this one.
    """

    name: str
    task: str
    answers: tuple[str, ...]
    aliases: Mapping[str, int]
    multiple: bool = False
    asked_after: tuple[str, frozenset[str]] | None = None

    @classmethod
    def declare(
        cls,
        name: str,
        task: str,
        answers: Mapping[str, Sequence[str]],
        multiple: bool = False,
        asked_after: tuple[str, Iterable[str]] | None = None,
    ) -> Question:
        """From the settings: each answer and the labels that stand for it.

        Raises
        ------
        SettingsError
            If a label stands for two answers.
        """
        places = {answer: place for place, answer in enumerate(answers)}
        aliases: dict[str, int] = {}
        for answer, labels in answers.items():
            for label in labels:
                if aliases.setdefault(clean(label), places[answer]) != places[answer]:
                    raise SettingsError(
                        f"{name}: without images and markdown the label {label!r} of {answer} is "
                        "also one of another answer's.",
                        "Correct question.answers: each label stands for one answer.",
                    )
        after = (asked_after[0], frozenset(asked_after[1])) if asked_after else None
        named = {clean(answer): place for answer, place in places.items()}
        return cls(name, task, tuple(answers), {**named, **aliases}, multiple, after)

    def bits(self, answers: Iterable[str]) -> int:
        """The number that stands for some of the answers."""
        return sum(1 << self.answers.index(answer) for answer in answers)


@dataclass(frozen=True)
class Rules:
    """Which rows of an export count. See the ``[votes]`` table of the settings."""

    workflow: int
    first_version: tuple[int, int] = (1, 1)
    before_launch: bool = False
    training_subjects: bool = False
    gold_standard: bool = False
    excluded_users: frozenset[str] = field(default_factory=frozenset)
    excluded_ids: frozenset[str] = field(default_factory=frozenset)
    repeats: str = "first"
    anonymous_repeats: str = "all"
    object_id_keys: tuple[str, ...] = ("#zoo_bridge_id",)
    same_object: str = "merge"


def is_training(subject: Mapping[str, Any]) -> bool:
    """Whether a subject's metadata marks it as a training image."""
    keys = ("#training_subject", "training_subject", "#training", "!training_subject")
    return any(str(subject.get(key)).strip().lower() == "true" for key in keys)


def find_object_id(subject: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The survey's object id in a subject's metadata: the first key that is there and not empty."""
    for key in keys:
        value = subject.get(key)
        if value is not None and str(value).strip():
            return _writable(str(value).strip())
    return None


def _writable(text: str) -> str:
    """A text without the lone surrogates that JSON may hold and no file or terminal takes."""
    return text.encode("utf-8", errors="replace").decode()


def read_json(text: str) -> Any:
    """Parse a JSON cell; an empty one is an empty object.

    Raises
    ------
    ValueError
        If it is not JSON, not even as Python reads it, with NaN and lone surrogates.
    """
    if not text:
        return {}
    try:
        return _JSON.decode(text)
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def answers_of(annotations: Any) -> dict[str, Any]:
    """The first answer given to each task in a row; combined tasks are opened, one level deep.

    Parameters
    ----------
    annotations : object
        The row's ``annotations``, parsed.

    Returns
    -------
    dict
        From task key to value as it stands there; a task that was shown and not answered is None.

    Raises
    ------
    ValueError
        If it is not a list.
    """
    if not isinstance(annotations, list):
        raise ValueError("annotations are not a list")
    found: dict[str, Any] = {}
    for item in annotations:
        if not isinstance(item, dict):
            continue
        value = item.get("value")
        inner = value if isinstance(value, list) else []
        parts = [part for part in inner if isinstance(part, dict) and "task" in part]
        for part in parts or [item]:
            task = _writable(str(part.get("task")))
            if found.get(task) is None:
                found[task] = part.get("value")
    return found


@dataclass(frozen=True)
class Texts:
    """A workflow's answer texts in all its versions, from the workflows export.

    ``by_version[task][version]`` maps what a raw annotation holds, an index or a dropdown's value,
    to the text. Empty if there is no such export. ``unreadable`` versions have texts that are not
    known: rows of such a version must not take those of a later one. ``newest`` is the newest
    version that could be read.
    """

    by_version: Mapping[str, Mapping[tuple[int, int], Mapping[str, str]]] = field(
        default_factory=dict
    )
    unreadable: frozenset[tuple[int, int]] = frozenset()
    newest: tuple[int, int] | None = None

    def at(self, task: str, version: tuple[int, int], raw: str) -> str | None:
        """The text in the first version not older than the row's, as Panoptes itself does it."""
        versions = self.by_version.get(task, {})
        known = sorted(key for key in versions if raw in versions[key])
        newer = sorted(key for key in {*known, *self.unreadable} if key >= version)
        chosen = newer[0] if newer else (known[-1] if known else None)
        return versions[chosen].get(raw) if chosen and chosen in versions else None

    def has(self, task: str, text: str) -> bool:
        """Whether an answer of the task was ever called so."""
        versions = self.by_version.get(task, {}).values()
        return any(clean(label) == clean(text) for labels in versions for label in labels.values())

    def name_now(self, task: str, text: str) -> str | None:
        """What an answer with this text is called in the newest version, if it is another text."""
        versions = self.by_version.get(task, {})
        for version in sorted(versions, reverse=True):
            for raw, label in versions[version].items():
                now = versions[max(versions)].get(raw)
                if now and clean(label) == clean(text) != clean(now):
                    return now
        return None


NO_TEXTS = Texts()


def match(
    value: Any, question: Question, version: tuple[int, int] = (0, 0), texts: Texts = NO_TEXTS
) -> int | None:
    """The answers that a value stands for.

    A text is a label, even one such as "2" (arms, say); a number is an index, and never a label.

    Parameters
    ----------
    value : object
        A label; an index, when the server had lost the workflow version or the vote came from the
        classifications API; a list of these; or a dropdown's choice in any of its shapes.
    question : Question
        Whose answers.
    version : (int, int)
        The workflow version of the row.
    texts : Texts, optional
        To resolve indexes.

    Returns
    -------
    int or None
        A bit for each answer; `UNMATCHED` if it stands for none of them, or for several where one
        may be chosen; None if the question was not answered.
    """
    shown = _shown(value)
    if not shown:
        # An empty list is an answer where several may be chosen: none of them.
        return 0 if question.multiple and isinstance(value, list) and not value else None
    places = {_place(choice, question, version, texts) for choice in shown}
    known = places - {None}
    if not known or (not question.multiple and len(places) > 1):
        return UNMATCHED
    return sum(1 << place for place in known if place is not None)


def in_words(value: Any) -> str:
    """A value that stands for no answer, as a person wants to see it."""
    shown = [
        plain(choice) if isinstance(choice, str) else f"index {choice}" for choice in _shown(value)
    ]
    return _writable(" + ".join(shown))


def strays(value: Any, question: Question) -> tuple[str, ...]:
    """Where several answers may be chosen: labels among them that stand for none."""
    if not question.multiple:
        return ()
    choices = [choice for choice in _shown(value) if isinstance(choice, str)]
    unknown = [choice for choice in choices if clean(choice) not in question.aliases]
    return tuple(_writable(plain(choice)) for choice in unknown)


def hangs_on_version(value: Any, question: Question) -> bool:
    """Whether a value has to be looked up in `Texts`, so that the row's version matters."""
    return any(
        isinstance(choice, int) or clean(choice) not in question.aliases for choice in _shown(value)
    )


def _place(
    choice: str | int, question: Question, version: tuple[int, int], texts: Texts
) -> int | None:
    if isinstance(choice, str):
        place = question.aliases.get(clean(choice))
        if place is not None or texts.has(question.task, choice):
            return place
    label = texts.at(question.task, version, str(choice))
    return None if label is None else question.aliases.get(clean(label))


def _shown(value: Any) -> list[str | int]:
    """The choices in a value: labels and indexes; none if the question was not answered."""
    if isinstance(value, list):
        return [choice for item in value for choice in _shown(item)]
    if isinstance(value, dict):
        # Exports: {"select_label", "option", "value", "label"}; the API, from newer front ends:
        # {"selection": index, "option": true}.
        for key in ("label", "value", "selection"):
            if value.get(key) is not None:
                return _shown(value[key])
        return [] if set(value) & {"select_label", "option", "selection"} else [json.dumps(value)]
    if value is None:
        return []
    plain = isinstance(value, str | int) and not isinstance(value, bool)
    return [value if plain else json.dumps(value)]


def shape_of(value: Any) -> str:
    """What kind of annotation a value is, for the count of tasks that nobody asked for."""
    if isinstance(value, list):
        kinds = {shape_of(item) for item in value}
        return f"list of {kinds.pop()}" if len(kinds) == 1 else "list" if kinds else "empty list"
    for kind, name in ((dict, "object"), (str, "text"), (bool, "yes or no")):
        if isinstance(value, kind):
            return name
    return "nothing" if value is None else "number"
