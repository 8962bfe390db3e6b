"""Random neighbours: bounds, distance, the untouched start row, bounded time, refusals."""

from __future__ import annotations

import math

import pytest
import torch

from erase_plugins.errors import RequestError
from erase_plugins.families.base import Conditioning
from erase_plugins.methods.realera.neighbor_sampling import Shell, share_of


def prompts(count: int = 1000, norm: float = 50.0) -> Conditioning:
    rows = torch.randn((count, 32, 24), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rows = rows * (norm / rows[:, 1:].flatten(1).norm(dim=1))[:, None, None]
    return Conditioning(rows, (3,) * count, None, ("x",) * count)


def against(cond: Conditioning, moved: Conditioning) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    a, b = cond.embeds[:, 1:].flatten(1), moved.embeds[:, 1:].flatten(1)
    return torch.cosine_similarity(a, b), (a - b).norm(dim=1), a.norm(dim=1)


@pytest.mark.parametrize("norm", ["lerp", "preserve"])
def test_neighbours_lie_between_the_cosines_and_far_points_outside(norm: str) -> None:
    shell, cond = Shell(0.5, 0.9, norm=norm), prompts()
    near, _, _ = against(cond, shell.near(cond, torch.Generator().manual_seed(0)))
    far, _, _ = against(cond, shell.far(cond, torch.Generator().manual_seed(0)))
    assert 0.5 - 1e-9 <= float(near.min()) < 0.55
    assert 0.85 < float(near.max()) <= 0.9 + 1e-9
    assert -0.14 < float(far.min()) < float(far.max()) <= 0.5 + 1e-9


def test_distance_follows_the_share_and_the_start_row_stays() -> None:
    shell, cond = Shell(0.7, 0.8), prompts()
    moved = shell.near(cond, torch.Generator().manual_seed(0))
    cosine, distance, length = against(cond, moved)
    wanted = torch.tensor([share_of(float(value)) for value in cosine], dtype=torch.float64)
    torch.testing.assert_close(distance, wanted * math.sqrt(2) * length)
    assert torch.equal(moved.embeds[:, 0], cond.embeds[:, 0])
    assert torch.equal(moved.embeds, shell.near(cond, torch.Generator().manual_seed(0)).embeds)
    assert not torch.equal(moved.embeds, shell.near(cond, torch.Generator().manual_seed(1)).embeds)


def test_preserve_keeps_the_norm_and_lerp_shrinks_it() -> None:
    cond = prompts(50)
    for norm, ratio in (("preserve", 1.0), ("lerp", 0.71)):
        moved = Shell(0.7, 0.72, norm=norm).near(cond, torch.Generator().manual_seed(0))
        found = moved.embeds[:, 1:].flatten(1).norm(dim=1) / cond.embeds[:, 1:].flatten(1).norm(dim=1)
        assert float((found - ratio).abs().max()) < 0.02


@pytest.mark.parametrize("norm", [1e-3, 1.0, 1e3])
def test_any_scale_of_embeddings_gives_neighbours_at_once(norm: float) -> None:
    cosine, _, _ = against(cond := prompts(20, norm), Shell().near(cond, torch.Generator().manual_seed(0)))
    assert 0.5 - 1e-6 <= float(cosine.min()) <= float(cosine.max()) <= 0.9 + 1e-6


def test_a_bound_on_the_distance_holds_and_an_empty_shell_says_what_would_do() -> None:
    cond = prompts(200)
    _, distance, length = against(cond, Shell(0.5, 0.9, 0.6).near(cond, torch.Generator().manual_seed(0)))
    assert float((distance / length).max()) <= 0.6 + 1e-9
    with pytest.raises(RequestError, match=r"raise distance to 0\.461"):
        Shell(0.5, 0.9, 0.4)
    assert Shell(0.5, 0.9, 0.462)


@pytest.mark.parametrize(("low", "high"), [(0.9, 0.5), (0.5, 0.5), (-1.0, 0.5), (0.5, 1.0), (-0.2, 0.5)])
def test_impossible_bounds_are_refused(low: float, high: float) -> None:
    with pytest.raises(RequestError, match="similar_"):
        Shell(low, high)
