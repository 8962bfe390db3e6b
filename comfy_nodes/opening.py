"""Artifacts by name, from wherever they may be, and whether they fit the connected model."""

from __future__ import annotations

from dataclasses import replace
from difflib import get_close_matches
from typing import Any

from erase_plugins.errors import ArtifactError, BaseMismatch

from . import files, host


def open_artifact(name: str) -> Any:
    """A verified artifact.

    Args:
        name: entry of ``models/erase_plugins``, a file of ``models/loras``, or a reference ("hub:owner/name@revision").

    Raises:
        ArtifactError: not there (with the nearest name), or it does not pass verification.
    """
    import erase_plugins as ep
    from erase_plugins.artifacts.reference import is_reference

    if is_reference(name):
        return ep.load_artifact(name)
    lora = host.lora_path(name) if name not in files.listing() else None
    if lora is not None:
        return ep.load_artifact(lora)
    try:
        return ep.load_artifact(files.find(name))
    except ArtifactError:
        near = get_close_matches(name, host.lora_names(), n=1)
        if not near or name in files.listing() or get_close_matches(name, files.listing(), n=1):
            raise
        raise ArtifactError(
            f"no artifact '{name[:80]}' in models/erase_plugins or models/loras; the nearest is '{near[0]}'"
        ) from None


def check_fits(artifact: Any, target: Any, any_base: bool) -> None:
    """Refuses an artifact that was made for another model.

    Args:
        artifact: what is to be used.
        target: the connected model; without CLIP only the denoiser is compared.
        any_base: allow other weights of the same architecture.

    Raises:
        BaseMismatch: names both sides.
    """
    from erase_plugins.runtime.guard import check_base

    manifest = artifact.manifest
    stored = manifest.base.get("fingerprint") or {}
    here = {name: item for name, item in stored.items() if target.clip is not None or name == "unet"}
    try:
        check_base(replace(manifest, base={**manifest.base, "fingerprint": here}), target, any_base)
    except BaseMismatch as error:
        raise BaseMismatch(str(error).replace("pass --any-base", "switch any_base on")) from error
