"""Reduced-rank regression from second moments: exact where the map is linear, honest where it is not."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.methods.receler.linear_fit import Moments


def noise(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_a_linear_map_of_that_rank_is_found():
    h, m = noise(4, 50, 6), noise(5, 2, seed=1) @ noise(2, 6, seed=2)
    moments = Moments.empty(6, 5)
    moments.add(h, h @ m.T)
    down, up = moments.fit(2)
    torch.testing.assert_close(up @ down, m, rtol=1e-2, atol=1e-2)
    assert moments.error(down, up) < 1e-3


def test_the_error_is_the_one_computed_directly_and_falls_with_rank():
    h = noise(300, 6)
    e = torch.nn.functional.gelu(h @ noise(6, 8, seed=1)) @ noise(8, 5, seed=2) + 0.3
    moments = Moments.empty(6, 5)
    moments.add(h[:100], e[:100])
    moments.add(h[100:], e[100:])
    errors = []
    for rank in (1, 3, 5):
        down, up = moments.fit(rank)
        assert down.shape == (rank, 6)
        direct = float((e - h @ (up @ down).T).norm() / e.norm())
        assert moments.error(down, up) == pytest.approx(direct, rel=1e-4)
        errors.append(direct)
    assert errors[0] > errors[1] > errors[2] > 0.05


def test_no_output_has_no_error():
    moments = Moments.empty(3, 3)
    moments.add(noise(10, 3), torch.zeros(10, 3))
    assert moments.error(*moments.fit(2)) == 0.0


def test_a_larger_ridge_says_less_where_little_was_seen():
    """Fewer pairs than directions: the smallest ridge follows noise, and other pairs show it."""
    seen, other = Moments.empty(40, 5), Moments.empty(40, 5)
    seen.add(noise(20, 40), noise(20, 5, seed=1))
    other.add(noise(200, 40, seed=2), noise(200, 5, seed=3))
    errors = [other.error(*seen.fit(5, ridge)) for ridge in (1e-4, 1.0, 100.0)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1.05
