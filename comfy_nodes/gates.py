"""Changes behind gates: their strength follows the prompt of each sample. On a MODEL: a wrapper and object patches.

The wrapper reads the prompts before every pass of the denoiser; each changed module adds its part as far as the gates
of its edit are open. Weight patches cannot do this: positive and negative prompts share one pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.edit import AddOn, Edit
from erase_plugins.artifacts.gated import GATE, GATED
from erase_plugins.errors import Unsupported
from erase_plugins.runtime.gated_changes import GatedChange
from erase_plugins.runtime.gates import GateReader

from .naming import DENOISER


class ReadingWrapper:
    """Lets a gate read the prompts in front of the denoiser, before any map of the text rows."""

    def __init__(self, gate: GateReader) -> None:
        self.gate = gate

    def __call__(self, executor: Any, x: Tensor, timesteps: Tensor, context: Tensor, *rest: Any, **named: Any) -> Any:
        self.gate.read(context)
        return executor(x, timesteps, context, *rest, **named)

    def to(self, _device: Any) -> ReadingWrapper:
        """Called when the model moves; the gate follows the prompts by itself."""
        return self


class GatedForward:
    """``forward`` of a module with the gated changes of one edit added; further edits stand around it.

    Attributes:
        inner: what it adds to.
        change: a `GatedChange`.
    """

    def __init__(self, inner: Any, change: GatedChange) -> None:
        self.inner, self.change = inner, change

    def __call__(self, x: Tensor, *rest: Any, **named: Any) -> Tensor:
        output: Tensor = self.inner(x, *rest, **named)
        return self.change.added(x, output)


def split(edit: Edit) -> tuple[AddOn | None, dict[str, AddOn]]:
    """The gate of an edit's denoiser, and the gated changes by module path.

    Raises:
        Unsupported: a gated change without a gate, or outside the denoiser.
    """
    gate, changes = None, {}
    for component, key, delta in edit.items():
        if not isinstance(delta, AddOn) or delta.type not in (GATE, GATED):
            continue
        if component != "unet":
            raise Unsupported(f"gated changes of {component} cannot be used; only the denoiser sees which prompt it is")
        if delta.type == GATE:
            gate = delta
        else:
            changes[key] = delta
    if changes and gate is None:
        raise Unsupported(f"{next(iter(changes))} is a gated change, but the edit has no gate")
    return gate, changes


def problem(addon: AddOn, shape: torch.Size) -> str:
    """Why a gated change does not fit a weight of this shape; empty if it does."""
    down, up = addon.weights.get("down"), addon.weights.get("up")
    if down is None or up is None or (up.shape[0], down[0].numel()) != (shape[0], shape[1:].numel()):
        found = {name: tuple(value.shape) for name, value in addon.weights.items()}
        return f"gated change has {found}, weight is {tuple(shape)}"
    return ""


def hang(clone: Any, gate: AddOn, changes: Mapping[str, AddOn], strength: float) -> None:
    """Hangs gated changes on a clone of a MODEL.

    Args:
        clone: ModelPatcher.
        gate: of the edit.
        changes: path inside ComfyUI's denoiser -> change.
        strength: of the edit.

    Raises:
        Unsupported: a gate or change that cannot be evaluated.
    """
    from comfy.patcher_extension import WrappersMP

    reader = GateReader(gate)
    owner = clone.model.diffusion_model
    for path, addon in changes.items():
        module = owner.get_submodule(path)
        name = f"{DENOISER}{path}.forward"
        inner = clone.object_patches.get(name) or _own_forward(module)
        clone.add_object_patch(name, GatedForward(inner, GatedChange(module, addon, reader, strength)))
    clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, f"erase_plugins_gate_{id(reader)}", ReadingWrapper(reader))


def hangs_on(model: Any) -> bool:
    """Whether gated changes hang on a MODEL."""
    return any(isinstance(item, GatedForward) for item in getattr(model, "object_patches", {}).values())


def _own_forward(module: nn.Module) -> Any:
    """The module's own ``forward``, also while another clone with gated changes is loaded."""
    shadow = vars(module).get("forward")
    return partial(type(module).forward, module) if shadow is None or isinstance(shadow, GatedForward) else shadow
