"""The training loop: optimizer, progress, checkpoints, cancel, refusal of NaN. Knows no method.

A loss is a function of the step number. All randomness of a step comes from generators named after the step or the
epoch, so a resumed run needs no generator state and equals the uninterrupted one to the last bit. On several processes
gradients are averaged (`engine.distributed`).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from erase_plugins.artifacts.edit import Edit
from erase_plugins.engine import distributed
from erase_plugins.engine.adapters import Trainable
from erase_plugins.engine.average import Average
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.optimizers import make_optimizer
from erase_plugins.engine.stopping import Stop
from erase_plugins.errors import NotFiniteError, RunCancelled

#: between the name of a table of optimizer state and what is in it
_INSIDE = "/"
Loss = Callable[[int], Tensor]
#: step and gradients of the trained tensors (None where the loss knows nothing of one) to those that are followed
Turn = Callable[[int, Sequence[Tensor | None]], Sequence[Tensor | None]]


@dataclass(frozen=True)
class Schedule:
    """How to train.

    ``lr`` is constant, then falls linearly to 0 over the last ``cooldown`` share of the iterations. ``ema`` is the
    decay of the running average that is saved, 0 saves the last values. ``stop`` may end training early. ``decay`` is
    the weight decay of AdamW, ``rates`` the learning rate by step in place of all that. With ``momentum`` SGD has
    it, and the decay. Gradients whose norm, all together, is above ``clip`` are made that long. With ``scaled`` the
    loss is multiplied before the way back and gradients divided after it, for passes in float16, where small gradients
    would come out as 0 and large ones as infinite.
    """

    iterations: int
    lr: float
    optimizer: str = "adam"
    cooldown: float = 0.0
    every: int = 50
    ema: float = 0.0
    stop: Stop | None = None
    decay: float = 0.01
    rates: Callable[[int], float] | None = None
    momentum: float | None = None
    clip: float | None = None
    scaled: bool = False

    def rate(self, step: int) -> float:
        """Learning rate of a step."""
        if self.rates is not None:
            return self.rates(step)
        tail = self.cooldown * self.iterations
        return self.lr * min(1.0, (self.iterations - step) / tail) if tail > 0 else self.lr


class Scale:
    """Factor of the loss of passes in float16: halved where gradients are infinite, doubled after long sound spells.

    Attributes:
        power: the factor is 2 to this power.
        sound: steps since it changed.
    """

    #: largest and smallest power, and sound steps until it grows
    most, least, spell = 16, -14, 200

    def __init__(self) -> None:
        self.power, self.sound = 12, 0

    def grads(self, loss: Tensor, parameters: Sequence[Tensor]) -> list[Tensor | None]:
        """Gradients of ``loss``, as if nothing had been scaled; not finite only if no factor helps."""
        while True:
            factor = 2.0**self.power
            found = torch.autograd.grad(loss * factor, parameters, allow_unused=True, retain_graph=True)
            if self.power == self.least or finite([grad for grad in found if grad is not None]):
                break
            self.power, self.sound = self.power - 1, 0
        self.sound += 1
        if self.sound >= self.spell and self.power < self.most:
            self.power, self.sound = self.power + 1, 0
        # a gradient that is itself float16 would lose again what the factor saved
        return [None if grad is None else (grad.float() if grad.dtype == torch.float16 else grad) / factor
                for grad in found]  # fmt: skip

    @classmethod
    def of(cls, model: Any) -> Scale | None:
        """The factor for a model's passes: None unless it computes in float16."""
        return cls() if str(getattr(model, "dtype", "")) == "torch.float16" else None


def gradients(loss: Tensor, parameters: Sequence[Tensor], scale: Scale | None) -> list[Tensor]:
    """Gradients of ``loss``, 0 where it knows nothing of a tensor; ``scale`` as `Scale.of` gives it."""
    found = torch.autograd.grad(loss, parameters, allow_unused=True) if scale is None else scale.grads(loss, parameters)
    return [torch.zeros_like(part) if grad is None else grad for part, grad in zip(parameters, found, strict=True)]


class Carried(Protocol):
    """What a loss carries from step to step besides the adapters (a learned attack); saved with every checkpoint."""

    def tensors(self) -> dict[str, Tensor]:
        """Its state by name."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`."""


