"""What an artifact erases, for people; from its manifest or file header, without loading a tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .opening import place_of


def describe(name: str) -> dict[str, Any]:
    """Facts about an artifact of the model folders or of ``loras``.

    Args:
        name: entry of a load node.

    Returns:
        "name", "text" (a few lines), "erases" (concepts) and "base".

    Raises:
        ArtifactError: not there, or not readable.
    """
    manifest = read_manifest(place_of(name))
    if manifest is None:
        return {"name": name, "erases": [], "base": "", "text": f"{name}\nThe file does not say what it erases."}
    concepts = [f"{item.name} -> {item.anchor}" if item.anchor else item.name for item in manifest.concepts]
    lines = [
        f"erases: {', '.join(concepts) or 'not named'}",
        f"made for: {manifest.base.get('model') or 'unknown'}",
        f"made with: {manifest.method.get('title') or manifest.method.get('id') or 'unknown'}",
    ]
    if manifest.preserve:
        lines.append(f"keeps: {', '.join(manifest.preserve)}")
    base = str(manifest.base.get("model") or "")
    return {"name": name, "erases": list(manifest.erased), "base": base, "text": "\n".join(lines)}


def read_manifest(place: Path) -> Any:
    """Manifest of an artifact folder or of a single file; None if a file carries none."""
    from erase_plugins.artifacts.header import read_header
    from erase_plugins.artifacts.manifest import FILENAME, HEADER_KEY, Manifest

    if place.is_dir():
        path = place / FILENAME
        if path.is_file():
            return Manifest.from_json(path.read_text(encoding="utf-8"))
        place = next(iter(sorted(place.glob("*.safetensors"))), path)
    text = read_header(place).metadata.get(HEADER_KEY)
    return None if text is None else Manifest.from_json(text)
