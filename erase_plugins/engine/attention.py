"""Cross-attention maps: where in the picture the tokens of a prompt are looked at.

Probabilities are computed again from the queries and keys of the live module, since fused attention kernels do not give
them; the forward pass itself keeps its kernels. Gradients flow through them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.errors import NotFiniteError, Unsupported
from erase_plugins.families.base import ModuleRef, Target, TargetInfo

_QUERY = ".to_q"


def attention_refs(info: TargetInfo) -> tuple[ModuleRef, ...]:
    """The cross-attention modules themselves, as (dim, context width) references in the order of the model.

    Raises:
        Unsupported: there are none.
    """
    keys = {ref.path: ref for ref in info.modules("cross_k")}
    found = []
    for ref in info.modules("cross_attn"):
        if ref.path.endswith(_QUERY):
            path = ref.path.removesuffix(_QUERY)
            shape = (ref.shape[1], keys[f"{path}.to_k"].shape[1])
            found.append(ModuleRef(ref.component, path, "attention", shape, False))
    if not found:
        raise Unsupported(f"{info.model} has no separate cross-attention queries; its maps cannot be read")
    return tuple(found)


def over_heads(part: Tensor) -> Tensor:
    """Mean over the heads of a map: (batch, pixels, tokens)."""
    return part.mean(1)


@contextmanager
def record_attention(
    target: Target, refs: Sequence[ModuleRef], keep: Callable[[Tensor], Tensor] = lambda part: part
) -> Iterator[dict[str, Tensor]]:
    """Inside, every forward pass of the denoiser leaves its maps in the yielded dictionary; the last pass wins.

    Args:
        target: the model.
        refs: from `attention_refs`.
        keep: what stays of a map; the maps of all layers of SDXL take half a gigabyte for each sample. Where gradients
            are taken it is computed once more on the way back.

    Returns:
        Module path -> (batch, heads, pixels, tokens) probabilities in float32, or what ``keep`` makes of them.
    """
    from torch.utils.checkpoint import checkpoint

    maps: dict[str, Tensor] = {}

    def kept(query: Tensor, key: Tensor, scale: float) -> Tensor:
        return keep(torch.softmax(query.float() @ key.float().transpose(-1, -2) * scale, dim=-1))

    def watch(path: str) -> Any:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            asked = _queries_keys(module, *_inputs(args, kwargs))
            maps[path] = checkpoint(kept, *asked, use_reentrant=False, preserve_rng_state=False)

        return before

    handles = [target.module(ref).register_forward_pre_hook(watch(ref.path), with_kwargs=True) for ref in refs]
    try:
        yield maps
    finally:
        for handle in handles:
            handle.remove()


def _inputs(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
    hidden = args[0] if args else kwargs["hidden_states"]
    named = kwargs.get("encoder_hidden_states", kwargs.get("context"))  # as diffusers and as the original UNets call it
    context = args[1] if len(args) > 1 else named
    return hidden, hidden if context is None else context


def _queries_keys(module: Any, hidden: Tensor, context: Tensor) -> tuple[Tensor, Tensor, float]:
    """Queries and keys (batch, heads, places, width) and the factor of their products.

    Only ``to_q``, ``to_k`` and ``heads`` must exist.
    """
    if getattr(module, "norm_cross", None) is not None:
        context = module.norm_encoder_hidden_states(context)
    query, key = (
        part.unflatten(-1, (module.heads, -1)).transpose(1, 2) for part in (module.to_q(hidden), module.to_k(context))
    )
    query = query if getattr(module, "norm_q", None) is None else module.norm_q(query)
    key = key if getattr(module, "norm_k", None) is None else module.norm_k(key)
    return query, key, getattr(module, "scale", query.shape[-1] ** -0.5)


def nearest_level(maps: Mapping[str, Tensor], pixels: float) -> tuple[str, ...]:
    """Paths of the maps whose number of pixels is the closest to ``pixels`` (the smaller of two equally close)."""
    sizes = sorted({part.shape[-2] for part in maps.values()})
    best = min(sizes, key=lambda size: max(size / pixels, pixels / size))
    return tuple(path for path, part in maps.items() if part.shape[-2] == best)


def heat(maps: Mapping[str, Tensor], rows: Sequence[Sequence[int]], shape: tuple[int, int]) -> Tensor:
    """How much each place looks at the given tokens: mean over layers, heads and tokens.

    Args:
        maps: equally large means over heads (batch, pixels, tokens), see `over_heads`.
        rows: for each sample the rows of its tokens.
        shape: (height, width) of the latents, for the proportions.

    Returns:
        (batch, h, w) with h * w = pixels.
    """
    layers = torch.stack(list(maps.values())).mean(0)
    picked = torch.stack([layers[n][:, list(places)].mean(-1) for n, places in enumerate(rows)])
    return picked.unflatten(-1, grid(picked.shape[-1], shape))


def grid(pixels: int, shape: tuple[int, int]) -> tuple[int, int]:
    """(h, w) of a feature map with ``pixels`` places for latents of ``shape``."""
    height = round((pixels * shape[0] / shape[1]) ** 0.5)
    return height, pixels // height


def binary_mask(warmth: Tensor, threshold: float) -> Tensor:
    """1 where the map, scaled to 0..1 for each sample, reaches ``threshold``; (batch, h, w) float32.

    Raises:
        NotFiniteError: a constant map, which says nothing about places.
    """
    low, high = warmth.amin((1, 2), keepdim=True), warmth.amax((1, 2), keepdim=True)
    if not bool((high > low).all()):
        raise NotFiniteError("a cross-attention map is the same everywhere, no place can be told from it")
    return ((warmth - low) / (high - low) >= threshold).float()


def resized(mask: Tensor, pixels: int, shape: tuple[int, int]) -> Tensor:
    """A mask (batch, h, w) at another resolution of the same latents, by nearest neighbour: (batch, pixels)."""
    size = grid(pixels, shape)
    return nn.functional.interpolate(mask[:, None], size=size, mode="nearest").flatten(1)


def attention_norms(part: Tensor, rows: Sequence[Sequence[int]], masks: Tensor, size: tuple[int, int]) -> Tensor:
    """Frobenius norm of the attention to some rows inside a mask, (batch,).

    Args:
        part: a layer's map (batch, heads, pixels, tokens).
        rows: for each sample the rows looked at.
        masks: (batch, h, w).
        size: (height, width) of the latents.
    """
    inside = resized(masks.to(part), part.shape[2], size)
    return torch.stack(
        [
            (part[number][:, :, list(places)] * inside[number][None, :, None]).norm()
            for number, places in enumerate(rows)
        ]
    )
