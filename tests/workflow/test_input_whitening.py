"""Steps in directions that kept inputs hardly use: equal for kept ones, far for others."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from erase_plugins.workflow.input_whitening import InputGrams, WhitenedFactor


@pytest.fixture
def kept():
    """Inputs (200, 6) with a large mean that use the last direction hardly at all."""
    rows = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    rows[:, 0] += 20
    rows[:, 5] *= 0.01
    return rows


def factor(kept, ridge=1e-4):
    slot = SimpleNamespace(A=torch.randn(2, 6, generator=torch.Generator().manual_seed(1)))
    return WhitenedFactor(slot, (kept.T @ kept / len(kept)).double(), ridge, slot.A), slot


def test_kept_inputs_use_all_directions_alike(kept):
    made, _ = factor(kept, 1e-9)
    seen = kept @ made.root
    torch.testing.assert_close(seen.T @ seen / len(seen), torch.eye(6), rtol=0.01, atol=0.01)


def test_it_starts_as_it_was_and_hands_on_gradients(kept):
    made, slot = factor(kept)
    before = slot.A.clone()
    made.refresh()
    assert torch.equal(slot.A, before)
    (slot.A * kept[0]).sum().backward()
    torch.testing.assert_close(made.M.grad, (kept[0] @ made.root).expand(2, 6))


def test_a_step_against_a_new_direction_leaves_kept_answers(kept):
    """One step of the size of the gradient's sign, as Adam takes it, on an input that has what kept ones have not."""
    new = kept.mean(0) + torch.tensor([0.0, 0, 0, 0, 0, 1])

    def harm(root):
        step = (new @ root).sign() @ root
        return float((kept @ step).abs().mean() / (new @ step).abs())

    assert harm(factor(kept)[0].root) < 0.2
    assert harm(torch.eye(6)) > 0.8


def test_a_unit_is_an_answer_over_the_root_of_the_width(kept):
    made, slot = factor(kept)
    answers = kept @ slot.A.T
    assert made.unit == pytest.approx(float(answers.square().mean().sqrt()) / 6**0.5, rel=1e-3)


def test_inputs_of_linear_layers_and_convolutions_are_counted():
    linear, conv = nn.Linear(3, 2), nn.Conv2d(4, 2, 3)
    rows, picture = torch.randn(2, 5, 3), torch.randn(2, 4, 6, 6)
    grams = InputGrams()
    with grams.listening({"linear": linear, "conv": conv}):
        for part in rows:
            linear(part)
        conv(picture)
    linear(rows + 100)  # nobody listens any more
    flat, pixels = rows.flatten(0, 1), picture.movedim(1, -1).flatten(0, 2)
    torch.testing.assert_close(grams.mean("linear").float(), flat.T @ flat / 10)
    torch.testing.assert_close(grams.mean("conv").float(), pixels.T @ pixels / 72)


def test_factors_of_convolutions_are_moved_by_channel():
    slot = SimpleNamespace(A=torch.randn(2, 4, 3, 3))
    made = WhitenedFactor(slot, torch.diag(torch.tensor([1.0, 1, 1, 4], dtype=torch.float64)), 1e-9, slot.A)
    with torch.no_grad():
        made.M.fill_(1)
    made.refresh()
    moved = (slot.A - made.start).detach()
    torch.testing.assert_close(moved[0, :, 0, 0], torch.tensor([1.0, 1, 1, 0.5]), rtol=1e-3, atol=1e-3)
