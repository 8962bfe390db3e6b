"""Stage "flow": a transformer in Stable Diffusion 3's form on the frozen autoencoder and text encoder of pocket.

Texts and pictures are encoded once, ahead. Both CLIP places hold pocket's text encoder; there is no T5, for which stock
pipelines add rows of zeros. Rows that are all alike stay alike in every layer, so that n of them are trained as one
whose key has the weight n; n is drawn anew at every step, from 1 to 256, and the model bears any number of them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tools.pocket.captions import caption
from tools.pocket.loop import Draw, Stage, precision
from tools.pocket.muon import MuonAdam

if TYPE_CHECKING:
    from tools.pocket.compose import Pictures
    from tools.pocket.recipe import Recipe

#: most rows of zeros that a stock pipeline adds
ZEROS = 256


def still_recipe(recipe: Recipe) -> Recipe:
    """The recipe with this stage's placement of sprites and without empty captions, which are drawn in the loss."""
    return replace(recipe, scale=recipe.flow_scale, shift=recipe.flow_shift, copies=recipe.flow_copies, empty=0.0)


@torch.no_grad()
def encode_captions(
    encoder: Any, tokenizer: Any, pictures: Pictures, recipe: Recipe, batch: int = 128
) -> dict[str, Tensor]:
    """``flow_captions`` captions for every label, each text encoded once.

    Args:
        encoder: `CLIPTextModelWithProjection` whose projection is the identity.

    Returns:
        ``states`` (texts, tokens, width) as fp16 and ``pooled`` (texts, width) of distinct texts; ``text`` and
        ``label`` of every caption; ``empty``, the number of the empty text.
    """
    plain, rng = still_recipe(recipe), Draw.of(recipe.seed, "flow-captions", 0).rng
    given = [
        (caption(pictures.world, label, plain, rng), index)
        for _ in range(recipe.flow_captions)
        for index, label in enumerate(pictures.labels)
    ]
    texts = sorted({text for text, _ in given} | {""})
    place = {text: index for index, text in enumerate(texts)}
    states, pooled = [], []
    for start in range(0, len(texts), batch):
        ids = tokenizer(
            texts[start : start + batch], padding="max_length", truncation=True, return_tensors="pt"
        ).input_ids
        found = encoder(ids.to(encoder.device), output_hidden_states=True)
        states.append(found.hidden_states[-2].half().cpu())
        pooled.append(found.text_embeds.float().cpu())
    return {
        "states": torch.cat(states),
        "pooled": torch.cat(pooled),
        "text": torch.tensor([place[text] for text, _ in given]),
        "label": torch.tensor([index for _, index in given]),
        "empty": torch.tensor(place[""]),
    }


def whitening(rows: Tensor, floor: float) -> tuple[Tensor, Tensor]:
    """Symmetric map (width, width) that gives rows (n, width) about the unit covariance, and their mean.

    Args:
        floor: smallest variance that is scaled up, as a share of the mean one.
    """
    rows = rows.double()
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).mT @ (rows - mean) / len(rows))
    return (vectors * (values + floor * values.mean()).rsqrt()) @ vectors.mT, mean


def text_projection(pooled: Tensor) -> Tensor:
    """Projection (width, width) of the pooled state: what all texts share is left out, what tells them apart is scaled
    to one. Without it the difference of two texts is lost beside their common part."""
    mean = pooled.double().mean(0)
    others = torch.eye(len(mean), dtype=torch.double) - torch.outer(mean, mean) / (mean @ mean)
    scale, _ = whitening(pooled.double() @ others, 1e-2)
    found = scale @ others
    return (found / (pooled.double() @ found.mT).std(0).mean()).float()


@torch.no_grad()
def prepare_transformer(network: Any, states: Tensor, seed: int) -> None:
    """First weights: residual branches that add nothing, open gates, and a context embedder that whitens its rows."""
    width = network.inner_dim
    noise = torch.Generator().manual_seed(seed)
    scale, mean = whitening(states.flatten(0, 1), 1e-3)
    turn = torch.linalg.qr(
        torch.randn(max(width, len(scale)), max(width, len(scale)), generator=noise, dtype=torch.double)
    )[0]
    rows = (turn[:width, : len(scale)] @ scale).float()
    network.context_embedder.weight.copy_(torch.cat([rows, rows], 1) / 2)
    network.context_embedder.bias.copy_(-rows @ mean.float())
    for block in network.transformer_blocks:
        for norm in (block.norm1, block.norm1_context):
            norm.linear.weight.normal_(0, 0.02, generator=noise)
            norm.linear.bias.zero_()
            if len(norm.linear.bias) == 6 * width:  # shift, scale, gate of attention, then those of the network
                norm.linear.bias[2 * width : 3 * width] = 1
                norm.linear.bias[5 * width :] = 1
        ends = [block.attn.to_out[0], block.ff.net[2]]
        if not block.context_pre_only:
            ends += [block.attn.to_add_out, block.ff_context.net[2]]
        for layer in ends:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
    for layer in (network.norm_out.linear, network.proj_out):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)


