"""What the manifest of several artifacts in one says: base, name, time, notes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.manifest import Manifest, slug
from erase_plugins.errors import BaseMismatch
from erase_plugins.plain_text import whole_words
from erase_plugins.types import Concept

#: so many notes and so many warnings of what was merged are kept
_MOST_TEXTS = 24


def same_base(artifacts: Sequence[Artifact]) -> None:
    """Refuses artifacts of different bases.

    Raises:
        BaseMismatch: names both.
    """
    from erase_plugins.artifacts.fingerprint import base_difference

    first = artifacts[0].manifest
    for item in artifacts[1:]:
        difference = base_difference(first.base, item.manifest.base)
        if difference:
            raise BaseMismatch(f"'{first.name}' and '{item.name}' were made for different bases: {difference}")


def of_all(artifacts: Sequence[Artifact], action: str) -> Manifest:
    """The first one's manifest with the notes and warnings of all, as far as somebody would read them.

    What one of them keeps is kept, unless another erases it.
    """
    erased = {concept.name for item in artifacts for concept in item.manifest.concepts}
    kept = {text for item in artifacts for text in item.manifest.preserve}
    data = {(ref.place, ref.sha256): ref for item in artifacts for ref in item.manifest.retain_data}
    found: dict[str, Any] = {"preserve": tuple(sorted(kept - erased)), "retain_data": tuple(data.values())}
    lost = [f"'{text}' is erased, although one of the parts was to keep it" for text in sorted(kept & erased)]
    own = {"notes": [], "warnings": lost}
    for name in ("notes", "warnings"):
        first = own[name] if action == "merge" else []  # who adds a concept by name means it
        texts = list(dict.fromkeys([*first, *(text for item in artifacts for text in getattr(item.manifest, name))]))
        more = [f"{len(texts) - _MOST_TEXTS} more {name} stand in what was merged"] if len(texts) > _MOST_TEXTS else []
        found[name] = (*texts[:_MOST_TEXTS], *more)
    return replace(artifacts[0].manifest, **found)


def without_notes(manifest: Manifest, gone: Sequence[str]) -> Manifest:
    """The manifest without the notes and warnings that name what is gone and nothing that stays."""
    stays = [item.text for item in manifest.concepts if item.text not in gone]

    def holds(text: str) -> bool:
        return _names(text, stays) or not _names(text, gone)

    return replace(
        manifest, notes=tuple(filter(holds, manifest.notes)), warnings=tuple(filter(holds, manifest.warnings))
    )


def _names(text: str, concepts: Sequence[str]) -> bool:
    return any(re.search(whole_words(name), text) for name in concepts if name.strip())


def merged_name(concepts: Sequence[Concept]) -> str:
    """Name of an artifact that erases these concepts."""
    texts = [concept.name for concept in concepts]
    if len(texts) > 3:
        return slug(f"erase_{texts[0]}_and_{len(texts) - 1}_more")
    return slug("erase_" + "_".join(texts))


def now() -> str:
    """UTC time for manifests."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
