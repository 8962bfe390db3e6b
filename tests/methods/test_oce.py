"""OCE: what the rotation does to values, and what a LoRA of it holds."""

from __future__ import annotations

import math

import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import RequestError
from erase_plugins.methods.oce import low_rank, rotation, span

OUT, D = 160, 384


def draw(n: int, kept: int = 20) -> tuple[torch.Tensor, ...]:
    generator = torch.Generator().manual_seed(n)

    def rows(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=generator, dtype=torch.float64)

    R = rows(1000, D)
    return rows(OUT, D) / math.sqrt(D), rows(n, D), rows(1, D), R.T @ R / len(R), rows(kept, D)


@pytest.mark.parametrize("scales", [(800, 20, 0, 10), (3000, 70, 2, 10)])
@pytest.mark.parametrize("n", [1, 2, 5, 10, 40])
def test_turns_erased_values_round_at_a_rank_of_about_their_number(n, scales) -> None:
    W, C, S, K, kept = draw(n)
    P = rotation(W, C, S, K, kept, scales)
    eye = torch.eye(OUT, dtype=torch.float64)
    assert float((P @ P.T - eye).abs().max()) < 1e-12
    assert float(torch.linalg.det(P)) == pytest.approx(1.0)
    values = W @ C.T
    cosines = (values * (P @ values)).sum(0) / values.norm(dim=0) ** 2
    assert float(cosines.max()) < -0.5
    assert abs(int((torch.linalg.eigvals(P).real < 0).sum()) - n) <= 1
    change = (P - eye) @ W
    assert abs(low_rank(change, 0.99)[0].rank - n) <= 2
    assert low_rank(change, 0.999)[0].rank <= n + 2


def test_named_values_stay_the_better_the_more_they_weigh() -> None:
    W, C, S, K, kept = draw(10, kept=3)

    def moved(q: float) -> float:
        P = rotation(W, C, S, K, kept, (1000, 50, q, 10))
        return float(((P @ W - W) @ kept.T).norm() / (W @ kept.T).norm())

    assert moved(100.0) < 0.5 * moved(0.0)


def test_a_reflection_is_turned_back_at_its_weakest_direction() -> None:
    """One concept alone would be mirrored; the rotation loses the least of what M asks for."""
    W, C, S, K, kept = draw(1)
    scales = (1000, 50, 1, 10)
    P = rotation(W, C, S, K, kept, scales)
    E, guide = span(W @ C.T), span(W @ S.T)
    M = -scales[0] * E @ E.T @ (torch.eye(OUT, dtype=torch.float64) - guide @ guide.T)
    M = M + W @ (50 * K + 10 * torch.eye(D, dtype=torch.float64) + kept.T @ kept) @ W.T
    left, sizes, right = torch.linalg.svd(M)
    assert float(torch.linalg.det(left @ right)) < 0
    assert float((M * P).sum()) == pytest.approx(float(sizes.sum() - 2 * sizes[-1]))


def test_nothing_to_turn_away_is_no_change() -> None:
    W, C, S, K, kept = draw(2)
    P = rotation(W, C, S, K, kept, (0, 50, 1, 10))
    assert float((P - torch.eye(OUT, dtype=torch.float64)).abs().max()) < 1e-12
    change, error = low_rank((P - P) @ W, 0.999)
    assert change.rank == 1 and not change.dense().any() and error == 0.0


def test_dependent_rows_count_once() -> None:
    W, C, S, K, kept = draw(3)
    again = torch.cat([C, 2 * C[:1], C[1:2] + C[2:3]])
    one, other = (rotation(W, rows, S, K, kept, (1000, 50, 1, 10)) for rows in (C, again))
    assert float((one - other).abs().max()) < 1e-9


def test_low_rank_error_is_what_was_cut() -> None:
    change = torch.randn(12, 20, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    part, error = low_rank(change, 0.8)
    left = float((change - part.dense().double()).norm() / change.norm())
    assert left == pytest.approx(error, rel=1e-5)
    assert error**2 <= 0.2


def test_values_only_and_lengths_stay_on_pocket(pocket_target) -> None:
    options = {"vocabulary": 60, "energy": 1.0, "gated": False}
    artifact = ep.erase(pocket_target, "pizza", method="oce", options=options)
    group = artifact.edit.deltas["unet"]
    assert set(group) == {ref.weight for ref in pocket_target.modules("cross_v")}
    for ref in pocket_target.modules("cross_v")[:2]:
        W = pocket_target.weight(ref).double()
        turned = W + group[ref.weight].dense().double()
        assert torch.allclose(turned.T @ turned, W.T @ W, atol=1e-4)
        assert float((turned - W).norm() / W.norm()) > 1e-3


def test_needs_something_to_hold_on_to() -> None:
    with pytest.raises(RequestError, match="lam and keep_all"):
        ep.plan("pocket", "pizza", "oce", options={"lam": 0, "keep_all": 0})
