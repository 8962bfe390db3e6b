"""WHP: what is learned in place of the true tokens, and that the first training leaves nothing behind."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.data import DataRef
from erase_plugins.methods.whp import generic
from erase_plugins.types import ForgetItem
from tests import language


def test_only_what_the_reinforced_model_knows_better_is_taken_back():
    """The paper's v_generic = v_baseline - alpha relu(v_reinforced - v_baseline), its equation 1."""
    before, reinforced = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([2.0, 2.0, -1.0])
    assert generic(before, reinforced, 0.5).tolist() == [0.5, 2.0, 3.0]


def test_the_second_training_begins_from_nothing(tmp_path):
    """The first step of Adam moves a value by its rate at most, however long the first training was."""
    folder = language.trained(tmp_path / "model", steps=10)
    forget, retain = (
        DataRef(str(language.write(tmp_path / f"{name}.jsonl", language.rows(facts))))
        for name, facts in (("forget", language.FORGET), ("retain", language.RETAIN))
    )
    options = {"steps": 1, "reinforce_steps": 15, "lr": 1e-2, "rank": 2, "lora_alpha": 2, "batch": 4, "cooldown": 0.0}
    found = ep.erase(str(folder), [ForgetItem(data=forget)], "whp", keep=[retain], options=options)
    largest = max(float(delta.B.abs().max()) for _, _, delta in found.edit.items())
    assert largest == pytest.approx(1e-2, rel=1e-2)
