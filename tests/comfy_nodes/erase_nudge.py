"""A method of another package that trains slowly: LoRA on the values, towards the prediction for the empty prompt."""

from __future__ import annotations

from dataclasses import dataclass

import erase_plugins
from erase_plugins.options import as_dict, option, resolve
from erase_plugins.types import EditPlan


@dataclass(frozen=True)
class Options:
    """Options of the nudge."""

    iterations: int = option(5, "training steps", low=1, high=1000)
    pause: float = option(0.0, "seconds to wait in every step", low=0.0, high=10.0)
    way: str = option("towards", "towards the empty prompt, or away from it", choices=("towards", "away"))


class Nudge:
    """Moves the values of the concept."""

    id = "slow-nudge"
    title = "Slow nudge"
    paper = "none"
    summary = "a method for tests"
    families = frozenset({"sd1"})
    kinds = frozenset({"object"})
    produces = frozenset({"lowrank"})
    Options = Options

    def plan(self, request, info):
        options = resolve(Options, request.options, info.profiles)
        modules = tuple(f"{ref.component}.{ref.path}" for ref in info.modules("cross_v"))
        return EditPlan(request=request, options=as_dict(options), modules=modules, steps=options.iterations)

    def run(self, plan, target, ctx):
        import time

        import torch

        from erase_plugins.engine.adapters import Adapters
        from erase_plugins.engine.loop import Schedule, train
        from erase_plugins.engine.runner import plan_key

        options = Options(**plan.options)
        sign = 1.0 if options.way == "towards" else -1.0
        empty, cond = target.encode([""]), target.encode([plan.request.concepts[0].text])
        adapters = Adapters(target, target.modules("cross_v"), 2, generator=ctx.generator("adapters"))

        def loss(step):
            time.sleep(options.pause)
            noise = torch.randn(1, *target.info.latent_shape, generator=ctx.generator(f"noise {step}")).to(
                target.device
            )
            with adapters.disabled(), torch.no_grad():
                wanted = target.predict(noise, 500.0, empty)
            return sign * (target.predict(noise, 500.0, cond) - wanted).square().mean()

        with adapters:
            train(ctx, adapters, loss, Schedule(options.iterations, 1e-2, every=1000), plan_key(plan))
        return adapters.edit()


@erase_plugins.hookimpl
def erase_methods():
    return [Nudge()]
