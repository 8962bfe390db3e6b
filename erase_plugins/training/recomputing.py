"""Gradient checkpointing: blocks of a large denoiser are computed again on the way back, not kept."""

from __future__ import annotations

from collections.abc import Iterator
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
