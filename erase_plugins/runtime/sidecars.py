"""Preview and description beside a LoRA file, as A1111, Forge and their relatives show them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.kohya_header import USAGE
from erase_plugins.artifacts.manifest import Manifest

SIZE = 512


def write_sidecars(manifest: Manifest, file: Path, pictures: Sequence[Any], family: Any) -> list[Path]:
    """Writes ``NAME.json``, and ``NAME.preview.png`` if there are pictures.

    Args:
        manifest: of the artifact.
        file: the weights file.
        pictures: one picture, or two that are shown side by side; PIL images or paths.
        family: that the artifact is for.

    Returns:
        The files written.
    """
    from erase_plugins.artifacts.atomic import atomic_file
    from erase_plugins.artifacts.places import png_stamp

    written = sidecar_files(file, bool(pictures))
    with atomic_file(written[0]) as work:
        work.write_text(json.dumps(description(manifest, family), indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if pictures:
        with atomic_file(written[1]) as work:
            preview(pictures).save(work, format="PNG", pnginfo=png_stamp())
    return written


def sidecar_files(file: Path, pictures: bool) -> list[Path]:
    """Where `write_sidecars` writes."""
    return [file.with_suffix(ending) for ending in (".json", ".preview.png")[: 2 if pictures else 1]]


def description(manifest: Manifest, family: Any) -> dict[str, Any]:
    """What the interface shows and fills in; no trigger word, since there is none."""
    strength = {"recommended": 1.0, "low": 0.0, "high": 1.2, **manifest.strength}
    what = ", ".join(manifest.erased) or "a concept"
    versions = family.ui_versions
    return {
        "description": f"Erases {what} ({manifest.method.get('title') or manifest.method.get('id')}).",
        "sd version": versions.get(int(manifest.base.get("width") or 0), versions.get(0, "Unknown")),
        "activation text": "",
        "negative text": "",
        "preferred weight": float(strength["recommended"]),
        "notes": USAGE.format(low=float(strength["low"]), high=float(strength["high"])),
        "base model": str(manifest.base.get("model") or "unknown"),
    }


def preview(pictures: Sequence[Any]) -> Any:
    """One square picture of 512 pixels; small pictures are enlarged, two share the width."""
    from PIL import Image

    opened = [item if isinstance(item, Image.Image) else Image.open(item) for item in list(pictures)[:2]]
    canvas = Image.new("RGB", (SIZE, SIZE), "white")
    width = SIZE // len(opened)
    for index, picture in enumerate(opened):
        scale = min(width / picture.width, SIZE / picture.height)
        size = (max(round(picture.width * scale), 1), max(round(picture.height * scale), 1))
        resized = picture.convert("RGB").resize(size, Image.Resampling.LANCZOS)
        canvas.paste(resized, (index * width + (width - size[0]) // 2, (SIZE - size[1]) // 2))
    return canvas
