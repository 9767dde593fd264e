"""Which votes count, and what each answer is called: one value of an export at a time."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from zoo_bridge.errors import SettingsError

_IMAGE = re.compile(r"!\[([^\]]*)\]\((?:[^()]|\([^()]*\))*\)")
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")
_MARKS = re.compile(r"[*_`#>~]+")
_INVISIBLE = re.compile("[\u200b\u200c\u200d\u2060\ufeff]")
_SPACE = re.compile(r"\s+")
_JSON = msgspec.json.Decoder()
_PATH = re.compile(r"\S+\.(?:answers|options)\.(\d{1,4})\.label")
_PICTURE = re.compile(r"!\[([^\]]*)\]\(\s*([^()\s]*(?:\([^()]*\)[^()\s]*)*)[^)]*\)")
Version = tuple[int, int]
# What programs write where there was nothing: R, pandas, spreadsheets, databases.
MISSING = frozenset({"", "na", "n/a", "#n/a", "nan", "null", "none", "<na>", "nat", "nil", "\\n"})
YES = frozenset({"true", "t", "yes", "y", "1", "1.0"})
NO = frozenset({"false", "f", "no", "n", "0", "0.0"})
# Written by the server itself where an answer's index is out of range.
UNKNOWN_LABEL = "unknown answer label"
# What is said of each galaxy of a grid.
PICKED, NOT_PICKED = "chosen", "not chosen"
# The answers of a classification to a question are a number with a bit for each answer.
UNMATCHED = -1
NOT_ANSWERED = -2
UNKNOWN = -3
NOT_ASKED = -4


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


def as_written(label: str) -> str:
    """A label with nothing taken away but what nobody sees: spaces and case."""
    text = unicodedata.normalize("NFC", _INVISIBLE.sub("", label))
    return _SPACE.sub(" ", text).strip().casefold()


def pictures(label: str) -> list[str]:
    """The file names of a label's pictures, and what these are called."""
    found = []
    for called, address in _PICTURE.findall(label):
        name = address.partition("?")[0].rpartition("/")[2]
        found += [text.strip().casefold() for text in (called, name) if text.strip()]
    return found


@dataclass(frozen=True)
class Place:
    """Where a question is asked.

    Parameters
    ----------
    workflow : int
        The workflow's number on Zooniverse.
    task : str
        The task's key in it.
    first, last : (int, int)
        The versions in which it is asked there, both included; ``last`` is None for a range that is
        still open.
    """

    workflow: int
    task: str
    first: Version = (0, 0)
    last: Version | None = None

    def holds(self, workflow: int, version: Version) -> bool:
        """Whether a row of this workflow and version may answer it."""
        inside = self.first <= version and (self.last is None or version <= self.last)
        return workflow == self.workflow and inside


