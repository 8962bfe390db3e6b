"""Collections of the test Hub: lists of repositories by their owner."""

from __future__ import annotations

import re
from typing import Any

from erase_plugins.testing.hub_calls import Answer, Call, route, signed_in
from erase_plugins.testing.hub_store import HubRefusal, HubStore

SLUG = r"(?P<slug>[^/]+/[^/]+)"


def _open(store: HubStore, slug: str) -> dict[str, Any]:
    if slug not in store.collections:
        raise HubRefusal(404, "NotFound", "Collection not found")
    return store.collections[slug]


def _mine(call: Call, owner: str) -> None:
    if owner not in (signed_in(call), "org"):
        raise HubRefusal(403, "Forbidden", f"you have no write access to {owner}")


@route("POST", "/api/collections")
def create(store: HubStore, call: Call) -> Answer:
    """A new list; one of that title is answered with its address."""
    data = call.json()
    owner, title = str(data["namespace"]), str(data["title"])
    _mine(call, owner)
    slug = f"{owner}/{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-')}-{len(title):024x}"
    if slug in store.collections:
        return Answer.json({"error": "exists", "slug": slug}, 409)
    store.collections[slug] = {
        "slug": slug, "title": title, "owner": {"name": owner}, "items": [], "position": 0, "theme": "green",
        "private": bool(data.get("private")), "upvotes": 0, "lastUpdated": "2026-01-01T00:00:00.000Z",
    }  # fmt: skip
    return Answer.json(store.collections[slug])


@route("GET", f"/api/collections/{SLUG}")
def show(store: HubStore, call: Call, slug: str) -> Answer:
    """A list; a private one only to those who are logged in."""
    found = _open(store, slug)
    if found["private"]:
        signed_in(call)
    return Answer.json(found)


@route("POST", f"/api/collections/{SLUG}/items")
def add(store: HubStore, call: Call, slug: str) -> Answer:
    """Puts a repository on a list."""
    found, item = _open(store, slug), call.json()["item"]
    _mine(call, slug.split("/")[0])
    store.repository(item["id"])
    if any(other["id"] == item["id"] for other in found["items"]):
        raise HubRefusal(409, "Exists", "already in the collection")
    found["items"].append({"_id": str(len(found["items"])), "id": item["id"], "type": item["type"], "position": 0})
    return Answer.json(found)
