"""What a LoRA file can carry of an added module: its best linear stand-in, fitted by the method that made it.

A bottleneck behind a layer is not linear, so the stand-in is an approximation; its error on states that were not fitted
is stored beside it and told wherever a file holds the stand-in. The stand-in of a gated change is the change with its
gate fixed at 1.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.edit import AddOn, Delta, Edit, LowRank
from erase_plugins.artifacts.gated import LOSS, gated, plain_lora

if TYPE_CHECKING:
    from torch import Tensor

#: tensors of an add-on that hold the stand-in; its runtime module does not get them
DOWN, UP = "linear_down", "linear_up"
#: entry of its configuration: {"module": where the weight change goes, relative; "error": relative error of outputs}
LINEAR = "linear"


def with_stand_in(addon: AddOn, module: str, down: Tensor, up: Tensor, error: float) -> AddOn:
    """The add-on with a linear stand-in.

    Args:
        addon: what is approximated.
        module: path of the module whose weight changes, below the add-on's own.
        down, up: (rank, in) and (out, rank) factors of the weight change.
        error: relative error of the add-on's output, in 0..1 where the stand-in is of use.
    """
    config = {**addon.config, LINEAR: {"module": module, "error": float(f"{error:.3g}")}}
    return AddOn(addon.type, {**addon.weights, DOWN: down, UP: up}, config)


def without_stand_in(weights: Any) -> dict[str, Tensor]:
    """Tensors of the add-on itself."""
    return {name: tensor for name, tensor in weights.items() if name not in (DOWN, UP)}


def stand_in(edit: Edit) -> Edit:
    """The edit with stand-ins in place of the add-ons that have one."""
    deltas: dict[str, dict[str, Delta]] = {}
    for component, key, delta in plain_lora(edit).items():
        if isinstance(delta, AddOn) and _usable(delta):
            factor = float(delta.config.get("strength", 1.0))
            key = f"{key}.{delta.config[LINEAR]['module']}.weight"
            delta = LowRank(delta.weights[DOWN], delta.weights[UP] * factor)
        deltas.setdefault(component, {})[key] = delta
    return Edit(edit.family, deltas, edit.statistics, edit.meta)


def stand_in_loss(edit: Edit) -> str:
    """What stand-ins lose, as one sentence; empty if an add-on has none."""
    errors = {}
    losses = [LOSS] if any(gated(delta) for _, _, delta in edit.items()) else []
    for _, key, delta in edit.items():
        if isinstance(delta, AddOn) and not gated(delta):
            if not _usable(delta):
                return ""
            errors[key] = float(delta.config[LINEAR]["error"])
    if not errors:
        return "; ".join(losses)
    worst = max(errors, key=lambda name: errors[name])
    mean = sum(errors.values()) / len(errors)
    losses.append(
        f"{len(errors)} added modules are replaced by their best linear stand-in, relative error of their output "
        f"{mean:.0%} on average, at most {errors[worst]:.0%} ({worst}); measure it before you rely on it"
    )
    return "; ".join(losses)


def _usable(addon: AddOn) -> bool:
    entry = addon.config.get(LINEAR)
    fits = isinstance(entry, dict) and isinstance(entry.get("module"), str)
    number = isinstance(entry, dict) and isinstance(entry.get("error"), int | float)
    return fits and number and {DOWN, UP} <= set(addon.weights)
