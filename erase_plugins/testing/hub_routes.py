"""The Hub's routes, as the huggingface_hub client uses them: request in, answer out. No sockets here."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote

from erase_plugins.testing.hub_store import Entry, HubRefusal, HubStore, Repository, is_lfs


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
_ID = r"(?P<repo>[^/]+/[^/]+)"
_REV = r"(?P<rev>[^/]+)"
#: Spaces are repositories with this before their name; a model and a Space may share one
SPACE = "space:"
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
    try:
        for method, pattern, function in _ROUTES:
            found = pattern.match(path)
            if method == call.method and found:
                parts = {key: unquote(value) for key, value in found.groupdict().items() if value is not None}
                return function(store, call, **parts)
        raise HubRefusal(404, "NotFound", "no such route")
    except (KeyError, TypeError, ValueError, LookupError) as error:  # a body that does not follow the protocol
        return Answer.json({"error": f"{type(error).__name__}: {error}"}, 400)
    except HubRefusal as error:
        headers = {"X-Error-Code": error.code, "X-Error-Message": error.message}
        return Answer.json({"error": error.message}, error.status, **headers)


def _signed_in(call: Call) -> str:
    if call.account is None:
        raise HubRefusal(401, "Unauthorized", "Invalid credentials in Authorization header")
    return call.account


def _open(store: HubStore, call: Call, repo: str) -> Repository:
    """A repository this caller may see; a private one looks as if it were not there."""
    found = store.repository(repo)
    if found.private and call.account is None:
        raise HubRefusal(401, "RepoNotFound", "Repository not found")
    return found


def _writable(store: HubStore, call: Call, repo: str) -> tuple[Repository, str]:
    account = _signed_in(call)
    found = _open(store, call, repo)
    if repo.removeprefix(SPACE).split("/")[0] not in (account, "org"):
        raise HubRefusal(403, "Forbidden", f"you have no write access to {repo}")
    return found, account


@route("GET", "/api/whoami-v2")
def whoami(store: HubStore, call: Call) -> Answer:
    name = _signed_in(call)
    return Answer.json({"type": "user", "id": name, "name": name, "fullname": name, "orgs": [{"name": "org"}]})


@route("POST", "/api/repos/create")
def create(store: HubStore, call: Call) -> Answer:
    account, data = _signed_in(call), call.json()
    space = data.get("organization") or account
    if space not in (account, "org"):
        raise HubRefusal(403, "Forbidden", f"you may not create repositories in {space}")
    repo = f"{space}/{data['name']}"
    kind = SPACE if data.get("type") == "space" else ""
    if kind and not data.get("sdk"):
        raise HubRefusal(400, "BadRequest", "a Space needs an sdk")
    private = data.get("visibility") == "private" or bool(data.get("private"))
    facts = {"url": f"{call.url}/{'spaces/' if kind else ''}{repo}", "name": repo, "id": repo}
    try:
        store.create(kind + repo, private, account)
    except HubRefusal as error:
        return Answer.json({"error": error.message, **facts}, 409)
    return Answer.json(facts)


@route("DELETE", "/api/repos/delete")
def delete(store: HubStore, call: Call) -> Answer:
    data = call.json()
    kind = SPACE if data.get("type") == "space" else ""
    repo = f"{kind}{data.get('organization') or _signed_in(call)}/{data['name']}"
    _writable(store, call, repo)
    del store.repositories[repo]
    return Answer.json({})


@route("POST", "/api/validate-yaml")
def validate_yaml(store: HubStore, call: Call) -> Answer:
    """Checks the front matter of a card: it must be a mapping, and the fields that the Hub knows have their types."""
    from huggingface_hub.repocard import RepoCard

    errors = []
    try:
        data = RepoCard(call.json()["content"], ignore_metadata_errors=False).data.to_dict()
        for name in ("license", "library_name", "pipeline_tag", "thumbnail"):
            if not isinstance(data.get(name, ""), str):
                errors.append({"message": f'"{name}" must be a string'})
        if not all(isinstance(item, str) for item in data.get("tags") or []):
            errors.append({"message": '"tags" must be strings'})
    except Exception as error:
        errors.append({"message": f"invalid metadata: {type(error).__name__}"})
    return Answer.json({"errors": errors, "warnings": []}, 400 if errors else 200)


@route("POST", f"/api/models/{_ID}/preupload/{_REV}")
def preupload(store: HubStore, call: Call, repo: str, rev: str) -> Answer:
    files = _writable(store, call, repo)[0].commit(rev).files
    rows = []
    for item in call.json()["files"]:
        path, old = item["path"], files.get(item["path"])
        mode = "lfs" if is_lfs(path, item["size"]) else "regular"
        row = {"path": path, "uploadMode": mode, "shouldIgnore": False}
        rows.append(row if old is None else {**row, "oid": old.etag})
    return Answer.json({"files": rows})


@route("POST", f"/{_ID}\\.git/info/lfs/objects/batch")
def batch(store: HubStore, call: Call, repo: str) -> Answer:
    _writable(store, call, repo)
    rows = []
    for item in call.json()["objects"]:
        row: dict[str, Any] = {"oid": item["oid"], "size": item["size"]}
        if item["oid"] not in store.blobs:
            link = f"{call.url}/lfs/{item['oid']}"
            row["actions"] = {"upload": {"href": link, "header": {}}, "verify": {"href": f"{link}/verify"}}
        rows.append(row)
    return Answer.json({"transfer": "basic", "objects": rows})


@route("PUT", "/lfs/(?P<oid>[0-9a-f]{64})")
def upload(store: HubStore, call: Call, oid: str) -> Answer:
    import hashlib

    if hashlib.sha256(call.body).hexdigest() != oid:
        raise HubRefusal(400, "BadRequest", "the uploaded bytes do not have the announced SHA-256")
    store.put(call.body)
    return Answer()


@route("POST", "/lfs/(?P<oid>[0-9a-f]{64})/verify")
def verify(store: HubStore, call: Call, oid: str) -> Answer:
    if len(store.blobs.get(oid, b"")) != call.json()["size"]:
        raise HubRefusal(404, "NotFound", "object not found or of another size")
    return Answer.json({})


@route("POST", f"/api/models/{_ID}/commit/{_REV}")
def commit(store: HubStore, call: Call, repo: str, rev: str) -> Answer:
    repository, account = _writable(store, call, repo)
    rows = [json.loads(line) for line in call.body.splitlines() if line.strip()]
    lines = [(str(row["key"]), dict(row["value"])) for row in rows]
    files: dict[str, Entry] = {}
    for key, value in lines:
        if key == "file":
            files[value["path"]] = store.entry(store.put(base64.b64decode(value["content"])), False)
        elif key == "lfsFile":
            files[value["path"]] = store.entry(value["oid"], True)
    made, pull = store.apply(repository, rev, lines, files, account, call.flag("create_pr"))
    page = f"{call.url}/{'spaces/' * repo.startswith(SPACE)}{repo.removeprefix(SPACE)}"
    facts = {"success": True, "commitOid": made.oid, "commitUrl": f"{page}/commit/{made.oid}"}
    if pull is not None:
        facts["pullRequestUrl"] = f"{page}/discussions/{pull.rsplit('/', 1)[1]}"
    return Answer.json(facts)


@route("POST", f"/api/models/{_ID}/(?P<kind>tag|branch)/{_REV}")
def reference(store: HubStore, call: Call, repo: str, kind: str, rev: str) -> Answer:
    """A tag on a revision, or a branch called ``rev``."""
    repository, data = _writable(store, call, repo)[0], call.json()
    table = repository.tags if kind == "tag" else repository.branches
    name, start = (data["tag"], rev) if kind == "tag" else (rev, data.get("startingPoint") or "main")
    if name in table:
        raise HubRefusal(409, "RefExists", f"{kind} {name} exists")
    table[name] = repository.commit(start).oid
    return Answer.json({})


@route("GET", f"/api/models/{_ID}/refs")
def refs(store: HubStore, call: Call, repo: str) -> Answer:
    repository = _open(store, call, repo)

    def rows(table: dict[str, str], prefix: str) -> list[dict[str, str]]:
        return [{"name": key, "ref": f"{prefix}{key}", "targetCommit": oid} for key, oid in table.items()]

    found = {"branches": rows(repository.branches, "refs/heads/"), "tags": rows(repository.tags, "refs/tags/")}
    return Answer.json({**found, "converts": [], "pullRequests": rows(repository.pulls, "")})


@route("GET", f"/api/models/{_ID}")
def info(store: HubStore, call: Call, repo: str) -> Answer:
    return revision_info(store, call, repo, "main")


@route("GET", f"/api/models/{_ID}/revision/{_REV}")
def revision_info(store: HubStore, call: Call, repo: str, rev: str) -> Answer:
    repository = _open(store, call, repo)
    found = repository.commit(rev)
    siblings = [{"rfilename": path} for path in sorted(found.files)]
    name = repo.removeprefix(SPACE)
    facts = {"id": name, "modelId": name, "sha": found.oid, "private": repository.private, "tags": []}
    return Answer.json({**facts, "siblings": siblings, "downloads": 0, "likes": 0})


@route("GET", f"/api/models/{_ID}/tree/{_REV}(?:/(?P<folder>.+))?")
def tree(store: HubStore, call: Call, repo: str, rev: str, folder: str = "") -> Answer:
    found = _open(store, call, repo).commit(rev)
    inside = f"{folder}/" if folder else ""
    rows: dict[str, Any] = {}
    for path, entry in sorted(found.files.items()):
        rest = path[len(inside) :].split("/")
        if not path.startswith(inside):
            continue
        for depth in range(1, len(rest)):
            name = inside + "/".join(rest[:depth])
            if depth == 1 or call.flag("recursive"):
                rows[name] = {"type": "directory", "path": name, "size": 0, "oid": "0" * 40}
        if len(rest) == 1 or call.flag("recursive"):
            rows[path] = entry.to_json(path)
    if inside and not rows:
        raise HubRefusal(404, "EntryNotFound", f"{folder} does not exist on {rev}")
    return Answer.json(list(rows.values()))


@route("POST", f"/api/models/{_ID}/paths-info/{_REV}")
def paths_info(store: HubStore, call: Call, repo: str, rev: str) -> Answer:
    files = _open(store, call, repo).commit(rev).files
    text = call.body.decode()
    wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
    wanted = [wanted] if isinstance(wanted, str) else wanted
    return Answer.json([files[path].to_json(path) for path in wanted if path in files])


@route("GET", f"/api/models/{_ID}/commits/{_REV}")
def commits(store: HubStore, call: Call, repo: str, rev: str) -> Answer:
    rows = [
        {"id": item.oid, "title": item.title, "message": item.message, "date": "2024-01-01T00:00:00.000Z",
         "authors": [{"user": item.author}]}
        for item in _open(store, call, repo).history(rev)
    ]  # fmt: skip
    return Answer.json(rows)


@route("GET HEAD", f"/{_ID}/resolve/{_REV}/(?P<path>.+)")
def resolve(store: HubStore, call: Call, repo: str, rev: str, path: str) -> Answer:
    found = _open(store, call, repo).commit(rev)
    headers = {"X-Repo-Commit": found.oid, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if path not in found.files:
        failed = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
        return Answer(404, b"Entry not found", {**headers, **failed})
    entry = found.files[path]
    headers["ETag"] = f'"{entry.etag}"'
    if entry.lfs:
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    data = store.blobs[entry.sha256]
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("range", ""))
    if not wanted:
        return Answer(200, data, headers)
    begin, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
    if begin >= len(data):
        return Answer(416, b"", {**headers, "Content-Range": f"bytes */{len(data)}"})
    return Answer(206, data[begin : end + 1], {**headers, "Content-Range": f"bytes {begin}-{end}/{len(data)}"})
