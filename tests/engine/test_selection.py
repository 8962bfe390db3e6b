"""The upper level of the search for worst-case forget sets."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from erase_plugins.engine.selection import budget_of, gradient, project, search, smallest
from erase_plugins.errors import NotFiniteError, RequestError


def nearest(w, total):
    """The projection by very many halvings."""
    low, high = w.min() - 1, w.max()
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if np.clip(w - middle, 0, 1).sum() > total else (low, middle)
    return np.clip(w - high, 0, 1)


@pytest.mark.parametrize("scale", [0.01, 1.0, 1e4])
@pytest.mark.parametrize("count", [2, 37, 4000])
def test_the_projection_is_exact(count, scale):
    rng = np.random.default_rng(count)
    w, total = rng.normal(size=count) * scale, max(1, count // 10)
    found = project(w, total)
    assert found.sum() == pytest.approx(total, abs=1e-6)
    assert found.min() >= 0
    assert found.max() <= 1
    assert project(found, total) == pytest.approx(found, abs=1e-9)
    order = np.argsort(w)
    assert (np.diff(found[order]) >= 0).all()
    assert found == pytest.approx(nearest(w, total), abs=1e-6 * max(1.0, scale))


def test_the_gradient_through_steps_of_signs_is_the_loss_itself():
    """Finite differences of the upper level through sign-SGD on a model of one layer."""
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(12, 5, generator=generator, dtype=torch.float64), torch.arange(12) % 3
    start = torch.randn(3, 5, generator=generator, dtype=torch.float64)

    def lower(w):
        theta = start.clone().requires_grad_(True)
        for _ in range(8):
            loss = ((1 - w) * torch.nn.functional.cross_entropy(x @ theta.T, y, reduction="none")).sum()
            (slope,) = torch.autograd.grad(loss, theta)
            theta = (theta - 0.01 * slope.sign()).detach().requires_grad_(True)
        return torch.nn.functional.cross_entropy(x @ theta.T, y, reduction="none").detach()

    w, gamma = torch.rand(12, generator=generator, dtype=torch.float64), 0.3
    upper = [
        float((v * lower(v)).sum() + gamma * (v**2).sum()) for d in torch.eye(12) for v in (w + 1e-6 * d, w - 1e-6 * d)
    ]
    by_hand = (np.array(upper[::2]) - np.array(upper[1::2])) / 2e-6
    assert gradient(lower(w).numpy(), w.numpy(), gamma) == pytest.approx(by_hand, abs=1e-6)


def test_a_large_step_takes_the_smallest_losses_and_a_small_one_leaves_the_start():
    losses = np.array([3.0, 0.5, 2.0, 0.1, 0.4, 5.0])
    start = np.array([0, 5])
    for step in (None, 1e9):
        found = search(6, 2, lambda picked, number: losses, start, rounds=3, step=step)
        assert found.picked.tolist() == [3, 4]
    assert found.kept == (0.0, 1.0, 1.0)
    assert search(6, 2, lambda picked, number: losses, start, rounds=3).kept == (0.0, 1.0)  # ends when nothing changes
    still = search(6, 2, lambda picked, number: losses, start, rounds=3, step=1e-12, gamma=0.1)
    assert still.picked.tolist() == [0, 5]
    easy = search(6, 2, lambda picked, number: losses, start, rounds=3, easiest=True)
    assert easy.picked.tolist() == [0, 5]


def test_the_search_follows_what_unlearning_leaves():
    """What was selected is forgotten well (loss 9), unless it is the stubborn item 2."""
    stubborn, asked = 2, []

    def unlearn(picked, number):
        asked.append(picked.tolist())
        losses = np.linspace(1.0, 2.0, 6)
        losses[picked] = 9.0
        losses[stubborn] = 0.0
        return losses

    found = search(6, 1, unlearn, np.array([5]), rounds=4)
    assert found.picked.tolist() == [stubborn]
    assert asked == [[5], [2]]


@pytest.mark.parametrize("way", [1.0, -1.0], ids=["worst", "easiest"])
def test_the_worst_forgotten_of_all_sets_is_returned_not_the_last_one(way):
    """Everything that is asked for is pushed away, so the search jumps from item to item; item 1 moves least."""
    left = np.array([[7.0, 1.0, 9.0, 9.0], [9.0, 3.0, 2.0, 9.0], [9.0, 9.0, 6.0, 5.0], [9.0, 9.0, 9.0, 5.5]])
    asked = []

    def unlearn(picked, number):
        asked.append(int(picked[0]))
        return way * left[number]

    found = search(4, 1, unlearn, np.array([0]), rounds=3, easiest=way < 0)
    assert asked == [0, 1, 2, 3]  # what the last round chose is unlearned as well
    assert found.scores == tuple(way * np.array([7.0, 3.0, 6.0, 5.5]))
    assert (found.picked.tolist(), found.best) == ([1], 1)
    assert found.losses.tolist() == (way * left[1]).tolist()
    share = {0: 0.5, 1: 0.5, 2: 0.2, 3: 0.2} if way > 0 else {0: 0.1, 1: 0.1, 2: 0.3, 3: 0.3}
    found = search(4, 1, unlearn, np.array([0]), rounds=3, easiest=way < 0, forgotten=lambda picked: share[picked[0]])
    assert found.best == 3  # less of it is forgotten, and of two such ones the loss decides


def test_a_quota_spreads_the_set():
    values, groups = np.arange(8.0), np.array([0, 0, 0, 0, 0, 1, 1, 2])
    assert smallest(values, 4).tolist() == [0, 1, 2, 3]
    assert smallest(values, 4, groups, 2).tolist() == [0, 1, 5, 6]
    with pytest.raises(RequestError, match="a quota of 1 per class allows 3 rows, and 4 are asked for"):
        smallest(values, 4, groups, 1)
    for step in (None, 1e6, 0.01):
        found = search(8, 4, lambda picked, number: values, np.array([4, 5, 6, 7]), rounds=3, step=step, groups=groups,
                       quota=2)  # fmt: skip
        assert np.bincount(groups[found.picked]).max() <= 2
    assert smallest(np.ones(4), 2).tolist() == [0, 1]


@pytest.mark.parametrize(("text", "found"), [("10%", 10), (0.1, 10), ("25", 25), ("0.5", 50), (3, 3), ("1%", 1)])
def test_budgets(text, found):
    assert budget_of(text, 100) == found


@pytest.mark.parametrize(
    ("text", "message"),
    [("100%", "is 100 of 100 rows"), ("0", "is 0 of 100"), ("101", "is 101 of 100"), ("2.5", "no whole number of rows"),
     ("much", "is no number"), ("-3", "is -3 of 100"), ("0.1%", "is 0 of 100")],
)  # fmt: skip
def test_budgets_that_leave_nothing(text, message):
    with pytest.raises(RequestError, match=message):
        budget_of(text, 100)


def test_a_model_that_broke_is_said():
    with pytest.raises(NotFiniteError, match="round 1 of 2 left a model with losses that are not finite"):
        search(3, 1, lambda picked, number: np.array([1.0, np.nan, 2.0]), np.array([0]), rounds=2)
