"""Reversible parameter changes. The original tensor is set aside, never recomputed: undo is exact to the last bit.

Several edits on one parameter add up; each is kept as its delta, the sum is formed in float32 from the original and
cast once, so the result does not depend on the order in which edits came and went.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.edit import Bias, Delta, Dense, LowRank, Rows, rows_dense
from erase_plugins.artifacts.names import ORIGINAL
from erase_plugins.errors import Unsupported

_PATCHES = "_erase_patches"
LOCK = threading.RLock()


@dataclass
class Patch:
    """One edit's change of one parameter; ``strength`` may be changed, then call `refresh`."""

    delta: Delta
    strength: float = 1.0
    owner: object = field(default=None, repr=False)


def attach(parameter: nn.Parameter, patch: Patch) -> None:
    """Adds ``patch`` to the parameter and refreshes it."""
    if not hasattr(parameter, ORIGINAL):
        setattr(parameter, ORIGINAL, parameter.data)
        setattr(parameter, _PATCHES, [])
    getattr(parameter, _PATCHES).append(patch)
    refresh(parameter)


def detach(parameter: nn.Parameter, patch: Patch) -> None:
    """Takes ``patch`` away; the last one out puts the original tensor back."""
    patches: list[Patch] = getattr(parameter, _PATCHES, [])
    if patch in patches:
        patches.remove(patch)
    if patches:
        refresh(parameter)
    elif hasattr(parameter, ORIGINAL):
        original = getattr(parameter, ORIGINAL)
        parameter.data = original.to(parameter.data.device, parameter.data.dtype)
        delattr(parameter, ORIGINAL)
        delattr(parameter, _PATCHES)


@torch.no_grad()
def refresh(parameter: nn.Parameter) -> None:
    """Recomputes the parameter from its original and all patches with a strength other than 0."""
    original: Tensor = getattr(parameter, ORIGINAL)
    active = [patch for patch in getattr(parameter, _PATCHES) if patch.strength != 0.0]
    if not active:
        parameter.data = original.to(parameter.data.device, parameter.data.dtype)
        return
    total = original.to(parameter.data.device, torch.float32)
    for patch in sorted(active, key=lambda item: item.strength):
        total = total + patch.strength * delta_tensor(patch.delta, original.shape).to(total.device)
    parameter.data = total.to(parameter.data.dtype)


def settle(parameter: nn.Parameter) -> None:
    """Makes the current value the base for good (fusing)."""
    for name in (ORIGINAL, _PATCHES):
        if hasattr(parameter, name):
            delattr(parameter, name)


def delta_tensor(delta: Delta, shape: torch.Size) -> Tensor:
    """The change as one float32 tensor of ``shape``.

    Raises:
        Unsupported: a kind that is not a parameter change, or a shape that does not fit.
    """
    if isinstance(delta, LowRank | Dense | Bias):
        dense = delta.dense()
    elif isinstance(delta, Rows):
        dense = rows_dense(delta, shape)
    else:
        raise Unsupported(f"a {delta.kind} change is not a parameter change")
    if dense.shape != shape:
        if dense.numel() == torch.Size(shape).numel():  # 1x1 convolutions saved as linear, and the reverse
            return dense.reshape(shape)
        raise Unsupported(f"the change has shape {tuple(dense.shape)}, the parameter {tuple(shape)}")
    return dense
