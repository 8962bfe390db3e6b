"""What a pass through a denoiser takes, and what it keeps for its way back, from configuration alone.

Checked against fake tensors.

A pass keeps what linear layers, convolutions, norms, activations and attention need for their gradients. Where blocks
are computed again on the way back, it keeps what goes into them and one block; that grows with the residual stream,
which convolutions tell.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from erase_plugins.families.capabilities import TEXT

if TYPE_CHECKING:
    from erase_plugins.families.base import Target, TargetInfo

#: values of a denoiser from which memory matters more than a third more work: SDXL has 2.6 billion, SD 1.5 has 0.9
LARGE = 1_000_000_000
#: bytes of what samples may keep together, before they go through some at a time
MOST_BYTES = 5 << 30
#: what a pass keeps, in units of what its layers of a kind give, as it is and where blocks are computed again; fitted
#: to Stable Diffusion 1.5 and XL (`python -m benchmarks.memory`)
_KEPT = {"linear": 1.27, "conv": 4.3}
_AGAIN = {"conv": 2.0}
#: what a pass without a way back has at once, in the same units; norms of half precision compute in float32
_LOOK = 0.72
#: places of latents that go through a denoiser together in such a pass: 4 GiB at most in the models above
MOST_PLACES = 1 << 17
#: what a prompt keeps in a text encoder that is trained, in units of what its linear layers give
_TEXT = 2.0
_BLOCK = re.compile(r"^(down_blocks|up_blocks)\.(\d+)\.")


def outputs(info: TargetInfo, kind: str) -> int:
    """Values that the layers of a kind of a U-Net give for one sample; 0 for other denoisers."""
    blocks = [match for ref in info.refs if (match := _BLOCK.match(ref.path))]
    if not blocks:
        return 0
    deepest = max(int(match[2]) for match in blocks)
    side = prod(info.latent_shape[1:])
    total = 0
    for ref in info.refs:
        if ref.component != info.family.denoiser or ref.kind != kind:
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
    """Bytes that one sample keeps; ``again``: blocks are computed again; ``size``: bytes of a value in the pass."""
    return int(sum(factor * size * outputs(info, kind) for kind, factor in (_AGAIN if again else _KEPT).items()))


def looked_at(shape: Sequence[int]) -> int:
    """Samples that go through the denoiser together where no gradients are taken, at least 1.

    Args:
        shape: of latents (..., height, width).
    """
    return max(MOST_PLACES // (shape[-2] * shape[-1]), 1)


def look_bytes(info: TargetInfo, samples: int, dtype: str, precision: str) -> int:
    """Bytes that a pass of so many samples without gradients takes, as many as `looked_at` lets through; 0: not known.

    Args:
        info, samples: of the pass.
        dtype: of the weights.
        precision: of the pass.
    """
    size = value_bytes(dtype if precision == "float32" else precision)
    return int(_LOOK * size * outputs(info, "conv") * min(samples, looked_at(info.latent_shape)))


def text_bytes(info: TargetInfo, prompts: int, dtype: str) -> int:
    """Bytes that so many prompts keep in text encoders that are trained; ``dtype`` of the weights."""
    encoders = info.components(TEXT) if prompts else ()
    given = sum(ref.shape[0] for ref in info.refs if ref.component in encoders and ref.kind == "linear")
    return int(prompts * info.tokens * given * _TEXT * value_bytes(dtype))


def step_bytes(info: TargetInfo, samples: int, again: bool, dtype: str, precision: str) -> int:
    """Bytes that a training step of so many samples adds to weights and trained values; 0: not known.

    Args:
        info, samples: of the step; as many as `at_once` lets through count.
        again: whether the method's blocks are computed again where the denoiser is large.
        dtype: of the weights.
        precision: of the pass; weights of another type are kept in it too, unless blocks are computed again.
    """
    if not samples:
        return 0
    large = sum(prod(ref.shape) for ref in info.refs if ref.component == info.family.denoiser)
    again = again and large >= LARGE
    size = value_bytes(dtype if precision == "float32" else precision)
    each = per_sample(info, again, size)
    copies = 2 * large if size == 2 and value_bytes(dtype) == 4 and not again else 0
    return copies + each * min(samples, max(MOST_BYTES // each, 1)) if each else 0


def value_bytes(dtype: str) -> int:
    """Bytes of a value."""
    return 4 if dtype == "float32" else 2


def recomputed(target: Target) -> bool:
    """Whether the denoiser's blocks are computed again on the way back."""
    network: Any = getattr(target, "network", None)
    return network is not None and bool(getattr(network("denoiser"), "is_gradient_checkpointing", False))


def at_once(target: Target, precision: str) -> int:
    """Samples that go through the denoiser together where gradients are taken, at least 1."""
    size = 2 if precision == "bfloat16" or target.dtype.itemsize == 2 else 4
    each = per_sample(target.info, recomputed(target), size)
    return max(MOST_BYTES // each, 1) if each else 1 << 20
