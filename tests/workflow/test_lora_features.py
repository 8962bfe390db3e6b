"""The closed form on what layers read: directions of the concept alone go, and what cannot be told apart gets weaker."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from erase_plugins.workflow.lora_features import ROWS, Inputs, taken_off


def test_a_direction_that_only_the_concept_uses_goes_and_others_stay():
    A = torch.tensor([[1.0, 2.0, 3.0]])
    found = taken_off(A, torch.tensor([[1.0, 0, 0]] * 3), torch.tensor([[0.0, 1, 0]] * 5), 0.25)
    torch.testing.assert_close(found, torch.tensor([[0.0, 2, 3]]).double(), atol=2e-3, rtol=0)


def test_what_cannot_be_told_apart_gets_weaker():
    rows = torch.randn(40, 3, generator=torch.Generator().manual_seed(1))
    A = torch.tensor([[1.0, 2.0, 3.0]])
    torch.testing.assert_close(taken_off(A, rows, rows, 0.25), A.double() / 1.25, atol=2e-3, rtol=1e-3)


def test_the_numbers_of_rows_do_not_matter_and_nothing_is_done_without_inputs():
    A, named, kept = torch.randn(2, 4), torch.randn(6, 4), torch.randn(5, 4)
    torch.testing.assert_close(taken_off(A, named.repeat(3, 1), kept, 1.0), taken_off(A, named, kept, 1.0))
    assert torch.equal(taken_off(A, 0 * named, 0 * kept, 1.0), A.double())


@pytest.mark.parametrize(("one", "other"), [(9, 7), (2, 1)])
def test_the_solve_is_the_ridge_solve_and_treats_every_tap_of_a_convolution_alike(one, other):
    """Whether a layer is narrower than there are rows of it, or wider."""
    generator = torch.Generator().manual_seed(2)
    A = torch.randn(2, 4, 3, 3, generator=generator)
    named = torch.randn(one, 4, generator=generator).double()
    kept = torch.randn(other, 4, generator=generator).double()
    G, H = 0.25 * named.T @ named / one, kept.T @ kept / other
    system = G + H + 1e-4 * (G + H).trace() / 4 * torch.eye(4).double()
    P = G @ torch.linalg.inv(system)
    found = taken_off(A, named.float(), kept.float(), 0.25)
    wanted = A.double() - torch.einsum("rkhw,ki->rihw", A.double(), P)
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-4)


def test_as_many_inputs_of_every_state_are_kept_as_make_the_sample():
    linear, conv = nn.Linear(3, 3), nn.Conv2d(5, 2, 1)
    seen = Inputs({("unet", "a"): linear, ("unet", "b"): conv, ("unet", "c"): nn.Linear(2, 2)}, torch.Generator())
    states = 8
    with seen.listening(states):
        for _ in range(2):
            linear(torch.arange(4.0).view(4, 1, 1).expand(4, 100, 3))
            conv(torch.ones(4, 5, 20, 20) * torch.arange(5.0).view(1, 5, 1, 1))
    linear(torch.zeros(1, 1, 3))  # outside, nothing is kept
    rows = seen.rows(("unet", "a"))
    assert rows.shape == (ROWS, 3)
    assert [int((rows[:, 0] == state).sum()) for state in range(4)] == [ROWS // 4] * 4
    assert torch.equal(seen.rows(("unet", "b"))[0], torch.arange(5.0))
    assert seen.rows(("unet", "c")) is None
