"""NAG and NegPip: numbers by hand, and the first cross-attention layer of a pipeline against formulas written out here."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import PipelineChanged, Unsupported
from erase_plugins.runtime.guardrails.attention import NormalisedSettings, guided
from erase_plugins.testing.tiny import tiny_sd1, tiny_sd3

SETTINGS = {"nag": {"scale": 3.0, "tau": 1.5, "alpha": 0.5}, "negpip": {"weight": 2.0}}


@pytest.fixture(scope="module")
def pipe():
    found = tiny_sd1()
    found.set_progress_bar_config(disable=True)
    return found


def drawn(pipe, prompt="a dog", guidance=4.0, **more):
    options = {"num_inference_steps": 1, "guidance_scale": guidance, "output_type": "latent", **more}
    return pipe(prompt, generator=torch.Generator().manual_seed(3), **options).images


def first_layer(pipe):
    """The first layer of cross-attention that a pass reaches; what is in front of it has read no text."""
    return pipe.unet.down_blocks[0].attentions[0].transformer_blocks[0].attn2


def seen(pipe, *prompt, **more):
    """What that layer reads, and what reaches its last map."""
    layer, found = first_layer(pipe), []
    hooks = [
        layer.to_q.register_forward_pre_hook(lambda _m, args: found.append(args[0].clone())),
        layer.to_out[0].register_forward_hook(lambda _m, args, _out: found.append(args[0].clone())),
    ]
    try:
        drawn(pipe, *prompt, **more)
    finally:
        for hook in hooks:
            hook.remove()
    return found[0], found[-1]


def test_guidance_by_hand():
    positive = torch.tensor([[1.0, 1.0], [2.0, 0.0], [1.0, -1.0]])
    negative = torch.tensor([[0.0, 1.0], [2.0, 0.0], [-3.0, 3.0]])
    # led: (3, 1), (2, 0), (9, -9); growth 2, 1, 9; at most 1.5: (2.25, .75), (2, 0), (1.5, -1.5); half of each
    expected = torch.tensor([[1.625, 0.875], [2.0, 0.0], [1.25, -1.25]])
    torch.testing.assert_close(guided(positive, negative, NormalisedSettings(3.0, 1.5, 0.5)), expected)
    assert torch.equal(guided(positive, negative, NormalisedSettings(1.0, 1.5, 0.5)), positive)
    assert torch.equal(
        guided(torch.zeros(1, 2), torch.zeros(1, 2), NormalisedSettings(5.0, 2.5, 0.25)), torch.zeros(1, 2)
    )


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_nag_in_a_layer_is_its_equation(pipe, guidance):
    own, other = (seen(pipe, prompt, guidance=guidance)[1] for prompt in ("a dog", "pizza"))
    with ep.apply(pipe, ep.erase(pipe, "pizza", "nag", options=SETTINGS["nag"])):
        found = seen(pipe, "a dog", guidance=guidance)[1]
    z, n = own[-1], other[-1]
    led = 3 * z - 2 * n
    growth = led.abs().sum(-1, keepdim=True) / z.abs().sum(-1, keepdim=True)
    led = torch.where(growth > 1.5, led / growth * 1.5, led)
    torch.testing.assert_close(found[-1], 0.5 * led + 0.5 * z, atol=1e-6, rtol=1e-5)
    assert (found[-1] - z).abs().max() > 1e-3
    if guidance > 1:
        assert torch.equal(found[0], own[0]), "the empty prompt is left as it is"


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_negpip_in_a_layer_is_attention_with_values_of_the_other_sign(pipe, guidance):
    states, own = seen(pipe, "a dog", guidance=guidance)
    with torch.no_grad():
        rows = pipe.encode_prompt("a dog", "cpu", 1, True)[0]
        more = pipe.encode_prompt("pizza", "cpu", 1, False)[0]
    words = len(pipe.tokenizer("pizza").input_ids)  # with start and end
    more = more[:, 1:words]
    layer, at = first_layer(pipe), (guidance > 1) * 1
    heads = lambda x: x.unflatten(-1, (layer.heads, -1)).transpose(0, 1)  # noqa: E731
    with torch.no_grad():
        q = heads(layer.to_q(states[at]))
        k = heads(layer.to_k(torch.cat([rows, more], 1))[0])
        v = heads(torch.cat([layer.to_v(rows), -2.0 * layer.to_v(more)], 1)[0])
    expected = ((q @ k.transpose(1, 2) / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(0, 1).flatten(1)
    with ep.apply(pipe, ep.erase(pipe, "pizza", "negpip", options=SETTINGS["negpip"])):
        found = seen(pipe, "a dog", guidance=guidance)[1]
    torch.testing.assert_close(found[at], expected, atol=1e-5, rtol=1e-4)
    assert (found[at] - own[at]).abs().max() > 1e-3
    if at:
        torch.testing.assert_close(found[0], own[0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("name", SETTINGS)
def test_several_pictures_and_edits_beside_it(pipe, name):
    """A batch is drawn as its pictures one by one, and an edit of weights stands beside."""
    guard = ep.erase(pipe, "pizza", name)
    edit = ep.erase(pipe, "owl", "uce")
    with ep.apply(pipe, edit), ep.apply(pipe, guard):
        alone = [
            drawn(pipe, text, latents=torch.ones(1, 4, 8, 8) * place) for place, text in enumerate(("a dog", "a cat"))
        ]
        both = drawn(pipe, ["a dog", "a cat"], latents=torch.cat([torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)]))
    torch.testing.assert_close(both, torch.cat(alone), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", SETTINGS)
def test_what_cannot_be_steered_is_refused(pipe, name):
    guard = ep.erase(pipe, "pizza", name)
    with ep.apply(pipe, guard):
        with pytest.raises(Unsupported, match="in force already"):
            ep.apply(pipe, guard)
        with pytest.raises(Unsupported, match="expects 2 rows"):
            pipe.encode_prompt("a dog", "cpu", 1, True)
            pipe.unet(torch.zeros(3, 4, 8, 8), 1, encoder_hidden_states=torch.zeros(3, 77, 32))
        drawn(pipe)
    with pytest.raises(Unsupported, match="cross_attention"):
        ep.erase(tiny_sd3(), "pizza", name)


def test_negpip_says_so_where_projections_are_fused():
    pipe = tiny_sd1()
    pipe.set_progress_bar_config(disable=True)
    with ep.apply(pipe, ep.erase(pipe, "pizza", "negpip")):
        pipe.fuse_qkv_projections(vae=False)
        with pytest.raises(PipelineChanged, match="unfuse them first"):
            drawn(pipe)
        pipe.unfuse_qkv_projections(vae=False)
        drawn(pipe)
