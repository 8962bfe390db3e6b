"""UA, RA, TA, MIA, membership attacks, probes and relearning, on numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch

from erase_plugins.errors import RequestError
from erase_plugins.evaluation.unlearning import (
    Parts,
    auc,
    balanced,
    confidence,
    confusion,
    gap,
    measure,
    modified_entropy,
    relearn,
    threshold,
    tpr,
)
from erase_plugins.families.labelled import Labelled
from erase_plugins.workflow.models import target_of
from tests.classifiers import vit


class Table:
    """A classifier whose picture (1, 1, 2) is its pair of logits."""

    labels = ("a", "b")

    @property
    def classifier(self):
        return self

    def logits(self, batch):
        return batch.flatten(1)


def pictures(*logits, labels):
    return Labelled(torch.tensor(logits, dtype=torch.float32)[:, None, None], torch.tensor(labels))


def sets(forget, retain, test):
    """Pairs (margin of class a, class) as parts."""
    made = [
        pictures(*[(m, 0.0) for m, _ in part], labels=[label for _, label in part]) for part in (forget, retain, test)
    ]
    return Parts(*made)


def test_the_four_on_predictions_made_by_hand():
    surely, hardly, wrong = (5.0, 0), (0.5, 0), (-1.0, 0)
    parts = sets([surely] * 3 + [wrong], [surely] * 20, [hardly] * 16 + [wrong] * 4)
    found = measure(Table(), parts)
    assert found["ua"] == pytest.approx(0.25)
    assert found["ra"] == 1.0
    assert found["ta"] == pytest.approx(0.8)
    assert found["mia"] == pytest.approx(0.25)  # only the wrong one is as unsure as held-out pictures
    assert measure(Table(), sets([surely] * 4, [surely] * 20, [hardly] * 20))["ua"] == 0.0
    # what is forgotten looks like held-out pictures, and members can be told: all of it counts as not trained on
    assert measure(Table(), sets([hardly] * 4, [surely] * 20, [hardly] * 20))["mia"] == 1.0


def test_the_modified_entropy_is_the_published_one_and_not_the_one_of_the_code():
    logits, labels = (
        torch.tensor([[math.log(0.7), math.log(0.2), math.log(0.1)]], dtype=torch.float64),
        torch.tensor([0]),
    )
    by_hand = -(0.3 * math.log(0.7)) - 0.2 * math.log(0.8) - 0.1 * math.log(0.9)
    assert float(modified_entropy(logits, labels)) == pytest.approx(by_hand, abs=1e-9)
    official = -(0.3 * math.log(0.7)) - 0.2 * math.log(0.2) - 0.1 * math.log(0.1)
    assert abs(float(modified_entropy(logits, labels)) - official) > 0.1


def test_ranks_and_rates_of_an_attack():
    assert auc(torch.tensor([3.0, 2.0]), torch.tensor([1.0, 0.0])) == 1.0
    assert auc(torch.tensor([1.0, 0.0]), torch.tensor([1.0, 0.0])) == 0.5
    assert auc(torch.tensor([1.0, 3.0]), torch.tensor([2.0, 1.0])) == pytest.approx((0.5 + 0 + 1 + 1) / 4)
    others = torch.arange(100.0)
    assert tpr(torch.tensor([98.5, 97.0, 99.5, 0.0]), others) == 0.5  # one of 100 others may lie above the cut
    assert tpr(torch.tensor([98.0, 98.5]), others) == 0.5  # who is at the cut is not above it
    assert threshold(torch.tensor([5.0, 6.0, 7.0]), torch.tensor([1.0, 2.0, 5.5])) in (5.0, 6.0)
    assert gap(dict.fromkeys(("ua", "ra", "ta", "mia"), 0.3), {"ua": 0.3, "ra": 0.3, "ta": 0.3, "mia": 0.3}) == 0.0
    assert gap({"ua": 0.0, "ra": 1, "ta": 1, "mia": 0.1}, {"ua": 0.1, "ra": 1, "ta": 0.9, "mia": 0.3}) == pytest.approx(
        0.1
    )


def test_a_balanced_subset_takes_turns_between_classes():
    labels = torch.tensor([0] * 90 + [1] * 10)
    assert labels[balanced(labels, 12, 0)].bincount().tolist() == [6, 6]
    assert labels[balanced(labels, 30, 0)].bincount().tolist() == [20, 10]
    assert not torch.equal(balanced(labels, 12, 0), balanced(labels, 12, 1))


def test_confidence_and_confusion():
    assert confidence(torch.tensor([[0.0, 0.0]]), torch.tensor([1])).item() == pytest.approx(0.5)
    assert confusion(torch.tensor([0, 1, 0]), torch.tensor([0, 0, 1]), 2).tolist() == [[1, 1], [1, 0]]


def test_a_copy_relearns_and_the_model_stays():
    target = target_of(vit(("a", "b", "c"), width=16, layers=1))
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(3).repeat(20)
    centre = torch.eye(3).repeat_interleave(22, 1)[:, :64].reshape(3, 1, 8, 8)
    pool = Labelled(centre[labels] * 2 + 0.1 * torch.randn(60, 1, 8, 8, generator=generator), labels)
    parts = Parts.of(pool[torch.arange(45)], pool[torch.arange(45, 60)], labels[:45] == 2, (2,))
    before = {name: part.clone() for name, part in target.host.state_dict().items()}
    curve = relearn(target, parts, 40, shots=2)
    assert (min(curve), max(curve)) == (0, 40)
    assert curve[40] == 1.0 > curve[0]
    assert all(torch.equal(before[name], part) for name, part in target.host.state_dict().items())


def test_what_cannot_be_measured_is_refused():
    part = pictures((1.0, 0.0), (0.0, 1.0), labels=[0, 1])
    with pytest.raises(RequestError, match="no pictures to retain"):
        Parts.of(part, part, torch.tensor([True, True]), ())
    with pytest.raises(RequestError, match="no pictures to test"):
        Parts.of(part, part, torch.tensor([True, False]), (0, 1))
