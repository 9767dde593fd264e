"""How the sandbox's API shows its rows: every key that the real server gives.

What nobody reads is a constant.
"""

from __future__ import annotations

import json
from typing import Any

from zoo_bridge.sandbox.media import Media
from zoo_bridge.sandbox.state import State

Row = dict[str, Any]


def user(row: Row, private: bool = True) -> Row:
    """An account; to others than itself only what is public."""
    shown = {
        "id": str(row["id"]),
        "login": row["login"],
        "display_name": row["login"],
        "credited_name": "Dr User",
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "type": "users",
        "href": f"/users/{row['id']}",
        "zooniverse_id": None,
        "avatar_src": None,
        "links": {},
    }
    if not private:
        return shown
    own = {
        "email": f"{row['login']}@example.org",
        "languages": [],
        "global_email_communication": True,
        "project_email_communication": True,
        "beta_email_communication": True,
        "nasa_email_communication": False,
        "subject_limit": row["subject_limit"],
        "uploaded_subjects_count": row["uploaded_subjects_count"],
        "admin": False,
        "login_prompt": False,
        "private_profile": True,
        "upload_whitelist": bool(row["upload_whitelist"]),
        "valid_email": True,
        "ux_testing_email_communication": False,
        "intervention_notifications": True,
        "banned": False,
        "confirmed_at": "2024-01-01T12:00:00.000Z",
    }
    return shown | own


def project(state: State, row: Row) -> Row:
    """A project."""
    ident = row["id"]
    workflows = state.all("SELECT id FROM workflows WHERE project_id = ? ORDER BY id", (ident,))
    sets = state.all("SELECT id FROM subject_sets WHERE project_id = ? ORDER BY id", (ident,))
    owner = state.one("SELECT login FROM users WHERE id = ?", (row["owner_id"],))
    names = [str(item["id"]) for item in workflows]
    place = f"/projects/{ident}"
    media = {"avatar": "avatars", "background": "backgrounds"}
    exports = ("classifications_export", "subjects_export")
    return {
        "id": str(ident),
        "display_name": row["display_name"],
        "classifications_count": 0,
        "subjects_count": 0,
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "available_languages": ["en"],
        "title": row["display_name"],
        "description": "",
        "introduction": "",
        "private": bool(row["private"]),
        "retired_subjects_count": 0,
        "configuration": {},
        "live": bool(row["live"]),
        "urls": [
            {"url": "https://blog.example.org/", "label": "0.label"},
            {"url": "https://example.org/", "label": "1.label"},
        ],
        "migrated": False,
        "classifiers_count": 0,
        "slug": row["slug"],
        "redirect": "",
        "beta_requested": False,
        "beta_approved": False,
        "launch_requested": False,
        "launch_approved": True,
        "launch_date": None,
        "href": place,
        "workflow_description": "",
        "primary_language": "en",
        "tags": [],
        "experimental_tools": [],
        "completeness": 0.0,
        "activity": 0,
        "state": row["state"] if row["live"] else "development",
        "researcher_quote": "",
        "mobile_friendly": False,
        "featured": False,
        "run_subject_set_completion_events": False,
        "links": {
            "workflows": names,
            "active_workflows": names,
            "subject_sets": [str(item["id"]) for item in sets],
            "owner": {
                "id": str(row["owner_id"]),
                "display_name": owner.get("login", ""),
                "type": "users",
                "href": f"/users/{row['owner_id']}",
            },
            "project_roles": [str(role["id"]) for role in roles_of(state, row)],
            "pages": [],
            "organizations": [],
            **{name: {"href": f"{place}/{name}", "type": kind} for name, kind in media.items()},
            "attached_images": _attached(place),
            **{name: {"href": f"{place}/{name}", "type": f"{name}s"} for name in exports},
        },
    }


def roles_of(state: State, row: Row, user_id: int | None = None) -> list[Row]:
    """Who is what in a project: the owner first."""
    held: dict[int, list[str]] = {row["owner_id"]: ["owner"]}
    query = (
        "SELECT user_id, 'collaborator' AS role FROM collaborators WHERE project_id = ?"
        " UNION ALL SELECT user_id, role FROM roles WHERE project_id = ?"
    )
    for found in state.all(query, (row["id"], row["id"])):
        held.setdefault(found["user_id"], []).append(found["role"])
    projects = state.one("SELECT MAX(id) AS n FROM projects")["n"]
    numbers = [row["id"], *(projects * row["id"] + place for place in range(1, len(held)))]
    return [
        {
            "id": str(number),
            "roles": names,
            "href": f"/project_roles/{number}",
            "links": {
                "project": str(row["id"]),
                "owner": {"id": str(who), "type": "users", "href": f"/users/{who}"},
            },
        }
        for number, (who, names) in zip(numbers, held.items(), strict=True)
        if user_id in (None, who)
    ]


