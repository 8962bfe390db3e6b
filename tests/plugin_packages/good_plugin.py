"""A small complete method, as an outside package would register it."""

from dataclasses import dataclass

import erase_plugins
from erase_plugins.options import as_dict, option, resolve
from erase_plugins.types import EditPlan


@dataclass(frozen=True)
class Options:
    size: float = option(0.1, "size of the change", low=0.0, high=1.0)


class Shift:
    id = "good-shift"
    title = "Shift"
    paper = "none"
    summary = "moves one weight, for tests"
    families = frozenset({"sd1"})
    kinds = frozenset({"object"})
    produces = frozenset({"lowrank"})
    Options = Options

    def plan(self, request, info):
        options = resolve(Options, request.options, info.profiles)
        ref = info.modules("cross_v")[0]
        return EditPlan(request=request, options=as_dict(options), modules=(f"{ref.component}.{ref.path}",), steps=1)

    def run(self, plan, target, ctx):
        import torch

        from erase_plugins.artifacts.edit import Edit, LowRank

        ref = target.modules("cross_v")[0]
        size = plan.options["size"]
        ctx.step(1, 1)
        change = LowRank(torch.full((1, ref.shape[1]), size), torch.full((ref.shape[0], 1), size))
        return Edit(target.family.id, {ref.component: {ref.weight: change}})


@erase_plugins.hookimpl
def erase_methods():
    return [Shift()]
