"""Who we are talking about: the project and workflow of the settings, as Zooniverse has them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from zoo_bridge.errors import RefusedError, SettingsError
from zoo_bridge.zooniverse.session import PAGE_SIZE, Session


@dataclass(frozen=True)
class Workflow:
    """A workflow: its tasks with their texts, its retirement limit, its linked sets.

    Reads may be five minutes behind; ``subject_sets`` is for counting, never for deciding whether
    volunteers see a set.
    """

    workflow_id: int
    name: str
    version: str
    tasks: dict[str, Any]
    limit: int | None
    subject_sets: tuple[str, ...]


@dataclass(frozen=True)
class Project:
    """A project and one of its workflows."""

    project_id: int
    slug: str
    name: str
    owner_id: str
    workflow: Workflow
    workflow_ids: tuple[str, ...] = ()


@dataclass(frozen=True)
class Account:
    """The account that is logged in, and how many subjects it may still upload."""

    user_id: str
    login: str
    uploaded: int
    limit: int
    unlimited: bool

    def left(self, known: int = 0) -> int | None:
        """Subjects that may still be uploaded; None for no limit.

        Parameters
        ----------
        known : int
            Subjects that this account is known to have created: what Zooniverse says of itself may
            be minutes old.
        """
        if self.unlimited:
            return None
        return max(0, self.limit - max(self.uploaded, known))


# Everybody else is told that there is nothing, or that things cannot be found.
MAY_CHANGE = frozenset({"owner", "collaborator"})


@dataclass(frozen=True)
class Access:
    """An account at a project: who it is there, and which scopes its log-in lacks."""

    project: Project
    account: Account
    roles: tuple[str, ...]
    lacking: tuple[str, ...] = ()

    @property
    def may_change(self) -> bool:
        """Whether the account may read votes and exports, upload, publish and withdraw."""
        return bool(MAY_CHANGE & set(self.roles)) and not self.lacking

    @property
    def described(self) -> str:
        """Who the account is in the project, in words."""
        project = self.project
        held = " and ".join(sorted(self.roles)) or "neither owner nor collaborator"
        told = f"{self.account.login} is {held} of {project.name} ({project.slug})"
        if self.lacking:
            told += f"; the application it comes by lacks the scope {' and '.join(self.lacking)}"
        return told

    @property
    def advice(self) -> str:
        """What to do where the account may not change the project."""
        if self.lacking and MAY_CHANGE & set(self.roles):
            return (
                "Give the application of PANOPTES_CLIENT_ID the scopes project, subject and "
                "classification, under /oauth/applications of the server."
            )
        return "Ask the project's owner to make this account a collaborator."

    def require_rights(self) -> None:
        """Raise `RefusedError` for an account that may not change the project."""
        if not self.may_change:
            raise RefusedError(f"{self.described}.", self.advice)


def find_project(session: Session, slug: str, workflow_id: int) -> Project:
    """Look a project and its workflow up.

    Parameters
    ----------
    session : Session
        A log-in, of whatever account.
    slug : str
        The project, as ``owner/name``.
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
    return Project(
        project_id=int(project["id"]),
        slug=slug,
        name=project["display_name"],
        owner_id=str(project["links"].get("owner", {}).get("id", "")),
        workflow=_workflow(session, workflow_id),
        workflow_ids=tuple(workflows),
    )


def _workflow(session: Session, workflow_id: int) -> Workflow:
    raw = session.get(f"/workflows/{workflow_id}").body["workflows"][0]
    options = (raw.get("retirement") or {}).get("options") or {}
    return Workflow(
        workflow_id=workflow_id,
        name=raw["display_name"],
        version=raw["version"],
        tasks=raw["tasks"],
        limit=options.get("count"),
        subject_sets=tuple(raw["links"].get("subject_sets", [])),
    )


def find_workflows(session: Session, project: Project, numbers: Sequence[int]) -> list[Workflow]:
    """Other workflows of a project, in which its questions are asked, too.

    Raises
    ------
    SettingsError
        If one is not the project's.
    """
    for number in numbers:
        if str(number) not in project.workflow_ids:
            raise SettingsError(
                f"The project {project.slug} has no workflow {number}, which a question names.",
                f"Correct it in [[question.source]]: it has {', '.join(project.workflow_ids)}.",
            )
    return [_workflow(session, number) for number in numbers]


def find_account(session: Session) -> Account:
    """The account that is logged in."""
    user = session.get("/me").body["users"][0]
    return Account(
        user_id=str(user["id"]),
        login=user["login"],
        uploaded=user["uploaded_subjects_count"],
        limit=user["subject_limit"],
        unlimited=bool(user.get("upload_whitelist")),
    )


def find_access(session: Session, slug: str, workflow_id: int) -> Access:
    """Look a project up, and who the account is in it, before anything of it is believed.

    Parameters
    ----------
    session : Session
        A log-in, whose rights are looked at.
    slug : str
        The project, as ``owner/name``.
    workflow_id : int
        The workflow's number.

    Returns
    -------
    Access

    Raises
    ------
    SettingsError
        If there is no such project, or the workflow is not one of its own.
    """
    account = find_account(session)
    project = find_project(session, slug, workflow_id)
    asked = {"project_id": project.project_id, "user_id": account.user_id}
    rows = session.list("project_roles", **asked)
    roles = {
        role
        for row in rows
        if str(row["links"]["owner"]["id"]) == account.user_id
        for role in row["roles"]
    }
    if project.owner_id == account.user_id:
        roles.add("owner")
    return Access(project, account, tuple(sorted(roles)), session.lacking)


@dataclass(frozen=True)
class Status:
    """How far a subject is in a workflow."""

    classifications: int
    retired: bool


def list_statuses(
    session: Session, workflow_id: int, subject_ids: Sequence[str]
) -> dict[str, Status]:
    """How far subjects are; those that nobody classified yet may be absent.

    Parameters
    ----------
    session : Session
        A log-in that may read the workflow's statuses.
    workflow_id : int
        In which workflow.
    subject_ids : sequence of str
        Which subjects; asked for a hundred at a time.

    Returns
    -------
    dict
        By the subject's id.
    """
    found = {}
    for start in range(0, len(subject_ids), PAGE_SIZE):
        ids = ",".join(subject_ids[start : start + PAGE_SIZE])
        rows = session.list("subject_workflow_statuses", workflow_id=workflow_id, subject_ids=ids)
        for row in rows:
            status = Status(int(row["classifications_count"]), row["retired_at"] is not None)
            found[str(row["links"]["subject"])] = status
    return found
