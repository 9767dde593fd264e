"""Classifications through the API: what came since the last export, in an export's own form.

The API numbers answers where an export writes their texts, says nothing of a subject but its
number, nothing of gold standard, and hides who the anonymous are. What can be made up for is: texts
come from the workflow's versions, subjects are looked up, and excluded users are known by number.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from zoo_bridge.errors import ZooniverseError
from zoo_bridge.files import name_by_digest, replacing_csv
from zoo_bridge.zooniverse.content import COLUMNS, Frontier
from zoo_bridge.zooniverse.session import PAGE_SIZE, Session

log = logging.getLogger(__name__)
MOST_SUBJECTS = 50_000
MOST_PAGES = 50
# A longer number is something that a volunteer has typed.
_INDEX = re.compile(r"[0-9]{1,4}")


@dataclass(frozen=True)
class Since:
    """What came since: a gzipped CSV in an export's form, and how many rows are new.

    ``last_id`` is the greatest number in it.
    """

    path: Path
    rows: int
    new: int
    last_id: int


def fetch_since(
    session: Session,
    project_id: int,
    workflow_ids: Collection[int],
    frontier: Frontier,
    folder: Path,
    tick: Callable[[int], None] = lambda rows: None,
) -> Since | None:
    """Read the classifications after the last ones known.

    Parameters
    ----------
    session : Session
        The log-in; the account must be the project's owner or a collaborator.
    project_id : int
        The project's number on Zooniverse.
    workflow_ids : collection of int
        In which workflows.
    frontier : Frontier
        Where to begin; moved to where to go on next time.
    folder : Path
        Where ``since-<digest>.csv.gz`` is put.
    tick : callable
        Called with the number of rows just read.

    Returns
    -------
    Since or None
        None if there is nothing new.
    """
    known = frontier.recent
    wanted = {str(number) for number in workflow_ids}
    rows = new = last_id = 0
    scratch = folder / ".since.part"
    with replacing_csv(scratch, COLUMNS["classifications"]) as writer:
        subjects: dict[str, dict[str, Any]] = {}
        for page in _pages(session, project_id, frontier.last_id):
            ours = [item for item in page if item["links"].get("workflow") in wanted]
            if len(subjects) > MOST_SUBJECTS:
                subjects.clear()
            _find_subjects(session, ours, subjects)
            for item in ours:
                row = _row(item, subjects)
                writer.writerow([row.get(name, "") for name in COLUMNS["classifications"]])
                ident = int(item["id"])
                frontier.add(row["created_at"][:13], [ident])
                new += ident not in known
                last_id = max(last_id, ident)
            rows += len(ours)
            tick(len(page))
    if not new:
        # The same rows may stand, under the same digest, in a file that is in use.
        scratch.unlink()
        return None
    return Since(name_by_digest(scratch, "since"), rows, new, last_id)


def count_after(
    session: Session,
    project_id: int,
    workflow_id: int,
    last_id: int,
    before: datetime,
    most: int,
) -> int:
    """How many classifications of a workflow came after one, and before some moment.

    Parameters
    ----------
    session : Session
        The log-in, of an owner or collaborator.
    project_id, workflow_id : int
        Numbers of the project and of the workflow on Zooniverse.
    last_id : int
        The number of the last that is known.
    before : datetime
        Later ones do not count.
    most : int
        Counting ends here. It ends, too, after so many pages of other workflows' that looking
        further would take all night.

    Returns
    -------
    int
        Some of them may never have been completed: the API does not say.
    """
    found = 0
    for page in islice(_pages(session, project_id, last_id), MOST_PAGES):
        for item in page:
            ours = item["links"].get("workflow") == str(workflow_id)
            made = datetime.fromisoformat(item["created_at"].replace("Z", "+00:00"))
            found += ours and made < before
            if found >= most:
                return found
    return found


def _pages(session: Session, project_id: int, last_id: int) -> Iterator[list[dict[str, Any]]]:
    """Pages of the project's classifications after one; there are no counts: until one is empty."""
    while True:
        reply = session.get(
            "/classifications/project",
            project_id=project_id,
            last_id=last_id,
            page_size=PAGE_SIZE,
        )
        page = reply.body.get("classifications", [])
        if not page:
            return
        greatest = max(int(item["id"]) for item in page)
        if greatest <= last_id:
            raise ZooniverseError(
                f"The classifications API goes in circles: it was asked for numbers above "
                f"{last_id} and gave {greatest}.",
                'Use pull.mode = "export" until Zooniverse is well again.',
            )
        last_id = greatest
        yield page


