"""First steps of Receler and AdvUnlearn against the official procedures, at the published width of text rows and, with
``--full``, at the full shapes of SD 1.5.

The procedures are written out here from their descriptions, with stock modules and optimizers; only the visited states
and the first values are taken from the run. Those of SPM, ACE and concept ablation are in `test_official_loras`, those
of ESD, MACE and UCE in tests/golden, tests/methods/mace and tests/benchmarks.
"""

from __future__ import annotations

import copy
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch.nn import functional

from erase_plugins.methods.advunlearn import _INNER
from tests.methods.official import FAST, STEPS, ask, begin, losses_of
from tests.methods.runs import prepared

# ---- Receler -----------------------------------------------------------------------------------------------------------


@contextmanager
def erasers(unet, values, gives):
    """Adds E(o) = up gelu(down o + bias) + up_bias behind every cross-attention; ``gives`` collects E(o)."""

    def hook(name):
        down, bias, up, shift = (values[f"{name}.{part}"] for part in ("down", "bias", "up", "up_bias"))

        def add(_module, _args, out):
            gives.append(functional.linear(functional.gelu(functional.linear(out, down, bias)), up, shift))
            return out + gives[-1]

        return add

    modules = dict(unet.named_modules())
    handles = [modules[name].register_forward_hook(hook(name)) for name in modules if name.endswith("attn2")]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def heat_mask(unet, states, rows, tokens, side, threshold):
    """1 where the mean attention to ``tokens`` in maps of ``side`` squared reaches ``threshold`` of its range."""
    kept, handles = {}, []
    for name, module in unet.named_modules():
        if name.endswith(("attn2.to_q", "attn2.to_k")):
            keep = lambda _m, _a, out, name=name: kept.__setitem__(name, out)  # noqa: E731
            handles.append(module.register_forward_hook(keep))
    ask(unet, states, rows)
    for handle in handles:
        handle.remove()
    maps = []
    for name, module in unet.named_modules():
        if name.endswith("attn2") and kept[f"{name}.to_q"].shape[1] == side**2:
            q, k = (
                kept[f"{name}.{part}"].unflatten(-1, (module.heads, -1)).transpose(1, 2) for part in ("to_q", "to_k")
            )
            share = (q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5).softmax(-1)
            maps.append(share[0, :, :, tokens].mean((0, 2)))
    heat = torch.stack(maps).mean(0).reshape(1, 1, side, side)
    heat = (heat - heat.min()) / (heat.max() - heat.min())
    return (heat >= threshold).float()


def test_receler_takes_the_official_steps(shaped):
    target = shaped
    options = {
        **FAST,
        "rank": 8,
        "adversarial_rows": 4,
        "adversarial_steps": 3,
        "stand_in": 0,
        "mask_scale": target.info.latent_shape[1] // 4,
        "lr": 3e-4,
    }
    found = losses_of(target, "receler", options)
    with prepared(run := begin(target, "receler", options)):
        states = [run.state._batch(0, step)[0] for step in range(STEPS)]
        values = {name.split(":")[1]: part.detach().clone() for name, part in run.adapters.named_parameters().items()}
        soft = nn.Parameter(run.state.attacks["pizza"].rows.detach().clone())
    unet, (null, concept) = target.pipe.unet, target.encode(["", "pizza"]).embeds
    last = target.encode(["pizza"]).last[0]
    values = {name: nn.Parameter(part) for name, part in values.items()}
    optimizer = torch.optim.Adam(values.values(), lr=3e-4)
    attacker = torch.optim.Adam([soft], lr=0.1, weight_decay=0.1)
    wanted = []
    for state in states:
        with torch.no_grad():
            empty, named = ask(unet, state, null[None]), ask(unet, state, concept[None])
            mask = heat_mask(unet, state, concept[None], list(range(1, last + 1)), 4, 0.1)
        goal = empty - (named - empty)
        for number in range(3):
            rows = torch.cat([concept[: last + 1], soft, concept[last + 1 + len(soft) :]])[None]
            gives = []
            with erasers(unet, values, gives):
                out = ask(unet, state, rows)
            against = functional.mse_loss(out, named)
            if number == 2:
                outside = 0.0
                for given in gives:
                    side = int(given.shape[1] ** 0.5)
                    off = 1 - functional.interpolate(mask, (side, side), mode="nearest").flatten()
                    outside = outside + (off * given[0].square().mean(-1)).sum() / (off.sum() + 1e-9)
                total = functional.mse_loss(out, goal) + 0.1 * outside / len(gives)
                gradients = torch.autograd.grad(total, list(values.values()), retain_graph=True)
            (soft.grad,) = torch.autograd.grad(against, [soft])
            attacker.step()
        for part, gradient in zip(values.values(), gradients, strict=True):
            part.grad = gradient
        optimizer.step()
        wanted.append(float(total.detach()))
    assert wanted[0] != pytest.approx(wanted[1], rel=1e-2)
    assert found == pytest.approx(wanted, rel=1e-4)