def workflow(state: State, row: Row) -> Row:
    """A workflow: tasks with their texts, counts as the workers left them, linked sets."""
    version = state.one(
        "SELECT * FROM workflow_versions WHERE workflow_id = ? AND major = ? AND minor = ?",
        (row["id"], row["major"], row["minor"]),
    )
    sets = state.all(
        "SELECT * FROM workflow_sets WHERE workflow_id = ? ORDER BY rowid", (row["id"],)
    )
    votes = state.one(
        "SELECT COALESCE(SUM(classifications_count), 0) AS n FROM statuses WHERE workflow_id = ?",
        (row["id"],),
    )["n"]
    tasks = json.loads(version["tasks"])
    place = f"/workflows/{row['id']}"
    shown = row["subjects_count"]
    return {
        "id": str(row["id"]),
        "display_name": row["display_name"],
        "tasks": _texts(tasks, json.loads(version["strings"])),
        "steps": [],
        "classifications_count": votes,
        "subjects_count": shown,
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "finished_at": row["finished_at"],
        "first_task": next(iter(tasks), ""),
        "primary_language": "en",
        "version": f"{row['major']}.{row['minor']}",
        "content_language": "en",
        "prioritized": False,
        "grouped": False,
        "pairwise": False,
        "retirement": json.loads(row["retirement"]),
        "retired_set_member_subjects_count": row["retired_count"],
        "href": place,
        "active": True,
        "mobile_friendly": False,
        "configuration": {},
        "public_gold_standard": False,
        "completeness": min(1.0, row["retired_count"] / shown) if shown else 0.0,
        "links": {
            "project": str(row["project_id"]),
            "subject_sets": [str(item["subject_set_id"]) for item in sets],
            "tutorial_subject": None,
            "published_version": None,
            "attached_images": _attached(place),
            "classifications_export": {
                "href": f"{place}/classifications_export",
                "type": "classifications_exports",
            },
        },
    }


def _texts(value: Any, strings: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _texts(item, strings) for key, item in value.items()}
    if isinstance(value, list):
        return [_texts(item, strings) for item in value]
    return strings.get(value, value) if isinstance(value, str) else value


def workflow_version(row: Row, number: int) -> Row:
    """A version of a workflow: its tasks, and its texts apart."""
    tasks = json.loads(row["tasks"])
    return {
        "id": str(number),
        "href": f"/workflow_versions/{number}",
        "created_at": row["created_at"],
        "updated_at": row["created_at"],
        "major_number": row["major"],
        "minor_number": row["minor"],
        "grouped": False,
        "pairwise": False,
        "prioritized": False,
        "tasks": tasks,
        "first_task": next(iter(tasks), ""),
        "strings": json.loads(row["strings"]),
        "links": {"workflow": str(row["workflow_id"])},
    }


def subject_set(state: State, row: Row) -> Row:
    """A subject set: its count as the workers left it."""
    workflows = state.all("SELECT * FROM workflow_sets WHERE subject_set_id = ?", (row["id"],))
    return {
        "id": str(row["id"]),
        "display_name": row["display_name"],
        "set_member_subjects_count": row["member_count"],
        "metadata": json.loads(row["metadata"]),
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "href": f"/subject_sets/{row['id']}",
        "completeness": {},
        "links": {
            "project": str(row["project_id"]),
            "workflows": [str(item["workflow_id"]) for item in workflows],
        },
    }


def member(row: Row) -> Row:
    """A subject's place in a set."""
    return {
        "id": str(row["id"]),
        "created_at": row["created_at"],
        "updated_at": row["created_at"],
        "priority": None,
        "href": f"/set_member_subjects/{row['id']}",
        "links": {"subject_set": str(row["subject_set_id"]), "subject": str(row["subject_id"])},
    }


def subject(state: State, media: Media, row: Row, upload: bool = False) -> Row:
    """A subject; right after a change, with the addresses to PUT its files to."""
    sets = state.all(
        "SELECT subject_set_id FROM set_subjects WHERE subject_id = ? ORDER BY id", (row["id"],)
    )
    place = f"/subjects/{row['id']}"
    return {
        "id": str(row["id"]),
        "metadata": json.loads(row["metadata"]),
        "locations": media.locations(row, upload),
        "zooniverse_id": None,
        "external_id": None,
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "href": place,
        "links": {
            "project": str(row["project_id"]),
            "collections": [],
            "subject_sets": [str(item["subject_set_id"]) for item in sets],
            "attached_images": _attached(place),
        },
    }


def queued(media: Media, row: Row, now: str) -> Row:
    """A subject as it is served to a volunteer."""
    return {
        "id": str(row["id"]),
        "metadata": json.loads(row["metadata"]),
        "locations": media.locations(row, upload=False),
        "zooniverse_id": None,
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "href": f"/subjects/{row['id']}",
        "selected_at": now,
        "retired": False,
        "already_seen": False,
        "finished_workflow": False,
        "user_has_finished_workflow": True,
        "favorite": False,
        "selection_state": "failover_fallback",
    }


def status(row: Row) -> Row:
    """How far a subject is in a workflow."""
    return {
        "id": str(row["id"]),
        "classifications_count": row["classifications_count"],
        "retired_at": row["retired_at"],
        "retirement_reason": row["retirement_reason"],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "href": f"/subject_workflow_statuses/{row['id']}",
        "links": {"subject": str(row["subject_id"]), "workflow": str(row["workflow_id"])},
    }


def classification(row: Row) -> Row:
    """A classification: raw indexes, no anonymous user, no gold standard, completed or not."""
    subjects = [row["subject_id"], *json.loads(row["more_subjects"])]
    return {
        "id": str(row["id"]),
        "annotations": json.loads(row["annotations"]),
        "created_at": row["created_at"],
        "updated_at": row["created_at"],
        "metadata": {
            **json.loads(row["metadata"]),
            "workflow_version": f"{row['major']}.{row['minor']}",
        },
        "href": f"/classifications/{row['id']}",
        "links": {
            "project": str(row["project_id"]),
            "user": str(row["user_id"]) if row["user_id"] else None,
            "user_group": None,
            "workflow": str(row["workflow_id"]),
            "subjects": [str(ident) for ident in subjects],
        },
    }


def _attached(place: str) -> Row:
    return {"href": f"{place}/attached_images", "type": "attached_images", "ids": []}