def train(
    ctx: RunContext, adapters: Trainable, loss_of: Loss, schedule: Schedule, key: str, carried: Carried | None = None,
    edit_of: Callable[[], Edit] | None = None, turn: Turn | None = None,
) -> list[float]:  # fmt: skip
    """Minimises ``loss_of(step)`` over the adapters.

    Args:
        ctx: progress, checkpoints, cancel.
        adapters: attached; changed in place.
        loss_of: scalar loss of a step.
        schedule: see `Schedule`.
        key: identifies the run; a checkpoint of another key is ignored.
        carried: state of ``loss_of`` that outlives a step.
        edit_of: makes the method's edit of the adapters as they are, for `Schedule.stop`; None: the adapters' own.
        turn: changes the gradients of a step; None: they are the loss's.

    Returns:
        The loss of every step, from the first (also after a resume).

    Raises:
        RunCancelled: after the finished step was saved.
        NotFiniteError: the loss or a gradient is NaN or infinite; the last sound checkpoint stays.
    """
    parameters = adapters.parameters()
    optimizer = make_optimizer(schedule.optimizer, parameters, schedule.lr, schedule.decay, schedule.momentum)
    average = Average(adapters, schedule.ema) if schedule.ema > 0 else None
    done, losses, scale = 0, [], Scale() if schedule.scaled else None
    found = ctx.resumed(key)
    if found is not None:
        done, tensors, state = found
        adapters.load(tensors)
        load_optimizer(optimizer, tensors)
        if average is not None:
            average.load(tensors)
        if carried is not None:
            prefix = "carried."
            carried.load({name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)})
        losses = list(state["losses"])
        if scale is not None:
            scale.power, scale.sound = state.get("scale", (scale.power, scale.sound))
    saved = done

    def save() -> None:
        named = {**adapters.named_parameters(), **optimizer_tensors(optimizer)}
        if average is not None:
            named |= average.tensors()
        if carried is not None:
            named |= {f"carried.{name}": part for name, part in carried.tensors().items()}
        facts = {"losses": losses} if scale is None else {"losses": losses, "scale": [scale.power, scale.sound]}
        ctx.checkpoint(done, named, facts, key)

    def edit() -> Edit:
        with nullcontext() if average is None else average.in_force():
            return adapters.edit() if edit_of is None else edit_of()

    def enough() -> bool:
        """Asked before a step, so that a run resumed there asks again."""
        if schedule.stop is None:
            return False
        with adapters.disabled():
            return schedule.stop.reached(ctx, done, edit)

    while done < schedule.iterations and not enough():
        step = done
        optimizer.param_groups[0]["lr"] = schedule.rate(step)
        try:
            loss = loss_of(step)
        except RunCancelled:  # in a rollout; what is carried may have moved on already
            if carried is None and done > saved:
                save()
            raise
        grads: Sequence[Tensor | None] = (
            torch.autograd.grad(loss, parameters, allow_unused=True) if scale is None else scale.grads(loss, parameters)
        )
        if distributed.processes() > 1:
            filled = [
                torch.zeros_like(part) if grad is None else grad for part, grad in zip(parameters, grads, strict=True)
            ]
            stop, loss, *grads = distributed.average([loss.new_tensor(float(ctx.cancel.is_set())), loss, *filled])
            if stop > 0:  # asked of one process, meant for all
                ctx.cancel.set()
        value = float(loss.detach())
        if not (math.isfinite(value) and finite([grad for grad in grads if grad is not None])):
            raise NotFiniteError(
                f"loss or gradient is not finite at step {step} of {schedule.iterations} (loss {value}); "
                "lower lr or set precision=float32; nothing was written"
            )
        for part, grad in zip(parameters, grads if turn is None else turn(step, grads), strict=True):
            part.grad = grad
        if schedule.clip is not None:
            torch.nn.utils.clip_grad_norm_(parameters, schedule.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if average is not None:
            average.update(step)
        done = step + 1
        losses.append(value)
        try:
            ctx.step(done, schedule.iterations, loss=value)
        except RunCancelled:
            save()
            raise
        if done - saved >= schedule.every and done < schedule.iterations:
            save()
            saved = done
    if average is not None:
        average.settle()
    return losses


def finite(parts: Sequence[Tensor]) -> bool:
    """Whether tensors hold neither NaN nor infinity; asks the device once."""
    parts = [part for part in parts if part.numel()]
    largest = [norm.to(parts[0].device) for norm in torch._foreach_norm(parts, math.inf)] if parts else []
    return not largest or bool(torch.stack(largest).isfinite().all())


def shuffled(ctx: RunContext, name: str, size: int, batch: int, step: int) -> Tensor:
    """Rows of batch number ``step`` (batch,): passes over a pool of ``size``, each in its own order."""
    parts, place, end = [], step * batch, (step + 1) * batch
    while place < end:
        epoch, offset = divmod(place, size)
        order = torch.randperm(size, generator=ctx.generator(f"{name}:{epoch}"))
        parts.append(order[offset : offset + end - place])
        place += len(parts[-1])
    return torch.cat(parts)


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Moments and step counts by name; those in a table of an optimizer's own, as 8-bit ones keep them, too."""
    state: Mapping[int, Mapping[str, Any]] = optimizer.state_dict()["state"]
    found: dict[str, Tensor] = {}
    for index, entry in state.items():
        for name, value in entry.items():
            table = value if isinstance(value, Mapping) else {"": value}
            for inner, part in table.items():
                if part is not None:
                    place = f"optimizer.{index}.{name}{_INSIDE * bool(inner)}{inner}"
                    found[place] = part if isinstance(part, Tensor) else torch.tensor(part)
    return found


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Inverse of `optimizer_tensors`; other names are ignored."""
    state: dict[int, dict[str, Any]] = {}
    for name, value in tensors.items():
        if name.startswith("optimizer."):
            _, index, entry = name.split(".", 2)
            outer, _, inner = entry.partition(_INSIDE)
            table = state.setdefault(int(index), {})
            if inner:
                table.setdefault(outer, {})[inner] = value
            else:
                table[outer] = value
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
