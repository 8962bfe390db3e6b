"""Several low-rank memories on the same modules, one per concept; each sample meets the memory of its own concept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from erase_plugins.artifacts.edit import AddOn, Delta, Edit, LowRank
from erase_plugins.artifacts.gated import GATE, gated_lowrank, gated_product
from erase_plugins.engine.adapters import STARTS, LoraSlot, Trainable
from erase_plugins.engine.distributed import share
from erase_plugins.families.base import ModuleRef, Target


class Memories(Trainable):
    """Trainable memories; attach it as a context manager.

    Args:
        target: the model.
        refs: linear and convolution modules that every memory changes.
        rank: directions of one memory.
        count: number of memories.
        generator: fills the "down" factors; "up" starts at zero, so the start is the teacher.
        start: how the "down" factors start, see `engine.adapters.start_factor`.
    """

    def __init__(
        self,
        target: Target,
        refs: Sequence[ModuleRef],
        rank: int,
        count: int,
        generator: torch.Generator | None = None,
        start: str = STARTS[0],
    ) -> None:
        self.owners = [number for number in range(count) for _ in range(rank)]
        self.opened: Tensor | None = None
        slots = [_MemorySlot(ref, target.module(ref), rank, count, generator, start, self) for ref in refs]
        super().__init__(target, slots)

    @contextmanager
    def recalled(self, *parts: Sequence[int]) -> Iterator[None]:
        """Inside, every sample of a pass meets one memory.

        Args:
            parts: number of the memory for each sample, by the parts of which the batch is made (each is shared out
                among the processes as `engine.pools.mean_squares` does it).
        """
        with self.opened_for([number for part in parts for number in list(part)[share(len(part))]]):
            yield

    @contextmanager
    def opened_for(self, numbers: Sequence[int]) -> Iterator[None]:
        """Inside, sample n of a pass meets memory ``numbers[n]``."""
        self.opened = (torch.tensor(numbers)[:, None] == torch.tensor(self.owners)).float()
        try:
            yield
        finally:
            self.opened = None

    def now(self) -> Tensor | None:
        return self.opened

    def recall(self, state: Tensor | None, rows: Sequence[int] | None) -> None:
        self.opened = state if state is None or rows is None else state[list(rows)]

    def factors(self) -> tuple[Tensor, list[Tensor]]:
        """Down factors (modules, directions, in) of linear modules of one input width, and the up factors of each."""
        slots = [slot for slot in self.slots if isinstance(slot, _MemorySlot)]
        return torch.stack([slot.A.detach().cpu() for slot in slots]), [slot.B.detach().cpu() for slot in slots]

    def gated(self, gate: AddOn) -> Edit:
        """The memories behind a gate that has one number per memory."""
        deltas: dict[str, Delta] = {GATE: gate}
        for slot in self.slots:
            assert isinstance(slot, _MemorySlot)
            change = LowRank(slot.A.detach().cpu().clone(), slot.B.detach().cpu().clone())
            deltas[slot.ref.path] = gated_lowrank(change, self.owners)
        return Edit(self.family, {self.slots[0].ref.component: deltas})


class _MemorySlot(LoraSlot):
    def __init__(
        self, ref: ModuleRef, module: Any, rank: int, count: int, generator: torch.Generator | None, start: str,
        owner: Memories,
    ) -> None:  # fmt: skip
        super().__init__(ref, module, rank, 1.0, generator, start, count)
        self.owner = owner

    def changed(self, original: Any, x: Tensor, *args: Any) -> Tensor:
        if self.owner.opened is None:
            return super().changed(original, x, *args)
        out = original(x, *args)
        wide = x if torch.is_autocast_enabled(x.device.type) else x.to(self.A.dtype)
        side = gated_product(self.module, wide, self.A, self.B, self.owner.opened.to(x.device))
        return out + side.to(out.dtype)
