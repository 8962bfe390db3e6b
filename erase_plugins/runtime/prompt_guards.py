"""Guards of `artifacts.prompt_guards` at run time: values and prompts without what a concept adds to them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from erase_plugins.artifacts.edit import AddOn
from erase_plugins.artifacts.prompt_guards import opening, presence
from erase_plugins.errors import Unsupported
from erase_plugins.runtime.integrity import check_hung

#: relative difference up to which values are those of the empty prompt
_SAME = 1e-2


class ValueProjection(nn.Module):
    """Residual of AdaVD for values (batch, tokens, dim): -f(cos) times their part along the concepts' values.

    The start row and samples of the empty prompt (guidance's other half) get none.
    """

    def __init__(self, weights: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
        super().__init__()
        values, null = weights.get("values"), weights.get("null")
        if set(weights) != {"values", "null"} or values is None or null is None or values.ndim != 3:
            raise Unsupported("a value guard needs values (n, tokens, dim) and null (tokens, dim)")
        if values.shape[1:] != null.shape or not values.numel():
            raise Unsupported(f"values {tuple(values.shape)} and null {tuple(null.shape)} of a value guard do not fit")
        self.centre, self.sharpness = float(config.get("centre", 0.93)), float(config.get("sharpness", 100.0))
        self.always = bool(config.get("always", False))
        self.register_buffer("values", values.float())
        self.register_buffer("null", null.float())
        self.register_buffer("basis", torch.linalg.qr(values.float().permute(1, 2, 0))[0])

    def forward(self, output: Tensor) -> Tensor:
        values, null, basis = (self.get_buffer(name).to(output.device) for name in ("values", "null", "basis"))
        tokens = null.shape[0]
        if output.ndim != 3 or output.shape[1] % tokens or output.shape[2] != null.shape[1]:
            raise Unsupported(f"a value guard for {tuple(null.shape)} met values {tuple(output.shape)}")
        v = output.float().reshape(-1, tokens, output.shape[2])
        part = torch.einsum("ptr,tdr->ptd", torch.einsum("ptd,tdr->ptr", v, basis), basis)
        likeness = functional.cosine_similarity(v[:, None], values[None], dim=-1).amax(1)
        factor = torch.ones_like(likeness) if self.always else opening(likeness, self.centre, self.sharpness)
        factor[:, 0] = 0.0
        factor[(v - null).norm(dim=(1, 2)) <= _SAME * null.norm()] = 0.0
        return (-factor[..., None] * part).reshape(output.shape).to(output.dtype)


def operated(context: Tensor, concepts: Tensor, joint: Tensor, config: Mapping[str, Any], strength: float) -> Tensor:
    """E(prompt) - a E(joint string of what was found), every prompt by itself; itself where nothing was found.

    Where more concepts are found than any stored string names, those most present are taken.
    """
    scores = torch.sigmoid((presence(context, concepts) + float(config["beta"])) / float(config["gamma"]))
    subsets = [tuple(item) for item in config["subsets"]]
    longest = max(map(len, subsets))
    rows: dict[int, Tensor] = {}
    for row, given in enumerate(scores):
        told = given.tolist()
        found = [k for k in sorted(range(len(told)), key=told.__getitem__, reverse=True)[:longest] if told[k] > 0.5]
        if found and strength:
            part = joint[subsets.index(tuple(sorted(found)))]
            rows[row] = (context[row].float() - strength * given.max() * part.float()).to(context.dtype)
    return torch.stack([rows.get(row, context[row]) for row in range(len(context))]) if rows else context


class AttachedSurgery:
    """Semantic Surgery on the prompts of every pass of a denoiser, before context maps."""

    def __init__(self, denoiser: nn.Module, addon: AddOn, strength: float) -> None:
        weights, config = addon.weights, addon.config
        fits = set(weights) == {"concepts", "joint"} and all(part.ndim == 3 for part in weights.values())
        if not fits or weights["concepts"].shape[1:] != weights["joint"].shape[1:]:
            raise Unsupported("embedding surgery needs concepts (k, tokens, dim) and joint (s, tokens, dim)")
        if not float(config.get("gamma", 0)) > 0 or len(config.get("subsets", ())) != len(weights["joint"]):
            raise Unsupported("embedding surgery needs gamma > 0, beta, and one subset for each joint embedding")
        self.strength, self.config = strength, config
        self.scale = float(config.get("strength", 1.0))
        self.concepts, self.joint = weights["concepts"], weights["joint"]
        self.handle = denoiser.register_forward_pre_hook(self._change, with_kwargs=True, prepend=True)

    def keep(self, owner: nn.Module) -> None:
        """Checks before a pass that this one will be changed.

        Raises:
            PipelineChanged: the guard was taken off.
        """
        check_hung(self.handle, owner._forward_pre_hooks, "the prompt guard")

    def _change(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        named = "encoder_hidden_states" in kwargs
        context = kwargs["encoder_hidden_states"] if named else args[2]
        tokens = self.concepts.shape[1]
        if context.shape[1] % tokens or context.shape[2] != self.concepts.shape[2]:
            raise Unsupported(f"a prompt guard for {tuple(self.concepts.shape[1:])} met {tuple(context.shape[1:])}")
        self.concepts, self.joint = self.concepts.to(context.device), self.joint.to(context.device)
        windows = context.reshape(-1, tokens, context.shape[2])
        changed = operated(windows, self.concepts, self.joint, self.config, self.strength * self.scale)
        changed = changed.reshape(context.shape)
        if named:
            return args, {**kwargs, "encoder_hidden_states": changed}
        return (*args[:2], changed, *args[3:]), kwargs

    def detach(self) -> None:
        """Restores the denoiser."""
        self.handle.remove()
