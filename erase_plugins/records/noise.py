"""Gaussian noise that nobody can draw again: from the system's entropy, with no seed and no state to keep.

Whoever knows the noise can subtract it and with it the guarantee. The limits of float64 as a sample of a Gaussian
(Mironov 2012) remain.
"""

from __future__ import annotations

import os
from typing import Any, Protocol

import numpy as np


class Noise(Protocol):
    """Where the noise of a run comes from."""

    #: whether nobody can draw it again; without that there is no certificate
    secret: bool

    def normal(self, shape: tuple[int, ...]) -> Any:
        """Independent standard normal numbers, float64."""


class SystemNoise:
    """Normal numbers from the operating system's generator by the transform of Box and Muller."""

    secret = True

    def normal(self, shape: tuple[int, ...]) -> Any:
        """Independent standard normal numbers, float64."""
        count = int(np.prod(shape))
        half = (count + 1) // 2
        bits = np.frombuffer(os.urandom(16 * half), dtype=np.uint64).reshape(2, half) >> np.uint64(11)
        uniform = (bits + np.float64(1)) * 2.0**-53  # in (0, 1]
        radius, angle = np.sqrt(-2 * np.log(uniform[0])), 2 * np.pi * uniform[1]
        return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count].reshape(shape)


class TestNoise:
    """Noise that can be drawn again, for tests. A head that was made with it never gets a certificate."""

    __test__ = False  # for pytest
    secret = False

    def __init__(self, seed: int) -> None:
        self._generator = np.random.default_rng(seed)

    def normal(self, shape: tuple[int, ...]) -> Any:
        """Independent standard normal numbers, float64."""
        return self._generator.standard_normal(shape)
