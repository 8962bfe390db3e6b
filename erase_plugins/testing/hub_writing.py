"""Routes of the test Hub that change something: create, upload in both modes, commit, tag. Request in, answer out."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

from erase_plugins.testing.hub_calls import ID, REV, Answer, Call, route, signed_in, writable
from erase_plugins.testing.hub_store import SPACE, Entry, HubRefusal, HubStore, is_lfs

#: stands for every licence id that the Hub does not know
NO_LICENCE = "no-such-licence"


@route("POST", "/api/repos/create")
def create(store: HubStore, call: Call) -> Answer:
    account, data = signed_in(call), call.json()
    space = data.get("organization") or account
    if space not in (account, "org"):
        raise HubRefusal(403, "Forbidden", f"you may not create repositories in {space}")
    repo = f"{space}/{data['name']}"
    kind = SPACE if data.get("type") == "space" else ""
    if kind and not data.get("sdk"):
        raise HubRefusal(400, "BadRequest", "a Space needs an sdk")
    private = data.get("visibility", store.visibility.get(space)) == "private" or bool(data.get("private"))
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
    repo = f"{kind}{data.get('organization') or signed_in(call)}/{data['name']}"
    writable(store, call, repo)
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
        if data.get("license") == NO_LICENCE:
            errors.append({"message": f'"license" must be one of [apache-2.0, mit, other, ...]; {NO_LICENCE} is not'})
        if not all(isinstance(item, str) for item in data.get("tags") or []):
            errors.append({"message": '"tags" must be strings'})
    except Exception as error:
        errors.append({"message": f"invalid metadata: {type(error).__name__}"})
    if errors and call.headers.get("accept") == "text/plain":  # as `RepoCard.validate` asks
        return Answer(400, "\n".join(f"- Error: {item['message']}" for item in errors).encode())
    return Answer.json({"errors": errors, "warnings": []}, 400 if errors else 200)


@route("POST", f"/api/models/{ID}/preupload/{REV}")
def preupload(store: HubStore, call: Call, repo: str, rev: str) -> Answer:
    files = writable(store, call, repo)[0].commit(rev).files
    rows = []
    for item in call.json()["files"]:
        path, old = item["path"], files.get(item["path"])
        mode = "lfs" if is_lfs(path, item["size"]) else "regular"
        row = {"path": path, "uploadMode": mode, "shouldIgnore": False}
        rows.append(row if old is None else {**row, "oid": old.etag})
    return Answer.json({"files": rows})


@route("POST", f"/{ID}\\.git/info/lfs/objects/batch")
def batch(store: HubStore, call: Call, repo: str) -> Answer:
    writable(store, call, repo)
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
    if hashlib.sha256(call.body).hexdigest() != oid:
        raise HubRefusal(400, "BadRequest", "the uploaded bytes do not have the announced SHA-256")
    store.put(call.body)
    return Answer()


@route("POST", "/lfs/(?P<oid>[0-9a-f]{64})/verify")
def verify(store: HubStore, call: Call, oid: str) -> Answer:
    if len(store.blobs.get(oid, b"")) != call.json()["size"]:
        raise HubRefusal(404, "NotFound", "object not found or of another size")
    return Answer.json({})


@route("POST", f"/api/models/{ID}/commit/{REV}")
def commit(store: HubStore, call: Call, repo: str, rev: str) -> Answer:
    repository, account = writable(store, call, repo)
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


@route("POST", f"/api/models/{ID}/(?P<kind>tag|branch)/{REV}")
def reference(store: HubStore, call: Call, repo: str, kind: str, rev: str) -> Answer:
    """A tag on a revision, or a branch called ``rev``."""
    repository, data = writable(store, call, repo)[0], call.json()
    table = repository.tags if kind == "tag" else repository.branches
    name, start = (data["tag"], rev) if kind == "tag" else (rev, data.get("startingPoint") or "main")
    if name in table:
        raise HubRefusal(409, "RefExists", f"{kind} {name} exists")
    table[name] = repository.commit(start).oid
    return Answer.json({})