@dataclass(frozen=True)
class Question:
    """A question as votes need it.

    Parameters
    ----------
    name : str
        Its name here.
    tasks : tuple of str
        Its task keys, where `places` does not say more.
    answers : tuple of str
        Their names; an answer's place here is its bit.
    exact : dict
        From a label as it stands in the settings to the place of the answer that it stands for.
    aliases : dict
        The same from labels as people read them, without pictures and markdown, and from pictures'
        file names; not those that would stand for several answers.
    names : dict
        From the answers' own names: labels where the workflow says so.
    unclear : frozenset of str
        Readings that would stand for several answers.
    multiple : bool
        Whether a volunteer may choose several answers, or none of them.
    asked_after : (str, frozenset of str), optional
        The question, and its answers, that lead to this one.
    places : tuple of Place
        Where it is asked; empty for the tasks in the workflow of the `Rules`.
    """

    name: str
    tasks: tuple[str, ...]
    answers: tuple[str, ...]
    exact: Mapping[str, int]
    aliases: Mapping[str, int]
    names: Mapping[str, int] = field(default_factory=dict)
    unclear: frozenset[str] = frozenset()
    multiple: bool = False
    asked_after: tuple[str, frozenset[str]] | None = None
    places: tuple[Place, ...] = ()

    @classmethod
    def declare(
        cls,
        name: str,
        task: str | Sequence[str],
        answers: Mapping[str, Sequence[str]],
        multiple: bool = False,
        asked_after: tuple[str, Iterable[str]] | None = None,
        places: Sequence[Place] = (),
    ) -> Question:
        """From the settings: each answer and the labels that stand for it.

        An answer without any label goes by its name.

        Raises
        ------
        SettingsError
            If a label stands for two answers.
        """
        exact: dict[str, int] = {}
        readings: dict[str, set[int]] = {}
        for place, (answer, labels) in enumerate(answers.items()):
            for label in labels or [answer]:
                if exact.setdefault(as_written(label), place) != place:
                    raise SettingsError(
                        f"{name}: the label {label!r} of {answer} is also one of another answer's.",
                        "Correct question.answers: each label stands for one answer.",
                    )
                for reading in {clean(label), as_written(label), *pictures(label)}:
                    readings.setdefault(reading, set()).add(place)
        # What several answers' labels are read as stands for none of them: ">5" and "5", say.
        aliases = {text: min(found) for text, found in readings.items() if len(found) == 1}
        after = (asked_after[0], frozenset(asked_after[1])) if asked_after else None
        names = {clean(answer): place for place, answer in enumerate(answers)}
        tasks = (task,) if isinstance(task, str) else tuple(task)
        unclear = frozenset(readings) - set(aliases)
        return cls(
            name,
            tasks,
            tuple(answers),
            exact,
            aliases,
            names,
            unclear,
            multiple,
            after,
            tuple(places),
        )

    @property
    def task(self) -> str:
        """Its task key, or the first of several."""
        return self.tasks[0] if self.tasks else self.places[0].task

    @property
    def all_tasks(self) -> frozenset[str]:
        """Every task key that it has anywhere."""
        return frozenset([*self.tasks, *(place.task for place in self.places)])

    def placed(self, rules: Rules) -> Question:
        """The same with its places, those of the rules where it has none of its own."""
        if self.places:
            return self
        places = [Place(rules.workflow, task, rules.first_version) for task in self.tasks]
        return replace(self, places=tuple(places))

    def with_names(self, labels: Iterable[str]) -> Question:
        """The same with those of its answers' names that are labels in the workflow."""
        known = {clean(label) for label in labels}
        said = {
            name: place
            for name, place in self.names.items()
            if name in known and name not in self.unclear
        }
        return replace(self, aliases={**said, **self.aliases})

    def place_of(self, label: str) -> int | None:
        """The answer that a label stands for: as it is written, or as people read it."""
        place = self.exact.get(as_written(label))
        if place is None:
            place = self.aliases.get(clean(label))
        if place is None and "](" in label:
            found = {self.aliases[name] for name in pictures(label) if name in self.aliases}
            place = found.pop() if len(found) == 1 else None
        return place

    @property
    def is_grid(self) -> bool:
        """Whether it is about the galaxies of a grid, of which some are picked."""
        return any(self.place_of(label) is not None for label in (PICKED, NOT_PICKED))

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


def is_yes(value: Any) -> bool:
    """Whether a cell or a value of JSON says yes, however a program has written it."""
    return str(value).strip().lower() in YES


def is_no(value: Any) -> bool:
    """Whether it says no."""
    return str(value).strip().lower() in NO


def is_training(subject: Mapping[str, Any]) -> bool:
    """Whether a subject's metadata marks it as a training image."""
    keys = ("#training_subject", "training_subject", "#training", "!training_subject")
    return any(is_yes(subject.get(key)) for key in keys)


