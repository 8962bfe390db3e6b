"""FID, KID and CMMD against closed forms and sums written out."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erase_plugins.evaluation.standard import distances
from erase_plugins.evaluation.standard.distances import DISTANCES, fid, kid

pytest.importorskip("torchmetrics")


def rows(count, width, seed, shift=0.0):
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + shift


def test_fid_of_one_feature_by_hand():
    """Means 1 and 4, variances 2 and 8: (4 - 1)^2 + (sqrt 8 - sqrt 2)^2 = 9 + 2."""
    first = torch.tensor([[0.0], [2.0]], dtype=torch.float64)
    second = torch.tensor([[2.0], [6.0]], dtype=torch.float64)
    assert fid(first, second) == pytest.approx(11.0, abs=1e-6)


def test_fid_is_the_closed_form_with_a_matrix_root():
    from scipy.linalg import sqrtm

    first, second = rows(60, 5, 0), 1.5 * rows(40, 5, 1, 0.3)
    one, two = np.cov(first.numpy().T), np.cov(second.numpy().T)
    apart = ((first.mean(0) - second.mean(0)) ** 2).sum().item()
    wanted = apart + np.trace(one + two - 2 * sqrtm(one @ two).real)
    assert fid(first, second) == pytest.approx(wanted, rel=1e-6)
    assert fid(second, first) == pytest.approx(wanted, rel=1e-6)
    assert abs(fid(first, first)) < 1e-3


def test_fid_of_features_is_that_of_pictures():
    """Features given ready are what torchmetrics makes of pictures with the same encoder."""
    from torchmetrics.image.fid import FrechetInceptionDistance

    class Mean(torch.nn.Module):
        num_features = 3

        def forward(self, shown):
            return shown.float().mean((2, 3))

    shown = torch.randint(0, 256, (12, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    by_hand = FrechetInceptionDistance(Mean())
    by_hand.update(shown[:6], real=True)
    by_hand.update(shown[6:], real=False)
    assert fid(Mean()(shown[:6]), Mean()(shown[6:])) == pytest.approx(float(by_hand.compute()), rel=1e-5)


def kernel_distance(x, y):
    """Unbiased, with the kernel (x.y / d + 1)^3, term by term."""

    def k(a, b):
        return (float(a @ b) / len(a) + 1) ** 3

    def inside(z):
        return sum(k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j) / (len(z) * (len(z) - 1))

    return inside(x) + inside(y) - 2 * sum(k(a, b) for a in x for b in y) / (len(x) * len(y))


def test_kid_term_by_term():
    first, second = rows(6, 3, 0).float(), rows(6, 3, 1, 0.5).float()
    assert kid(first, second) == pytest.approx(kernel_distance(first, second), rel=1e-4)


def test_kid_of_many_pictures_is_a_mean_over_subsets_the_same_each_time(monkeypatch):
    monkeypatch.setattr(distances, "SUBSET", 20)
    first, second = rows(30, 3, 0).float(), rows(30, 3, 1, 0.5).float()
    torch.manual_seed(7)
    before = torch.get_rng_state()
    found = kid(first, second, 3)
    assert torch.equal(torch.get_rng_state(), before)  # nobody else's random numbers move
    assert found == kid(first, second, 3) != kid(first, second, 4)
    assert found == pytest.approx(kernel_distance(first, second), rel=0.1)


def test_cmmd_is_that_of_erase_eval_whose_golden_file_holds():
    first, second = rows(20, 4, 0), rows(20, 4, 1, 0.5)
    x, y = (part / part.norm(dim=1, keepdim=True) for part in (first, second))

    def mean(a, b):
        return float(torch.exp(-(torch.cdist(a, b) ** 2) / 200).mean())

    wanted = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    assert DISTANCES["cmmd"](first, second, 0) == pytest.approx(wanted, abs=1e-6)
