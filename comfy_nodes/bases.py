"""Whether an artifact was made for the connected model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any


def check_artifact(artifact: Any, target: Any, any_base: bool) -> None:
    """Refuses an artifact of another model; a text encoder is looked at only where a CLIP is connected.

    Args:
        artifact: an `Artifact`.
        target: `ComfyTarget` of the connected model.
        any_base: allow other weights of the same architecture.

    Raises:
        BaseMismatch: names both sides.
    """
    from erase_plugins.errors import BaseMismatch
    from erase_plugins.runtime.guard import check_base

    manifest = artifact.manifest
    stored = manifest.base.get("fingerprint") or {}
    here = {name: item for name, item in stored.items() if target.clip is not None or name == "unet"}
    try:
        check_base(replace(manifest, base={**manifest.base, "fingerprint": here}), target, any_base)
    except BaseMismatch as error:
        raise BaseMismatch(str(error).replace("pass --any-base", "switch any_base on")) from error
