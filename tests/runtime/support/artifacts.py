"""Edits for the table, and the same edits as plain arithmetic on a pipeline's weights: the values to compare with."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import CONTEXT, AddOn, ContextMap, Edit, LowRank
from erase_plugins.artifacts.gated import GATE, GATED, gate_addon, gated_lowrank
from erase_plugins.artifacts.manifest import Manifest, describe_base
from erase_plugins.types import Concept
from erase_plugins.workflow.models import target_of

PROMPT = "a pizza"


def make(kind: str, pipe: Any, seed: int = 0) -> Artifact:
    """An artifact of one kind for a pipeline: "weights", "unet", "map", "gated" or "added"."""
    target = target_of(pipe, "tiny")
    generator = torch.Generator().manual_seed(seed)
    deltas: dict[str, dict[str, Any]] = {"unet": {}}
    width = target.info.width
    if kind == "map":
        deltas["unet"][CONTEXT] = ContextMap(
            torch.randn(3, width, generator=generator), 0.2 * torch.randn(width, 3, generator=generator)
        )
    elif kind == "added":
        for ref in target.modules("cross_attn"):
            if ref.path.endswith("to_out.0"):
                weights = {
                    "down": torch.randn(4, ref.shape[0], generator=generator),
                    "up": 0.2 * torch.randn(ref.shape[0], 4, generator=generator),
                }
                deltas["unet"][ref.path] = AddOn("bottleneck", weights, {"activation": "gelu"})
    else:
        refs = [ref for ref in target.modules("attn") if ref.path.split(".")[-1] in ("to_q", "to_k", "to_v")]
        if kind == "weights":
            refs += [ref for ref in target.modules("text_mlp") if ".layers.0." in ref.path]
        for ref in refs:
            change = LowRank(
                torch.randn(2, *ref.shape[1:], generator=generator),
                0.1 * torch.randn(ref.shape[0], 2, generator=generator),
            )
            if kind == "gated":
                deltas["unet"][ref.path] = gated_lowrank(change, [0, 0])
            else:
                deltas.setdefault(ref.component, {})[ref.weight] = change
    if kind == "gated":
        deltas["unet"][GATE] = _open_gate(target)
    edit = Edit(target.family.id, deltas)
    manifest = Manifest(
        name=f"{kind}{seed}", method={"id": "test", "title": "Test"}, concepts=(Concept("pizza"),),
        base=describe_base(target), kinds=tuple(sorted(edit.kinds)), rank=edit.rank, modules=len(edit),
        created="2026-01-02T03:04:05Z",
    )  # fmt: skip
    return Artifact(manifest, edit)


def _open_gate(target: Any) -> Any:
    """A gate that `PROMPT` opens fully and the empty prompt not at all."""
    rows = target.encode([PROMPT, ""]).embeds[:, 1:].double().mean(1)
    row = torch.linalg.lstsq(rows, torch.tensor([2.0, -1.0], dtype=torch.float64)).solution
    return gate_addon(row[None, None], ["pizza"], [0], "probe", target.info.tokens, low=0.2, high=0.8)


@torch.no_grad()
def add_by_hand(pipe: Any, artifact: Artifact, strength: float) -> None:
    """W + strength * change in float32, cast once, on the weights themselves.

    Added modules are hung behind theirs by a hook. A map is written out for the key and value projections; a gated change counts as if its gate stood open.
    """
    for component, group in artifact.edit.deltas.items():
        for path, module in getattr(pipe, component).named_modules():
            if getattr(group.get(path), "type", "") == "bottleneck":
                module.register_forward_hook(_behind(group[path].weights, strength))
        for name, parameter in weights_of(getattr(pipe, component), component).items():
            change = _change(name, parameter, group)
            if change is not None and strength != 0.0:
                parameter.data = (parameter.data.float() + strength * change).to(parameter.dtype)


def _behind(weights: Any, strength: float) -> Any:
    def add(_module: nn.Module, _args: Any, out: torch.Tensor) -> torch.Tensor:
        return out + strength * (nn.functional.gelu(out @ weights["down"].T) @ weights["up"].T)

    return add


def weights_of(module: nn.Module, component: str) -> dict[str, nn.Parameter]:
    """Parameters by the name that they have without peft and without transformers' prefix."""
    found = {}
    for name, parameter in module.named_parameters():
        name = name.replace(".base_layer", "")
        found[name.removeprefix("text_model.") if component != "unet" else name] = parameter
    return found


def _change(name: str, parameter: nn.Parameter, group: Any) -> torch.Tensor | None:
    if CONTEXT in group and name.endswith(("attn2.to_k.weight", "attn2.to_v.weight")):
        up = (parameter.data.double() @ group[CONTEXT].B.double()).float()
        return up @ group[CONTEXT].A
    if name in group:
        return (group[name].B.flatten(1) @ group[name].A.flatten(1)).reshape(parameter.shape)
    gated = group.get(name.removesuffix(".weight")) if name.endswith(".weight") else None
    if getattr(gated, "type", "") == GATED:
        return (gated.weights["up"].flatten(1) @ gated.weights["down"].flatten(1)).reshape(parameter.shape)
    return None
