"""Sheets and heat maps. Pictures are (n, height, width, 3) float tensors in 0..1, as ComfyUI hands them around."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from erase_plugins.errors import RequestError


def change(base: Tensor, erased: Tensor) -> Tensor:
    """Mean absolute change over the colours, (n, height, width).

    Raises:
        RequestError: number or size of the pictures differ.
    """
    if base.shape != erased.shape:
        raise RequestError(
            f"{tuple(base.shape[:3])} base pictures (number, height, width) but {tuple(erased.shape[:3])} erased ones; "
            "draw both with the same latent"
        )
    return (base.float() - erased.float()).abs().mean(-1)


def heat(amount: Tensor) -> Tensor:
    """Colours black, red, yellow, white for 0..1, (..., 3)."""
    ramp = 3.0 * amount.clamp(0, 1)
    return torch.stack([ramp, ramp - 1, ramp - 2], dim=-1).clamp(0, 1)


def sheet(columns: Sequence[Tensor], scale: int) -> Tensor:
    """All pictures of a column below each other, columns side by side, every pixel ``scale`` times as large.

    Returns:
        (1, n * height * scale, columns * width * scale, 3).
    """
    rows = torch.cat([column.float().flatten(0, 1) for column in columns], dim=1)
    return rows.repeat_interleave(scale, 0).repeat_interleave(scale, 1)[None]
