"""Gradient checkpointing of language models: the same change to the last bit, and less kept for the way back."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.data import DataRef
from erase_plugins.engine.fact_editing import block_of
from erase_plugins.training.recomputing import recomputed
from erase_plugins.types import ForgetItem
from erase_plugins.workflow.models import target_of
from tests import language

CHEAP = {"batch": 4, "lr": 1e-2, "rank": 4, "lora_alpha": 8, "steps": 3}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return language.trained(tmp_path_factory.mktemp("recomputed") / "model")


@pytest.mark.parametrize("method", ["npo", "undial", "cir", "rmu", "whp"])
def test_the_change_is_the_same_to_the_last_bit(folder, tmp_path, method, monkeypatch):
    forget, retain = (
        language.write(tmp_path / f"{name}.jsonl", language.rows(facts))
        for name, facts in (("forget", language.FORGET), ("retain", language.RETAIN))
    )
    more = {"cir": {"components": 2}, "rmu": {"layer": 1}, "whp": {"reinforce_steps": 2}}.get(method, {})

    def trained(**options):
        host = ep.load(str(folder))
        found = ep.erase(host, [ForgetItem(data=DataRef(str(forget)))], method, keep=[DataRef(str(retain))],
                         options=CHEAP | more | options)  # fmt: skip
        assert not any("forward" in vars(module) for module in host.modules())
        return {(key, name): part for _, key, delta in found.edit.items() for name, part in delta.tensors().items()}

    kept = trained()
    calls, checkpoint = [], torch.utils.checkpoint.checkpoint
    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", lambda *a, **k: calls.append(1) or checkpoint(*a, **k))
    found = trained(recompute=True)
    assert calls
    assert found.keys() == kept.keys()
    assert all(torch.equal(part, kept[place]) for place, part in found.items())


def test_less_is_kept_for_the_way_back(folder):
    model = target_of(ep.load(str(folder)))
    blocks = [block_of(model, ref) for ref in model.info.modules("mlp_out")]
    ids = torch.arange(64).reshape(4, 16) % model.language.words

    def kept():
        seen = {}
        with torch.autograd.graph.saved_tensors_hooks(
            lambda part: seen.setdefault(part.data_ptr(), part.nbytes) and part, lambda part: part
        ):
            logits = model.language.logits(ids)
        logits.sum().backward()
        return sum(seen.values())

    plain = kept()
    with recomputed(blocks):
        assert kept() < 0.7 * plain
    assert kept() == plain
