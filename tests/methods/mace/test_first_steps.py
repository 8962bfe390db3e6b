"""MACE's LoRA at full width, and with ``--full`` at full shapes: the first steps are those of the official layer.

The official procedure, written down here from its description: every key and value projection of cross-attention gets
a rank 1 LoRA whose "down" is Gaussian of deviation 1/rank and whose "up" is zero; AdamW at 1e-5 with decay 0.01 makes
the sum over layers of the Frobenius norm of the attention to the concept's tokens smaller, gradients clipped to 1.
"""

from __future__ import annotations

import pytest
import torch
from torch import nn

from erase_plugins.api import build_request
from erase_plugins.engine.loop import train
from erase_plugins.training.image_pool import concentrated_times
from erase_plugins.workflow.models import target_of
from tests.methods.runs import begun, prepared
from tests.methods.wide import WIDTH

OPTIONS = {
    "iterations": 6, "pictures": 2, "steps": 2, "precision": "float32", "vocabulary": 20, "templates": ("{}", "a {}"),
    "mask": "none", "lam": 1e3,
}  # fmt: skip


class _Projection(nn.Module):
    """The layer that official code has in place of a projection."""

    def __init__(self, linear: nn.Linear, down: torch.Tensor) -> None:
        super().__init__()
        self.linear = linear
        self.down = nn.Parameter(down)
        self.up = nn.Parameter(torch.zeros(linear.out_features, len(down)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) + x @ self.down.T @ self.up.T


def official(run, batches, draw) -> list[float]:
    """Losses of the official steps on the same noised pictures, and that of the first ones after the last step."""
    target, unet = run.target, run.target.pipe.unet
    layers, probabilities, handles = [], [], []
    for ref in run.refs:
        parent, leaf = ref.path.rsplit(".", 1)
        down = torch.randn((1, WIDTH), generator=draw)  # deviation 1 / rank, rank 1
        layers.append((unet.get_submodule(parent), leaf, _Projection(target.module(ref), down)))

    def look(module, args, kwargs):
        query, key = module.to_q(args[0]), module.to_k(kwargs["encoder_hidden_states"])
        query, key = (part.unflatten(-1, (module.heads, -1)).transpose(1, 2) for part in (query, key))
        probabilities.append((query @ key.transpose(-1, -2) * module.scale).softmax(-1))

    for parent, leaf, layer in layers:
        setattr(parent, leaf, layer)
    try:
        modules = dict.fromkeys(parent for parent, _, _ in layers)
        handles += [module.register_forward_pre_hook(look, with_kwargs=True) for module in modules]
        parameters = [part for _, _, layer in layers for part in (layer.down, layer.up)]
        optimizer = torch.optim.AdamW(parameters, lr=1e-5, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
        losses = []
        for states, cond, rows in [*batches, batches[0]]:
            probabilities.clear()
            target.predict(states.inputs, states.timestep, cond)
            loss = sum(part[0, :, :, rows].norm() for part in probabilities)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            losses.append(loss.item())
        return losses
    finally:
        for handle in handles:
            handle.remove()
        for parent, leaf, layer in layers:
            setattr(parent, leaf, layer.linear)


def first_steps(target, **options):
    """Losses of our steps, that of the first pictures after the last step, the run and its batches."""
    run = begun(target, build_request("wide", "mace", "pizza", to="ground", options={**OPTIONS, **options}))
    with prepared(run) as loss:
        batches = []
        for step in range(run.plan.steps):
            states, cond = run.state.pool.batch(1, step, concentrated_times)
            batches.append((states, run.mapped(cond), run.state.rows[int(states.row[0])]))
        losses = train(run.ctx, run.adapters, loss, run.options.schedule(), run.key)
        losses.append(float(loss(0).detach()))
    return losses, run, batches


def test_the_first_steps_are_those_of_the_official_layer(shaped):
    ours, run, batches = first_steps(shaped)
    assert (run.options.lr, run.options.batch) == (1e-5, 1)
    theirs = official(run, batches, run.ctx.generator("memories"))
    for step, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        assert one == pytest.approx(other, rel=1e-4), f"step {step}"
    removed = theirs[0] - theirs[-1]
    assert ours[0] - ours[-1] == pytest.approx(removed, rel=0.01)
    small, _, _ = first_steps(shaped, start="width")
    assert small[0] - small[-1] < 0.2 * removed, "what toy-sized models start with is too little here"


def test_a_toy_sized_model_keeps_what_it_was_tuned_with(tiny_sd1):
    run = begun(target_of(tiny_sd1(), "tiny"), build_request("tiny", "mace", "pizza"))
    assert (run.options.start, run.options.clip) == ("width", 0.0)
    assert run.options.schedule().clip is None