def find_object_id(subject: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """The survey's object id in a subject's metadata: the first key that is there and not empty.

    A mark such as "nan" is no id: all subjects that have it would be one object.
    """
    for key in keys:
        value = subject.get(key)
        if value is None:
            continue
        text = str(value).strip()
        if text.lower() not in MISSING:
            return _writable(text)
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
    """The answer given to each task in a row; combined tasks are opened, one level deep.

    A task that stands there twice was answered once: the first answer counts, unless the second
    goes on where the first one ended.

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
            value = part.get("value")
            if task not in found or _goes_on(found[task], value):
                found[task] = value
    return found


def _goes_on(first: Any, second: Any) -> bool:
    """Whether an answer is what another, empty or half done, was to become."""
    if first is None or first == "":
        return second is not None
    if isinstance(first, list) and isinstance(second, list):
        return len(second) > len(first) and all(item in second for item in first)
    return isinstance(first, dict) and not _shown(first) and bool(_shown(second))


@dataclass(frozen=True)
class Texts:
    """A workflow's answer texts in all its versions, from the workflows export.

    ``by_version[task][version]`` maps an answer's place, as a text, to what it is called;
    ``values[task][version]`` does so for the values of a dropdown's options, which may be numbers,
    too, and are no places. Both are empty if there is no such export. ``unreadable`` versions have
    texts that are not known: rows of such a version must not take those of a later one. ``newest``
    is the newest version that could be read. ``others`` has the texts of other workflows, ``rows``
    is how many rows were looked at, ``newest_tasks`` are the tasks of the newest version.
    """

    by_version: Mapping[str, Mapping[Version, Mapping[str, str]]] = field(default_factory=dict)
    unreadable: frozenset[Version] = frozenset()
    newest: Version | None = None
    values: Mapping[str, Mapping[Version, Mapping[str, str]]] = field(default_factory=dict)
    others: Mapping[int, Texts] = field(default_factory=dict)
    rows: int = 0
    newest_tasks: tuple[str, ...] = ()

    def of(self, workflow: int) -> Texts:
        """The texts of a workflow: these, unless they are another's."""
        return self.others.get(workflow, self)

    @property
    def known(self) -> bool:
        """Whether any text is known, of any workflow."""
        return bool(self.by_version) or any(each.by_version for each in self.others.values())

    def at(self, task: str, version: Version, raw: str) -> str | None:
        """The text in the first version not older than the row's, as Panoptes itself does it."""
        return self._at(self.by_version.get(task, {}), version, raw)

    def of_value(self, task: str, version: Version, value: str) -> str | None:
        """The same of an option's value."""
        return self._at(self.values.get(task, {}), version, value)

    def _at(
        self, versions: Mapping[Version, Mapping[str, str]], version: Version, raw: str
    ) -> str | None:
        known = sorted(key for key in versions if raw in versions[key])
        newer = sorted(key for key in {*known, *self.unreadable} if key >= version)
        chosen = newer[0] if newer else (known[-1] if known else None)
        return versions[chosen].get(raw) if chosen and chosen in versions else None

    def labels(self, task: str) -> frozenset[str]:
        """What answers of a task were ever called."""
        versions = self.by_version.get(task, {}).values()
        return frozenset(label for labels in versions for label in labels.values())

    def has(self, task: str, text: str) -> bool:
        """Whether an answer of the task was ever called so."""
        return any(clean(label) == clean(text) for label in self.labels(task))

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


class Option(str):
    """The value of a dropdown's option, which is no label, and no place even if it is a number."""

    __slots__ = ()


def match(
    value: Any,
    question: Question,
    version: Version = (0, 0),
    texts: Texts = NO_TEXTS,
    task: str | None = None,
) -> int | None:
    """The answers that a value stands for.

    A text is a label, even one such as "2" (arms, say); a number is an index, and never a label.

    Parameters
    ----------
    value : object
        A label; an index, when the server had lost the workflow version or the vote came from the
        classifications API; a list of these; or a dropdown's choice in any of its shapes.
    question : Question
        The question whose answers are looked for.
    version : (int, int)
        The workflow version of the row.
    texts : Texts, optional
        To resolve indexes.
    task : str, optional
        Of which of the question's tasks this is the value.

    Returns
    -------
    int or None
        A bit for each answer; `UNMATCHED` if it stands for none of them, or for several where one
        may be chosen; `UNKNOWN` if the server itself did not know the answer; None if the question
        was not answered.
    """
    shown = _shown(value)
    if not shown:
        # An empty list is an answer where several may be chosen: none of them.
        return 0 if question.multiple and isinstance(value, list) and not value else None
    if all(isinstance(choice, str) and clean(choice) == UNKNOWN_LABEL for choice in shown):
        return UNKNOWN
    task = task or question.task
    places = {_place(choice, question, task, version, texts) for choice in shown}
    known = places - {None}
    if not known or (not question.multiple and len(places) > 1):
        return UNMATCHED
    return sum(1 << place for place in known if place is not None)


def in_words(value: Any) -> str:
    """A value that stands for no answer, as a person wants to see it."""
    items = value if isinstance(value, list) else [value]
    shown = []
    for item in items:
        if kind := _kind(item):
            shown.append(kind)
            continue
        for choice in _shown(item):
            if isinstance(choice, Option):
                shown.append(f"option {choice}")
            else:
                shown.append(plain(choice) if isinstance(choice, str) else f"index {choice}")
    return _writable(" + ".join(shown))


def _kind(value: Any) -> str:
    """What a value is that no question can use; empty for what may be an answer."""
    if not isinstance(value, dict):
        return ""
    if {"tool", "toolType", "toolIndex", "markIndex"} & set(value) or {"x", "y"} <= set(value):
        return "a drawing"
    if "index" in value:
        return "a pick from a grid"
    if _shown(value) == [json.dumps(value)]:
        return f"an object with {', '.join(sorted(map(str, value))[:5]) or 'nothing in it'}"
    return ""


def strays(value: Any, question: Question) -> tuple[str, ...]:
    """Where several answers may be chosen: labels among them that stand for none."""
    if not question.multiple:
        return ()
    choices = [choice for choice in _shown(value) if isinstance(choice, str)]
    unknown = [choice for choice in choices if question.place_of(choice) is None]
    return tuple(_writable(plain(choice)) for choice in unknown)


def hangs_on_version(value: Any, question: Question) -> bool:
    """Whether a value has to be looked up in `Texts`, so that the row's version matters."""
    return any(
        isinstance(choice, int | Option) or question.place_of(choice) is None
        for choice in _shown(value)
    )


def _place(
    choice: str | int, question: Question, task: str, version: Version, texts: Texts
) -> int | None:
    if isinstance(choice, Option):
        if task in texts.values:
            label = texts.of_value(task, version, choice)
            return None if label is None else question.place_of(label)
        # Without the workflow's versions only a value that is a label says anything.
        return question.place_of(choice)
    if isinstance(choice, str):
        place = question.place_of(choice)
        if place is not None or texts.has(task, choice):
            return place
        if path := _PATH.fullmatch(choice.strip()):
            choice = path.group(1)
    label = texts.at(task, version, str(choice))
    return None if label is None else question.place_of(label)


def _shown(value: Any) -> list[str | int]:
    """The choices in a value: labels and indexes; none if the question was not answered."""
    if isinstance(value, list):
        return [choice for item in value for choice in _shown(item)]
    if isinstance(value, dict):
        # Dropdowns. Exports: {"select_label", "option", "value", "label"}; raw: {"value",
        # "option"}, or from newer front ends {"selection": index, "option": true}. Surveys:
        # {"choice", …}.
        for key in ("label", "choice", "selection"):
            if value.get(key) is not None:
                return _shown(value[key])
        if value.get("value") is not None and not isinstance(value["value"], dict | list):
            own = value["value"]
            return [Option(own) if isinstance(own, str | int) else json.dumps(own)]
        if value.get("value") is not None:
            return _shown(value["value"])
        return [] if set(value) & {"select_label", "option", "selection"} else [json.dumps(value)]
    if value is None:
        return []
    plain = isinstance(value, str | int) and not isinstance(value, bool)
    return [value if plain else json.dumps(value)]


def picked(value: Any) -> frozenset[int | str] | None:
    """What was picked from a grid of galaxies: their subjects, or in the older form their places.

    None if a value is nothing of the kind; an empty list may be: nothing was picked.
    """
    if not isinstance(value, list):
        return None
    found: set[int | str] = set()
    for item in value:
        if not isinstance(item, dict) or not isinstance(item.get("index"), int):
            return None
        subject = item.get("subject")
        found.add(item["index"] if subject is None else str(subject).strip())
    return frozenset(found)


def shape_of(value: Any) -> str:
    """What kind of annotation a value is, for the count of tasks that nobody asked for."""
    if isinstance(value, list):
        kinds = {shape_of(item) for item in value}
        return f"list of {kinds.pop()}" if len(kinds) == 1 else "list" if kinds else "empty list"
    for kind, name in ((dict, "object"), (str, "text"), (bool, "yes or no")):
        if isinstance(value, kind):
            return name
    return "nothing" if value is None else "number"
