"""Requests and answers of the test Hub, the table of its routes, and who may see or change what. No sockets here."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote, urlencode

from erase_plugins.testing.hub_store import SPACE, HubRefusal, HubStore, Repository


@dataclass(frozen=True)
class Call:
    """A parsed request. ``account`` is None without a valid token."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: dict[str, str]
    body: bytes
    account: str | None
    url: str

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body or b"{}")

    def flag(self, name: str) -> bool:
        """A switch in the query string."""
        return self.query.get(name, ["0"])[0].lower() in ("1", "true")


@dataclass
class Answer:
    """Status, headers and body; ``length`` replaces the body's length in the header (HEAD)."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, data: Any, status: int = 200, **headers: str) -> Answer:
        """A JSON answer."""
        return cls(status, json.dumps(data).encode(), {"Content-Type": "application/json", **headers})


_ROUTES: list[tuple[str, re.Pattern[str], Callable[..., Answer]]] = []
ID = r"(?P<repo>[^/]+/[^/]+)"
#: rows of one page
MOST_ROWS = 1000
REV = r"(?P<rev>[^/]+)"
_SPACES = re.compile(r"^(/api)?/spaces/([^/]+)/")


def route(methods: str, pattern: str) -> Callable[[Callable[..., Answer]], Callable[..., Answer]]:
    """Declares a route; named groups are passed as arguments, unquoted."""

    def keep(function: Callable[..., Answer]) -> Callable[..., Answer]:
        for method in methods.split():
            _ROUTES.append((method, re.compile(f"^{pattern}$"), function))
        return function

    return keep


def answer(store: HubStore, call: Call) -> Answer:
    """The answer to a request; refusals carry the Hub's error headers."""
    path = _SPACES.sub(lambda found: f"{'/api/models' if found[1] else ''}/{SPACE}{found[2]}/", call.path, count=1)
    for old, new in store.moved.items():
        if re.match(rf"(/api/models)?/{re.escape(old)}(/|$)", path):
            query = f"?{urlencode(call.query, doseq=True)}" if call.query else ""
            return Answer(307, headers={"Location": f"{call.url}{path.replace(old, new, 1)}{query}"})
    try:
        for method, pattern, function in _ROUTES:
            found = pattern.match(path)
            if found and method in (call.method, "GET" if call.method == "HEAD" else ""):
                parts = {key: unquote(value) for key, value in found.groupdict().items() if value is not None}
                return function(store, call, **parts)
        raise HubRefusal(404, "NotFound", "no such route")
    except (KeyError, TypeError, ValueError, LookupError) as error:  # a body that does not follow the protocol
        return Answer.json({"error": f"{type(error).__name__}: {error}"}, 400)
    except HubRefusal as error:
        headers = {"X-Error-Code": error.code, "X-Error-Message": error.message}
        return Answer.json({"error": error.message}, error.status, **headers)


def signed_in(call: Call) -> str:
    """Name of the account, or a refusal."""
    if call.account is None:
        raise HubRefusal(401, "Unauthorized", "Invalid credentials in Authorization header")
    return call.account


def open_repository(store: HubStore, call: Call, repo: str) -> Repository:
    """A repository this caller may see; a private one looks as if it were not there."""
    found = store.repository(repo)
    if found.private and call.account is None:
        raise HubRefusal(401, "RepoNotFound", "Repository not found")
    return found


def writable(store: HubStore, call: Call, repo: str) -> tuple[Repository, str]:
    """A repository that this caller may change, and the account's name."""
    account = signed_in(call)
    found = open_repository(store, call, repo)
    if repo.removeprefix(SPACE).split("/")[0] not in (account, "org"):
        raise HubRefusal(403, "Forbidden", f"you have no write access to {repo}")
    return found, account


def paged(call: Call, rows: list[Any]) -> Answer:
    """Rows as JSON, at most ``limit`` (or 1000) at a time; the header Link names the next page."""
    start = int(call.query.get("cursor", ["0"])[0])
    end = start + max(1, min(int(call.query.get("limit", [MOST_ROWS])[0]), MOST_ROWS))
    made = Answer.json(rows[start:end])
    if end < len(rows):
        query = urlencode({**call.query, "cursor": [str(end)]}, doseq=True)
        made.headers["Link"] = f'<{call.url}{call.path}?{query}>; rel="next"'
    return made
