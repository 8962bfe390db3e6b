"""GLoCE at run time: image tokens of a concept are replaced, those of the rest of the picture are not."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from erase_plugins.artifacts.token_gate import SHAPES, change
from erase_plugins.errors import Unsupported


class TokenGate(nn.Module):
    """Residual for the tokens (batch, tokens, d) behind a cross-attention; any size of picture, any step."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        super().__init__()
        count = len(weights["centre"]) if weights.get("centre") is not None else 0
        fits = {name: part.ndim for name, part in weights.items()} == SHAPES and count
        if not fits or any(len(part) != count for part in weights.values()):
            raise Unsupported(f"a token gate needs {', '.join(SHAPES)}, concepts first, not {sorted(weights)}")
        if weights["up"].shape != weights["down"].shape or weights["up"].shape[1] != weights["gate"].shape[1]:
            raise Unsupported("up, down and gate of a token gate do not fit each other")
        for name, part in weights.items():
            self.register_buffer(name, part.float())

    def forward(self, output: Tensor) -> Tensor:
        weights = {name: self.get_buffer(name).to(output.device) for name in SHAPES}
        if output.shape[-1] != weights["target"].shape[1]:
            raise Unsupported(
                f"a token gate for width {weights['target'].shape[1]} met tokens of width {output.shape[-1]}"
            )
        return change(output, weights).to(output.dtype)
