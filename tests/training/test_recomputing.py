"""Blocks that are computed again on the way back give the same change to the last bit."""

from __future__ import annotations

import pytest
import torch
import torch.utils.checkpoint

import erase_plugins as ep
from erase_plugins.engine import pools
from erase_plugins.manager import get_manager
from erase_plugins.training import recomputing
from erase_plugins.types import Concept, EraseRequest
from erase_plugins.workflow.models import as_target
from tests.methods.runs import begun, prepared

#: whose passes with gradients see the trained change as it is when gradients are taken
METHODS = ("ace", "advunlearn", "concept-ablation", "esd", "leco", "realera", "spm", "stereo", "trce")


def trained(pipe, method):
    options = {**get_manager().method(method).contract_options, "precision": "float32"}
    edit = ep.erase(pipe, "pizza", method, options=options).edit
    return {(key, name): part for _, key, delta in edit.items() for name, part in delta.tensors().items()}


@pytest.mark.parametrize("method", METHODS)
def test_the_change_is_the_same_to_the_last_bit(tiny_sd1, monkeypatch, method):
    kept = trained(tiny_sd1(), method)
    calls, checkpoint = [], torch.utils.checkpoint.checkpoint

    def counted(*arguments, **options):
        calls.append(1)
        return checkpoint(*arguments, **options)

    monkeypatch.setattr(torch.utils.checkpoint, "checkpoint", counted)
    monkeypatch.setattr(recomputing, "LARGE", 0)
    monkeypatch.setattr(type(get_manager().method(method)), "recomputes", True)
    pipe = tiny_sd1()
    found = trained(pipe, method)
    assert calls
    assert not pipe.unet.is_gradient_checkpointing
    assert found.keys() == kept.keys()
    assert all(torch.equal(part, kept[place]) for place, part in found.items())


@pytest.mark.parametrize("method", ["ace", "realera", "spm"])
def test_samples_some_at_a_time_have_the_gradients_of_all_together(tiny_sd1, monkeypatch, method):
    target = as_target(tiny_sd1())
    options = {**get_manager().method(method).contract_options, "precision": "float32", "keep_words": 2, "batch": 2}
    request = EraseRequest("tiny", (Concept("pizza"), Concept("dog")), method, options=options)
    if method == "realera":
        request = EraseRequest("tiny", (Concept("pizza"),), method, options=options)
    passes = []
    target.pipe.unet.register_forward_pre_hook(lambda _module, args: passes.append(len(args[0])))
    found = []
    with prepared(run := begun(target, request)) as loss:
        draw = torch.Generator().manual_seed(0)
        run.adapters.load({
            name: torch.randn(part.shape, generator=draw) / 50 for name, part in run.adapters.named_parameters().items()
        })  # fmt: skip
        for most in (1 << 20, 1):
            monkeypatch.setattr(pools, "at_once", lambda *_, most=most: most)
            value = loss(0)
            passes.clear()
            found.append((float(value.detach()), torch.autograd.grad(value, run.adapters.parameters())))
            assert passes == [] if most > 1 else (len(passes) > 1 and set(passes) == {1})
    (one, gradients), (other, others) = found
    assert other == pytest.approx(one, rel=5e-5)  # as below: on some processors to the fifth digit
    one_by_one, together = (torch.cat([part.flatten() for part in parts]) for parts in (others, gradients))
    assert float((one_by_one - together).norm() / together.norm()) < 1e-4  # other batches round otherwise


def test_a_small_denoiser_and_one_that_its_owner_switched_stay_as_they_are(tiny_sd1, monkeypatch):
    unet = tiny_sd1().unet
    with recomputing.recomputing(unet) as on:
        assert not on
        assert not unet.is_gradient_checkpointing
    monkeypatch.setattr(recomputing, "LARGE", 0)
    unet.enable_gradient_checkpointing()
    with recomputing.recomputing(unet) as on:
        assert not on
    assert unet.is_gradient_checkpointing
