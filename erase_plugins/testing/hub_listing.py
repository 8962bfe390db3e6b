"""What the test Hub knows about a repository from its card, and which repositories a search finds."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from erase_plugins.testing.hub_store import MAIN, SPACE, HubStore, Repository


def card_data(store: HubStore, repository: Repository, revision: str = MAIN) -> dict[str, Any]:
    """Front matter of the card; empty without one or where it is not valid."""
    entry = repository.commit(revision).files.get("README.md")
    if entry is None:
        return {}
    from huggingface_hub.repocard import RepoCard

    if entry.sha256 not in store.cards:
        try:
            text = store.blobs[entry.sha256].decode()
            store.cards[entry.sha256] = RepoCard(text, ignore_metadata_errors=True).data.to_dict()
        except Exception:  # whatever people push as README
            store.cards[entry.sha256] = {}
    return store.cards[entry.sha256]


def tags_of(card: Mapping[str, Any]) -> list[str]:
    """Tags that the Hub makes of a card: its own, and library, pipeline, licence and base models as tags."""
    found = [str(tag) for tag in card.get("tags") or []]
    found += [str(card[name]) for name in ("library_name", "pipeline_tag") if card.get(name)]
    found += [f"license:{card['license']}"] if card.get("license") else []
    bases = card.get("base_model") or []
    relation = card.get("base_model_relation")
    for base in [bases] if isinstance(bases, str) else bases:
        found.append(f"base_model:{base}")
        if relation:
            found.append(f"base_model:{relation}:{base}")
    return list(dict.fromkeys(found))


def facts(
    store: HubStore, repository: Repository, revision: str = MAIN, *, full: bool = False, with_card: bool = True
) -> dict[str, Any]:
    """A repository as the listing and the info route tell it; ``full`` adds commit and file names."""
    found, card = repository.commit(revision), card_data(store, repository, revision)
    name = repository.repo_id.removeprefix(SPACE)
    row: dict[str, Any] = {
        "id": name, "modelId": name, "private": repository.private, "tags": tags_of(card),
        "downloads": repository.downloads, "likes": 0,
    }  # fmt: skip
    row |= {name: card[name] for name in ("library_name", "pipeline_tag") if card.get(name)}
    if with_card and card:
        row["cardData"] = card
    if full:
        row |= {"sha": found.oid, "siblings": [{"rfilename": path} for path in sorted(found.files)]}
    return row


def matches(store: HubStore, repository: Repository, query: Mapping[str, list[str]]) -> bool:
    """Whether a repository fits ``search`` (in its name), ``author``, ``pipeline_tag`` and every ``filter`` (tags)."""
    name = repository.repo_id.lower()
    if not all(word in name for text in query.get("search", []) for word in text.lower().split()):
        return False
    if any(name.split("/")[0] != author.lower() for author in query.get("author", [])):
        return False
    tags = tags_of(card_data(store, repository))
    return all(tag in tags for tag in (*query.get("filter", []), *query.get("pipeline_tag", [])))


def sort_key(name: str) -> Callable[[dict[str, Any]], Any]:
    """Order of the listing: the largest number first, then by name."""
    return lambda row: (-int(row.get(name) or 0), row["id"])
