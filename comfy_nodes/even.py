"""Text encoders of ComfyUI compute what those of transformers compute, to the last bit, and no more rows than asked.

On a processor ComfyUI takes an attention of its own for text encoders. It rounds differently from PyTorch's, which
transformers takes, and a closed-form solve makes 30 times as much of the difference. All else is the same arithmetic.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn


def use_pytorch_attention(encoders: nn.Module) -> list[Any]:
    """Makes all CLIP layers in a model use PyTorch's attention.

    Returns:
        Handles whose `remove` takes that back.
    """
    return _changed(encoders, "CLIPLayer", _chosen)


@contextmanager
def pytorch_attention(encoders: nn.Module) -> Iterator[None]:
    """`use_pytorch_attention` for as long as the with-block lasts."""
    with _removed(use_pytorch_attention(encoders)):
        yield


@contextmanager
def first_rows(encoders: nn.Module, rows: int) -> Iterator[None]:
    """All CLIPs in a model give only their first ``rows`` rows for as long as the with-block lasts.

    Their attention looks back only, so the rows are those of the whole prompt.
    """

    def cut(_encoder: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        first, *others = arguments
        mask = options["mask"]
        return (first[:, :rows], *others), {**options, "mask": mask[..., :rows, :rows]}

    with _removed(_changed(encoders, "CLIPEncoder", cut)):
        yield


def _changed(encoders: nn.Module, kind: str, change: Any) -> list[Any]:
    """Handles of ``change``, hung in front of all modules of a class of ComfyUI's in a model."""
    source = sys.modules.get("comfy.clip_model")  # there once any CLIP is loaded
    modules = [] if source is None else [item for item in encoders.modules() if isinstance(item, getattr(source, kind))]
    return [module.register_forward_pre_hook(change, with_kwargs=True) for module in modules]


@contextmanager
def _removed(handles: Sequence[Any]) -> Iterator[None]:
    """Removes the handles at the end of the with-block."""
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def attention(*arguments: Any, **options: Any) -> Tensor:
    """PyTorch's attention in the form in which ComfyUI calls any; the one of its choices that has a backward pass."""
    from comfy.ldm.modules.attention import attention_pytorch

    return attention_pytorch(*arguments, **options)


def _chosen(_layer: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Arguments of a layer, (rows, mask, attention), with the attention replaced wherever it stands."""
    if len(arguments) > 2:
        return (*arguments[:2], attention, *arguments[3:]), options
    return arguments, {**options, "optimized_attention": attention}
