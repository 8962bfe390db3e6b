"""Finds published artifacts and collections: by name, erased concept, tag and base model.

The Hub itself searches names and tags only; what was erased stands in the cards, so those of this project's
repositories are read along and compared here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.utils import build_hf_headers, paginate

from erase_plugins.artifacts.manifest import slug
from erase_plugins.errors import HubError, RequestError
from erase_plugins.markdown import flat
from hub_cards.errors import reaching

#: tag of everything that this package publishes, of collections, and of full checkpoints
OURS, COLLECTION, FULL = "erase-plugins", "erase-collection", "erase-full-checkpoint"
#: tag before the name of every erased concept, so that it can be searched for, and concepts that get one
ERASED, MOST_TAGS = "erased:", 50
#: repositories whose cards are read for one search, the most downloaded first
MOST_READ = 2000


@dataclass(frozen=True)
class Found:
    """A repository that fits. Every text comes from its author: one line, without control characters.

    Attributes:
        id: "owner/name".
        revision: commit that the search saw.
        concepts: what was erased.
        base: base model; empty if the card does not say it.
        family: model family; empty if the card does not say it.
        method: id of the method; empty if the card does not say it.
        downloads: downloads, as the Hub counts them.
        likes: likes.
        tags: the Hub's tags.
        private: only its owner sees it.
        collection: it holds one artifact per concept.
        full: it is a full checkpoint with the change in its weights.
    """

    id: str
    revision: str
    concepts: tuple[str, ...] = ()
    base: str = ""
    family: str = ""
    method: str = ""
    downloads: int = 0
    likes: int = 0
    tags: tuple[str, ...] = ()
    private: bool = False
    collection: bool = False
    full: bool = False

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {key: list(value) if isinstance(value, tuple) else value for key, value in vars(self).items()}


def search(
    query: str = "",
    *,
    base_model: str | None = None,
    concept: str | None = None,
    tags: Sequence[str] = (),
    limit: int = 20,
    endpoint: str | None = None,
) -> list[Found]:
    """Published artifacts and collections that fit everything asked for, best first.

    Args:
        query: words that occur in the repository's name or in an erased concept; all must.
        base_model: Hub id of the base model, another name of it, or a family ("sd1", "sdxl").
        concept: an erased concept, or part of it.
        tags: tags of the Hub that it must have.
        limit: most results.
        endpoint: another Hub.

    Returns:
        An exact concept first, then by downloads.

    Raises:
        RequestError: ``limit`` is not positive.
        HubError: the Hub could not be reached or its answer was unusable.
    """
    if limit < 1:
        raise RequestError(f"a limit of {limit} finds nothing; give a positive number")
    words = query.casefold().split()
    by_id = base_model is not None and "/" in base_model
    asked = [OURS, *tags, *([f"base_model:{base_model}"] if by_id else [])]
    with reaching("search on", "the Hub"):
        # the Hub knows who erases exactly this, however many repositories there are; parts of names are compared here
        tagged = [] if concept is None else [[*asked, *erased_tags([concept])]]
        rows = {item.id: item for wanted in (*tagged, asked) for item in map(_found, _listed(wanted, endpoint))}
    fits = [
        item for item in rows.values()
        if all(any(word in text for text in _folded(item.id, *item.concepts)) for word in words)
        and (concept is None or any(concept.casefold().strip() in text for text in _folded(*item.concepts)))
        and (base_model is None or by_id or base_model.casefold() in _folded(item.base, item.family, *item.tags))
    ]  # fmt: skip
    exact = {text.casefold().strip() for text in (concept, query) if text}
    fits.sort(key=lambda item: (exact.isdisjoint(_folded(*item.concepts)), -item.downloads, item.id))
    return fits[:limit]


def erased_tags(concepts: Iterable[str]) -> list[str]:
    """A tag for each concept, so that the Hub's own search finds what erases it; as many as a page has room for."""
    return list(dict.fromkeys(f"{ERASED}{slug(flat(text)).replace('_', '-')}" for text in concepts))[:MOST_TAGS]


def _listed(tags: list[str], endpoint: str | None) -> Iterator[Any]:
    """The Hub's rows as they came: of some cards that people may publish the client cannot make its own objects."""
    asked = {"filter": tags, "sort": "downloads", "full": True, "cardData": True}
    place = f"{HfApi(endpoint=endpoint).endpoint}/api/models"
    try:
        yield from islice(paginate(place, asked, build_hf_headers()), MOST_READ)
    except RepositoryNotFoundError:
        raise HubError(
            "cannot search on the Hub: this server lists no repositories, as relays do; pull by name, or search on "
            "another Hub (HF_ENDPOINT)"
        ) from None


def _found(row: Mapping[str, Any]) -> Found:
    data = _mapping(row.get("cardData"))
    erasure, tags = _mapping(data.get("erasure")), _texts(row.get("tags"))
    bases = data.get("base_model") or erasure.get("base") or ""
    return Found(
        id=flat(row["id"]), revision=flat(row.get("sha") or ""), concepts=_texts(data.get("erased")),
        base=next(iter(_texts(bases)), ""), family=flat(erasure.get("family") or ""),
        method=flat(erasure.get("method") or ""), downloads=int(row.get("downloads") or 0),
        likes=int(row.get("likes") or 0), tags=tags, private=bool(row.get("private")),
        collection=COLLECTION in tags, full=FULL in tags,
    )  # fmt: skip


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _texts(value: Any) -> tuple[str, ...]:
    """Texts of a card's field, which may hold anything."""
    items = [value] if isinstance(value, str) else value if isinstance(value, list) else []
    return tuple(text for item in items if (text := flat(item)))


def _folded(*texts: str) -> list[str]:
    return [text.casefold() for text in texts]