# ---- AdvUnlearn --------------------------------------------------------------------------------------------------------


def encode(encoder, ids, prefix=None):
    """Rows of token numbers; ``prefix`` stands in front of the first token behind the start, and pushes the rest."""
    if prefix is None:
        return encoder(ids)[0]
    moved = torch.cat([ids[:, :1], ids[:, 1:2].expand(-1, len(prefix)), ids[:, 1 : ids.shape[1] - len(prefix)]], 1)
    table = next(module for name, module in encoder.named_modules() if name.endswith("token_embedding"))
    put = lambda _m, _a, out: torch.cat([out[:, :1], prefix[None], out[:, 1 + len(prefix) :]], 1)  # noqa: E731
    handle = table.register_forward_hook(put)
    try:
        return encoder(moved)[0]
    finally:
        handle.remove()


def test_advunlearn_takes_the_official_steps(shaped):
    target = shaped
    options = {
        **FAST, "keep_words": 2, "keep_batch": 1, "keep_weight": 0.5, "parameters": "full", "lr": 1e-5, "warmup": 0,
        "attack": "fast", "attack_lr": 1e-3, "retain": "predictions", "aliases": False,
    }  # fmt: skip
    found = losses_of(target, "advunlearn", options)
    with prepared(run := begin(target, "advunlearn", options)):
        work = run.state
        erased = [work.erased(1, step) for step in range(STEPS)]
        inner = [work.erased(1, _INNER + step * run.options.inner_steps) for step in range(STEPS)]
        kept = [work.kept(1, step) for step in range(STEPS)]
        places = [ref.path for ref in run.refs]
        starts = [work.prefix.start(["text_encoder"], run.ctx.generator(f"prefix {step}")) for step in range(STEPS)]
    unet, encoder = target.pipe.unet, copy.deepcopy(target.pipe.text_encoder).requires_grad_(False)
    modules = dict(encoder.named_modules())
    trained = [part for path in places for part in modules[find(modules, path)].parameters()]
    optimizer = torch.optim.Adam([part.requires_grad_(True) for part in trained], lr=1e-5)
    ids = target.tokens(["pizza"]).ids["text_encoder"]
    wanted = []
    for step in range(STEPS):
        prefix = starts[step].clone().requires_grad_(True)
        state = inner[step][0]
        against = functional.mse_loss(ask(unet, state, encode(encoder, ids, prefix)), state.predictions["prompt"])
        prefix = (prefix - 1e-3 * torch.autograd.grad(against, [prefix])[0].sign()).detach()
        state, (held, words) = erased[step][0], kept[step]
        seen = state.predictions
        goal = seen["null"] - (seen["prompt"] - seen["null"])
        total = functional.mse_loss(ask(unet, state, encode(encoder, ids, prefix)), goal)
        rows = encode(encoder, target.tokens(words.prompts).ids["text_encoder"])
        total = total + 0.5 * functional.mse_loss(ask(unet, held, rows), held.predictions["prompt"])
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        wanted.append(float(total.detach()))
    assert found == pytest.approx(wanted, rel=1e-4)


def find(modules, path):
    """The name of a module of the text encoder, whose names carry a prefix in some versions."""
    return next(name for name in modules if name in (path, f"text_model.{path}"))
