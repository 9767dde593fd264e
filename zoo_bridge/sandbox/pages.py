"""Answers of the sandbox's API: bodies with their templates and pages, ETags, errors."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from datetime import datetime
from email.utils import format_datetime
from typing import Any

from flask import Response, request

from zoo_bridge.sandbox.auth import ApiError

Row = dict[str, Any]
CONTENT_TYPE = "application/vnd.api+json; charset=utf-8"
MOST, USUAL = 100, 20
BROKEN = (
    "<!DOCTYPE html>\n<html>\n<head>\n  <title>We're sorry, but something went wrong (500)</title>"
)
# The templates of links that stand beside every answer: {kind: {link: (href, type)}}.
LINKS: dict[str, dict[str, tuple[str, str]]] = {
    "projects": {
        "workflows": ("/workflows?project_id={projects.id}", "workflows"),
        "subject_sets": ("/subject_sets?project_id={projects.id}", "subject_sets"),
    },
    "workflows": {
        "project": ("/projects/{workflows.project}", "projects"),
        "subject_sets": ("/subject_sets?workflow_id={workflows.id}", "subject_sets"),
    },
    "subject_sets": {
        "project": ("/projects/{subject_sets.project}", "projects"),
        "workflows": ("/workflows?subject_set_id={subject_sets.id}", "workflows"),
    },
    "subjects": {
        "project": ("/projects/{subjects.project}", "projects"),
        "collections": ("/collections?subject_id={subjects.id}", "collections"),
        "subject_sets": ("/subject_sets?subject_id={subjects.id}", "subject_sets"),
    },
    "classifications": {
        "project": ("/projects/{classifications.project}", "projects"),
        "user": ("/users/{classifications.user}", "users"),
        "workflow": ("/workflows/{classifications.workflow}", "workflows"),
    },
}


def answer(
    kind: str,
    items: Sequence[Row],
    status: int = 200,
    meta: Row | None = None,
    headers: dict[str, str] | None = None,
) -> Response:
    """A JSON API body with a list of resources.

    Parameters
    ----------
    kind : str
        Such as ``subjects``.
    items : sequence of dict
        The resources as they are shown.
    status : int
        200 or 201.
    meta : dict, optional
        The page; of one object if not given.
    headers : dict, optional
        ETag, Last-Modified, Location.
    """
    links = {
        f"{kind}.{name}": {"href": href, "type": what}
        for name, (href, what) in LINKS.get(kind, {}).items()
    }
    body: Row = {kind: list(items)}
    if kind not in ("media",):
        body["links"] = links
    body["meta"] = {kind: meta or page_meta(f"/{kind}", 1, USUAL, 1, {})}
    response = Response(json.dumps(body), status, content_type=CONTENT_TYPE)
    response.headers.update(headers or {})
    return response


def shown_one(kind: str, item: Row, row: Row) -> Response:
    """The answer to a GET of one object: with its own ETag."""
    meta = page_meta(f"/{kind}", 1, USUAL, 1, {"id": str(row["id"])})
    return answer(kind, [item], meta=meta, headers={"ETag": etag(kind, row)})


def made(kind: str, item: Row, row: Row, place: str, meta: Row | None = None) -> Response:
    """The answer to a create."""
    headers = {"ETag": etag(kind, row), "Last-Modified": http_date(row["updated_at"])}
    return answer(kind, [item], 201, meta, {**headers, "Location": f"/api{place}"})


def changed(kind: str, item: Row, row: Row) -> Response:
    """The answer to a change: without an ETag."""
    return answer(kind, [item], headers={"Last-Modified": http_date(row["updated_at"])})


def nothing() -> Response:
    """204: done, and no more to say."""
    response = Response("", 204)
    del response.headers["Content-Type"]
    return response


def broken() -> Response:
    """500, and a page in HTML: a call that the server stumbles over."""
    return Response(BROKEN, 500, content_type="text/html; charset=UTF-8")


def failed(status: int, message: str) -> Response:
    """An error as Panoptes words it."""
    body = json.dumps({"errors": [{"message": message}]})
    return Response(body, status, content_type=CONTENT_TYPE)


def http_date(stamp: str) -> str:
    """A stamp of the API as headers write it: in whole seconds."""
    return format_datetime(datetime.fromisoformat(stamp), usegmt=True)


def etag(kind: str, row: Row) -> str:
    """The strong ETag of one object: of its number and when it was changed."""
    return digest_tag(f"{kind}:{row['id']}:{row['updated_at']}")


def check_etag(kind: str, row: Row) -> None:
    """Refuse a change without, or with the wrong, If-Match."""
    given = request.headers.get("If-Match")
    if given is None:
        raise ApiError(428, "Request requires If-Match header to be present")
    if given != etag(kind, row):
        raise ApiError(412, "JsonApiController::PreconditionFailed")


def page(
    kind: str,
    count: int,
    fetch: Callable[[int, int], list[Row]],
    sort: str = "",
    counted: bool = True,
    path: str = "",
    known: Sequence[str] = (),
    named: dict[str, str] | None = None,
) -> Response:
    """One page of a listing: 20 items unless told, 100 at most.

    Parameters
    ----------
    kind : str
        Such as ``subjects``.
    count : int
        Items in all.
    fetch : callable
        ``fetch(size, skip)`` gives the items of a page.
    sort : str
        The order that the server says it took.
    counted : bool
        Whether this listing tells how many items there are; some say 0 whatever there is.
    path : str
        Of the listing, if it is not called after its kind.
    known : sequence of str
        Filters of this listing, for the addresses of other pages.
    named : dict, optional
        Filters that stand there under another name.
    """
    number, size = page_asked()
    items = fetch(size, (number - 1) * size)
    filters = {
        (named or {}).get(name, name): request.args[name]
        for name in sorted(known)
        if name in request.args
    }
    given = {"page_size": str(size)} if "page_size" in request.args else {}
    query = {**given, **({"sort": sort} if sort else {}), **filters}
    if counted:
        meta = page_meta(path or f"/{kind}", number, size, count, query)
    else:
        meta = uncounted_meta(path or f"/{kind}", number, size, bool(items), query)
    tag = digest_tag(json.dumps([kind, number, size, query, items]))
    return answer(kind, items, meta=meta, headers={"ETag": tag})


def page_asked() -> tuple[int, int]:
    """The page and the size that a call asks for; what is no number is the first page."""
    size = _number(request.args.get("page_size"), USUAL)
    if size == 0:
        raise ApiError(
            422,
            "Current page was incalculable. Perhaps you supplied 'page_size: 0' as a param?",
        )
    return max(1, _number(request.args.get("page"), 1)), max(1, min(MOST, size))


def page_meta(path: str, number: int, size: int, count: int, query: dict[str, str]) -> Row:
    """What stands beside a page whose items were counted."""
    pages = -(-count // size)
    before = number - 1 if 1 < number <= pages else None
    after = number + 1 if number < pages else None
    return {
        "page": number,
        "page_size": size,
        "count": count,
        "include": [],
        "page_count": pages,
        "previous_page": before,
        "next_page": after,
        "first_href": href(path, 1, query),
        "previous_href": None if before is None else href(path, before, query),
        "next_href": None if after is None else href(path, after, query),
        "last_href": href(path, pages, query),
    }


def uncounted_meta(path: str, number: int, size: int, any_here: bool, query: dict[str, str]) -> Row:
    """What stands beside a page of a listing that is not counted: zeros, and always a next page."""
    return {
        "page": number,
        "page_size": size,
        "count": 0,
        "include": [],
        "page_count": 0,
        "previous_page": 0,
        "next_page": number + 1 if any_here else None,
        "first_href": href(path, 1, query),
        "previous_href": href(path, 0, query),
        "next_href": href(path, number + 1, query) if any_here else None,
        "last_href": href(path, 0, query),
    }


def href(path: str, number: int, query: dict[str, str]) -> str:
    """The address of a page of a listing; the first has no number."""
    numbered = {} if number == 1 else {"page": str(number)}
    text = "&".join(f"{name}={value}" for name, value in {**numbered, **query}.items())
    return f"{path}?{text}" if text else path


def _number(text: str | None, usual: int) -> int:
    try:
        return int(text) if text is not None else usual
    except ValueError:
        return usual


def digest_tag(text: str) -> str:
    """An ETag of some text."""
    return f'"{hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()}"'
