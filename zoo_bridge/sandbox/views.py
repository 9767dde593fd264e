"""How the sandbox's API shows its rows: JSON API bodies, ETags and pages."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any
from urllib.parse import urlencode

from flask import Response, request

from zoo_bridge.sandbox.auth import ApiError
from zoo_bridge.sandbox.media import Media
from zoo_bridge.sandbox.state import State

Row = dict[str, Any]
CONTENT_TYPE = "application/vnd.api+json; version=1"


def answer(kind: str, items: Sequence[Row], status: int = 200, etag: str = "") -> Response:
    """A JSON API body with a list of resources."""
    response = Response(json.dumps({kind: list(items)}), status, content_type=CONTENT_TYPE)
    if etag:
        response.headers["ETag"] = etag
    return response


def etag(kind: str, row: Row) -> str:
    """The strong ETag of one object's own GET."""
    return f'"{kind}-{row["id"]}-{row["lock_version"]}"'


def check_etag(kind: str, row: Row) -> None:
    """Refuse a change without, or with the wrong, If-Match."""
    given = request.headers.get("If-Match")
    if given is None:
        raise ApiError(428, "Request requires an If-Match header to be present")
    if given != etag(kind, row):
        raise ApiError(412, "Precondition Failed: If-Match does not match")


def page(kind: str, count: int, fetch: Callable[[int, int], list[Row]]) -> Response:
    """One page of a listing: 20 items unless told, 100 at most."""
    try:
        size = max(1, min(100, int(request.args.get("page_size", 20))))
        number = max(1, int(request.args.get("page", 1)))
    except ValueError:
        raise ApiError(422, "page and page_size must be numbers") from None
    pages = max(1, -(-count // size))
    following = None
    if number < pages:
        query = {**request.args.to_dict(), "page": number + 1, "page_size": size}
        following = f"/{kind}?{urlencode(query)}"
    items = fetch(size, (number - 1) * size)
    meta = {
        "page": number,
        "page_size": size,
        "count": count,
        "page_count": pages,
        "next_href": following,
    }
    body = json.dumps({kind: items, "meta": {kind: meta}})
    response = Response(body, 200, content_type=CONTENT_TYPE)
    response.headers["ETag"] = f'W/"{hash(body) & 0xFFFFFFFF:x}"'
    return response


def project(state: State, row: Row) -> Row:
    """A project as the API shows it."""
    workflows = state.all("SELECT id FROM workflows WHERE project_id = ?", (row["id"],))
    sets = state.all("SELECT id FROM subject_sets WHERE project_id = ?", (row["id"],))
    return {
        "id": str(row["id"]),
        "slug": row["slug"],
        "display_name": row["display_name"],
        "live": bool(row["live"]),
        "private": bool(row["private"]),
        "configuration": {},
        "links": {
            "workflows": [str(item["id"]) for item in workflows],
            "subject_sets": [str(item["id"]) for item in sets],
            "owner": {"id": str(row["owner_id"]), "type": "users"},
        },
    }


def workflow(state: State, row: Row) -> Row:
    """A workflow as the API shows it: tasks with their texts, counts, linked sets."""
    version = state.one(
        "SELECT * FROM workflow_versions WHERE workflow_id = ? AND major = ? AND minor = ?",
        (row["id"], row["major"], row["minor"]),
    )
    sets = state.all("SELECT * FROM workflow_sets WHERE workflow_id = ?", (row["id"],))
    count = state.one(
        "SELECT COUNT(DISTINCT m.subject_id) AS n FROM set_subjects m JOIN workflow_sets w"
        " ON w.subject_set_id = m.subject_set_id WHERE w.workflow_id = ?",
        (row["id"],),
    )["n"]
    retired = state.one(
        "SELECT COUNT(*) AS n FROM statuses t WHERE t.workflow_id = ? AND t.retired_at IS NOT NULL"
        " AND t.subject_id IN (SELECT m.subject_id FROM set_subjects m JOIN workflow_sets w"
        " ON w.subject_set_id = m.subject_set_id WHERE w.workflow_id = ?)",
        (row["id"], row["id"]),
    )["n"]
    strings = json.loads(version["strings"])
    return {
        "id": str(row["id"]),
        "display_name": row["display_name"],
        "active": True,
        "tasks": _texts(json.loads(version["tasks"]), strings),
        "strings": strings,
        "version": f"{row['major']}.{row['minor']}",
        "retirement": json.loads(row["retirement"]),
        "subjects_count": count,
        "retired_set_member_subjects_count": retired,
        "completeness": retired / count if count else 0.0,
        "finished_at": row["finished_at"],
        "links": {
            "project": str(row["project_id"]),
            "subject_sets": [str(item["subject_set_id"]) for item in sets],
        },
    }


def _texts(value: Any, strings: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _texts(item, strings) for key, item in value.items()}
    if isinstance(value, list):
        return [_texts(item, strings) for item in value]
    return strings.get(value, value) if isinstance(value, str) else value


def subject_set(state: State, row: Row) -> Row:
    """A subject set as the API shows it."""
    count = state.one(
        "SELECT COUNT(*) AS n FROM set_subjects WHERE subject_set_id = ?", (row["id"],)
    )["n"]
    workflows = state.all("SELECT * FROM workflow_sets WHERE subject_set_id = ?", (row["id"],))
    return {
        "id": str(row["id"]),
        "display_name": row["display_name"],
        "metadata": json.loads(row["metadata"]),
        "set_member_subjects_count": count,
        "created_at": row["created_at"],
        "links": {
            "project": str(row["project_id"]),
            "workflows": [str(item["workflow_id"]) for item in workflows],
        },
    }


def subject(media: Media, row: Row, upload: bool = False) -> Row:
    """A subject as the API shows it; right after a create, with the addresses to PUT to."""

    def address(location: Row) -> str:
        if "url" in location:
            return str(location["url"])
        return media.signed(location["path"]) if upload else media.public(location["path"])

    return {
        "id": str(row["id"]),
        "metadata": json.loads(row["metadata"]),
        "locations": [{item["mime"]: address(item)} for item in json.loads(row["locations"])],
        "created_at": row["created_at"],
        "updated_at": row["updated_at"],
        "links": {"project": str(row["project_id"])},
    }


def status(row: Row) -> Row:
    """A subject's status in a workflow as the API shows it."""
    return {
        "id": str(row["id"]),
        "classifications_count": row["classifications_count"],
        "retired_at": row["retired_at"],
        "retirement_reason": row["retirement_reason"],
        "links": {"subject": str(row["subject_id"]), "workflow": str(row["workflow_id"])},
    }


def workflow_version(row: Row) -> Row:
    """A version of a workflow as the API shows it: its tasks, and its texts apart."""
    return {
        "id": f"{row['workflow_id']}{row['major']:04d}{row['minor']:04d}",
        "major_number": row["major"],
        "minor_number": row["minor"],
        "tasks": json.loads(row["tasks"]),
        "strings": json.loads(row["strings"]),
        "created_at": row["created_at"],
        "links": {"workflow": str(row["workflow_id"])},
    }


def classification(row: Row) -> Row:
    """A classification as the API shows it: raw indexes, no anonymous user, no gold standard."""
    return {
        "id": str(row["id"]),
        "annotations": json.loads(row["annotations"]),
        "created_at": row["created_at"],
        "metadata": {
            **json.loads(row["metadata"]),
            "workflow_version": f"{row['major']}.{row['minor']}",
        },
        "links": {
            "project": str(row["project_id"]),
            "workflow": str(row["workflow_id"]),
            "user": str(row["user_id"]) if row["user_id"] else None,
            "subjects": [str(row["subject_id"])],
        },
    }
