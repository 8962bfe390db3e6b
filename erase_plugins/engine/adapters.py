"""Trainable changes on live modules, with a switch: the teacher is the same denoiser with the switch off.

Nothing in the model is written to. A module's ``forward`` is shadowed on the instance while the adapters are attached;
switched off it runs the original code on the original tensors, so teacher outputs are equal to the last bit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.nn import functional

from erase_plugins.artifacts.edit import Delta, Dense, Edit, LowRank
from erase_plugins.errors import Unsupported
from erase_plugins.families.base import TRANSPOSED, Model, ModuleRef
from erase_plugins.plain_text import an

#: how the "down" factor of a low-rank change may start, see `start_factor`
STARTS = ("width", "rank", "kaiming")


def start_factor(shape: Sequence[int], rank: int, start: str, generator: torch.Generator | None = None) -> Tensor:
    """A "down" factor (directions, in[, height, width]) before the training.

    Args:
        shape: of the factor.
        rank: directions of one change; the factor may hold several changes.
        start: "rank": Gaussian of deviation 1 / rank (the LoRA layer of diffusers, on which MACE is built); "kaiming":
            uniform within 1 / sqrt(in) (Kaiming with a = sqrt 5: LoRA's first code, LECO, SPM, ACE, peft); "width":
            Gaussian of deviation 1 / sqrt(in). A vector of length l gets an answer of about l / rank, l / sqrt(3 in)
            and l / sqrt(in) in every direction.
        generator: randomness.
    """
    width = int(torch.Size(shape[1:]).numel())
    if start == "rank":
        return torch.randn(tuple(shape), generator=generator) / rank
    if start == "kaiming":
        return (2 * torch.rand(tuple(shape), generator=generator) - 1) / width**0.5
    return torch.randn(tuple(shape), generator=generator) / width**0.5


class Slot(ABC):
    """The change of one module."""

    ref: ModuleRef

    @abstractmethod
    def parts(self) -> list[tuple[str, nn.Parameter]]:
        """Named trainable tensors."""

    @abstractmethod
    def deltas(self) -> dict[str, Delta]:
        """Key in the edit -> change."""

    @abstractmethod
    def attach(self, owner: Trainable) -> None:
        """Puts the change in force while ``owner`` is enabled."""

    @abstractmethod
    def detach(self) -> None:
        """Puts the module back as it was."""


class Trainable:
    """Trainable changes of many modules. Use as a context manager: attached inside, taken off afterwards.

    Args:
        target: the model; its own parameters take no gradient meanwhile.
        slots: one change each.
    """

    def __init__(self, target: Model, slots: Sequence[Slot]) -> None:
        self.family = target.family.id
        self.enabled = True
        self.slots = list(slots)
        self._frozen = list(target.own_parameters())

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Trainable float32 tensors; names say component, parameter and factor."""
        return {
            f"{slot.ref.component}:{slot.ref.path}.{name}": part for slot in self.slots for name, part in slot.parts()
        }

    def parameters(self) -> list[nn.Parameter]:
        """The trainable tensors in a fixed order."""
        return list(self.named_parameters().values())

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Sets the trainable tensors by the names of `named_parameters`."""
        for name, part in self.named_parameters().items():
            part.copy_(tensors[name])

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Inside, the model is the teacher."""
        before, self.enabled = self.enabled, False
        try:
            yield
        finally:
            self.enabled = before

    def now(self) -> Any:
        """What a pass depends on beside the values, for `recall`."""
        return None

    def recall(self, state: Any, rows: Sequence[int] | None) -> None:
        """Makes the next pass one of ``rows`` of the samples (None: all) under a state that `now` gave; it stays so."""

    def edit(self) -> Edit:
        """The change as it is now, scale baked in, detached from training."""
        deltas: dict[str, dict[str, Delta]] = {}
        for slot in self.slots:
            deltas.setdefault(slot.ref.component, {}).update(slot.deltas())
        return Edit(self.family, deltas)

    def __enter__(self) -> Self:
        self._before = [part.requires_grad for part in self._frozen]
        for part in self._frozen:
            part.requires_grad_(False)
        for slot in self.slots:
            slot.attach(self)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for slot in self.slots:
            slot.detach()
        for part, before in zip(self._frozen, self._before, strict=True):
            part.requires_grad_(before)


class Adapters(Trainable):
    """Trainable weight changes of linear and convolution modules.

    Args:
        target: the model.
        refs: linear and convolution modules to change.
        rank: LoRA rank; None trains the full weight change and the bias change.
        scale: factor of the low-rank product (alpha / rank); baked into the edit.
        generator: fills the LoRA "down" factors; "up" starts at zero, so the start is the teacher.
        start: how the "down" factors start, see `start_factor`.

    Raises:
        Unsupported: a module that is neither linear nor a plain convolution.
    """

    def __init__(
        self,
        target: Model,
        refs: Sequence[ModuleRef],
        rank: int | None,
        scale: float = 1.0,
        generator: torch.Generator | None = None,
        start: str = STARTS[0],
    ) -> None:
        slots: list[Slot] = []
        for ref in refs:
            module: Any = target.module(ref)
            if isinstance(module, nn.Conv2d) and (module.groups != 1 or module.padding_mode != "zeros"):
                raise Unsupported(f"{ref.path} is a grouped or padded-by-mode convolution; it cannot be trained")
            if not isinstance(module, nn.Linear | nn.Conv2d) and ref.kind != TRANSPOSED:
                raise Unsupported(f"{ref.path} is {an(type(module).__name__)}, not a linear layer or convolution")
            if rank is None:
                slots.append(_FullSlot(ref, module))
            else:
                slots.append(LoraSlot(ref, module, rank, scale, generator, start))
        super().__init__(target, slots)


class _WeightSlot(Slot):
    """The change of one module's weight."""

    def __init__(self, ref: ModuleRef, module: nn.Linear | nn.Conv2d) -> None:
        self.ref, self.module = ref, module

    @abstractmethod
    def changed(self, original: Any, x: Tensor, *args: Any) -> Tensor:
        """Output of the changed module."""

    def attach(self, owner: Trainable) -> None:
        """Shadows ``forward`` on the instance."""
        original = self.module.forward

        def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
            return self.changed(original, x, *args) if owner.enabled else original(x, *args, **kwargs)

        self._shadowed = self.module.__dict__.get("forward")
        self.module.forward = forward  # type: ignore[method-assign, assignment]

    def detach(self) -> None:
        if self._shadowed is not None:
            self.module.forward = self._shadowed  # type: ignore[method-assign]
        else:
            self.module.__dict__.pop("forward", None)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """The module's operation with another weight."""
        conv = self.module
        if not isinstance(conv, nn.Conv2d):
            return functional.linear(x, weight, bias)
        return functional.conv2d(x, weight, bias, conv.stride, conv.padding, conv.dilation)


class _Side(torch.autograd.Function):
    """out + scale x A^T B^T in one node: on small models the nodes of its products cost more than the products.

    The products have the precision of the factors. Of ``x`` nothing is kept but itself, which the model keeps too: in a
    float32 copy for every change of a large model it would be most of what training takes.
    """

    @staticmethod
    def forward(ctx: Any, out: Tensor, x: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
        inner = x.reshape(-1, x.shape[-1]).to(down.dtype) @ down.t()
        ctx.save_for_backward(x, inner, down, up)
        ctx.scale = scale
        if out.dtype != down.dtype:
            return out + ((inner @ up.t()) * scale).to(out.dtype).view(out.shape)
        return torch.addmm(out.reshape(-1, out.shape[-1]), inner, up.t(), alpha=scale).view(out.shape)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, down, up = ctx.saved_tensors
        rows, flat = x.reshape(-1, x.shape[-1]).to(down.dtype), grad.reshape(-1, grad.shape[-1]).to(up.dtype)
        if torch.is_grad_enabled():  # a gradient of this gradient is wanted
            inner = rows @ down.t()
        back = (flat @ up) * ctx.scale
        to_x = (back @ down).to(x.dtype).view(x.shape) if ctx.needs_input_grad[1] else None
        return grad, to_x, back.t() @ rows, (flat.t() @ inner) * ctx.scale, None


class LoraSlot(_WeightSlot):
    """A low-rank change: A (rank, in[, height, width]) random, B (out, rank[, 1, 1]) zero at the start.

    With ``count`` it holds that many changes of ``rank`` directions each, one after the other.
    """

    def __init__(
        self,
        ref: ModuleRef,
        module: nn.Linear | nn.Conv2d,
        rank: int,
        scale: float,
        generator: torch.Generator | None,
        start: str = STARTS[0],
        count: int | None = None,
    ) -> None:
        super().__init__(ref, module)
        weight = module.weight.T if ref.kind == TRANSPOSED else module.weight
        if count is None:  # more than full rank says nothing new
            rank = min(rank, weight.shape[0], weight[0].numel())
        many = rank * (count or 1)
        down = start_factor((many, *weight.shape[1:]), rank, start, generator)
        self.scale = scale
        self.A = nn.Parameter(down.to(weight.device))
        self.B = nn.Parameter(torch.zeros((weight.shape[0], many, *[1] * (weight.ndim - 2)), device=weight.device))

    def parts(self) -> list[tuple[str, nn.Parameter]]:
        return [("A", self.A), ("B", self.B)]

    def deltas(self) -> dict[str, Delta]:
        change = LowRank(self.A.detach().cpu().clone(), self.B.detach().cpu().clone() * self.scale)
        return {self.ref.weight: change.transposed() if self.ref.kind == TRANSPOSED else change}

    def changed(self, original: Any, x: Tensor, *args: Any) -> Tensor:
        out, mixed = original(x, *args), torch.is_autocast_enabled(x.device.type)
        one = {out.dtype, x.dtype, self.A.dtype, self.B.dtype}
        if not isinstance(self.module, nn.Conv2d) and (len(one) == 1 or not mixed):
            found: Tensor = _Side.apply(out, x, self.A, self.B, self.scale)
            return found
        wide = x if mixed else x.to(self.A.dtype)
        inner = self.convolve(wide, self.A)
        if isinstance(self.module, nn.Conv2d):
            side = functional.conv2d(inner, self.B)
        else:
            side = functional.linear(inner, self.B)
        return out + (side * self.scale).to(out.dtype)


class _FullSlot(_WeightSlot):
    def __init__(self, ref: ModuleRef, module: nn.Linear | nn.Conv2d) -> None:
        super().__init__(ref, module)
        self.dW = nn.Parameter(torch.zeros_like(module.weight, dtype=torch.float32))
        self.db = None if module.bias is None else nn.Parameter(torch.zeros_like(module.bias, dtype=torch.float32))

    def parts(self) -> list[tuple[str, nn.Parameter]]:
        return [("dW", self.dW)] + ([] if self.db is None else [("db", self.db)])

    def deltas(self) -> dict[str, Delta]:
        found: dict[str, Delta] = {self.ref.weight: Dense(self.dW.detach().cpu().clone())}
        if self.db is not None:
            found[f"{self.ref.path}.bias"] = Dense(self.db.detach().cpu().clone())
        return found

    def changed(self, original: Any, x: Tensor, *args: Any) -> Tensor:
        weight = self.module.weight.float() + self.dW
        weight = weight.T if self.ref.kind == TRANSPOSED else weight
        bias = None if self.db is None else self.module.bias.float() + self.db  # type: ignore[union-attr]
        if torch.is_autocast_enabled(x.device.type):
            return self.convolve(x, weight, bias)
        return self.convolve(x.float(), weight, bias).to(x.dtype)