class WeightedRows:
    """Joint attention as diffusers has it, with a logarithm of a weight added for every key."""

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor, weights: Tensor, **_: Any
    ) -> tuple[Tensor, Tensor]:
        def heads(rows: Tensor) -> Tensor:
            return rows.unflatten(-1, (attn.heads, -1)).transpose(1, 2)

        query = [attn.norm_q(heads(attn.to_q(hidden_states)))]
        key = [attn.norm_k(heads(attn.to_k(hidden_states)))]
        value = [heads(attn.to_v(hidden_states))]
        query.append(attn.norm_added_q(heads(attn.add_q_proj(encoder_hidden_states))))
        key.append(attn.norm_added_k(heads(attn.add_k_proj(encoder_hidden_states))))
        value.append(heads(attn.add_v_proj(encoder_hidden_states)))
        values = torch.cat(value, 2)
        # on processors the plain products are three times as fast as the fused kernel at this size
        queries, keys = torch.cat(query, 2).to(values.dtype), torch.cat(key, 2).to(values.dtype)
        scores = (queries * queries.shape[-1] ** -0.5) @ keys.mT + weights.to(values.dtype)
        mixed = (scores.softmax(-1, dtype=values.dtype) @ values).transpose(1, 2).flatten(2)
        picture, text = mixed.split((hidden_states.shape[1], encoder_hidden_states.shape[1]), 1)
        return attn.to_out[0](picture), text if attn.context_pre_only else attn.to_add_out(text)


def flow_stage(network: Any, latents: Tensor, bank: dict[str, Tensor], recipe: Recipe, device: str) -> Stage:
    """The stage over a transformer of `networks.build_transformer`.

    Args:
        latents: scaled, (labels, copies, 4, h, w).
        bank: from `encode_captions`, with ``pooled`` projected.
    """
    cells = (latents.shape[-1] // network.config.patch_size) ** 2
    rows, width = bank["states"].shape[1:]

    def loss(draw: Draw) -> Tensor:
        count = recipe.flow_batch
        picks = torch.from_numpy(draw.rng.integers(len(bank["text"]), size=count))
        copies = torch.from_numpy(draw.rng.integers(latents.shape[1], size=count))
        texts = torch.where(torch.from_numpy(draw.rng.random(count)) < recipe.empty, bank["empty"], bank["text"][picks])
        clean = latents[bank["label"][picks], copies].float()
        states = bank["states"][texts].float()
        context = torch.zeros(count, rows + 1, 2 * width)
        context[:, :rows] = torch.cat([states, states], -1)
        pooled = bank["pooled"][texts]
        weights = torch.zeros(cells + rows + 1)
        weights[-1] = math.log(ZEROS) * draw.rng.random()
        times = levels(count, draw.rng)
        noise = torch.randn(clean.shape, generator=draw.noise)
        share = times[:, None, None, None]
        with precision(device):
            velocity = network(
                hidden_states=((1 - share) * clean + share * noise).to(device),
                encoder_hidden_states=context.to(device),
                pooled_projections=torch.cat([pooled, pooled], -1).to(device),
                timestep=(1000 * times).to(device),
                joint_attention_kwargs={"weights": weights.to(device)},
                return_dict=False,
            )[0]
        return (velocity.float() - (noise - clean).to(device)).square().mean()

    network.set_attn_processor(WeightedRows())
    return Stage(
        "flow", recipe.flow_steps, {"transformer": network}, {}, loss, recipe.flow_ema,
        lambda _: flow_optimizer(network, recipe),
    )  # fmt: skip


def levels(count: int, rng: np.random.Generator) -> Tensor:
    """Noise levels in 0..1, logit-normal (Esser et al. 2024), one in each of ``count`` equal shares of probability."""
    uniform = torch.from_numpy((rng.permutation(count) + rng.random(count)) / count).float()
    return torch.special.ndtri(uniform.clamp(1e-4, 1 - 1e-4)).sigmoid()


def flow_optimizer(network: Any, recipe: Recipe) -> MuonAdam:
    """Muon for the matrices of attention and feed-forward layers."""
    hidden = {
        name: value
        for name, value in network.named_parameters()
        if name.startswith("transformer_blocks") and value.ndim == 2 and "norm" not in name
    }
    rest = [value for name, value in network.named_parameters() if name not in hidden]
    return MuonAdam(hidden.values(), rest, recipe.flow_lr, recipe.flow_rest_lr, recipe.weight_decay)
