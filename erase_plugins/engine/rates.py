"""What this machine does in a second: estimates of a run's length are its work over these rates.

A rate is measured on a small piece of the model's own width (random weights, tens of milliseconds), in processor time
over the number of threads, so that other programs hardly disturb it, and kept in the user's cache for this machine,
number of threads and version of torch. Operations are counted as the plans count them: two for each weight and
position, three times as many where gradients are taken.
"""

from __future__ import annotations

import hashlib
import platform
import time
from collections.abc import Callable, Iterable
from functools import lru_cache
from statistics import median_low
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from erase_plugins.engine import disk_cache

if TYPE_CHECKING:
    from erase_plugins.families.model import ModuleRef

#: cautious throughput of accelerators in operations a second, by device type; nothing is measured there
_ACCELERATORS = {"cuda": 3e13, "mps": 2e12}
#: operations of one measured pass, about, prompts of 32 rows at least, and the largest width that is measured
_WORK, _FEWEST, _WIDTH = 1.5e9, 4, 1024
#: the same of a block with convolutions, whose attention is square in the positions
_BLOCK_WIDTH, _POSITIONS, _BATCH = 256, 256, 32
_REPEATS, _ROWS = 2, 32
#: side of the matrix whose singular values are taken, and operations as they are counted, over its cube
_SIDE, _CUBES = 256, 10.0
_RATE = "rate"


def width_of(refs: Iterable[ModuleRef]) -> int:
    """Outputs of the middle one of these modules, by size."""
    return median_low([ref.shape[0] for ref in refs] or [_SIDE])


def of_accelerator(device: str) -> float | None:
    """Operations a second of an accelerator; None for a processor and what is not known."""
    return _ACCELERATORS.get(device.split(":")[0])


def layer(width: int, device: str = "cpu") -> float:
    """Operations a second through layers of a transformer, as text encoders and language models have them."""
    return of_accelerator(device) or _kept("layer", min(max(width, 8), _WIDTH))


def block(width: int, positions: int, batch: int, precision: str, convolved: bool, trained: bool) -> float:
    """Operations a second through blocks of a denoiser.

    Args:
        width: of a typical layer.
        positions: of its states, the latent's at half the resolution.
        batch: samples of a pass.
        precision: "bfloat16" or "float32".
        convolved: whether the denoiser has convolutions.
        trained: whether gradients are taken, with respect to the input, as of a LoRA.
    """
    side = max(int(min(positions, _POSITIONS) ** 0.5), 1)
    batch = min(max(batch, 1), _BATCH)
    return _kept("block", min(max(width, 32) // 32 * 32, _BLOCK_WIDTH), side, batch, precision, convolved, trained)


def solving() -> float:
    """Operations a second of factorisations in float64."""
    return _kept("solving")


@lru_cache(maxsize=64)
def _kept(kind: str, *sizes: Any) -> float:
    facts = (kind, sizes, torch.__version__, torch.get_num_threads(), platform.node(), platform.machine())
    key = f"rate-{hashlib.sha256(repr(facts).encode()).hexdigest()[:32]}"
    found = disk_cache.read(key, {_RATE: ((), torch.float64)})
    if found is None:
        with torch.random.fork_rng(devices=[]), torch.device("cpu"):  # whoever asks has random numbers of their own
            found = {_RATE: torch.tensor(_MEASURED[kind](*sizes), dtype=torch.float64)}
        disk_cache.write(key, found)
    return float(found[_RATE])


def _timed(work: float, step: Callable[[], Any]) -> float:
    step()
    best = float("inf")
    for _ in range(_REPEATS):
        began = time.process_time()
        step()
        best = min(best, time.process_time() - began)
    return work * torch.get_num_threads() / max(best, 1e-6)


def _layer(width: int) -> float:
    network = _transformer(width)
    prompts = int(_WORK / (2 * _weights(network))) // _ROWS
    states = torch.randn(min(max(prompts, _FEWEST), 256), _ROWS, network.linear1.in_features)
    with torch.inference_mode():
        return _timed(2.0 * _weights(network) * states.shape[0] * states.shape[1], lambda: network(states))


def _block(width: int, side: int, batch: int, precision: str, convolved: bool, trained: bool) -> float:
    network = _Block(width, convolved).requires_grad_(False)
    states = torch.randn(batch, width, side, side, requires_grad=trained)
    cast = torch.autocast("cpu", torch.bfloat16, enabled=precision == "bfloat16")

    def step() -> None:
        with torch.set_grad_enabled(trained), cast:
            out = network(states)
        if trained:
            out.float().sum().backward()

    return _timed((6.0 if trained else 2.0) * _weights(network) * batch * side**2, step)


def _solving() -> float:
    matrix = torch.randn(_SIDE, _SIDE, dtype=torch.float64)
    return _timed(_CUBES * _SIDE**3, lambda: torch.linalg.svd(matrix))


_MEASURED: dict[str, Callable[..., float]] = {"layer": _layer, "block": _block, "solving": _solving}


class _Block(nn.Module):
    """A convolution, if any, and a layer of a transformer on the positions of a picture."""

    def __init__(self, width: int, convolved: bool) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(32, width)
        self.convolution = nn.Conv2d(width, width, 3, padding=1) if convolved else None
        self.layer = _transformer(width)

    def forward(self, states: Tensor) -> Tensor:
        """States (batch, width, side, side) to as many."""
        if self.convolution is not None:
            states = states + self.convolution(nn.functional.silu(self.norm(states)))
        rows = states.flatten(2).transpose(1, 2)
        return states + self.layer(rows).transpose(1, 2).reshape(states.shape)


def _transformer(width: int) -> Any:
    heads = max(width // 64, 1)
    width = width // heads * heads
    return nn.TransformerEncoderLayer(
        width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
    ).train(False)


def _weights(network: nn.Module) -> int:
    return sum(value.numel() for value in network.parameters() if value.ndim > 1)
