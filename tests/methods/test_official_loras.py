"""First steps of SPM, ACE and concept ablation against the official procedures, at the published width of text rows and,
with ``--full``, at the full shapes of SD 1.5.

The procedures are written out here from their descriptions, with stock modules and optimizers; only the visited states
and the first values are taken from the run.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from diffusers import DDPMScheduler, Transformer2DModel
from torch import nn
from torch.nn import functional

from erase_plugins.types import Concept
from tests.methods.official import FAST, STEPS, ask, begin, losses_of, stepped
from tests.methods.runs import prepared


class Beside(nn.Module):
    """The layer that official code has in place of a linear layer or convolution: W x + scale up(down(x))."""

    def __init__(self, layer, down, scale):
        super().__init__()
        self.layer, self.scale = layer, scale
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros((layer.weight.shape[0], len(down), *[1] * (down.ndim - 2))))

    def forward(self, x):
        if isinstance(self.layer, nn.Conv2d):
            inner = functional.conv2d(x, self.down, None, self.layer.stride, self.layer.padding)
            return self.layer(x) + self.scale * functional.conv2d(inner, self.up)
        return self.layer(x) + self.scale * functional.linear(functional.linear(x, self.down), self.up)


@contextmanager
def beside(unet, downs, scale):
    """Puts the layers in the places of ``downs``, path -> first values; gives them."""
    layers = {path: Beside(unet.get_submodule(path), down, scale) for path, down in downs.items()}

    def put(make):
        for path, layer in layers.items():
            parent, _, leaf = path.rpartition(".")
            setattr(unet.get_submodule(parent), leaf, make(layer))

    put(lambda layer: layer)
    try:
        yield list(layers.values())
    finally:
        put(lambda layer: layer.layer)


def trained(layers):
    return [part for layer in layers for part in (layer.down, layer.up)]


@torch.no_grad()
def switched_off(layers, predict):
    """What ``predict`` gives at multiplier 0."""
    scales = [layer.scale for layer in layers]
    for layer in layers:
        layer.scale = 0.0
    out = predict()
    for layer, scale in zip(layers, scales, strict=True):
        layer.scale = scale
    return out


def inside_transformers(unet):
    """Paths of all linear layers and convolutions inside the transformers of a U-Net."""
    return {
        f"{name}.{inner}"
        for name, block in unet.named_modules()
        if isinstance(block, Transformer2DModel)
        for inner, layer in block.named_modules()
        if isinstance(layer, nn.Linear | nn.Conv2d)
    }


def first_values(run, unet):
    """The down factors of a run before its first step, by path."""
    downs = {slot.ref.path: slot.A.detach().clone() for slot in run.adapters.slots}
    assert set(downs) == inside_transformers(unet)
    for down in downs.values():  # Kaiming with a = sqrt 5: uniform within 1 / sqrt(inputs)
        bound = down[0].numel() ** -0.5
        assert 0.9 * bound < float(down.abs().max()) <= bound
    return downs


def compare(found, wanted, again):
    """``again`` is the first loss after the last step: a step must do something that the comparison would see."""
    assert wanted[0] != pytest.approx(again, rel=1e-2)
    assert found == pytest.approx(wanted, rel=1e-4)


# ---- SPM ---------------------------------------------------------------------------------------------------------------


def pseudo(rows, count, draw):
    """Gaussians of the norm of all rows together, accepted with probability 1 - cosine, 0.8 to 1.2 times as long."""
    found = []
    while len(found) < count:
        z = torch.randn(rows.shape, generator=draw)
        z = z / z.norm()
        chance, u = torch.rand(2, generator=draw).tolist()
        if chance < 1 - functional.cosine_similarity(z.flatten(), rows.flatten(), dim=0):
            found.append(z * (0.8 + 0.4 * u) * rows.norm())
    return torch.stack(found)


def test_spm_takes_the_official_steps(shaped):
    options = {**FAST, "optimizer": "adamw", "lr": 2e-3, "gate": "cosine"}
    found = losses_of(shaped, "spm", options)
    with prepared(run := begin(shaped, "spm", options)):
        states = [run.state.pool.batch(1, step)[0] for step in range(STEPS)]
        downs = first_values(run, shaped.pipe.unet)
    unet, (empty, concept) = shaped.pipe.unet, shaped.encode(["", "pizza"]).embeds
    with beside(unet, downs, 1.0) as layers:
        optimizer = torch.optim.AdamW(trained(layers), lr=2e-3)

        def loss_of(step):
            state, draw = states[step], run.ctx.generator(f"anchors {step}")
            pair = state[torch.zeros(2, dtype=torch.long)]
            neutral, positive = switched_off(layers, lambda: ask(unet, pair, torch.stack([empty, concept])))[:, None]
            erased = functional.mse_loss(ask(unet, state, concept[None]), neutral - 1.0 * (positive - neutral))
            anchors, many = pseudo(concept, 4, draw), state[torch.zeros(4, dtype=torch.long)]
            before = switched_off(layers, lambda: ask(unet, many, anchors))
            return erased + 1000 * functional.mse_loss(ask(unet, many, anchors), before)

        wanted = stepped(optimizer, loss_of, range(STEPS))
        with torch.no_grad():
            again = float(loss_of(0))
    compare(found, wanted, again)


# ---- ACE ---------------------------------------------------------------------------------------------------------------


def test_ace_takes_the_official_steps(shaped):
    options = {**FAST, "priors": ("dog", "car", "tree", "boat")}
    found = losses_of(shaped, "ace", options)
    with prepared(run := begin(shaped, "ace", options)):
        states = [run.state.pool.batch(1, step)[0] for step in range(STEPS)]
        downs = first_values(run, shaped.pipe.unet)
        priors = [[cond.prompts[int(state.row)] for cond in run.state.encoded.values()] for state in states]
    assert all(len(down) == 4 for down in downs.values())
    assert all(len(pair) == 2 for pair in priors)
    unet = shaped.pipe.unet
    rows = [shaped.encode(["", "pizza", *pair]).embeds for pair in priors]
    four = torch.zeros(4, dtype=torch.long)
    with torch.no_grad():
        teacher = [ask(unet, state[four], row) for state, row in zip(states, rows, strict=True)]
    with beside(unet, downs, 1 / 4) as layers:
        optimizer = torch.optim.Adam(trained(layers), lr=1e-3)

        def loss_of(step):
            null, concept, *others = teacher[step]
            out = ask(unet, states[step][four], rows[step])
            moved = null + 3 * (concept - null) - 3 * sum(other - null for other in others)
            free = functional.mse_loss(out[0], moved)
            erased = functional.mse_loss(out[1], null - 3 * (concept - null))
            held = functional.mse_loss(out[2:], torch.stack(others))
            return 0.19 * free + 0.01 * erased + 0.8 * held

        wanted = stepped(optimizer, loss_of, range(STEPS))
        with torch.no_grad():
            again = float(loss_of(0))
    compare(found, wanted, again)


# ---- concept ablation --------------------------------------------------------------------------------------------------


@contextmanager
def start_row_detached(unet):
    """Keys and values of cross-attention whose first row gives no gradient."""

    def stop(_module, _args, out):
        still = torch.ones_like(out[..., :1])
        still[:, :1] = 0
        return still * out + (1 - still) * out.detach()

    names = [name for name, _ in unet.named_modules() if name.endswith(("attn2.to_k", "attn2.to_v"))]
    handles = [unet.get_submodule(name).register_forward_hook(stop) for name in names]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


#: kind, anchor, trained projections, prior weight: what is published for objects and for explicit concepts
ABLATED = [
    ("object", "bread", ("attn2.to_k", "attn2.to_v"), 0.0),
    ("explicit", "people", ("to_q", "to_k", "to_v", "to_out.0"), 1.0),
]


@pytest.mark.parametrize(("kind", "anchor", "ends", "prior"), ABLATED, ids=["object", "explicit"])
def test_concept_ablation_takes_the_official_steps(shaped, kind, anchor, ends, prior):
    concept = Concept("pizza", kind=kind, anchor=anchor)
    options = {**FAST, "parameters": "full", "batch": 2, "steps": 2, "trajectories": 4, "lr": 1e-3}
    found = losses_of(shaped, "concept-ablation", options, concept)
    with prepared(run := begin(shaped, "concept-ablation", options, concept)):
        assert run.options.prior == prior
        pictures, erased = run.state
        batches = [pictures.batch(2, step) for step in range(STEPS)]
    unet, schedule = shaped.pipe.unet, DDPMScheduler.from_config(shaped.pipe.scheduler.config)
    if kind == "object":
        assert set(pictures.cond.prompts) == {"bread"}
        assert set(erased.prompts) == {"pizza"}
    places = {name: part for name, part in unet.named_parameters() if name.removesuffix(".weight").endswith(ends)
              or name.removesuffix(".bias").endswith(ends)}  # fmt: skip
    first = {name: part.detach().clone() for name, part in places.items()}
    try:
        parameters = [part.requires_grad_(True) for part in places.values()]
        optimizer = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.01)

        def loss_of(step):
            states, known = batches[step]
            noise, rows = states.predictions["noise"], states.row.tolist()
            noised = schedule.add_noise(pictures.latents[states.row], noise, states.timestep)
            torch.testing.assert_close(states.inputs, noised, rtol=1e-5, atol=1e-5)
            with torch.no_grad():
                goal = ask(unet, states, known.embeds)
            total = functional.mse_loss(ask(unet, states, erased[rows].embeds), goal)
            return total + (prior * functional.mse_loss(ask(unet, states, known.embeds), noise) if prior else 0.0)

        with start_row_detached(unet):
            wanted = stepped(optimizer, loss_of, range(STEPS))
            with torch.no_grad():
                again = float(loss_of(0))
    finally:
        with torch.no_grad():
            for name, part in places.items():
                part.copy_(first[name])
                part.requires_grad_(False)
    compare(found, wanted, again)
