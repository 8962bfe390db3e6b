"""Fusing LoRAs of several concepts: exact on one, bounded rank, kept rows."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch

from erase_plugins.errors import NotFiniteError
from erase_plugins.methods.mace.fusion import OwnChange, fuse


def own_change(seed, rows=6, dim=8, outs=(5, 7)):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)  # noqa: E731
    return OwnChange(draw(rows, dim), draw(len(outs), dim), [draw(out) for out in outs])


def test_fusing_one_concept_alone_gives_its_lora_on_its_rows():
    change = own_change(0)
    for place, fused in enumerate(fuse([change], torch.zeros(8, 8), 1e-9, 0.0)):
        wanted = torch.outer(change.up[place], change.down[place])
        torch.testing.assert_close(fused.dense() @ change.rows.T, wanted @ change.rows.T, rtol=1e-4, atol=1e-4)


def test_the_rank_of_the_fusion_is_at_most_the_number_of_concepts():
    changes = [own_change(seed) for seed in range(3)]
    kept = torch.randn(20, 8, generator=torch.Generator().manual_seed(9))
    for fused in fuse(changes, kept.T @ kept, 0.1, 1.0):
        values = torch.linalg.svdvals(fused.dense().double())
        assert int((values > 1e-6 * values[0]).sum()) <= 3
        assert fused.rank == 3


def test_kept_rows_stay_as_their_weight_grows():
    change = own_change(0, rows=3)
    kept = torch.randn(4, 8, generator=torch.Generator().manual_seed(9))
    drift = [
        float((fuse([change], kept.T @ kept, 1.0, scale)[0].dense() @ kept.T).norm()) for scale in (1.0, 1e2, 1e4, 1e6)
    ]
    assert all(later < 0.1 * earlier for earlier, later in pairwise(drift))


def test_a_fusion_without_a_unique_solution_is_refused():
    with pytest.raises(NotFiniteError, match="fuse_lam"):
        fuse([own_change(0, rows=2)], torch.zeros(8, 8), 0.0, 0.0)
