"""Files of absolute weights (ESD, UCE, AdvUnlearn) and of plain weight changes become edits, base subtracted."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erase_plugins.artifacts.edit import Delta, Dense, Edit, LowRank, Rows
from erase_plugins.artifacts.tensors import read_tensors
from erase_plugins.errors import ArtifactError, BaseMismatch, CorruptArtifact

#: kinds of `foreign.KINDS` that this module reads
ABSOLUTE = frozenset({"esd", "unet", "text-encoder"})
CHANGES = frozenset({"delta"})


def edit_from_weights(path: Path, kind: str, target: Any) -> tuple[Edit, dict[str, float]]:
    """The change that a file of weights makes to a base model.

    Args:
        path: safetensors file of parameters in diffusers naming.
        kind: kind of the file, from `foreign.classify`.
        target: the base model.

    Returns:
        The edit (low rank where that is exact and smaller, else dense; parameters that are as in the base are left
        out), and per parameter the relative error of the low-rank form.

    Raises:
        BaseMismatch: a parameter is not in the base, or has another shape.
        ArtifactError: nothing differs from the base.
    """
    tensors, _ = read_tensors(path)
    base: dict[str, Mapping[str, Tensor]] = {}
    deltas: dict[str, dict[str, Delta]] = {}
    errors: dict[str, float] = {}
    for name, tensor in sorted(tensors.items()):
        component, key = _place(name, target.family.components)
        if key.endswith("position_ids"):
            continue
        if component not in base:
            base[component] = base_tensors(target, component)
        original = base[component].get(key)
        if original is None or original.shape != tensor.shape:
            found = "no such parameter" if original is None else f"shape {tuple(original.shape)}"
            raise BaseMismatch(
                f"{path.name}: {component} {key} has shape {tuple(tensor.shape)}, {target.info.model} has {found}; "
                "give the base model that the file was made from"
            )
        if not tensor.is_floating_point() or not bool(tensor.float().isfinite().all()):
            raise CorruptArtifact(f"{path.name}: {component} {key} holds no usable numbers")
        if kind in CHANGES:
            change = tensor.float()
        else:  # the base in the file's precision, so that rounding alone is no change
            change = tensor.float() - original.detach().cpu().to(tensor.dtype).float()
        if bool(change.any()):
            made, error = as_delta(key, change, tensor)
            deltas.setdefault(component, {})[key] = made
            if error is not None:
                errors[f"{component} {key}"] = error
    if not deltas:
        raise ArtifactError(
            f"'{path.name}' holds the weights of {target.info.model} itself; there is nothing to convert"
        )
    return Edit(target.family.id, deltas), errors


def base_tensors(target: Any, component: str) -> Mapping[str, Tensor]:
    """All parameters of a component by canonical name; of a target without a pipeline, the module weights."""
    pipe = getattr(target, "host", None)
    if pipe is not None and getattr(pipe, component, None) is not None:
        from erase_plugins.artifacts.names import base_parameters

        return base_parameters(component, getattr(pipe, component))
    return {ref.weight: target.weight(ref) for ref in target.info.refs if ref.component == component}


def _place(name: str, components: tuple[str, ...]) -> tuple[str, str]:
    """Component and canonical parameter name; files without a prefix are sorted by their first word."""
    from erase_plugins.artifacts.names import canonical

    for component in sorted(components, key=len, reverse=True):
        if name.startswith(f"{component}."):
            return component, canonical(component, name.removeprefix(f"{component}."))
    text = name.startswith(("text_model.", "encoder.", "embeddings.", "final_layer_norm.", "text_projection."))
    component = next((item for item in components if item.startswith("text_encoder") == text), components[0])
    return component, canonical(component, name)


def as_delta(key: str, change: Tensor, stored: Tensor) -> tuple[Delta, float | None]:
    """The smallest exact form of a weight change.

    Args:
        key: parameter name.
        change: the change in float32.
        stored: the tensor it came from; its size and precision bound the rounding noise.

    Returns:
        The delta, and for `LowRank` the relative error.
    """
    if change.ndim == 1:
        return Dense(change), None
    if key.endswith("embedding.weight"):
        rows = change.abs().sum(1).nonzero().flatten()
        return (Rows(rows, change[rows].clone()), None) if len(rows) < change.shape[0] // 2 else (Dense(change), None)
    flat = change.flatten(1).double()
    left, values, right = torch.linalg.svd(flat, full_matrices=False)
    # independent rounding errors of size eps * rms make a matrix of spectral norm about eps * rms * (sqrt m + sqrt n)
    rms = float(stored.double().pow(2).mean()) ** 0.5
    noise = torch.finfo(stored.dtype).eps * rms * (flat.shape[0] ** 0.5 + flat.shape[1] ** 0.5)
    keep = max(int((values > max(1e-6 * float(values[0]), noise)).sum()), 1)
    if keep * sum(flat.shape) >= 0.6 * flat.numel():
        return Dense(change), None
    root = values[:keep].sqrt()
    A = (root[:, None] * right[:keep]).reshape(keep, *change.shape[1:]).float().contiguous()
    B = (left[:, :keep] * root).float().reshape(change.shape[0], keep, *([1] * (change.ndim - 2))).contiguous()
    pair = LowRank(A, B)
    return pair, float((pair.dense() - change).norm() / change.norm())
