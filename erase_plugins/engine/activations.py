"""What a pass through a denoiser takes, and what it keeps for its way back, from configuration alone.

Checked against fake tensors.

A pass keeps what linear layers, convolutions, norms, activations and attention need for their gradients. Where blocks
are computed again on the way back, it keeps what goes into them and one block; that grows with the residual stream,
which convolutions tell, and in transformers the linear layers of blocks that are all alike.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import prod
from typing import TYPE_CHECKING, Any

from erase_plugins.families.capabilities import TEXT

if TYPE_CHECKING:
    from torch import Tensor

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
#: the same of transformers, whose layers give tokens: what a pass keeps, what goes into their blocks, and what one
#: block has at once without a way back; fitted to FLUX.1 and Stable Diffusion 3.5 (`python -m benchmarks.memory_flow`)
_BLOCKS, _STREAM, _LOOK_BLOCK = 2.25, 0.125, 2.0
_BLOCK = re.compile(r"^\w+\.\d+\.")


def outputs(info: TargetInfo, kind: str) -> int:
    """Values that the layers of a kind of a denoiser give for one sample; 0 where its family does not tell places."""
    return sum(_given(info, kind).values())


def _given(info: TargetInfo, kind: str) -> dict[str, int]:
    """Block of the denoiser -> values that its layers of a kind give for one sample."""
    places, found = info.family.places(info), dict[str, int]()
    for ref in info.refs:
        if ref.component == info.family.denoiser and ref.kind == kind and ref.path in places:
            block = _BLOCK.match(ref.path)
            name = block[0] if block else ""
            found[name] = found.get(name, 0) + places[ref.path] * ref.shape[0]
    return found


def _tokens(info: TargetInfo) -> tuple[int, int]:
    """Values that the linear layers of a transformer give for one sample, and those of its largest block.

    Zeros for a denoiser of convolutions.
    """
    inside = (ref for ref in info.refs if ref.component == info.family.denoiser and _BLOCK.match(ref.path))
    given = {} if any(ref.kind == "conv" for ref in inside) else _given(info, "linear")
    return sum(given.values()), max(given.values(), default=0)


def per_sample(info: TargetInfo, again: bool = False, size: int = 4) -> int:
    """Bytes that one sample keeps; ``again``: blocks are computed again; ``size``: bytes of a value in the pass."""
    known: dict[tuple[bool, int], int] = vars(info).setdefault("_per_sample", {})  # every step of a training asks
    if (again, size) not in known:
        total, block = _tokens(info)
        kept = size * (_STREAM * total + _BLOCKS * block if again else _BLOCKS * total)
        if not total:
            kept = sum(factor * size * outputs(info, kind) for kind, factor in (_AGAIN if again else _KEPT).items())
        known[again, size] = int(kept)
    return known[again, size]


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
    total, block = _tokens(info)
    each = _LOOK_BLOCK * block if total else _LOOK * outputs(info, "conv")
    return int(each * size * min(samples, looked_at(info.latent_shape)))


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


def pieced(passed: Callable[[list[int]], Tensor], count: int, most: int) -> Tensor:
    """What ``passed`` gives for rows 0 to ``count`` - 1, ``most`` at a time, each time again on the way back."""
    import torch
    from torch.utils.checkpoint import checkpoint

    parts = [list(range(start, min(start + most, count))) for start in range(0, count, most)]
    return torch.cat([checkpoint(passed, rows, use_reentrant=False, preserve_rng_state=False) for rows in parts])