def _row(item: dict[str, Any], subjects: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """A classification as a row of an export."""
    metadata = dict(item["metadata"])
    version = metadata.pop("workflow_version", "")
    user = item["links"].get("user") or ""
    ids = [str(ident) for ident in item["links"].get("subjects", [])]
    moment = datetime.fromisoformat(item["created_at"].replace("Z", "+00:00")).astimezone(UTC)
    annotations = item["annotations"]
    if isinstance(annotations, list):
        annotations = [_with_numbers(annotation) for annotation in annotations]
    return {
        "classification_id": item["id"],
        "user_id": user,
        "workflow_id": item["links"]["workflow"],
        "workflow_version": version,
        "created_at": f"{moment:%Y-%m-%d %H:%M:%S} UTC",
        "metadata": json.dumps(metadata),
        "annotations": json.dumps(annotations),
        "subject_data": json.dumps({ident: subjects.get(ident, {}) for ident in ids}),
        "subject_ids": ";".join(ids),
    }


def _with_numbers(annotation: Any) -> Any:
    """Answers that are numbers as numbers, never as texts: an export's texts are labels.

    A dropdown's options have values that may be numbers, too, and are no answers' numbers.
    """
    if not isinstance(annotation, dict) or "value" not in annotation:
        return annotation
    return {**annotation, "value": _as_number(annotation["value"])}


def _as_number(value: Any) -> Any:
    if isinstance(value, list):
        return [_with_part(item) for item in value]
    return int(value) if isinstance(value, str) and _INDEX.fullmatch(value) else value


def _with_part(item: Any) -> Any:
    """One of several answers, or a part of a combined task."""
    if isinstance(item, dict):
        return _with_numbers(item) if "task" in item else item
    return _as_number(item) if not isinstance(item, list) else item


def _find_subjects(
    session: Session, items: list[dict[str, Any]], known: dict[str, dict[str, Any]]
) -> None:
    """Look up the metadata of the subjects of a page that are not known yet."""
    wanted = sorted(
        {str(ident) for item in items for ident in item["links"].get("subjects", [])} - set(known)
    )
    for start in range(0, len(wanted), PAGE_SIZE):
        part = wanted[start : start + PAGE_SIZE]
        for subject in session.list("subjects", id=",".join(part)):
            known[str(subject["id"])] = subject["metadata"]


def find_users(session: Session, names: Sequence[str]) -> dict[str, str]:
    """Numbers of users by their names as given; an empty text for a name that nobody has."""
    found = dict.fromkeys(names, "")
    for name in names:
        for user in session.list("users", login=name):
            if user["login"].casefold() == name.casefold():
                found[name] = str(user["id"])
    return found


def write_versions(session: Session, workflow_ids: Sequence[int], folder: Path) -> Path:
    """Every version of some workflows, in the form of a workflows export.

    Parameters
    ----------
    session : Session
        A log-in that may read the workflows.
    workflow_ids : sequence of int
        Numbers of the workflows on Zooniverse.
    folder : Path
        Where ``versions-<digest>.csv.gz`` is put.

    Returns
    -------
    Path
    """
    versions = [
        (number, version)
        for number in workflow_ids
        for version in session.list("workflow_versions", workflow_id=number)
    ]
    scratch = folder / ".versions.part"
    columns = ("workflow_id", "version", "minor_version", "tasks", "strings")
    with replacing_csv(scratch, columns) as writer:
        for number, version in versions:
            writer.writerow(
                [
                    number,
                    version["major_number"],
                    version["minor_number"],
                    json.dumps(version["tasks"]),
                    json.dumps(version.get("strings") or {}),
                ]
            )
    return name_by_digest(scratch, "versions")
