"""Bottleneck erasers: start as the teacher, train, and become add-ons that the runtime applies alike."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.engine.attention import attention_refs
from erase_plugins.errors import RequestError
from erase_plugins.methods.receler.bottleneck_adapters import Erasers
from erase_plugins.runtime.addons import attach_group
from erase_plugins.testing.observe import snapshot
from erase_plugins.workflow.models import target_of


@pytest.fixture(params=["tiny_sd1", "tiny_sdxl"])
def target(request):
    return target_of(request.getfixturevalue(request.param)(), "tiny")


def sample(target):
    x = torch.randn((2, *target.info.latent_shape), generator=torch.Generator().manual_seed(3))
    return x, torch.tensor([301, 701]), target.encode(["a dog", "pizza"])


def build(target, rank=4):
    return Erasers(target, attention_refs(target.info), rank, torch.Generator().manual_seed(0))


def shake(erasers):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in erasers.parameters():
            part.add_(0.1 * torch.randn(part.shape, generator=generator))


def test_fresh_erasers_and_switched_off_ones_are_the_base_to_the_last_bit(target):
    inputs, erasers, before = sample(target), build(target), snapshot(target.pipe)
    with torch.no_grad():
        base = target.predict(*inputs)
        with erasers:
            assert torch.equal(target.predict(*inputs), base)
            shake(erasers)
            assert float((target.predict(*inputs) - base).abs().max()) > 1e-4
            with erasers.disabled():
                assert torch.equal(target.predict(*inputs), base)
        assert torch.equal(target.predict(*inputs), base)
    assert not before.difference(snapshot(target.pipe))


def test_gradient_reaches_up_at_first_and_everything_from_the_second_step(target):
    inputs, erasers = sample(target), build(target)
    optimizer = torch.optim.Adam(erasers.parameters(), lr=1e-2)
    with erasers:
        for step in range(2):
            loss = (target.predict(*inputs) - 1).square().mean()
            grads = torch.autograd.grad(loss, erasers.parameters())
            sizes = {name.rpartition(".")[2]: [] for name in erasers.named_parameters()}
            for name, grad in zip(erasers.named_parameters(), grads, strict=True):
                sizes[name.rpartition(".")[2]].append(float(grad.abs().max()))
            assert min(sizes["up"]) > 0
            assert (max(sizes["down"]) == 0) == (step == 0)
            assert step == 0 or min(value for part in sizes.values() for value in part) > 0
            for part, grad in zip(erasers.parameters(), grads, strict=True):
                part.grad = grad
            optimizer.step()
    for name in ("unet", "text_encoder"):
        assert all(part.grad is None for part in getattr(target.pipe, name).parameters())


def test_the_edit_applied_is_the_trained_network(target):
    inputs, erasers = sample(target), build(target)
    shake(erasers)
    with torch.no_grad():
        with erasers, erasers.recording() as seen:
            trained = target.predict(*inputs)
        assert set(seen) == {ref.path for ref in attention_refs(target.info)}
        handles = attach_group(target.pipe.unet, erasers.edit().deltas["unet"], 1.0)
        applied = target.predict(*inputs)
        for handle in handles:
            handle.detach()
    torch.testing.assert_close(applied, trained, rtol=1e-5, atol=1e-6)


def test_a_rank_that_is_no_bottleneck_is_refused(target):
    with pytest.raises(RequestError, match="smaller rank"):
        build(target, rank=64)
