"""What the handlers of the sandbox's Panoptes share, and what they may know of a call."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from flask import g, request

from zoo_bridge.sandbox.auth import ApiError, may_change
from zoo_bridge.sandbox.cache import Cache
from zoo_bridge.sandbox.media import Media
from zoo_bridge.sandbox.overlap import Overlaps
from zoo_bridge.sandbox.state import State
from zoo_bridge.sandbox.workers import Workers

Row = dict[str, Any]


@dataclass
class Parts:
    """One server: what it remembers, its blob store, its cache, its workers.

    Parameters
    ----------
    state : State
        The database and the clock.
    media : Media
        The blob store's addresses.
    """

    state: State
    media: Media
    cache: Cache = field(init=False)
    workers: Workers = field(init=False)
    overlaps: Overlaps = field(init=False)

    def __post_init__(self) -> None:
        self.cache = Cache(self.state)
        self.workers = Workers(self.state)
        self.overlaps = Overlaps()

    def caller(self) -> Row:
        """Who is calling; nobody is an empty row."""
        user: Row = g.user
        return user

    def find(self, table: str, row_id: int | str) -> Row:
        """A row that the caller may see; 404 otherwise."""
        row = self.state.one(f"SELECT * FROM {table} WHERE id = ?", (row_id,))
        if not row or not self.may_see(self.project_of(table, row)):
            raise not_found(table, row_id)
        return row

    def find_mine(self, table: str, row_id: int | str) -> Row:
        """A row that the caller may change; 404 otherwise, as if it were not there."""
        row = self.state.one(f"SELECT * FROM {table} WHERE id = ?", (row_id,))
        if not row or not may_change(self.state, self.project_of(table, row)):
            raise not_found(table, row_id)
        return row

    def project_of(self, table: str, row: Row) -> Row:
        """The project that a row belongs to."""
        if table == "projects":
            return row
        return self.state.one("SELECT * FROM projects WHERE id = ?", (row.get("project_id"),))

    def may_see(self, project: Row) -> bool:
        """Whether the caller may see a project and what is in it."""
        return bool(project) and (not project["private"] or may_change(self.state, project))

    def shown_projects(self) -> set[int]:
        """The numbers of all projects that the caller may see."""
        rows = self.state.all("SELECT * FROM projects")
        return {row["id"] for row in rows if self.may_see(row)}

    def shown(self, kind: str, row: Row, context: str, make: Callable[[], Row]) -> Row:
        """A row as the API shows it, out of the server's cache if it is there."""
        return self.cache.get(kind, row, context, make)


def not_found(table: str, row_id: int | str) -> ApiError:
    """The answer for what is not there, or not for this caller."""
    return ApiError(404, f"Could not find {table[:-1]} with id='{row_id}'")


def lacks(where: str, what: str) -> str:
    """As the server's schemas complain, in its own language."""
    return f'{{"{where}"=>"did not contain a required property of \'{what}\'"}}'


def body_of(key: str) -> Any:
    """What a call sends under a key; where an object is wanted, a list is the server's fault."""
    body = request.get_json(silent=True)
    if not isinstance(body, dict) or key not in body:
        raise ApiError(422, f"param is missing or the value is empty: {key}")
    return body[key]


def jsonb(value: Any) -> Any:
    """JSON as PostgreSQL keeps it: keys by length, then by their bytes."""
    if isinstance(value, dict):
        keys = sorted(value, key=lambda key: (len(key.encode()), key.encode()))
        return {key: jsonb(value[key]) for key in keys}
    if isinstance(value, list):
        return [jsonb(item) for item in value]
    return value


def dumped(value: Any) -> str:
    """JSON for a column."""
    return json.dumps(jsonb(value))
