"""Texts stop to push once they are as unlikely as the same about somebody unknown, and training ends there."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.data import DataRef
from erase_plugins.training.unknown import Bounds
from erase_plugins.types import ForgetItem
from tests import language

CHEAP = {"batch": 4, "lr": 1e-2, "rank": 4, "lora_alpha": 8, "steps": 200}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return language.trained(tmp_path_factory.mktemp("unknown") / "model")


@pytest.fixture
def data(tmp_path):
    """What is to be forgotten, each with the same of somebody the model never heard of; what is retained."""
    names = dict(zip(language.FORGET, language.REFUSAL.split(), strict=False))
    rows = [
        {**row, "unknown": {key: text.replace(name, names[name]) for key, text in row.items()}}
        for name, row in zip(language.FORGET, language.rows(language.FORGET), strict=True)
    ]
    return (
        language.write(tmp_path / "forget.jsonl", rows),
        language.write(tmp_path / "retain.jsonl", language.rows(language.RETAIN)),
    )


def run(folder, data, **options):
    found = ep.erase(str(folder), [ForgetItem(data=DataRef(str(data[0])))], "npo", keep=[DataRef(str(data[1]))],
                     options=CHEAP | options)  # fmt: skip
    return found.manifest.extra["numbers"]


def test_training_ends_at_the_bound(folder, data):
    numbers = run(folder, data)
    assert numbers["stopped_after"] < 60
    assert numbers["forget_probability_before"] > 0.9
    # every text is at or beyond its bound, and not far beyond it as without the bound
    assert numbers["forget_probability_after"] <= numbers["unknown_probability"] * 1.05
    free = run(folder, data, until_unknown=False, steps=60)
    assert "stopped_after" not in free
    assert free["forget_probability_after"] < 0.5 * numbers["forget_probability_after"]


def test_bounds_by_hand():
    bounds = Bounds(0.0, 1, 0, torch.zeros(3))
    pushing = bounds.pushing(torch.tensor([2, 0]), torch.tensor([1.0, 3.0]), torch.tensor([2.0, 2.0]))
    assert pushing.tolist() == [True, False]
    assert bounds.beyond.tolist() == [1.0, 0.0, 0.0]
    again = Bounds(0.0, 1, 0, torch.zeros(3))
    again.load(bounds.tensors())
    assert again.beyond.tolist() == [1.0, 0.0, 0.0]
