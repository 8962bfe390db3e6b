"""Blocks that are computed again on the way back give the same change to the last bit."""

from __future__ import annotations

import pytest
import torch
import torch.utils.checkpoint

import erase_plugins as ep
from erase_plugins.manager import get_manager
from erase_plugins.training import recomputing

#: whose passes with gradients see the trained change as it is when gradients are taken
METHODS = ("concept-ablation", "esd", "leco")


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
