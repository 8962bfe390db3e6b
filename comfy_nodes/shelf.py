"""What the picker in the editor shows: erasures on this computer, those that come with the nodes, and the Hub's."""

from __future__ import annotations

import base64
import binascii
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from erase_plugins.errors import ArtifactError, EraseError

from . import files, host
from .describing import read_manifest
from .opening import place_of

#: most cards of one answer
MOST = 2000
#: endings of pictures beside an artifact, as ComfyUI's own model library looks for them
PICTURES = {".webp": "image/webp", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png"}
LARGEST = 4 << 20
#: what a folder name may end with without that being part of its name
ENDINGS = (".safetensors", ".erase")


def cards(loras: bool = False) -> list[dict[str, Any]]:
    """One card per artifact, sorted by name.

    Args:
        loras: also files of ``models/loras`` that nobody here wrote.

    Returns:
        "name" (as the load node takes it), "title", "rows" ("gun -> umbrella"), "base", "family", "place" ("disk" or
        "shipped"), "collection" (its folder, or ""), "foreign" and "picture" (whether there is one).
    """
    found = {name: _card(name, "") for name in files.listing() if name != files.NOTHING}
    for shelf in files.collections():
        if shelf != files.NO_COLLECTION:
            for member in _members(shelf):
                found[f"{shelf}/{member}"] = _card(f"{shelf}/{member}", shelf)
    for name in host.lora_names():
        if name.endswith(".safetensors") and name not in found:
            card = _card(name, "")
            if card is not None and (loras or not card["foreign"]):
                found[name] = card
    return [card for _, card in sorted(found.items()) if card is not None][:MOST]


def on_the_hub(query: str, limit: int = 40) -> list[dict[str, Any]]:
    """Cards of what is published, by words of the name or of what is erased.

    Raises:
        HubMissing, HubError: see `hub_package.part`; not reachable.
    """
    from . import hub_package

    found = hub_package.part("searching").search(query.strip(), limit=limit)
    return [
        {
            "name": f"hub:{item.id}@{item.revision}", "title": item.id, "rows": list(item.concepts),
            "base": item.base or "", "family": item.family or "", "place": "hub", "collection": "", "foreign": False,
            "picture": False, "downloads": item.downloads,
        }
        for item in found if not item.collection
    ]  # fmt: skip


def picture(name: str) -> tuple[bytes, str]:
    """The picture of an artifact and its type: a file beside it, one inside its folder, or the one in its header.

    Raises:
        ArtifactError: not there, or it has none.
    """
    place = place_of(name)
    path = _picture_file(place)
    if path is not None:
        return path.read_bytes(), PICTURES[path.suffix.lower()]
    data = _in_header(place)
    if data is None:
        raise ArtifactError(f"'{files.shown(name)}' has no picture")
    return data, "image/webp" if data[8:12] == b"WEBP" else "image/png" if data[:4] == b"\x89PNG" else "image/jpeg"


def _members(shelf: str) -> list[str]:
    """Names in the index of a collection whose folders are here; none if it is damaged."""
    place = files.find(shelf)
    try:
        index = json.loads((place / "collection.json").read_text(encoding="utf-8"))
        return sorted(name for name in index["artifacts"] if files.below(place, name) and (place / name).is_dir())
    except (OSError, ValueError, KeyError, TypeError):
        return []


def _card(name: str, shelf: str) -> dict[str, Any] | None:
    """None for what went away meanwhile or cannot be read."""
    try:
        place = place_of(name)
        manifest = _manifest(place, _stamp(place))
        pictured = _picture_file(place) is not None or (place.is_file() and _in_header(place) is not None)
    except (EraseError, OSError):
        return None
    title = name.removeprefix(f"{shelf}/") if shelf else name
    for ending in ENDINGS:
        title = title.removesuffix(ending)
    facts: dict[str, Any] = {"rows": [], "base": "", "family": "", "foreign": True}
    if manifest is not None:
        rows = [f"{item.name} -> {item.anchor}" if item.anchor else item.name for item in manifest.concepts]
        base = str(manifest.base.get("model") or "")
        facts = {"rows": rows, "base": base, "family": manifest.family or "", "foreign": False}
    where = "shipped" if place.is_relative_to(host.LIBRARY) else "disk"
    return {"name": name, "title": title, **facts, "place": where, "collection": shelf, "picture": pictured}


def _stamp(place: Path) -> int:
    inside = place / "erase.json"
    return (inside if inside.is_file() else place).stat().st_mtime_ns


@lru_cache(maxsize=4096)
def _manifest(place: Path, _stamp: int) -> Any:
    return read_manifest(place)


def _picture_file(place: Path) -> Path | None:
    stem = place.name
    for ending in ENDINGS:
        stem = stem.removesuffix(ending)
    names = [f"{stem}{{}}", f"{stem}.preview{{}}"]
    beside = [place.with_name(name.format(kind)) for name in names for kind in PICTURES]
    inside = [place / f"preview{kind}" for kind in PICTURES] if place.is_dir() else []
    return next((path for path in (*inside, *beside) if path.is_file() and path.stat().st_size <= LARGEST), None)


def _in_header(place: Path) -> bytes | None:
    """The first cover in the metadata of a file, where trainers and model managers keep it."""
    from erase_plugins.artifacts.header import read_header

    if not place.is_file():
        return None
    try:
        covers = json.loads(read_header(place).metadata.get("ssmd_cover_images", "[]"))
        data = base64.b64decode(str(covers[0]).partition("base64,")[2] or str(covers[0]), validate=True)
    except (EraseError, OSError, ValueError, IndexError, KeyError, TypeError, binascii.Error):
        return None
    known = data[:2] == b"\xff\xd8" or data[:4] == b"\x89PNG" or data[8:12] == b"WEBP"
    return data if known and len(data) <= LARGEST else None
