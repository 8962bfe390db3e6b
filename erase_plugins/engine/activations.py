"""What a pass through a U-Net keeps for its way back, from configuration alone; checked against fake tensors.

A pass keeps what linear layers, convolutions, norms, activations and attention need for their gradients: about
``_KEPT`` times what linear layers and convolutions give. Where blocks are computed again on the way back, it keeps what
goes into them and one block.
"""

from __future__ import annotations

import re
from math import prod
from typing import Any

from erase_plugins.families.base import Target, TargetInfo

#: bytes of what samples may keep together, before they go through some at a time
MOST_BYTES = 5 << 30
#: what a pass keeps, in units of what its linear layers and convolutions give; by calibration, see `benchmarks.memory`
_KEPT = 2.6
#: share of it that is left where blocks are computed again
_AGAIN = 0.25
_BLOCK = re.compile(r"^(down_blocks|up_blocks)\.(\d+)\.")


def outputs(info: TargetInfo) -> int:
    """Values that linear layers and convolutions of a U-Net give for one sample; 0 for other denoisers."""
    blocks = [match for ref in info.refs if (match := _BLOCK.match(ref.path))]
    if not blocks:
        return 0
    deepest = max(int(match[2]) for match in blocks)
    side = prod(info.latent_shape[1:])
    total = 0
    for ref in info.refs:
        if ref.component != info.family.denoiser or ref.kind not in ("linear", "conv"):
            continue
        match = _BLOCK.match(ref.path)
        if match is None:
            depth = deepest if ref.path.startswith("mid_block") else 0
        else:
            depth = int(match[2]) if match[1] == "down_blocks" else deepest - int(match[2])
        places = side // 4**depth
        if ref.path.endswith(("to_k", "to_v")) and "attn2" in ref.path:
            places = info.tokens
        elif "time_emb" in ref.path or "add_embedding" in ref.path or "time_embedding" in ref.path:
            places = 1
        total += places * ref.shape[0]
    return total


def per_sample(info: TargetInfo, again: bool = False, size: int = 4) -> int:
    """Bytes that one sample keeps; ``again``: blocks are computed again; ``size``: bytes of a value."""
    return int(outputs(info) * size * _KEPT * (_AGAIN if again else 1.0))


def recomputed(target: Target) -> bool:
    """Whether the denoiser's blocks are computed again on the way back."""
    network: Any = getattr(target, "network", None)
    return network is not None and bool(getattr(network("denoiser"), "is_gradient_checkpointing", False))


def at_once(target: Target) -> int:
    """Samples that go through the denoiser together where gradients are taken, at least 1."""
    each = per_sample(target.info, recomputed(target))
    return max(MOST_BYTES // each, 1) if each else 1 << 20
