"""Copies of a MODEL's denoiser and a CLIP's text encoders that gradients can flow through; the originals stay.

ComfyUI makes its weights in inference mode, where nothing can be saved for a backward pass, casts them at every use and
moves them between devices. The copies hold ordinary float32 tensors with every patch in them.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.errors import Unsupported

from . import gates
from .even import attention, use_pytorch_attention
from .naming import DENOISER
from .row_maps import ContextPatch, carried
from .weights import PatchedWeights

#: run as PyTorch's own: ComfyUI's look for a stop in every layer, so a run would end before it saved itself
_PLAIN = (nn.Linear, nn.Conv2d, nn.GroupNorm, nn.LayerNorm)
#: what ComfyUI hangs on modules while a model is loaded
_HANGING = ("weight_function", "bias_function")


def live_copy(source: nn.Module, weights: PatchedWeights, prefix: str, device: torch.device) -> nn.Module:
    """A copy in float32 with effective weights and without anything that hangs on the modules.

    Args:
        source: not changed.
        weights: effective weights by full key.
        prefix: what stands in front of the names in ``source`` to make a full key.
        device: where the copy lies.
    """
    with torch.inference_mode(False), torch.no_grad():
        memo: dict[int, Any] = {}
        for name, old in [*source.named_parameters(), *source.named_buffers()]:
            key = prefix + name
            if key in weights:
                value = weights.effective(key)
            else:
                value = old.detach().to(torch.float32 if old.is_floating_point() else old.dtype, copy=True)
            value = value.to(device)
            memo[id(old)] = nn.Parameter(value, requires_grad=False) if isinstance(old, nn.Parameter) else value
        for module in source.modules():
            for name in _HANGING:
                if hasattr(module, name):
                    memo[id(getattr(module, name))] = []
        made: nn.Module = copy.deepcopy(source, memo)
    for module in made.modules():
        vars(module).pop("forward", None)  # object patches shadow the method, bound to the original
        kind = next((kind for kind in _PLAIN if isinstance(module, kind)), None)
        if kind is not None:
            plain: Any = kind.forward
            vars(module)["forward"] = partial(plain, module)
        elif isinstance(module, nn.Embedding):
            vars(module)["forward"] = partial(_embed, module)
        if isinstance(getattr(module, "dtype", None), torch.dtype):
            vars(module)["dtype"] = torch.float32
    return made.train(False)


class LiveDenoiser:
    """Modules and predictions of a denoiser with everything that hangs on its MODEL.

    Args:
        patcher: ModelPatcher of the MODEL; not changed.
        weights: its denoiser's weights, by full key.
        device: where the copy lies.
    """

    def __init__(self, patcher: Any, weights: PatchedWeights, device: torch.device) -> None:
        if gates.hangs_on(patcher):
            raise Unsupported("a gated erasure hangs on this MODEL; put the node that trains in front of it")
        self._patcher = patcher
        self.unet = live_copy(patcher.model.diffusion_model, weights, DENOISER, device)

    def module(self, key: str) -> nn.Module:
        """The live module of a weight, by the weight's full key."""
        return self.unet.get_submodule(key.removeprefix(DENOISER).rpartition(".")[0])

    def predict(self, latents: Tensor, timestep: Tensor | float, context: Tensor, vector: Tensor | None) -> Tensor:
        """Raw output (batch, channels, height, width) under the patches of the MODEL, with gradients.

        Args:
            latents: scaled latents.
            timestep: one for all or one per latent.
            context: text rows (batch, tokens, width).
            vector: pooled and size rows of SDXL, or None.
        """
        options = {
            **self._patcher.model_options.get("transformer_options", {}),
            "cond_or_uncond": [0],
            "optimized_attention_override": _attention,
        }
        inside = carried(self._patcher)
        if inside is not None:
            patches = options.get("patches", {})
            mapped = [*patches.get("attn2_patch", ()), ContextPatch((inside.active,))]
            options["patches"] = {**patches, "attn2_patch": mapped}
        times = torch.as_tensor(timestep, device=latents.device).float().expand(len(latents))
        return self.unet(latents, timesteps=times, context=context, y=vector, transformer_options=options)


def schedule_of(patcher: Any, prediction: str) -> dict[str, Any]:
    """Noise schedule of a MODEL as a configuration of `families.samplers`."""
    sigmas = patcher.get_model_object("model_sampling").sigmas.detach().double().cpu()
    kept = 1.0 / (1.0 + sigmas**2)
    betas = 1.0 - kept / torch.cat([torch.ones(1, dtype=torch.float64), kept[:-1]])
    return {
        "num_train_timesteps": len(betas), "trained_betas": betas.float().tolist(), "prediction_type": prediction,
        "steps_offset": 1,
    }  # fmt: skip


class LiveEncoder:
    """Modules and passes of the text encoders of a CLIP, with gradients.

    Args:
        clip: not changed; its clip skip is followed.
        weights: of its patcher, by full key.
        device: where the copy lies.
    """

    def __init__(self, clip: Any, weights: PatchedWeights, device: torch.device) -> None:
        self._layer = clip.layer_idx
        self.model = live_copy(clip.cond_stage_model, weights, "", device)
        use_pytorch_attention(self.model)
        for module in self.model.modules():
            if isinstance(module, nn.LayerNorm):  # ComfyUI adds to the norms' input in place, a backward pass needs it
                module.register_forward_pre_hook(lambda _m, arguments: (arguments[0].clone(), *arguments[1:]))

    def module(self, key: str) -> nn.Module:
        """The live module of a weight, by the weight's full key."""
        return self.model.get_submodule(key.rpartition(".")[0])

    def encode(self, ids: Mapping[str, Tensor], rows: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Context (1, tokens, width) and pooled row of one prompt.

        Args:
            ids: ComfyUI's name of a text encoder ("l", "g", "h") -> token numbers (tokens,).
            rows: full key of a token table -> (1, tokens, width) in place of its rows.
        """
        pairs = {name: [[(int(token), 1.0) for token in row]] for name, row in ids.items()}
        hooks = [self.module(key).register_forward_hook(lambda _m, _a, _out, new=new: new) for key, new in rows.items()]
        try:
            self.model.reset_clip_options()  # type: ignore[operator]
            if self._layer is not None:
                self.model.set_clip_options({"layer": self._layer})  # type: ignore[operator]
            context, pooled = self.model.encode_token_weights(pairs)[:2]  # type: ignore[operator]
        finally:
            for hook in hooks:
                hook.remove()
        return context, pooled


def _embed(table: nn.Embedding, ids: Tensor, out_dtype: Any = None) -> Tensor:
    """Rows of a table; ComfyUI asks its own for a type, here it is always float32."""
    return nn.Embedding.forward(table, ids)


def _attention(_chosen: Any, *arguments: Any, **options: Any) -> Tensor:
    """PyTorch's attention whatever the user chose: the others may not have a backward pass."""
    return attention(*arguments, **options)
