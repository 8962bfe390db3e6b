"""Gradient checkpointing: blocks of a model are computed again on the way back, not kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from erase_plugins.engine.activations import LARGE


@contextmanager
def recomputing(denoiser: Any) -> Iterator[bool]:
    """Inside the block passes with gradients keep the inputs of blocks only; says whether they do.

    For losses whose passes all see the trained change in the state that it has when gradients are taken.

    Args:
        denoiser: of diffusers; anything else, a small one, or one that its owner has switched already stays as it is.
    """
    from torch.utils.checkpoint import checkpoint

    def again(module: Any, *args: Any) -> Any:
        return checkpoint(module.__call__, *args, use_reentrant=False, preserve_rng_state=False)

    able = getattr(denoiser, "_supports_gradient_checkpointing", False) and not denoiser.is_gradient_checkpointing
    if not able or sum(part.numel() for part in denoiser.parameters()) < LARGE:
        yield False
        return
    denoiser.enable_gradient_checkpointing(again)
    try:
        yield True
    finally:
        denoiser.disable_gradient_checkpointing()


@contextmanager
def recomputed(blocks: Sequence[Any]) -> Iterator[None]:
    """Inside the block passes with gradients keep what goes into these modules, not what they compute.

    For losses as above. The modules' ``forward`` is shadowed on the instances, so that hooks and the mode of training
    or not stay as they are.

    Args:
        blocks: modules of which no one is inside another.
    """
    from functools import partial

    from torch.utils.checkpoint import checkpoint

    before = [vars(block).get("forward") for block in blocks]
    for block in blocks:
        block.forward = partial(checkpoint, block.forward, use_reentrant=False, preserve_rng_state=False)
    try:
        yield
    finally:
        for block, own in zip(blocks, before, strict=True):
            if own is None:
                del block.forward
            else:
                block.forward = own
