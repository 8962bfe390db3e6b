"""Learning from noisy presentations: the consolidated Hebbian rule, and majority consolidation.

Noise is that of arXiv 1709.08367: every active unit is erased with chance p_e, every silent one inserted with p_i.
Differs from the paper: `learn_majority` is ours. It serves the same purpose, does not depend on the order and can be
analysed; its connections can be taken back one code at a time.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from erase_assoc_memory.memory import Bits, CliqueMemory, Codes
from erase_plugins.errors import RequestError

Weights = NDArray[np.float64]
_CLIP = 1e-4
_FIRES = 0.01


def noisy(
    memory: CliqueMemory, code: Codes, times: int, erased: float, inserted: float, rng: np.random.Generator
) -> Bits:
    """Presentations of one code under noise, (T, N)."""
    clean = memory.one_hot(np.asarray(code)[None])
    draws = rng.random((times, memory.units))
    return np.where(clean, draws >= erased, draws < inserted)


def learn_majority(
    memory: CliqueMemory, seen: Bits, erased: float = 0.2, share: float | None = None
) -> tuple[Codes, Codes]:
    """Keeps the pairs that were active together in at least ``share`` of the presentations (T, N) of one code.

    Args:
        share: theta; (1 - p_e)^2 / 2 if None, half of what a true pair reaches.

    Returns:
        Ends of the connections that were added (each direction), for `CliqueMemory.remove_edges`.

    Raises:
        RequestError: no presentation, or a share outside 0..1.
    """
    share = (1 - erased) ** 2 / 2 if share is None else share
    if not len(seen) or not 0 < share <= 1:
        raise RequestError(
            f"{len(seen)} presentations with share {share:g}: at least one, and a share in 0..1, are needed"
        )
    active = seen.astype(np.float32)
    together = active.T @ active >= np.ceil(share * len(seen))
    one, two = np.nonzero(together & between(memory))
    memory.add_edges(one, two)
    return one, two


def between(memory: CliqueMemory) -> Bits:
    """Pairs of units in different clusters, (N, N)."""
    cluster = np.arange(memory.units) // memory.letters
    return cluster[:, None] != cluster[None]


def consolidate(weights: Weights) -> Weights:
    """S(u) = 1/2 + 1/2 tanh(tan(pi u - pi/2)): weak traces fade, strong ones become permanent; 1/2 is the watershed."""
    inside = np.clip(weights, _CLIP, 1 - _CLIP)  # at 0 and 1 the tangent has a pole, and rounding decides its sign
    return np.where(weights <= _CLIP, 0.0, 0.5 + 0.5 * np.tanh(np.tan(np.pi * inside - np.pi / 2)))


def winners(drive: Weights, memory: CliqueMemory, rng: np.random.Generator) -> Bits:
    """Energy limit: at most one unit fires in each cluster, ties broken at random, and only with some drive."""
    shaped = drive.reshape(memory.clusters, memory.letters)
    best = (shaped + 1e-9 * rng.random(shaped.shape)).argmax(1)
    active = np.zeros_like(shaped, bool)
    rows = np.arange(memory.clusters)
    active[rows, best] = shaped[rows, best] > _FIRES
    return active.ravel()


def learn_sigmoid(
    memory: CliqueMemory, weights: Weights, seen: Bits, rng: np.random.Generator, rate: float = 0.25,
    gain: float | None = None, silent: int = 3,
) -> Weights:  # fmt: skip
    """The paper's rule for one code: Hebbian step and consolidation at every presentation, then silence.

    Args:
        weights: (N, N) in 0..1, before; rounded ones are fixed points.
        seen: (T, N) presentations.
        rate: eps; a pair that fires in consecutive steps crosses 1/2 only above 0.1401.
        gain: of the input; c if None. It must exceed c - 1, or old memories override the input.
        silent: steps of consolidation alone, in which single coincidences fade.

    Returns:
        (N, N) weights, rounded at 1/2.
    """
    gain = float(memory.clusters) if gain is None else gain
    apart = between(memory)
    active = np.zeros(memory.units, bool)
    for inputs in seen:
        drive = gain * inputs + active.astype(np.float64) @ weights
        active = winners(drive, memory, rng)
        step = np.zeros_like(weights)
        step[np.ix_(active, active)] = rate
        weights = consolidate(weights + step * apart)
    for _ in range(silent):
        weights = consolidate(weights)
    return (weights > 0.5).astype(np.float64)
