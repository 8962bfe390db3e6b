"""Steps in coordinates in which what a layer reads is white: what they are, and that small differences are learnt."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from erase_plugins.workflow.lora_features import ROWS
from erase_plugins.workflow.lora_whitening import White, steps_on

CPU = torch.device("cpu")


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def power(matrix, exponent):
    """By the eigenvalues of the whole matrix, which the code never builds."""
    values, vectors = torch.linalg.eigh(matrix.double())
    return (vectors * values**exponent) @ vectors.T


@pytest.mark.parametrize("count", [30, 4])
@pytest.mark.parametrize("exponent", [0.5, -0.5])
def test_a_factor_times_a_power_of_the_mean_square_of_inputs(count, exponent):
    """With fewer rows than inputs, too; every tap of a convolution alike."""
    rows = random(count, 6) * torch.tensor([5.0, 2, 1, 1, 0.3, 0.1])
    C = rows.T @ rows / count
    C = C / (C.trace() / 6) + 0.1 * torch.eye(6)
    white = White.of(rows, CPU)
    for factor in (random(2, 6, seed=1), random(2, 6, 3, 3, seed=1)):
        wanted = torch.einsum("ri...,ik->rk...", factor.double(), power(C, exponent))
        torch.testing.assert_close(white.times(factor, exponent), wanted.float(), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(white.times(white.times(factor, exponent), -exponent), factor)


def test_rows_are_thinned_and_none_of_them_leave_a_factor_as_it_is_up_to_one_scale():
    rows = random(3 * ROWS, ROWS + 40)
    rows[1::3] = rows[2::3] = 0
    assert White.of(rows, CPU).axes.shape == (ROWS + 40, ROWS)
    torch.testing.assert_close(White.of(rows, CPU).sizes, White.of(rows[::3], CPU).sizes)
    factor = random(2, 3)
    white = White.of(torch.zeros(5, 3), CPU)
    torch.testing.assert_close(white.times(white.times(factor, 0.5), -0.5), factor)


def test_the_size_of_what_is_read_does_not_matter():
    rows = random(30, 6)
    for scale in (1e-25, 1e25):
        torch.testing.assert_close(White.of(scale * rows, CPU).sizes, White.of(rows, CPU).sizes, rtol=1e-3, atol=1e-4)


def left(whitened):
    """What 100 steps leave to learn where named and kept inputs, of eight entries, differ by little of what they share.

    The factor answers 1 to both and shall answer 0 and 1.
    """
    shared, own = torch.ones(8), 0.2 * torch.tensor([1.0, -1] * 4)
    named, kept = shared + own, shared - own
    factor = nn.Parameter(torch.full((1, 8), 1 / 8))

    def error(_step):
        return (factor @ named).square().sum() + (factor @ kept - 1).square().sum()

    steps_on([(factor, White.of(torch.stack([named, kept]), CPU) if whitened else None)], 100, 0.02, error)
    return error(0).item()


def test_a_small_difference_between_inputs_is_learnt_where_plain_steps_have_not_come_far():
    assert left(True) < 0.1 < 0.3 < left(False)


def test_a_factor_that_nothing_asks_stays():
    asked, idle = nn.Parameter(torch.ones(1, 2)), nn.Parameter(torch.ones(1, 2))
    white = White.of(random(9, 2), CPU)
    steps_on([(asked, white), (idle, white)], 3, 0.1, lambda _step: asked.square().sum())
    torch.testing.assert_close(idle.detach(), torch.ones(1, 2))
    assert float(asked.detach().square().sum()) < 2
