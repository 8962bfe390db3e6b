"""Where the rows of encoded prompts lie: kept on the processor, handed out on the denoiser's device."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import RunRefused, Unsupported
from erase_plugins.families.diffusers_target import DiffusersTarget
from erase_plugins.testing.tiny import tiny_flux, tiny_sd3, tiny_sdxl
from erase_plugins.workflow.models import target_of

AWAY = torch.device("meta")


def test_rows_are_kept_on_the_processor_and_come_on_the_denoisers_device(monkeypatch):
    """Gates encode thousands of prompts: a gigabyte of SDXL's rows for the whole run."""
    target = target_of(tiny_sdxl(), "tiny")
    here = target.encode(["pizza", ""])
    monkeypatch.setattr(DiffusersTarget, "device", AWAY)
    there = target.encode(["pizza", ""])
    assert there.embeds.device == there.pooled.device == AWAY
    assert there.embeds.shape == here.embeds.shape
    kept = [part for row in target._cache.values() for part in row if isinstance(part, torch.Tensor)]
    assert {part.device.type for part in kept} == {"cpu"}


def test_rows_of_encoders_that_are_offloaded_come_together(monkeypatch):
    """Stable Diffusion 3 leaves pooled rows where an offloaded encoder has computed them."""
    target = target_of(tiny_sd3(), "tiny")
    rows, pooled = target.family.encode_texts(target.pipe, ["pizza"], 8, target.device)
    given = (rows.to(AWAY), pooled)
    monkeypatch.setattr(type(target.family), "encode_texts", lambda *_: given)
    monkeypatch.setattr(DiffusersTarget, "device", AWAY)
    assert {part.device for part in target._encoded(["pizza"], 8)} == {AWAY}


@pytest.mark.parametrize(
    ("made", "further"), [(tiny_sdxl, ()), (tiny_sd3, ("prompt_2", "prompt_3")), (tiny_flux, ("prompt_2",))]
)
def test_a_guard_in_front_does_not_look_at_prompts_of_a_method(made, further):
    pipe = made()
    rows = target_of(made(), "tiny").encode(["pizza"]).embeds
    with ep.erase(pipe, "pizza", method="keyword-guard").apply(pipe):
        with pytest.raises(RunRefused):
            pipe.encode_prompt(prompt="a pizza", **dict.fromkeys(further))
        assert target_of(pipe, "tiny").encode(["pizza"]).embeds.equal(rows)


def test_a_pipeline_of_blocks_can_be_changed_and_says_where_to_erase():
    blocks = pytest.importorskip("diffusers", minversion="0.35")
    pipe, plain = blocks.StableDiffusionXLAutoBlocks().init_pipeline(), tiny_sdxl()
    pipe.update_components(**{name: part for name, part in plain.components.items() if name in pipe.components})
    with pytest.raises(Unsupported, match="erase on a StableDiffusionXLPipeline of the same parts, then apply"):
        ep.erase(pipe, "pizza", to="dog", options={"vocabulary": 0})
    weight = plain.unet.get_parameter("mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight")
    before = weight.detach().clone()
    with ep.erase(plain, "pizza", to="dog", options={"vocabulary": 0}).apply(pipe):
        assert not weight.equal(before)
    assert weight.equal(before)
