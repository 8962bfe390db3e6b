"""A zip for a bug report: versions, manifest, numbers, and two pictures if asked. No weights, paths or tokens."""

from __future__ import annotations

import io
import json
import platform
import zipfile
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.manifest import package_versions
from erase_plugins.artifacts.places import STAMP
from erase_plugins.diagnose.findings import Diagnosis
from erase_plugins.hints import stored


def write_bundle(diagnosis: Diagnosis, path: Path, clean: Any, images: bool = False, force: bool = False) -> list[str]:
    """Writes the bundle and returns the names in it.

    Args:
        diagnosis: what was found.
        path: zip file to write.
        clean: function that takes folders and tokens out of a text.
        images: whether to add the picture twins.
        force: replace an earlier bundle, never another file.

    Raises:
        ArtifactError: the file exists and ``force`` is not set.
    """
    versions = {**package_versions(), "system": platform.system(), "machine": platform.machine()}
    texts = {
        "versions.json": versions,
        "manifest.json": _without_samples(diagnosis.manifest),
        "diagnosis.json": diagnosis.to_dict(stored),
    }
    with atomic_file(path, force) as work, zipfile.ZipFile(work, "w", zipfile.ZIP_DEFLATED) as bundle:
        for name, data in texts.items():
            bundle.writestr(name, json.dumps(_cleaned(data, clean), indent=2, sort_keys=True))
        names = list(texts)
        for name, picture in diagnosis.pictures.items() if images else ():
            bundle.writestr(f"{name}.png", _png(picture))
            names.append(f"{name}.png")
        bundle.comment = STAMP.encode()
    return names


def _without_samples(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest without sampled weight values."""
    base = dict(manifest.get("base") or {})
    prints = base.get("fingerprint") or {}
    base["fingerprint"] = {name: {"structure": item.get("structure")} for name, item in prints.items()}
    return {**manifest, "base": base}


def _cleaned(data: Any, clean: Any) -> Any:
    if isinstance(data, str):
        return clean(data)
    if isinstance(data, dict):
        return {key: _cleaned(value, clean) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_cleaned(value, clean) for value in data]
    return data


def _png(picture: Any) -> bytes:
    from erase_plugins.evaluation.sheet import to_image

    buffer = io.BytesIO()
    to_image(picture).save(buffer, format="PNG")
    return buffer.getvalue()
