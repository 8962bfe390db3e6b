"""Where the rows of encoded prompts lie: kept on the processor, handed out on the denoiser's device."""

from __future__ import annotations

import torch

from erase_plugins.families.diffusers_target import DiffusersTarget
from erase_plugins.testing.tiny import tiny_sd3, tiny_sdxl
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
