"""The best linear stand-in for trained erasers: reduced-rank regression on states of the erased model.

A LoRA on the output projection sees the projection's input h and adds M h. M minimises sum |E(o) - M h|^2 with a ridge,
cut to the wanted rank where it costs least. The error is measured on states that were not fitted; of five ridges the
one with the smallest error there is taken.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.edit import AddOn, Delta, Edit
from erase_plugins.artifacts.standin import with_stand_in
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.trajectories import States, ask
from erase_plugins.families.base import Conditioning, ModuleRef, Target
from erase_plugins.methods.receler.bottleneck_adapters import Erasers

#: module below attention whose weight takes the stand-in
OUTPUT = "to_out.0"
#: ridges tried, in mean squares of h; few states fill few directions, so the best one differs from layer to layer
_RIDGES = (1e-4, 1e-2, 1e-1, 1.0, 10.0)


@dataclass
class Moments:
    """Second moments of pairs (h, E): enough for the fit and for the error of any M."""

    gram: Tensor
    cross: Tensor
    power: float = 0.0

    @classmethod
    def empty(cls, width: int, dim: int) -> Moments:
        """No pairs yet; h has ``width``, E has ``dim`` values."""
        return cls(torch.zeros(width, width, dtype=torch.float64), torch.zeros(dim, width, dtype=torch.float64))

    def add(self, inputs: Tensor, outputs: Tensor) -> None:
        """Pairs (..., width) and (..., dim)."""
        h, e = (part.detach().cpu().double().flatten(0, -2) for part in (inputs, outputs))
        self.gram += h.T @ h
        self.cross += e.T @ h
        self.power += float(e.square().sum())

    def fit(self, rank: int, ridge: float = _RIDGES[0]) -> tuple[Tensor, Tensor]:
        """(rank, width) down and (dim, rank) up in float32; ``ridge`` in mean squares of h."""
        size = len(self.gram)
        ridge = ridge * float(self.gram.trace()) / size + 1e-30
        whole = torch.linalg.solve(self.gram + ridge * torch.eye(size, dtype=torch.float64), self.cross.T).T
        _, vectors = torch.linalg.eigh(whole @ self.gram @ whole.T)
        up = vectors[:, -min(rank, len(vectors)) :]
        return (up.T @ whole).float().contiguous(), up.float().contiguous()

    def error(self, down: Tensor, up: Tensor) -> float:
        """Relative error of the outputs."""
        if not self.power:
            return 0.0
        m = up.double() @ down.double()
        missed = self.power - 2 * float((m * self.cross).sum()) + float(((m @ self.gram) * m).sum())
        return max(missed / self.power, 0.0) ** 0.5


@dataclass
class _Seen:
    """Inputs of the output projections in the last pass."""

    inputs: dict[str, Tensor] = field(default_factory=dict)

    def watch(self, path: str, module: nn.Module) -> Any:
        def before(_module: nn.Module, args: tuple[Any, ...]) -> None:
            self.inputs[path] = args[0]

        return module.register_forward_pre_hook(before)


@torch.no_grad()
def with_stand_ins(
    edit: Edit, target: Target, erasers: Erasers, batches: Iterable[tuple[States, Conditioning]], rank: int,
    ctx: RunContext,
) -> Edit:  # fmt: skip
    """The edit with a linear stand-in in every eraser.

    Args:
        edit: of ``erasers``.
        target: with the erasers attached.
        erasers: trained.
        batches: states and their prompts; every third batch is for the error only.
        rank: of the stand-ins.
        ctx: counts forward passes.
    """
    outputs = {ref.path: ref for ref in target.modules("cross_attn") if ref.path.endswith(OUTPUT)}
    refs: dict[str, ModuleRef] = {slot.ref.path: outputs[f"{slot.ref.path}.{OUTPUT}"] for slot in erasers.slots}
    fitted, held = ({p: Moments.empty(r.shape[1], r.shape[0]) for p, r in refs.items()} for _ in range(2))
    seen = _Seen()
    handles = [seen.watch(path, target.module(ref)) for path, ref in refs.items()]
    try:
        for number, (states, cond) in enumerate(batches):
            with erasers.recording() as extra:
                ask(target, states.inputs, states.timestep, cond, ctx)
            for path, moments in (held if number % 3 == 2 else fitted).items():
                moments.add(seen.inputs[path], extra[path])
    finally:
        for handle in handles:
            handle.remove()
    made: dict[str, Delta] = {}
    for _, path, delta in edit.items():
        assert isinstance(delta, AddOn)
        judge = held[path] if held[path].power else fitted[path]
        down, up = min((fitted[path].fit(rank, ridge) for ridge in _RIDGES), key=lambda pair: judge.error(*pair))
        made[path] = with_stand_in(delta, OUTPUT, down, up, judge.error(down, up))
    component = erasers.slots[0].ref.component
    return Edit(edit.family, {component: made}, edit.statistics, edit.meta)
