"""The procedures of the papers behind the table of frontier methods do what ours do, or more of the same."""

from __future__ import annotations

import pytest
import torch

from benchmarks import frontier
from benchmarks.plain import frontier as plain
from erase_plugins.engine.sparse_coder import SparseCoder
from erase_plugins.runtime.sparse_features import SparseFeatures


def drawn(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture
def rows() -> dict[str, torch.Tensor]:
    """Columns of 24 values; what is retained leaves a third of the directions."""
    return {"C": drawn(24, 3, seed=1), "S": drawn(24, 3, seed=2), "N": drawn(24, 2, seed=3),
            "R": drawn(24, 16, seed=4) @ drawn(16, 90, seed=5)}  # fmt: skip


def test_one_solve_for_all_layers_is_the_one_of_every_layer(rows) -> None:
    weights = [drawn(12, 24, seed=6), drawn(40, 24, seed=7)]
    D, ways = frontier.solved(weights, **rows, tau=1e-6, rho=0.1)
    for way, change in zip(ways, plain.speed(weights, **rows, tau=1e-6, rho=0.1, lam=0.5), strict=True):
        assert float((way @ D - change).norm() / change.norm()) < 1e-10


def test_the_refinement_of_every_layer_is_work_of_its_own(rows, monkeypatch) -> None:
    taken: list[int] = []
    svd = torch.linalg.svd
    monkeypatch.setattr(torch.linalg, "svd", lambda *args, **more: taken.append(1) or svd(*args, **more))
    weights = [drawn(12, 24, seed=6), drawn(40, 24, seed=7)]
    plain.speed(weights, **rows, tau=1e-6, rho=0.1, lam=0.5, filtered=True, augmented=True)
    assert len(taken) == 2 * len(weights)
    taken.clear()
    frontier.solved(weights, **rows, tau=1e-6, rho=0.1)
    assert not taken


def test_steering_all_features_is_steering_the_chosen_ones() -> None:
    decode = torch.nn.functional.normalize(drawn(40, 8, seed=1).float(), dim=1)
    coder = SparseCoder(decode, torch.zeros(40), decode, torch.zeros(8))
    h, chosen = drawn(30, 8, seed=2).float(), torch.tensor([3, 7])
    whole = plain.steered(h, coder, chosen, torch.full((2,), 0.3), -1.0, 40)  # all features kept: a threshold of 0
    sparse = h + SparseFeatures(coder.parts(chosen, torch.full((2,), 0.3), -1.0))(h[None])[0]
    assert torch.allclose(whole, sparse, atol=1e-5)


def test_what_is_counted() -> None:
    assert plain.gloce_passes(1) == 2 * 540
    assert plain.slug_pictures(10, 90, 4, 10) == 100 + 100 * 40
    rows = {row["work"].split(",")[0]: row for row in frontier.guards()}
    assert rows["adavd"]["ratio"] == 300 and rows["semantic-surgery"]["ratio"] == 100
