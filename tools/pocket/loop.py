"""One training loop for all stages: seeded per step, checkpointed atomically, resumable to the bit.

Everything random in a step comes from (seed, stage, step), so a run that was stopped and resumed does what an
uninterrupted one does. A checkpoint is one safetensors file: weights, averages and optimizer moments, with the step
and the recipe as JSON in its header.
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file

from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.engine.precision import autocast
from erase_plugins.errors import CorruptArtifact, NotFiniteError, RequestError

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tools.pocket.recipe import Recipe

#: called after every step with (stage, finished steps, all steps, loss)
OnStep = Callable[[str, int, int, float], None]


@dataclass
class Draw:
    """The random numbers of one step: numpy for pictures and words, torch for noise."""

    rng: np.random.Generator
    noise: torch.Generator

    @classmethod
    def of(cls, seed: int, stage: str, step: int) -> Draw:
        """Generators that depend on nothing but these three."""
        rng = np.random.default_rng([seed, zlib.crc32(stage.encode()), step])
        return cls(rng, torch.Generator().manual_seed(int(rng.integers(1 << 62))))


@dataclass
class Stage:
    """What a loop trains.

    Attributes:
        name: also the checkpoint's name.
        steps: how many.
        modules: stored and, unless frozen, trained.
        rates: learning rate by module name; a module without one is stored only.
        loss: the step's loss, from its random numbers.
        ema: decay of the weight average (None: none). The average is stored as ``ema.<module>.<name>``.
        optimizer: makes one that is not AdamW at ``rates``.
    """

    name: str
    steps: int
    modules: Mapping[str, nn.Module]
    rates: Mapping[str, float]
    loss: Callable[[Draw], Tensor]
    ema: float | None = None
    optimizer: Callable[[Stage], torch.optim.Optimizer] | None = None
    shadow: dict[str, Tensor] = field(default_factory=dict)


def run_stage(stage: Stage, folder: Path, recipe: Recipe, on_step: OnStep | None = None) -> float:
    """Trains from the stage's checkpoint in ``folder`` (or the start) to its last step; returns the mean last loss.

    Raises:
        NotFiniteError: the loss became NaN or infinite; the last checkpoint is kept.
        RequestError: the checkpoint was made with another recipe.
    """
    optimizer = (
        stage.optimizer(stage)
        if stage.optimizer
        else torch.optim.AdamW(
            [{"params": _trainable(stage.modules[name]), "lr": rate} for name, rate in stage.rates.items()],
            weight_decay=recipe.weight_decay,
        )
    )
    rates = [group["lr"] for group in optimizer.param_groups]
    if stage.ema is not None and not stage.shadow:
        stage.shadow = {name: value.detach().clone() for name, value in _named(stage.modules).items()}
    path = folder / f"{stage.name}.safetensors"
    start, losses = (_restore(path, stage, optimizer, recipe) if path.is_file() else 0), [0.0]
    for module in stage.modules.values():
        module.train()
    for step in range(start, stage.steps):
        factor = learning_rate(step, stage.steps, recipe.warmup)
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * factor
        optimizer.zero_grad(set_to_none=True)
        loss = stage.loss(Draw.of(recipe.seed, stage.name, step))
        if not math.isfinite(value := float(loss.detach())):
            raise NotFiniteError(f"the loss of stage '{stage.name}' is {value} at step {step}; lower its learning rate")
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], recipe.clip)
        optimizer.step()
        _average(stage, step)
        losses = [*losses[-99:], value] if step > start else [value]
        done = step + 1
        if done % recipe.checkpoint_every == 0 or done == stage.steps:
            _save(path, stage, optimizer, recipe, done)
        if on_step:
            on_step(stage.name, done, stage.steps, value)
    for module in stage.modules.values():
        module.eval()
    return sum(losses) / len(losses)


def learning_rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak rate: linear over the first ``warmup`` share of steps, then a cosine to zero."""
    rise = max(1, round(steps * warmup))
    if step < rise:
        return (step + 1) / rise
    return 0.5 * (1 + math.cos(math.pi * (step - rise) / max(1, steps - rise)))


def load_stage(path: Path, modules: Mapping[str, nn.Module], average: bool = False) -> None:
    """Loads a stage's weights (or their average, where the stage kept one) into modules.

    Raises:
        RequestError: the stage was not trained yet.
    """
    if not path.is_file():
        raise RequestError(
            f"stage '{path.stem}' has no checkpoint in this folder; train it first (--stage {path.stem})"
        )
    tensors = _read(path)[0]
    for prefix, module in modules.items():
        state = {name.removeprefix(f"{prefix}."): t for name, t in tensors.items() if name.startswith(f"{prefix}.")}
        if average:
            start = f"ema.{prefix}."
            state |= {name.removeprefix(start): t for name, t in tensors.items() if name.startswith(start)}
        module.load_state_dict(state)


def finished(path: Path) -> int:
    """Steps that a checkpoint has done; 0 if there is none."""
    if not path.is_file():
        return 0
    return int(_read(path, header=True)[1]["step"])


def precision(device: str) -> Any:
    """bfloat16 where the device computes in it: twice as fast there, with no visible loss."""
    return autocast(device) if device in ("cpu", "cuda") else nullcontext()


def _trainable(module: nn.Module) -> list[nn.Parameter]:
    return [value for value in module.parameters() if value.requires_grad]


def _named(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    return {
        f"{prefix}.{name}": value for prefix, module in modules.items() for name, value in module.named_parameters()
    }


@torch.no_grad()
def _average(stage: Stage, step: int) -> None:
    if stage.ema is None:
        return
    decay = min(stage.ema, (1 + step) / (10 + step))  # a short memory at first: the start is not worth keeping
    for name, value in _named(stage.modules).items():
        stage.shadow[name].lerp_(value, 1 - decay)


def _save(path: Path, stage: Stage, optimizer: torch.optim.Optimizer, recipe: Recipe, done: int) -> None:
    tensors = {f"{p}.{name}": t for p, module in stage.modules.items() for name, t in module.state_dict().items()}
    tensors |= {f"ema.{name}": t for name, t in stage.shadow.items()}
    if done < stage.steps:  # a finished stage needs no moments
        for index, values in optimizer.state_dict()["state"].items():
            tensors |= {f"optimizer.{index}.{name}": t for name, t in values.items()}
    metadata = {"format": "pt", "step": str(done), "recipe": json.dumps(asdict(recipe))}
    with atomic_file(path) as work:
        save_file({name: t.detach().cpu().clone().contiguous() for name, t in tensors.items()}, work, metadata)


def _restore(path: Path, stage: Stage, optimizer: torch.optim.Optimizer, recipe: Recipe) -> int:
    tensors, metadata = _read(path)
    if changes := recipe.differences(json.loads(metadata["recipe"])):
        raise RequestError(f"stage '{stage.name}' was started with another recipe: {'; '.join(changes)}")
    load_stage(path, stage.modules)
    for name, value in stage.shadow.items():
        value.copy_(tensors[f"ema.{name}"])
    moments: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            moments.setdefault(int(index), {})[key] = value
    state = optimizer.state_dict()
    optimizer.load_state_dict({"state": moments, "param_groups": state["param_groups"]})
    return int(metadata["step"])


def _read(path: Path, header: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
        return ({} if header else load_file(path)), metadata
    except (SafetensorError, OSError) as error:
        raise CorruptArtifact(f"checkpoint '{path.name}' cannot be read ({error}); delete it to restart") from error
