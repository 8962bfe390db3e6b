"""Reversible parameter changes. The original tensor is set aside, never recomputed: undo is exact to the last bit.

On an accelerator that fills up, originals go to the processor's memory.

Several edits on one parameter add up; each is kept as its delta, the sum is formed in float32 from the original, the
smallest strength first, and cast once: what came and went in between leaves no trace, and of edits with different
strengths it does not matter which came first. An edit that comes in last is added
to the sum of the others, which takes the same steps as summing all of them: to the last bit, and no slower for many.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.edit import Delta, Dense, LowRank, Rows, Sparse, rows_dense
from erase_plugins.artifacts.names import ORIGINAL
from erase_plugins.errors import Unsupported
from erase_plugins.plain_text import an

LOCK = threading.RLock()
#: values of a low-rank change that are formed at once, so that they stay in the processor's cache
_PIECE = 1 << 17
#: edits from which the float32 sum of a parameter of fewer bits is kept for the next one
_MANY = 3
#: share of an accelerator's memory that originals leave free: a large model does not fit there twice
_FREE = 0.25
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


@dataclass(eq=False)
class Patch:
    """One edit's change of one parameter; ``strength`` may be changed, then call `Record.refresh`."""

    delta: Delta
    strength: float = 1.0


class Record:
    """A parameter with changes: the tensor that was there before, and what was written in its place.

    Args:
        component: name of the pipeline's part.
        key: canonical name of the parameter in it.
        parameter: as it is before any change.
    """

    def __init__(self, component: str, key: str, parameter: nn.Parameter) -> None:
        self.component, self.key, self.parameter = component, key, parameter
        self.patches: list[Patch] = []
        self.take()

    def take(self) -> None:
        """Sets aside the tensor that is there now as the original."""
        self.original: Tensor = self.parameter.data
        self._summed: list[tuple[Patch, float]] = []  # what the parameter's value, or ``_total``, is the sum of
        self._total: Tensor | None = None
        setattr(self.parameter, ORIGINAL, self.original)
        self._written()

    def adopt(self, parameter: nn.Parameter) -> None:
        """Goes on with another parameter that holds the same values."""
        if parameter is not self.parameter:
            self.parameter = parameter
            setattr(parameter, ORIGINAL, self.original)

    def _written(self) -> None:
        data = self.parameter.data
        self.mark, self.dtype, self.device = checksum(data), data.dtype, data.device

    @torch.no_grad()
    def refresh(self) -> None:
        """Writes the original with all changes whose strength is not 0; without any, the original itself."""
        now = self.parameter.data
        order = self._order()
        known = len(self._summed)
        before = now if self.dtype == torch.float32 == now.dtype else self._total
        if known and order[:known] == self._summed and before is not None and before.device == now.device:
            total = self._added(before, order[known:])
        else:
            total = self._sum(now.device)
        written = total.to(now.dtype)
        self._total = total if len(order) >= _MANY and written.dtype != torch.float32 else None
        self._summed = order
        self.parameter.data = written
        self._written()
        if order and crowded(self.original):
            self.original = self.original.cpu()
            setattr(self.parameter, ORIGINAL, self.original)

    def restore(self) -> None:
        """Puts the original back, on the device and in the type that the parameter has now."""
        now = self.parameter.data
        self.parameter.data = self.original.to(now.device, now.dtype)
        self._summed, self._total = [], None
        self._written()

    def _order(self) -> list[tuple[Patch, float]]:
        """Changes that count, in the order in which they are summed, with their strengths."""
        active = [(patch, patch.strength) for patch in self.patches if patch.strength != 0.0]
        return sorted(active, key=lambda item: item[1])

    def _sum(self, device: torch.device) -> Tensor:
        order = self._order()
        return self._added(self.original.to(device, torch.float32), order) if order else self.original.to(device)

    @staticmethod
    def _added(base: Tensor, changes: list[tuple[Patch, float]]) -> Tensor:
        """``base`` with changes added one after the other, a tensor of its own if there are any.

        A low-rank change is formed piece by piece, in the same pieces whether it comes alone or with others.
        """
        if not changes:
            return base
        total = base.clone()
        flat = total.flatten(1) if total.ndim > 1 else total[:, None]
        rows = max(_PIECE // max(flat.shape[1], 1), 1)
        pieces: list[tuple[Tensor, Tensor, float]] = []

        def add_pieces() -> None:
            for start in range(0, len(flat), rows):
                part = flat[start : start + rows]
                for down, up, strength in pieces:
                    change = up[start : start + rows] @ down
                    part += change if strength == 1.0 else change.mul_(strength)
            pieces.clear()

        for patch, strength in changes:
            delta = patch.delta
            if isinstance(delta, LowRank) and (len(delta.B), delta.A[0].numel()) == flat.shape:
                pieces.append((_wide(delta.A, base), _wide(delta.B, base), strength))
            else:
                add_pieces()
                total += strength * delta_tensor(delta, base.shape).to(base.device)
        add_pieces()
        return total

    @torch.no_grad()
    def holds(self, data: Tensor) -> bool:
        """Whether ``data`` is what was written, maybe moved to another device or cast to another type since."""
        if data.dtype == self.dtype and checksum(data) == self.mark:
            return True
        halves = {torch.float16, torch.bfloat16} - {data.dtype}
        if data.dtype == self.dtype and self.dtype != torch.float32:
            return False
        written = self._sum(self.device).to(self.dtype)
        casts = [written.to(data.dtype), *(written.to(half).to(data.dtype) for half in halves)]
        return checksum(data) in [checksum(item) for item in casts]

    def settle(self) -> None:
        """Forgets the original: what is there now is the base for good."""
        if hasattr(self.parameter, ORIGINAL):
            delattr(self.parameter, ORIGINAL)


def crowded(tensor: Tensor) -> bool:
    """Whether less than `_FREE` of the accelerator on which a tensor lies is free."""
    if tensor.device.type != "cuda":
        return False
    free, whole = torch.cuda.mem_get_info(tensor.device)
    held = torch.cuda.memory_reserved(tensor.device) - torch.cuda.memory_allocated(tensor.device)
    return free + held < _FREE * whole


def _wide(factor: Tensor, like: Tensor) -> Tensor:
    return factor.to(like.device, torch.float32).flatten(1)


def delta_tensor(delta: Delta, shape: torch.Size) -> Tensor:
    """The change as one float32 tensor of ``shape``.

    Raises:
        Unsupported: a kind that is not a parameter change, or a shape that does not fit.
    """
    if isinstance(delta, LowRank | Dense | Sparse):
        dense = delta.dense()
    elif isinstance(delta, Rows):
        dense = rows_dense(delta, shape)
    else:
        raise Unsupported(f"{an(delta.kind)} change is not a parameter change")
    if dense.shape != shape:
        if dense.numel() == torch.Size(shape).numel():  # 1x1 convolutions saved as linear, and the reverse
            return dense.reshape(shape)
        raise Unsupported(f"the change has shape {tuple(dense.shape)}, the parameter {tuple(shape)}")
    return dense


def checksum(tensor: Tensor) -> int:
    """Number of a tensor's bits: the same for equal tensors on any device, another one for nearly all others."""
    bits = tensor.detach().contiguous().view(_BITS[tensor.element_size()])
    rows = bits.reshape(bits.shape[0] if bits.ndim else 1, -1).sum(1, dtype=torch.int64)
    places = torch.arange(1, 2 * len(rows), 2, device=rows.device)
    return int((rows * places).sum())
