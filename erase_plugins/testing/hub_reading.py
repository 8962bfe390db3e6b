"""Routes of the test Hub that only look: account, listing, revisions, trees, files. Request in, answer out."""

from __future__ import annotations

import json
import re
from typing import Any
from urllib.parse import parse_qs

from erase_plugins.testing.hub_calls import ID, REV, Answer, Call, open_repository, paged, route, signed_in, writable
from erase_plugins.testing.hub_listing import facts, matches, sort_key
from erase_plugins.testing.hub_store import SPACE, HubRefusal, HubStore


@route("GET", "/api/whoami-v2")
def whoami(store: HubStore, call: Call) -> Answer:
    name = signed_in(call)
    return Answer.json({"type": "user", "id": name, "name": name, "fullname": name, "orgs": [{"name": "org"}]})


@route("GET", f"/api/models/{ID}/refs")
def refs(store: HubStore, call: Call, repo: str) -> Answer:
    repository = open_repository(store, call, repo)

    def rows(table: dict[str, str], prefix: str) -> list[dict[str, str]]:
        return [{"name": key, "ref": f"{prefix}{key}", "targetCommit": oid} for key, oid in table.items()]

    found = {"branches": rows(repository.branches, "refs/heads/"), "tags": rows(repository.tags, "refs/tags/")}
    return Answer.json({**found, "converts": [], "pullRequests": rows(repository.pulls, "")})


@route("GET", f"/api/models/{ID}")
def info(store: HubStore, call: Call, repo: str) -> Answer:
    return revision_info(store, call, repo, "main")


@route("GET", f"/api/models/{ID}/revision/{REV}")
def revision_info(store: HubStore, call: Call, repo: str, rev: str) -> Answer:
    return Answer.json(facts(store, open_repository(store, call, repo), rev, full=True))


@route("GET", "/api/models")
def models(store: HubStore, call: Call) -> Answer:
    """The repositories that this caller may see and that fit the query, a page at a time."""
    full, with_card = call.flag("full"), call.flag("cardData")
    seen = [item for item in store.repositories.values() if not item.repo_id.startswith(SPACE)]
    seen = [item for item in seen if call.account is not None or not item.private]
    rows = [facts(store, item, full=full, with_card=with_card) for item in seen if matches(store, item, call.query)]
    rows.sort(key=sort_key(call.query.get("sort", ["downloads"])[0]))
    return paged(call, rows)


@route("GET", f"/api/models/{ID}/tree/{REV}(?:/(?P<folder>.*))?")
def tree(store: HubStore, call: Call, repo: str, rev: str, folder: str = "") -> Answer:
    found = open_repository(store, call, repo).commit(rev)
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
    return paged(call, list(rows.values()))


@route("POST", f"/api/models/{ID}/paths-info/{REV}")
def paths_info(store: HubStore, call: Call, repo: str, rev: str) -> Answer:
    files = open_repository(store, call, repo).commit(rev).files
    text = call.body.decode()
    wanted = json.loads(text)["paths"] if text.startswith("{") else parse_qs(text).get("paths", [])
    wanted = [wanted] if isinstance(wanted, str) else wanted
    return Answer.json([files[path].to_json(path) for path in wanted if path in files])


@route("GET", f"/api/models/{ID}/commits/{REV}")
def commits(store: HubStore, call: Call, repo: str, rev: str) -> Answer:
    rows = [
        {"id": item.oid, "title": item.title, "message": item.message, "date": "2024-01-01T00:00:00.000Z",
         "authors": [{"user": item.author}]}
        for item in open_repository(store, call, repo).history(rev)
    ]  # fmt: skip
    return Answer.json(rows)


@route("GET HEAD", f"/{ID}/resolve/{REV}/(?P<path>.+)")
def resolve(store: HubStore, call: Call, repo: str, rev: str, path: str) -> Answer:
    repository = open_repository(store, call, repo)
    found = repository.commit(rev)
    headers = {"X-Repo-Commit": found.oid, "Accept-Ranges": "bytes", "Content-Type": "application/octet-stream"}
    if path not in found.files:
        failed = {"X-Error-Code": "EntryNotFound", "X-Error-Message": "Entry not found"}
        return Answer(404, b"Entry not found", {**headers, **failed})
    entry = found.files[path]
    headers["ETag"] = f'"{entry.etag}"'
    if entry.lfs:
        headers |= {"X-Linked-Etag": f'"{entry.sha256}"', "X-Linked-Size": str(entry.size)}
    if entry.xet:
        token = f"{call.url}/api/models/{repo}/xet-read-token/{found.oid}"
        headers |= {"X-Xet-Hash": entry.xet, "Link": f'<{token}>; rel="xet-auth"'}
    if call.method == "GET" and entry.lfs:
        repository.downloads += 1
    if entry.lfs and store.redirects:
        elsewhere = f"{call.url.replace('127.0.0.1', 'localhost')}/cdn/{entry.sha256}?signature=for-one-hour"
        return Answer(302, headers={**headers, "Location": elsewhere})
    return _ranged(call, store.blobs[entry.sha256], headers)


@route("GET HEAD", "/cdn/(?P<sha256>[0-9a-f]{64})")
def content(store: HubStore, call: Call, sha256: str) -> Answer:
    """A file by a signed link; like the real one it takes no token, and whoever sends it one gave it away."""
    if "authorization" in call.headers:
        raise HubRefusal(400, "BadRequest", "Only one auth mechanism allowed")
    return _ranged(call, store.blobs[sha256], {"ETag": f'"{sha256[:32]}"', "Accept-Ranges": "bytes"})


@route("GET", f"/api/models/{ID}/xet-(?P<kind>read|write)-token/{REV}")
def xet_token(store: HubStore, call: Call, repo: str, kind: str, rev: str) -> Answer:
    """Address and token of the storage: the client's library reads the body, its Python part the headers."""
    if store.xet is None:
        raise HubRefusal(404, "NotFound", "no such route")
    if kind == "write":
        writable(store, call, repo)
    open_repository(store, call, repo)
    facts = store.xet.access()
    names = {"X-Xet-Cas-Url": "casUrl", "X-Xet-Access-Token": "accessToken", "X-Xet-Token-Expiration": "exp"}
    made = Answer.json(facts)
    made.headers |= {name: str(facts[key]) for name, key in names.items()}
    return made


def _ranged(call: Call, data: bytes, headers: dict[str, str]) -> Answer:
    """All bytes, or those that were asked for."""
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", call.headers.get("range", ""))
    if not wanted:
        return Answer(200, data, headers)
    begin, end = int(wanted[1]), min(int(wanted[2] or len(data) - 1), len(data) - 1)
    if begin >= len(data):
        return Answer(416, b"", {**headers, "Content-Range": f"bytes */{len(data)}"})
    return Answer(206, data[begin : end + 1], {**headers, "Content-Range": f"bytes {begin}-{end}/{len(data)}"})
