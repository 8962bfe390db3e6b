"""Switchable trainable changes: the teacher is untouched, the edit is what was trained."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.engine.adapters import Adapters, _Side
from erase_plugins.errors import Unsupported
from erase_plugins.workflow.models import target_of


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


@pytest.fixture
def inputs(target):
    x = torch.randn((2, *target.info.latent_shape), generator=torch.Generator().manual_seed(3))
    return x, torch.tensor([301, 701]), target.encode(["a dog", "pizza"])


def build(target, group, rank):
    refs = [ref for ref in target.modules(group) if ref.kind in ("linear", "conv")]
    return Adapters(target, refs, rank, generator=torch.Generator().manual_seed(0))


def shake(adapters, size=0.05):
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for part in adapters.parameters():
            part.add_(size * torch.randn(part.shape, generator=generator))


def merge(target, edit):
    parameters = dict(target.pipe.unet.named_parameters())
    with torch.no_grad():
        for key, delta in edit.deltas["unet"].items():
            parameters[key].add_(delta.dense())


@pytest.mark.parametrize("rank", [4, None])
@pytest.mark.parametrize("group", ["cross_attn", "denoiser"])
def test_starts_as_the_teacher_and_switches_off_exactly(target, inputs, group, rank):
    with torch.no_grad():
        before = target.predict(*inputs)
        adapters = build(target, group, rank)
        with adapters:
            torch.testing.assert_close(target.predict(*inputs), before, rtol=0, atol=1e-6)
            shake(adapters)
            assert float((target.predict(*inputs) - before).abs().max()) > 1e-3
            with adapters.disabled():
                assert torch.equal(target.predict(*inputs), before)
            assert adapters.enabled
        assert torch.equal(target.predict(*inputs), before)


@pytest.mark.parametrize("rank", [4, None])
@pytest.mark.parametrize("group", ["cross_attn", "denoiser"])
def test_merged_weights_agree_with_the_adapters(target, inputs, group, rank):
    adapters = build(target, group, rank)
    shake(adapters, 0.02)
    with torch.no_grad():
        with adapters:
            trained = target.predict(*inputs)
        merge(target, adapters.edit())
        torch.testing.assert_close(target.predict(*inputs), trained, rtol=0, atol=1e-5)


def test_modules_and_flags_are_put_back(target):
    unet = target.pipe.unet
    unet.requires_grad_(True)
    unet.conv_in.weight.requires_grad_(False)
    flags = {name: part.requires_grad for name, part in unet.named_parameters()}
    adapters = build(target, "denoiser", 4)
    with pytest.raises(RuntimeError, match="stop"), adapters:
        assert not unet.conv_out.weight.requires_grad
        raise RuntimeError("stop")
    assert {name: part.requires_grad for name, part in unet.named_parameters()} == flags
    assert all("forward" not in module.__dict__ for module in unet.modules())


def test_gradients_reach_exactly_the_selected_modules(target, inputs):
    adapters = build(target, "cross_kv", None)
    with adapters:
        target.predict(*inputs).square().mean().backward()
    assert len(adapters.parameters()) == len(target.modules("cross_kv"))
    assert all(part.grad is not None and float(part.grad.abs().sum()) > 0 for part in adapters.parameters())
    assert all(part.grad is None for part in target.pipe.unet.parameters())


def test_lora_leaves_the_bias_alone_and_full_changes_it(target):
    lora, full = build(target, "cross_attn", 4).edit(), build(target, "cross_attn", None).edit()
    assert lora.kinds == {"lowrank"}
    assert full.kinds == {"dense"}
    assert {key for _, key, _ in full.items()} - {key for _, key, _ in lora.items()} == {
        f"{ref.path}.bias" for ref in target.modules("cross_attn") if ref.bias
    }


def test_scale_is_baked_in(target):
    refs = target.modules("cross_kv")[:1]
    one = Adapters(target, refs, 4, 1.0, torch.Generator().manual_seed(0))
    half = Adapters(target, refs, 4, 0.5, torch.Generator().manual_seed(0))
    for adapters in (one, half):
        shake(adapters)
    key = refs[0].weight
    torch.testing.assert_close(half.edit().deltas["unet"][key].dense(), 0.5 * one.edit().deltas["unet"][key].dense())


def test_rank_is_capped_by_the_shape(target):
    assert build(target, "cross_kv", 10_000).edit().rank == 32


def test_tensors_can_be_saved_and_loaded(target):
    first, second = build(target, "cross_attn", 4), build(target, "cross_attn", 4)
    shake(first)
    second.load({name: part.detach().clone() for name, part in first.named_parameters().items()})
    for a, b in zip(first.parameters(), second.parameters(), strict=True):
        assert torch.equal(a, b)


def test_refuses_modules_that_are_not_layers(target):
    embedding = next(ref for ref in target.info.refs if ref.kind == "embedding")
    with pytest.raises(Unsupported, match="not a linear layer"):
        Adapters(target, [embedding], 4)


def test_the_low_rank_side_has_the_gradients_of_its_products_also_the_second_ones():
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator, requires_grad=True)

    given = draw(2, 3, 5), draw(2, 3, 4), draw(2, 4), draw(5, 2)
    out, x, down, up = given
    assert torch.allclose(_Side.apply(*given, 0.7), out + 0.7 * (x @ down.T @ up.T))
    assert torch.autograd.gradcheck(lambda *parts: _Side.apply(*parts, 0.7), given)
    assert torch.autograd.gradgradcheck(lambda *parts: _Side.apply(*parts, 0.7), given)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_on_half_precision_products_are_float32_and_no_wide_copy_of_the_input_is_kept(dtype):
    generator = torch.Generator().manual_seed(0)
    down, up = (torch.randn(shape, generator=generator, requires_grad=True) for shape in ((2, 64), (5, 2)))
    x, out = (torch.randn(3, 7, width, generator=generator).to(dtype).requires_grad_() for width in (64, 5))
    weights, kept = torch.randn(3, 7, 5, generator=generator).to(dtype), {}

    def grads(found):
        return torch.autograd.grad((found * weights).sum().float(), (out, x, down, up))

    plain = out + ((x.float() @ down.T @ up.T) * 0.7).to(dtype)
    with torch.autograd.graph.saved_tensors_hooks(
        lambda part: kept.setdefault(part.data_ptr(), part.nbytes) and part, lambda part: part
    ):
        found = _Side.apply(out, x, down, up, 0.7)
    assert torch.equal(found, plain)
    assert sum(kept.values()) == x.nbytes + down.nbytes + up.nbytes + 4 * 3 * 7 * 2
    for one, other in zip(grads(found), grads(plain), strict=True):
        assert one.dtype == other.dtype
        assert (one.float() - other.float()).abs().max() <= 4 * torch.finfo(one.dtype).eps * other.float().abs().max()


def test_adapters_on_a_model_in_half_precision_keep_inputs_as_they_are(tmp_path):
    import erase_plugins as ep
    from tests.training.test_language import other

    model = target_of(ep.load(str(other("llama", tmp_path / "llama")), dtype="bfloat16"))
    ids, kept = torch.arange(48).reshape(3, 16) % model.language.words, {}
    (first, *_), (down, *_) = model.modules("attention"), model.modules("mlp_out")
    with (
        Adapters(model, [first, down], 2, generator=torch.Generator().manual_seed(0)),
        torch.autograd.graph.saved_tensors_hooks(
            lambda part: kept.setdefault(part.data_ptr(), (part.dtype, part.numel())) and part, lambda part: part
        ),
    ):
        model.language.logits(ids)
    assert (torch.float32, ids.numel() * down.shape[1]) not in kept.values()  # what goes into the last map of the MLP
