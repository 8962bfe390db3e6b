"""Rows of a weight are those of the whole weight, whatever hangs on it, and nothing is copied for nothing."""

from __future__ import annotations

import pytest
import torch

from comfy_nodes.weights import PatchedWeights

from .conftest import FakePatcher

CONFIG = {"in_channels": 4}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("wrapped", [False, True])
def test_rows_are_those_of_the_whole_weight(dtype, wrapped, monkeypatch):
    patcher = FakePatcher({"table": torch.arange(12.0).reshape(4, 3).to(dtype)}, CONFIG)
    if wrapped:
        patcher.add_weight_wrapper("table", lambda weight: weight + 1)
    weights, rows, whole = PatchedWeights(patcher), torch.tensor([3, 1]), []
    wanted = weights.effective("table")[rows]
    monkeypatch.setattr(weights, "effective", lambda key: whole.append(key) or PatchedWeights.effective(weights, key))
    found = weights.effective_rows("table", rows)
    assert torch.equal(found, wanted)
    assert found.dtype == torch.float32
    assert whole == ["table"] * wrapped
    found += 1
    assert torch.equal(PatchedWeights.effective(weights, "table")[rows], wanted)
