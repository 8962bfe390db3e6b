"""GS-LoRA and GS-LoRA++ as published: loops over loaders, two forward passes and one backward pass a step.

Written after the method's description, with the layers of the official code in form: the low-rank product beside the
frozen linear, group norms by name, prototypes in a dictionary that is asked sample by sample, AdamW without grouping.
It is given the rows of every step and the first values of the factors, so that its numbers can be held against ours.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset


class LoraLinear(nn.Module):
    """A frozen linear with a low-rank product beside it."""

    def __init__(self, inner: nn.Linear, down: Tensor, up: Tensor, scale: float) -> None:
        super().__init__()
        self.inner, self.scale = inner, scale
        self.lora_A, self.lora_B = nn.Parameter(down.clone()), nn.Parameter(up.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x) + (x @ self.lora_A.transpose(0, 1) @ self.lora_B.transpose(0, 1)) * self.scale


def with_lora(model: nn.Module, factors: Mapping[str, tuple[Tensor, Tensor, float]]) -> nn.Module:
    """The model, changed in place, with low-rank products at the paths of ``factors`` and nothing else in training."""
    for part in model.parameters():
        part.requires_grad_(False)
    for path, (down, up, scale) in factors.items():
        above, _, name = path.rpartition(".")
        owner = model.get_submodule(above)
        setattr(owner, name, LoraLinear(getattr(owner, name), down, up, scale))
    return model


def group_penalty(model: nn.Module) -> Tensor:
    """Sum over blocks of the norm of all factors of a block."""
    total = torch.zeros(())
    blocks = sorted({re.match(r".*\.\d+(?=\.)", name)[0] for name, _ in model.named_parameters() if "lora_" in name})  # type: ignore[index]
    for block in blocks:
        square = torch.zeros(())
        for name, part in model.named_parameters():
            if name.startswith(f"{block}.") and "lora_" in name:
                square = square + part.pow(2).sum()
        total = total + square.sqrt()
    return total


def train(
    model: Any, pools: Mapping[str, tuple[Tensor, Tensor]], rows: Mapping[str, Sequence[Tensor]], options: Any,
    prototypes: Mapping[int, Tensor] | None = None, told: Mapping[str, Tensor] | None = None,
    tick: Callable[[int], None] = lambda step: None,
) -> list[float]:  # fmt: skip
    """Trains as published and gives the loss of every step.

    Args:
        model: a classifier of transformers from `with_lora`.
        pools: "retain" and "forget": pictures and classes.
        rows: of each the rows of every step.
        options: of the method, resolved.
        prototypes: class -> mean feature, for GS-LoRA++.
        told: the model's own answers by pool, where ``teacher`` is on; as published there are none.
        tick: called before every step.
    """
    loaders = {
        name: iter(DataLoader(TensorDataset(*pools[name], torch.arange(len(pools[name][1]))),
                              batch_sampler=[part.tolist() for part in rows[name]]))
        for name in ("retain", "forget")
    }  # fmt: skip
    trained = [part for name, part in model.named_parameters() if "lora_" in name]
    optimizer = torch.optim.AdamW(trained, lr=options.lr, weight_decay=options.weight_decay, foreach=False)
    losses = []
    for step in range(len(rows["retain"])):
        tick(step)
        epoch = step // options.epoch_steps
        for group in optimizer.param_groups:
            group["lr"] = options.rate(epoch)
        x_r, y_r, n_r = next(loaders["retain"])
        x_f, y_f, n_f = next(loaders["forget"])
        features: list[Tensor] = []
        hook = model.classifier.register_forward_pre_hook(lambda _module, args: features.append(args[0]))  # noqa: B023
        said_r = model(pixel_values=x_r).logits
        said_f = model(pixel_values=x_f).logits
        hook.remove()
        each = functional.cross_entropy(said_f, y_f, reduction="mean" if options.bound_on == "batch" else "none")
        loss = functional.cross_entropy(said_r, y_r) + options.beta * functional.relu(options.bound - each).mean()
        if options.lasso(epoch):
            loss = loss + options.lasso(epoch) * group_penalty(model)
        if told is not None:
            for said, wanted in ((said_r, told["retain"][n_r]), (said_f, told["forget"][n_f])):
                entropy = torch.xlogy(wanted, wanted)
                loss = loss + options.teacher * (entropy - wanted * said.log_softmax(-1)).sum(-1).mean()
        if prototypes is not None:
            near = [
                torch.stack([
                    functional.kl_div(row.log_softmax(-1), prototypes[int(label)].softmax(-1), reduction="sum")
                    for row, label in zip(seen, labels, strict=True)
                ]).mean()
                for seen, labels in zip(features, (y_r, y_f), strict=True)
            ]  # fmt: skip
            loss = loss + options.gamma_r * near[0] + options.gamma_f * functional.relu(options.bound_p - near[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses
