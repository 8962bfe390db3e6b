"""Tensors in fewer bytes, to the last bit."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.artifacts.squeezed import squeeze, squeeze_directions, stretch, stretch_directions
from erase_plugins.errors import CorruptArtifact


@pytest.mark.parametrize("dtype", [torch.int64, torch.float64, torch.float32])
def test_values_come_back_to_the_last_bit(dtype):
    values = (torch.randn(31, 7, generator=torch.Generator().manual_seed(0)) * 2**40).to(dtype)
    packed = squeeze(values)
    assert packed.dtype == torch.uint8
    assert torch.equal(stretch(packed, (31, 7), dtype), values)


def test_numbers_far_below_their_range_take_fewer_bytes():
    values = torch.randint(-(2**40), 2**40, (20_000,), generator=torch.Generator().manual_seed(0))
    assert len(squeeze(values)) < 6 * len(values)


@pytest.mark.parametrize("rank", [0, 3, 40])
def test_a_matrix_of_few_directions_is_told_by_them_and_comes_back_exactly(rank):
    draw = torch.Generator().manual_seed(rank)
    left, right = (torch.randn(64, rank, generator=draw, dtype=torch.float64) for _ in range(2))
    noise = torch.randint(-5, 6, (64, 64), generator=draw)
    matrix = (left @ right.T * 2.0**40).round().to(torch.int64) + noise
    parts = squeeze_directions(matrix)
    assert torch.equal(stretch_directions(parts, (64, 64)), matrix)
    assert len(parts["left"]) == (rank if rank == 3 else 0)  # noise alone and many directions are not taken apart
    if rank == 3:
        assert len(parts["rest"]) < matrix.numel()


def test_damage_is_refused():
    packed = squeeze(torch.arange(100))
    for data in (packed[:-9], packed[:0], packed.roll(1)):
        with pytest.raises(CorruptArtifact):
            stretch(data, (100,), torch.int64)
    for shape in ((99,), (101,)):
        with pytest.raises(CorruptArtifact):
            stretch(packed, shape, torch.int64)
