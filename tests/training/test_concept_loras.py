"""Memories of several concepts on the same modules."""

from __future__ import annotations

import torch

from erase_plugins.training.concept_loras import Memories
from erase_plugins.workflow.models import target_of


def test_every_sample_meets_its_own_memory_only(tiny_sd1):
    target = target_of(tiny_sd1(), "tiny")
    refs = [ref for ref in target.modules("transformer") if ref.kind in ("linear", "conv")]
    memories = Memories(target, refs, 2, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for slot in memories.slots:
            slot.B.normal_(generator=torch.Generator().manual_seed(1))
    x = torch.randn((3, *target.info.latent_shape), generator=torch.Generator().manual_seed(2))
    cond = target.encode(["pizza", "a dog", "a car"])
    with memories:
        with memories.recalled([0, 2, 1]):
            loss = target.predict(x, 500, cond)[0].square().sum()
            grads = torch.autograd.grad(loss, memories.parameters())
            with torch.no_grad():
                whole = target.predict(x, 500, cond)
        with torch.no_grad(), memories.recalled([2]):
            alone = target.predict(x[1:2], 500, cond[1:2])
    torch.testing.assert_close(whole[1:2], alone, rtol=1e-4, atol=1e-5)
    for slot, grad in zip(memories.slots, grads[::2], strict=True):
        assert grad.flatten(1)[2:].abs().max() == 0.0, f"{slot.ref.path}: the gradient reaches another memory"
