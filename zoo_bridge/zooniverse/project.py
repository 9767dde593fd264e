"""Who we are talking about: the project and workflow of the settings, as Zooniverse has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from zoo_bridge.errors import SettingsError
from zoo_bridge.zooniverse.session import Session


@dataclass(frozen=True)
class Workflow:
    """A workflow: its tasks with their texts, its retirement limit, its linked sets."""

    workflow_id: int
    name: str
    version: str
    tasks: dict[str, Any]
    limit: int | None
    subject_sets: tuple[str, ...]
    open_subjects: int


@dataclass(frozen=True)
class Project:
    """A project and one of its workflows."""

    project_id: int
    slug: str
    name: str
    workflow: Workflow


@dataclass(frozen=True)
class Account:
    """The account that is logged in, and how many subjects it may still upload."""

    login: str
    uploaded: int
    limit: int
    unlimited: bool

    @property
    def left(self) -> int | None:
        """Subjects that may still be uploaded; None for no limit."""
        return None if self.unlimited else max(0, self.limit - self.uploaded)


def find_project(session: Session, slug: str, workflow_id: int) -> Project:
    """Look a project and its workflow up.

    Parameters
    ----------
    session : Session
        The log-in.
    slug : str
        ``owner/name``.
    workflow_id : int
        The workflow's number.

    Returns
    -------
    Project

    Raises
    ------
    SettingsError
        If there is no such project, or the workflow is not one of its own.
    """
    found = session.get("/projects", slug=slug).body.get("projects", [])
    if not found:
        raise SettingsError(
            f"There is no project {slug} on {session.endpoint} that this account can see.",
            "Correct project.slug: it is the end of the project's address, owner/name.",
        )
    project = found[0]
    workflows = project["links"]["workflows"]
    if str(workflow_id) not in workflows:
        raise SettingsError(
            f"The project {slug} has no workflow {workflow_id}.",
            f"Correct project.workflow: it has {', '.join(workflows) or 'none'}.",
        )
    raw = session.get(f"/workflows/{workflow_id}").body["workflows"][0]
    options = (raw.get("retirement") or {}).get("options") or {}
    return Project(
        project_id=int(project["id"]),
        slug=slug,
        name=project["display_name"],
        workflow=Workflow(
            workflow_id=workflow_id,
            name=raw["display_name"],
            version=raw["version"],
            tasks=raw["tasks"],
            limit=options.get("count"),
            subject_sets=tuple(raw["links"].get("subject_sets", [])),
            open_subjects=raw["subjects_count"] - raw["retired_set_member_subjects_count"],
        ),
    )


def find_account(session: Session) -> Account:
    """The account that is logged in."""
    user = session.get("/me").body["users"][0]
    return Account(
        login=user["login"],
        uploaded=user["uploaded_subjects_count"],
        limit=user["subject_limit"],
        unlimited=bool(user.get("upload_whitelist")),
    )
