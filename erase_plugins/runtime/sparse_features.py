"""Steered sparse features at run time: every position of a module's output by itself, any size of picture, any step."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from erase_plugins.artifacts.sparse_features import SHAPES, steering
from erase_plugins.errors import Unsupported


class SparseFeatures(nn.Module):
    """Residual for tokens (batch, tokens, d) or a map (batch, d, height, width)."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        if {name: part.ndim for name, part in weights.items()} != SHAPES or len({*map(len, weights.values())}) != 1:
            raise Unsupported(f"steered features need {', '.join(SHAPES)}, features first, not {sorted(weights)}")
        if weights["encode"].shape != weights["decode"].shape:
            raise Unsupported("encode and decode of steered features do not fit each other")
        for name, part in weights.items():
            self.register_buffer(name, part.float())

    def forward(self, output: Tensor) -> Tensor:
        weights = {name: self.get_buffer(name).to(output.device) for name in SHAPES}
        tokens = output.movedim(1, -1) if output.ndim == 4 else output
        if tokens.shape[-1] != weights["encode"].shape[1]:
            raise Unsupported(
                f"features of width {weights['encode'].shape[1]} met an output of width {tokens.shape[-1]}"
            )
        added = steering(tokens, weights).to(output.dtype)
        return added.movedim(-1, 1) if output.ndim == 4 else added
