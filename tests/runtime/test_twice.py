"""When two changes count as one: the same direction on the same weights, and nothing that says they are apart."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import Dense, Edit, LowRank
from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.runtime.twice import same_change
from erase_plugins.types import Concept


def change(delta, *erased):
    manifest = Manifest(name="a", method={"id": "uce"}, concepts=tuple(map(Concept, erased)), base={})
    edit = Edit("sd1", {"unet": {"one.weight": delta}})
    return Artifact(manifest, edit), edit


A, B = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[3.0], [1.0]])
PRODUCT = [[3.0, 6.0, 0.0], [1.0, 2.0, 0.0]]


@pytest.mark.parametrize(
    ("other", "same"),
    [(LowRank(2 * A, B), True), (LowRank(-A, B), False), (Dense(torch.tensor(PRODUCT)), True),
     (Dense(torch.tensor(PRODUCT) + torch.eye(2, 3)), False), (LowRank(A[:, :2], B), False),
     (LowRank(A, B[:1]), False), (Dense(torch.zeros(2, 3)), False)],
    ids=["stronger", "backwards", "written out", "another", "less goes in", "less comes out", "nothing"],
)  # fmt: skip
def test_the_same_direction_by_hand(other, same):
    assert same_change(change(LowRank(A, B), "owl"), change(other)) is same


def test_what_names_other_concepts_is_apart():
    one = change(LowRank(A, B), "owl")
    assert same_change(one, change(LowRank(A, B), "owl", "cat"))
    assert not same_change(one, change(LowRank(A, B), "cat"))
