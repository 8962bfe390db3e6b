"""Linear stand-ins of added modules: stored beside them, used by LoRA files only, their loss told."""

from __future__ import annotations

import torch

from erase_plugins.artifacts.edit import AddOn, Edit, LowRank
from erase_plugins.artifacts.lora_file import lora_verdict, prepared
from erase_plugins.artifacts.serialize import edit_from_tensors, edit_to_tensors
from erase_plugins.artifacts.standin import stand_in, stand_in_loss, with_stand_in
from erase_plugins.runtime.addons import AttachedAddOn

ADDON = AddOn("bottleneck", {"down": torch.ones(2, 4), "up": torch.ones(4, 2)}, {"activation": "gelu"})


def carrying(error=0.25, strength=1.0):
    made = with_stand_in(ADDON, "to_out.0", torch.ones(2, 6), torch.ones(4, 2), error)
    return made if strength == 1.0 else made.scaled(strength)


def edit(**addons):
    return Edit("sd1", {"unet": {key.replace("_", "."): addon for key, addon in addons.items()}})


def test_a_stand_in_becomes_the_weight_change_of_the_module_below():
    made = stand_in(edit(a_attn2=carrying(strength=0.5)))
    delta = made.deltas["unet"]["a.attn2.to.out.0.weight".replace("to.out", "to_out")]
    assert isinstance(delta, LowRank)
    assert torch.equal(delta.dense(), torch.full((4, 6), 1.0))
    assert prepared(edit(a_attn2=carrying()))[0].kinds == {"lowrank"}


def test_the_verdict_is_lossy_with_the_errors_and_no_if_one_has_none():
    verdict = lora_verdict(edit(a=carrying(0.1), b=carrying(0.3)))
    assert verdict.answer == "lossy"
    assert "20% on average, at most 30% (b)" in verdict.reason
    assert lora_verdict(edit(a=carrying(), b=ADDON)).answer == "no"
    assert stand_in_loss(edit(b=ADDON)) == ""
    damaged = AddOn("bottleneck", carrying().weights, {"linear": {"module": 3}})
    assert lora_verdict(edit(a=damaged)).answer == "no"


def test_it_survives_the_file_and_the_runtime_looks_past_it():
    read = edit_from_tensors(*edit_to_tensors(edit(a=carrying())))
    addon = read.deltas["unet"]["a"]
    assert addon.config["linear"] == {"module": "to_out.0", "error": 0.25}
    module = torch.nn.Identity()
    handle = AttachedAddOn(module, addon, 1.0)
    plain = AttachedAddOn(torch.nn.Identity(), ADDON, 1.0)
    x = torch.randn((1, 3, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(handle.network(x), plain.network(x))
