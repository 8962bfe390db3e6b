"""Attention maps: the probabilities that the model itself uses, and masks from them."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.engine.attention import (
    attention_norms,
    attention_refs,
    binary_mask,
    heat,
    nearest_level,
    over_heads,
    record_attention,
    resized,
)
from erase_plugins.errors import NotFiniteError
from erase_plugins.testing.observe import snapshot
from erase_plugins.workflow.models import target_of


@pytest.fixture(params=["tiny_sd1", "tiny_sdxl"])
def target(request):
    return target_of(request.getfixturevalue(request.param)(), "tiny")


def sample(target, count=2):
    x = torch.randn((count, *target.info.latent_shape), generator=torch.Generator().manual_seed(3))
    return x, torch.full((count,), 401), target.encode(["a dog", "pizza"][:count])


def test_maps_reproduce_the_output_of_the_layer(target):
    """softmax(Q K^T) V through the layer's own output projection is what the layer returned."""
    refs = attention_refs(target.info)
    seen = {}

    def keep(path):
        def after(module, _args, kwargs, out):
            seen[path] = (module, kwargs, out)

        return after

    hooks = [target.module(ref).register_forward_hook(keep(ref.path), with_kwargs=True) for ref in refs]
    inputs = sample(target)
    before = snapshot(target.pipe)
    with torch.no_grad(), record_attention(target, refs) as maps:
        target.predict(*inputs)
    assert not before.difference(snapshot(target.pipe))
    for hook in hooks:
        hook.remove()
    assert set(maps) == {ref.path for ref in refs} == set(seen)
    for path, (module, kwargs, out) in seen.items():
        assert torch.allclose(maps[path].sum(-1), torch.ones(()), atol=1e-5)
        value = module.to_v(kwargs["encoder_hidden_states"]).unflatten(-1, (module.heads, -1)).transpose(1, 2)
        mixed = (maps[path] @ value).transpose(1, 2).flatten(2)
        torch.testing.assert_close(module.to_out[0](mixed), out, rtol=1e-4, atol=1e-5)


def test_gradients_flow_through_the_maps(target):
    x, times, cond = sample(target)
    embeds = cond.embeds.clone().requires_grad_(True)
    cond.embeds = embeds
    with record_attention(target, attention_refs(target.info)) as maps:
        target.predict(x, times, cond)
    (grad,) = torch.autograd.grad(sum(part.square().sum() for part in maps.values()), [embeds])
    assert float(grad.abs().max()) > 0


def test_a_hot_spot_becomes_exactly_that_block_at_every_resolution():
    maps = {"a": torch.full((1, 2, 16, 5), 0.1), "b": torch.full((1, 1, 16, 5), 0.1)}
    for part in maps.values():
        part[0, :, 5, 2] = 0.9
    means = {name: over_heads(part) for name, part in maps.items()}
    mask = binary_mask(heat(means, [[2]], (8, 8)), 0.1)
    expected = torch.zeros(1, 4, 4)
    expected[0, 1, 1] = 1
    assert torch.equal(mask, expected)
    large = resized(mask, 64, (8, 8)).unflatten(1, (8, 8))[0]
    assert float(large.sum()) == 4
    assert bool((large[2:4, 2:4] == 1).all())
    assert float(resized(mask, 128, (8, 16)).sum()) == 128 / 16
    with pytest.raises(NotFiniteError, match="same everywhere"):
        binary_mask(heat(means, [[3]], (8, 8)), 0.1)


def test_the_level_nearest_to_a_size_is_found():
    maps = {name: torch.zeros(1, 1, size, 2) for name, size in (("a", 64), ("b", 16), ("c", 4), ("d", 16))}
    assert nearest_level(maps, 16) == ("b", "d")
    assert nearest_level(maps, 2) == ("c",)
    assert nearest_level(maps, 1000) == ("a",)


def test_the_loss_is_the_norm_of_the_attention_inside_the_mask():
    maps = {"one": torch.rand(2, 3, 16, 5), "two": torch.rand(2, 3, 4, 5)}
    masks = torch.zeros(2, 4, 4)
    masks[0, :2, :2] = 1
    masks[1] = 1
    found = sum(attention_norms(part, [[1, 2], [3]], masks, (8, 8)) for part in maps.values())
    first = maps["one"][0].reshape(3, 4, 4, 5)[:, :2, :2][..., [1, 2]].norm() + maps["two"][0][:, 0][..., [1, 2]].norm()
    second = maps["one"][1][..., 3].norm() + maps["two"][1][..., 3].norm()
    torch.testing.assert_close(found, torch.stack([first, second]))


def test_what_is_kept_of_the_maps_has_the_same_numbers_and_takes_less_memory(target):
    """Whole maps of all layers of SDXL would take half a gigabyte for each sample, and more with their gradients."""
    x, times, cond = sample(target)
    refs = attention_refs(target.info)
    masks = (torch.rand(2, 8, 8, generator=torch.Generator().manual_seed(4)) > 0.5).float()

    def norms(part):
        return attention_norms(part, [[1, 2], [3]], masks, target.info.latent_shape[1:])

    def asked(*recorded):
        """What was recorded, the gradient of its sum, and bytes that the pass has kept for that."""
        cond.embeds = cond.embeds.detach().requires_grad_(True)
        alive = {}

        def note(tensor):
            alive[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            with record_attention(*recorded) as found:
                out = target.predict(x, times, cond)
            found = found if recorded[2:] else {path: norms(part) for path, part in found.items()}
            total = torch.stack([out.sum() * 0, *(part.sum() for part in found.values())]).sum()
        return found, torch.autograd.grad(total, [cond.embeds])[0], sum(alive.values())

    (whole, expected, _), (found, grad, kept) = asked(target, refs), asked(target, refs, norms)
    assert all(torch.equal(found[path], part) for path, part in whole.items())
    assert torch.equal(grad, expected)
    with torch.no_grad(), record_attention(target, refs) as maps:
        target.predict(x, times, cond)
    beside = kept - asked(target, (), norms)[2]
    assert beside < sum(part.numel() * part.element_size() for part in maps.values())
    with torch.no_grad(), record_attention(target, refs, over_heads) as means:
        target.predict(x, times, cond)
    assert all(torch.equal(means[path], part.mean(1)) for path, part in maps.items())
