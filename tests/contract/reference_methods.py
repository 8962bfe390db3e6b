"""Two small honest methods and a plugin wrapper: what the contract suite is tried on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from erase_plugins import hookimpl
from erase_plugins.options import as_dict, option, resolve
from erase_plugins.types import EditPlan


@dataclass(frozen=True)
class RandomOptions:
    rank: int = option(2, "directions of the change", low=1, high=16)
    scale: float = option(0.05, "size of the change", low=0.0, high=1.0)
    side: str = option("both", "projections to change", choices=("both", "keys"))


class RandomLowRank:
    """Seeded random low-rank change of the cross-attention keys and values; one step."""

    id = "random-lowrank"
    title = "Random low rank"
    paper = "none"
    summary = "random change, for tests of the contract"
    families = frozenset({"sd1", "sdxl"})
    kinds = frozenset({"object"})
    produces = frozenset({"lowrank"})
    Options = RandomOptions

    def plan(self, request, info) -> EditPlan:
        options = resolve(self.Options, request.options, info.profiles)
        refs = info.modules("cross_kv")
        return EditPlan(
            request=request, options=as_dict(options), steps=1, seconds=0.1, memory_bytes=1000, file_bytes=1000,
            modules=tuple(f"{ref.component}.{ref.path}" for ref in refs),
        )  # fmt: skip

    def run(self, plan, target, ctx) -> Any:
        from erase_plugins.artifacts.edit import Edit

        deltas = self.deltas(plan, target, ctx)
        ctx.step(1, 1)
        return Edit(target.family.id, deltas)

    def deltas(self, plan, target, ctx) -> dict[str, dict[str, Any]]:
        import torch

        from erase_plugins.artifacts.edit import LowRank

        rank, scale = plan.options["rank"], plan.options["scale"]
        found: dict[str, dict[str, Any]] = {}
        for ref in target.modules("cross_kv"):
            draw = ctx.generator(ref.path)
            A = torch.randn(rank, ref.shape[1], generator=draw) * scale
            B = torch.randn(ref.shape[0], rank, generator=draw) * scale
            found.setdefault(ref.component, {})[ref.weight] = LowRank(A, B)
        return found


@dataclass(frozen=True)
class StepOptions:
    iterations: int = option(500, "gradient steps", low=1, high=100_000)
    every: int = option(50, "steps between checkpoints", low=1, high=100_000)
    lr: float = option(0.05, "step size", low=1e-6, high=1.0)


class StepByStep(RandomLowRank):
    """Trained-like: momentum on seeded noise over several steps, with checkpoints."""

    id = "step-by-step"
    title = "Step by step"
    Options = StepOptions
    contract_options = {"iterations": 6, "every": 2}

    def run(self, plan, target, ctx) -> Any:
        import torch

        from erase_plugins.artifacts.edit import Edit, LowRank
        from erase_plugins.engine.runner import plan_key

        total, every, key = plan.options["iterations"], plan.options["every"], plan_key(plan)
        refs = target.modules("cross_v")
        found = ctx.resumed(key)
        state = found[1] if found else {
            f"{kind}:{ref.path}": torch.zeros(ref.shape[0], 1) for ref in refs for kind in ("up", "momentum")
        }  # fmt: skip
        for step in range(found[0] if found else 0, total):
            for ref in refs:
                up, momentum = state[f"up:{ref.path}"], state[f"momentum:{ref.path}"]
                noise = torch.randn(up.shape, generator=ctx.generator(f"{step}:{ref.path}"))
                momentum.mul_(0.9).add_(noise)
                up.add_(momentum, alpha=-plan.options["lr"])
            if (step + 1) % every == 0:
                ctx.checkpoint(step + 1, state, {}, key)
            ctx.step(step + 1, total, size=float(state[f"up:{refs[0].path}"].norm()))
        deltas: dict[str, dict[str, Any]] = {}
        for ref in refs:
            down = torch.randn(1, ref.shape[1], generator=ctx.generator(f"down:{ref.path}"))
            deltas.setdefault(ref.component, {})[ref.weight] = LowRank(down, state[f"up:{ref.path}"])
        return Edit(target.family.id, deltas)


class Plugin:
    """A plugin that registers the methods it is given."""

    def __init__(self, *methods: Any) -> None:
        self.methods = methods

    @hookimpl
    def erase_methods(self):
        return list(self.methods)
