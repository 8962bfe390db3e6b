"""SLUG: numbers of a layer, the front, the search along a line, and a class of a small model."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import RequestError
from erase_plugins.methods.slug import along, facts, front
from tests import classifiers


def test_alignment_and_importance() -> None:
    weight, forget = torch.full((2, 2), 2.0), torch.tensor([3.0, 0.0, 4.0, 0.0])
    assert facts(weight, forget, -2 * forget) == pytest.approx((1.0, 5 / 4))
    assert facts(weight, forget, torch.tensor([0.0, 1.0, 0.0, 0.0]))[0] == 0.0
    assert facts(weight, forget, 0 * forget)[0] == 0.0


def test_the_front_of_the_specification() -> None:
    assert set(front({"first": (0.226, 0.0063), "second": (0.304, 0.0031), "head": (0.391, 0.0191)})) == {
        "first",
        "head",
    }


def test_the_smallest_step_at_which_it_is_gone() -> None:
    asked: list[float] = []

    def looked(step: float) -> float:
        asked.append(step)
        return float(step < 5.3)

    step, gone = along(looked, 1.0, 10, 0.0)
    assert asked[:5] == [1.0, 2.0, 4.0, 8.0, 6.0]
    assert 5.3 <= step < 5.4 and gone == 0.0
    assert along(lambda step: 1.0, 1.0, 3, 0.0) == (4.0, 1.0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return classifiers.small(tmp_path_factory.mktemp("digits") / "model")


def test_a_class_is_gone_by_one_layer_and_half_the_strength_is_half_the_change(folder) -> None:
    made = ep.erase(str(folder), "three", "slug", kind="class")
    changed = list(made.edit.items())
    assert len(changed) == 1 and changed[0][1].endswith("weight")
    numbers = made.manifest.extra["numbers"]
    assert numbers["forget_accuracy_before"] >= 0.7
    assert numbers["forget_accuracy_after"] <= 0.1
    assert numbers["retain_accuracy_after"] >= numbers["retain_accuracy_before"] - 0.1


def test_what_is_wrong_already_is_refused(folder, monkeypatch) -> None:
    monkeypatch.setattr("erase_plugins.families.labelled.accuracy", lambda model, part: 0.0)
    with pytest.raises(RequestError, match="already wrong"):
        ep.erase(str(folder), "three", "slug", kind="class")


def test_the_head_of_a_small_network_on_digits_loses_a_class_and_little_else() -> None:
    """64-128-128-10 on digits, class 3 (specification, test 8): forget <= 5 %, rest >= base - 2 points, held out."""
    from torch.nn.functional import cross_entropy

    net, (x, y, held, labels) = classifiers.perceptron()

    def right(pictures, wanted, chosen):
        with torch.no_grad():
            return float((net(pictures[chosen]).argmax(-1) == wanted[chosen]).float().mean())

    before = right(held, labels, labels != 3)
    assert right(held, labels, labels == 3) > 0.85 and before > 0.94
    weights = {name: value for name, value in net.named_parameters() if value.ndim == 2}
    forget, retain = (
        torch.autograd.grad(cross_entropy(net(x[chosen]), y[chosen]), list(weights.values()))
        for chosen in (y == 3, y != 3)
    )
    numbers = {
        name: facts(value.detach(), one.flatten(), other.flatten())
        for (name, value), one, other in zip(weights.items(), forget, retain, strict=True)
    }
    assert "4.weight" in front(numbers)
    head, start, way = weights["4.weight"], weights["4.weight"].detach().clone(), forget[-1]

    def left(step):
        head.data.copy_(start + step * way)
        return right(x, y, y == 3)

    step, gone = along(left, float(start.norm() / way.norm()) / 10, 10, 0.0)
    left(step)
    assert gone == 0.0
    assert right(held, labels, labels == 3) <= 0.05
    assert right(held, labels, labels != 3) >= before - 0.02
