"""A name for "this model with all that hangs on it", stable over restarts: runs are found again by it."""

from __future__ import annotations

import hashlib
from typing import Any

from torch import Tensor

from erase_plugins.artifacts.fingerprint import fingerprint

from .gates import GatedForward
from .row_maps import carried
from .target import ComfyTarget


def identity(target: Any) -> str:
    """Hexadecimal digest of a model's weights and, inside ComfyUI, of its patches and of the CLIP's settings.

    Args:
        target: `ComfyTarget`, whose weights count as they are used, or the target of another host.
    """
    digest = hashlib.sha256()
    if not isinstance(target, ComfyTarget):
        for component, found in sorted(target.fingerprint().items()):
            digest.update(f"{component}:{found.structure}".encode() + found.sample)
        return digest.hexdigest()
    for component in sorted({component for component, _ in target.keys}):
        names = {name: key for (owner, name), key in target.keys.items() if owner == component}
        used = fingerprint({name: target.part(component).effective(key) for name, key in names.items()})
        digest.update(f"{component}:{used.structure}".encode() + used.sample)
    patches = target.model.model_options.get("transformer_options", {}).get("patches", {})
    for name in sorted(patches):
        for patch in patches[name]:
            digest.update(f"{name}:{type(patch).__module__}.{type(patch).__qualname__}".encode())
            for tensor in patch.tensors() if hasattr(patch, "tensors") else ():
                digest.update(_bytes(tensor))
    for name, item in sorted(getattr(target.model, "object_patches", {}).items()):
        while isinstance(item, GatedForward):  # one around the other
            digest.update(f"{name} {item.change.strength * item.change.scale}".encode())
            digest.update(_bytes(item.change.down) + _bytes(item.change.up))
            item = item.inner
    inside = carried(target.model)
    for tensor in () if inside is None else inside.weights:
        digest.update(_bytes(tensor))
    digest.update(f"clip skip {getattr(target.clip, 'layer_idx', None)}".encode())
    return digest.hexdigest()


def _bytes(tensor: Tensor) -> bytes:
    found: bytes = tensor.detach().float().cpu().contiguous().numpy().tobytes()
    return found
