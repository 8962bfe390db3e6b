"""Originals of changed parameters, where an accelerator has no room for a model twice."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from erase_plugins.artifacts.edit import LowRank
from erase_plugins.artifacts.names import ORIGINAL
from erase_plugins.runtime import patcher
from erase_plugins.runtime.patcher import Patch, Record


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_an_original_that_was_moved_away_comes_back_to_the_last_bit(monkeypatch, dtype):
    generator = torch.Generator().manual_seed(0)
    weight, A, B = (torch.randn(shape, generator=generator) for shape in ((5, 7), (2, 7), (5, 2)))
    parameter = torch.nn.Parameter(weight.to(dtype), requires_grad=False)
    before, place = parameter.data.clone(), parameter.data.data_ptr()
    record = Record("model", "weight", parameter)
    record.patches.append(Patch(LowRank(A, B)))
    monkeypatch.setattr(patcher, "crowded", lambda tensor: tensor.data_ptr() == place)
    monkeypatch.setattr(torch.Tensor, "cpu", lambda tensor: tensor.clone())  # another memory
    record.refresh()
    assert place not in (record.original.data_ptr(), parameter.data.data_ptr())  # it is free
    assert getattr(parameter, ORIGINAL) is record.original
    record.patches[0].strength = 0.5
    record.refresh()
    assert torch.equal(parameter.data, (before.float() + 0.5 * (B @ A)).to(dtype))
    record.restore()
    assert torch.equal(parameter.data, before)


def test_only_a_full_accelerator_is_crowded(monkeypatch):
    free = {"free": 0, "reserved": 10, "allocated": 10}
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free["free"], 100))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: free["reserved"])
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: free["allocated"])
    tensor = SimpleNamespace(device=torch.device("cuda", 0))
    for there, held, wanted in ((24, 10, True), (26, 10, False), (10, 26, False)):
        free |= {"free": there, "reserved": held}
        assert patcher.crowded(tensor) is wanted
    assert not patcher.crowded(torch.zeros(1))
