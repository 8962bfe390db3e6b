"""Training of `pocket-flow`: its optimizer, the rows of zeros, what is encoded ahead."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from diffusers.models.attention_processor import JointAttnProcessor2_0

from tools.pocket import export, networks
from tools.pocket.compose import Pictures
from tools.pocket.muon import MuonAdam, orthogonal
from tools.pocket.train_flow import (
    WeightedRows,
    encode_captions,
    levels,
    prepare_transformer,
    text_projection,
    whitening,
)


@pytest.fixture
def network(small_recipe):
    torch.manual_seed(0)
    return networks.build_transformer(small_recipe).eval()


def test_orthogonal_makes_all_directions_about_equal():
    left, _, right = torch.linalg.svd(torch.randn(24, 12, generator=torch.Generator().manual_seed(0)), False)
    given = ((left * torch.logspace(-2, 0, 12)) @ right)[None]
    found = orthogonal(given)
    sizes = (left.T @ found[0] @ right.T).diagonal()
    assert float(sizes.min()) > 0.1 and float(sizes.max()) < 2  # they were a hundred times apart
    assert float((found[0] - (left * sizes) @ right).abs().max()) < 0.03
    assert torch.allclose(orthogonal(given.mT), found.mT, atol=1e-6)


def test_muon_steps_have_the_size_of_adams_and_the_rest_is_adamw():
    start = torch.randn(8, 32, generator=torch.Generator().manual_seed(1))
    hidden, rest, twin = (torch.nn.Parameter(start.clone()) for _ in range(3))
    mine = MuonAdam([hidden], [rest], 0.1, 0.01, 0.02)
    stock = torch.optim.AdamW([twin], lr=0.01, betas=(0.9, 0.97), weight_decay=0.02)
    for step in range(3):
        grad = torch.randn(8, 32, generator=torch.Generator().manual_seed(step))
        for value in (hidden, rest, twin):
            value.grad = grad.clone()
        before = hidden.detach().clone()
        mine.step()
        stock.step()
        moved = hidden.detach() - before * (1 - 0.1 * 0.02)
        assert float(moved.square().mean().sqrt()) == pytest.approx(0.2 * 0.1, rel=0.4)
    torch.testing.assert_close(rest, twin, rtol=1e-5, atol=1e-7)


def test_one_row_of_zeros_with_a_weight_stands_for_many(network):
    """What training sees as one key of weight n is what the stock pipeline makes of n rows."""
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for value in network.parameters():
            value.copy_(torch.randn(value.shape, generator=noise) * 0.2)
    latents, pooled = torch.randn(2, 4, 8, 8, generator=noise), torch.randn(2, 32, generator=noise)
    rows, times, many = torch.randn(2, 5, 32, generator=noise), torch.tensor([200.0, 800.0]), 40

    def predicted(count: int, **extra: object) -> torch.Tensor:
        context = torch.cat([rows, torch.zeros(2, count, 32)], 1)
        return network(latents, context, pooled, times, return_dict=False, **extra)[0]

    with torch.no_grad():
        network.set_attn_processor(JointAttnProcessor2_0())
        stock, one = predicted(many), predicted(1)
        network.set_attn_processor(WeightedRows())
        weights = torch.zeros(16 + 5 + 1)
        plain = predicted(1, joint_attention_kwargs={"weights": weights.clone()})
        weights[-1] = math.log(many)
        weighted = predicted(1, joint_attention_kwargs={"weights": weights})
    torch.testing.assert_close(plain, one, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(weighted, stock, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(one, stock, atol=1e-3)


def test_first_weights_add_nothing_and_whiten_the_rows(network):
    states = torch.randn(30, 6, 16, generator=torch.Generator().manual_seed(3)) * torch.logspace(-0.5, 0.5, 16) + 4
    prepare_transformer(network, states, 0)
    rows = network.context_embedder(torch.cat([states, states], -1)).detach().flatten(0, 1)
    assert float(rows.mean(0).abs().max()) < 1e-3
    assert torch.allclose(rows.T @ rows / len(rows), torch.eye(16), atol=0.05)
    found = network(torch.randn(1, 4, 8, 8), torch.randn(1, 3, 32), torch.randn(1, 32), torch.tensor([500.0]))
    assert float(found.sample.abs().max()) == 0


def test_projection_leaves_out_what_texts_share():
    common = torch.ones(16) * 3
    pooled = common + 0.01 * torch.randn(200, 16, generator=torch.Generator().manual_seed(4))
    pooled -= (pooled - pooled.mean(0)) @ torch.ones(16, 16) / 16  # so that the mean is the whole common part
    found = pooled @ text_projection(pooled).mT
    assert float(found.std(0).mean()) == pytest.approx(1, rel=0.05)
    assert float(found.mean(0).abs().max()) < 0.05
    scale, mean = whitening(pooled, 0.5)
    assert scale.shape == (16, 16) and torch.allclose(scale, scale.T)
    assert torch.allclose(mean.float(), pooled.mean(0))


def test_levels_are_logit_normal_and_spread():
    found = levels(1000, np.random.default_rng(0)).logit()
    assert float(found.mean()) == pytest.approx(0, abs=0.01)
    assert float(found.std()) == pytest.approx(1, abs=0.02)


def test_captions_are_encoded_once_and_belong_to_their_labels(small_world, small_sprites, small_recipe, tmp_path):
    from tools.pocket.words import build_tokenizer, save_tokenizer

    tokenizer = build_tokenizer(small_world, 16)
    parts = networks.build_text_encoder(small_recipe, len(tokenizer)), networks.build_vae(small_recipe)
    for part, name in zip(parts, ("text_encoder", "vae"), strict=True):
        part.half().save_pretrained(tmp_path / name)
    save_tokenizer(tokenizer, tmp_path / "tokenizer")
    _, encoder, tokenizer = export.flow_parts(tmp_path, 16)
    pictures = Pictures(small_world, small_sprites, small_recipe)
    bank = encode_captions(encoder, tokenizer, pictures, small_recipe)
    assert len(bank["text"]) == len(bank["label"]) == small_recipe.flow_captions * len(pictures.labels)
    assert len(bank["states"]) <= len(bank["text"]) + 1
    assert bank["empty"] not in bank["text"]
    ids = tokenizer([""], padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        found = encoder(ids, output_hidden_states=True)
    torch.testing.assert_close(bank["states"][bank["empty"]].float(), found.hidden_states[-2][0], rtol=1e-2, atol=1e-2)
    torch.testing.assert_close(bank["pooled"][bank["empty"]], found.text_embeds[0], rtol=1e-4, atol=1e-4)
