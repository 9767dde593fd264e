"""Whether labels and survey speak of the same objects: if their ids do not meet, nothing is known.

Then nobody is learned from, and what volunteers have told us about is uploaded to them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Self

import polars as pl

from zoo_bridge.config import Settings
from zoo_bridge.cutouts.survey import Survey
from zoo_bridge.errors import ZooBridgeError
from zoo_bridge.steps.inputs import find_survey, open_store
from zoo_bridge.votes.rules import find_object_id, is_training
from zoo_bridge.votes.subjects import plain_metadata

if TYPE_CHECKING:
    from zoo_bridge.zooniverse.project import Project
    from zoo_bridge.zooniverse.session import Session

# Fewer are chance.
ENOUGH = 0.5
EXAMPLES = 3
MOST_KEYS, MOST_KEPT = 8, 50
# Of each set that the workflow shows, and of so many sets.
SUBJECTS_LOOKED_AT, SETS_LOOKED_AT = 100, 5


@dataclass(frozen=True)
class Matching:
    """How many objects that have labels, or subjects, are in the survey.

    Parameters
    ----------
    what : str
        What was looked up.
    total, found : int
        How many there are, and how many of these the survey has.
    missing : list of str
        Some that it has not.
    sampled : int
        Subjects whose metadata were looked at.
    keys : dict
        For each key in these metadata: how many subjects carry it, and of how many its value is an
        object of the survey.
    """

    what: str
    total: int
    found: int
    missing: list[str]
    sampled: int
    keys: dict[str, list[int]]

    @classmethod
    def of(
        cls,
        what: str,
        names: pl.Series,
        survey: Survey,
        carried: Mapping[int, Mapping[str, str]],
    ) -> Self:
        """Look names up in a survey, and all that subjects carry in their metadata.

        Parameters
        ----------
        what : str
            What the names are of.
        names : polars.Series
            Object ids; each counts once.
        survey : Survey
            Where they should be.
        carried : mapping
            Metadata of some subjects, by their number.
        """
        names = names.unique().sort()
        values = {value.strip() for metadata in carried.values() for value in metadata.values()}
        known = set(survey.find([*names, *values], ())["object_id"])
        keys: dict[str, list[int]] = {}
        for metadata in carried.values():
            for key, value in metadata.items():
                counts = keys.setdefault(key, [0, 0])
                counts[0] += 1
                counts[1] += value.strip() in known
        ranked = sorted(keys.items(), key=lambda item: (-item[1][1], -item[1][0], item[0]))
        keys = dict(ranked[:MOST_KEPT])
        missing = [name for name in names if name not in known]
        found = len(names) - len(missing)
        return cls(what, len(names), found, missing[:EXAMPLES], len(carried), keys)

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> Self:
        """As it was kept by `as_facts`."""
        return cls(**facts)

    def as_facts(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)

    @property
    def share(self) -> float:
        """0 to 1; 1 where there is nothing to look up."""
        return self.found / self.total if self.total else 1.0

    @property
    def text(self) -> str:
        """In one sentence."""
        told = f"{self.found} of {self.total} {self.what} are in the survey ({self.share:.0%})"
        return told + (f", not {', '.join(self.missing)}" if self.missing else "")

    def proposal(self, settings: Settings) -> str:
        """What would make them meet: the keys that subjects carry, and the one that fits."""
        if not self.sampled:
            return "Check votes.object_id_keys and survey.object_id_column."
        if not self.keys:
            return (
                "The subjects carry no metadata that could name an object: upload them with an "
                "object id, or give the survey their ids."
            )
        asked = keys_of(settings)
        best = max(self.keys, key=lambda key: (self.keys[key][1], key not in asked, key))
        if self.keys[best][1] >= ENOUGH * self.sampled:
            fits = (
                f"Their metadata key {best!r} names objects of the survey "
                f"({self.keys[best][1]} of {self.sampled} subjects)"
            )
            # The first key that a subject carries is the one that counts.
            earlier = [key for key in asked if key in self.keys and key != best]
            if best not in asked and not earlier:
                return f"{fits}: add it to votes.object_id_keys."
            if best in asked and best == asked[0]:
                return f"{fits}, but not those that are missing. See which: zoo-bridge labels."
            before = f", before {earlier[0]!r}, which they carry, too" if earlier else ""
            return f"{fits}: put it first in votes.object_id_keys{before}."
        shown = sorted(self.keys, key=lambda key: (-self.keys[key][0], key))
        carried = ", ".join(f"{key} ({self.keys[key][0]})" for key in shown[:MOST_KEYS])
        return (
            f"The {self.sampled} subjects looked at carry {carried}{self._more}; none of these "
            "holds ids of the survey. Is survey.object_id_column the right one?"
        )

    @property
    def _more(self) -> str:
        return " …" if len(self.keys) > MOST_KEYS else ""


def keys_of(settings: Settings) -> list[str]:
    """The metadata keys that an object's id is looked for under, in their order."""
    return [settings.upload.metadata_key, *settings.votes.object_id_keys]


def match_subjects(
    settings: Settings, session: Session, project: Project, survey: Survey
) -> Matching:
    """Look some of the subjects up that the workflow shows to volunteers, before there are labels.

    Parameters
    ----------
    settings : Settings
        Which keys name the object.
    session : Session
        A log-in that may read the project.
    project : Project
        The project, whose workflow's subjects are looked at.
    survey : Survey
        Where the objects should be.

    Returns
    -------
    Matching
    """
    from zoo_bridge.zooniverse.subjects import sample_members

    names, carried = [], {}
    newest = sorted(project.workflow.subject_sets, key=int, reverse=True)
    for set_id in newest[:SETS_LOOKED_AT]:
        for subject in sample_members(session, set_id, SUBJECTS_LOOKED_AT):
            if is_training(subject.metadata):
                continue
            name = find_object_id(subject.metadata, keys_of(settings))
            names.append(name or f"subject {subject.subject_id}")
            carried[int(subject.subject_id)] = plain_metadata(subject.metadata)
    series = pl.Series("object_id", names, dtype=pl.String)
    return Matching.of("objects that the workflow shows", series, survey, carried)


def match_labels(
    settings: Settings, names: pl.Series, carried: Mapping[int, Mapping[str, str]]
) -> Matching | str:
    """Look labelled objects up in the survey of the settings; why not, if that cannot be read."""
    try:
        survey = find_survey(settings, open_store(settings))
        return Matching.of("labelled objects", names, survey, carried)
    except ZooBridgeError as error:
        return error.message
