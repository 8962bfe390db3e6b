"""Layer-wise closed form: layers inside the denoiser exchange what they say to the concept and to the empty prompt.

No training. On states of the frozen model towards the concept, inputs h and outputs o of a linear layer W are collected
with the concept's prompt (c) and with the empty one (0). Each layer is solved by itself:

    W' = argmin  mean |W' h_c - (o_0 - eta (o_c - o_0))|^2 + mean |W' h_0 - (o_0 + eta_null (o_c - o_0))|^2
                 + keep mean |(W' - W) h_k|^2 + lam |W' - W|^2,

h_k being inputs of the same layer for what stays, on its own trajectories, with its prompt and with none. The layers
are the output projections of self- and cross-attention and of the feed-forward networks.

The first term alone (``eta_null=0``) is undone by a learned token as fast as a map of the text is: it meets only the
inputs that the name brings. The second one needs no name. On states that look like the concept the prediction
without a prompt turns towards it, so that guidance w drives every prompt away, as in ACE; also one whose own prediction
is the concept's, if eta_null > w/(w-1). It protects only where guidance above 1 is used with an empty negative prompt.

This method is our own: the normal equation of UCE at other places, with the idea of ACE. Changes are dense, or of the
rank that is best for the outputs on the states of the concept (``rank``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.erasing import all_phrases, check_no_anchor, preset_names
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import as_dict, option, resolve
from erase_plugins.training.options import RolloutOptions, check_templates, revive
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Delta, Edit
    from erase_plugins.engine.context import RunContext
    from erase_plugins.engine.pools import Pool
    from erase_plugins.families.base import Conditioning, ModuleRef, Target, TargetInfo

#: layers -> ends of their names
LAYERS = {
    "cross": ("attn2.to_out.0",),
    "attention": ("attn1.to_out.0", "attn2.to_out.0"),
    "feed-forward": ("ff.net.2",),
    "all": ("attn1.to_out.0", "attn2.to_out.0", "ff.net.2"),
}
#: states in one pass
_BATCH = 16


@dataclass(frozen=True)
class LayerwiseOptions:
    """Options of the layer-wise closed form."""

    layers: str = option("all", "output projections that change: of which part", choices=tuple(LAYERS))
    eta: float = option(0.5, "how far the concept goes beyond the empty prompt's outputs", low=0.0, high=100.0)
    eta_null: float = option(1.5, "how far the empty prompt goes towards the concept; 0: not", low=0.0, high=100.0)
    keep: float = option(1.0, "weight of what stays", low=0.0)
    lam: float = option(1e-3, "ridge term, in units of the mean square of the inputs", low=1e-9)
    rank: int | None = option(None, "rank of each change; none: the exact dense one", low=1, high=10_000)
    templates: tuple[str, ...] = option(("{}", "a {}", "a {} picture"), "prompts collected on; {} is the concept")
    trajectories: int = option(15, "trajectories towards the concept", low=1)
    harvest: int = option(5, "states kept of each trajectory", low=1)
    steps: int = option(50, "sampler steps of a trajectory", low=1, high=1000, per={"pocket": 10})
    guidance: float = option(3.0, "classifier-free guidance of a trajectory", low=0.0, per={"pocket": 4.0})
    keep_words: int = option(48, "vocabulary words that stay, half of them the closest to the concept", low=0)
    near: float = option(0.8, "closeness to the concept from which a word does not stay", low=0.0, high=1.0)

    def rollout(self) -> RolloutOptions:
        """How trajectories are made, and what stays."""
        return RolloutOptions(
            steps=self.steps, guidance=self.guidance, trajectories=self.trajectories, near=self.near,
            harvest=min(self.harvest, self.steps), keep_words=self.keep_words,
        )  # fmt: skip


@dataclass
class Sums:
    """Moments of one layer: concept (inputs by inputs), wanted (outputs by inputs), kept (inputs by inputs)."""

    concept: Tensor
    wanted: Tensor
    kept: Tensor

    def add(self, inputs: Tensor, wanted: Tensor, count: int) -> None:
        """Rows of the concept's states and what they become, as a share of ``count`` states."""
        self.concept += inputs.T @ inputs / count
        self.wanted += wanted.T @ inputs / count


def solve(weight: Tensor, sums: Sums, keep: float, lam: float) -> Tensor:
    """W' - W of one layer, float64 (outputs, inputs); see the module. ``lam`` is absolute."""
    import torch

    weight = weight.double()
    hold = keep * sums.kept + lam * torch.eye(len(sums.kept), dtype=torch.float64, device=weight.device)
    root = torch.linalg.cholesky(sums.concept + hold)
    return torch.cholesky_solve((sums.wanted + weight @ hold).T, root).T - weight


def cut(change: Tensor, concept: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """Factors B (outputs, rank), A (rank, inputs) of the change of that rank that is nearest on the concept's inputs.

    Args:
        change: (outputs, inputs).
        concept: positive definite moment of the inputs.
        rank: at most the smaller side.
    """
    import torch

    root = torch.linalg.cholesky(concept)
    left, sizes, right = torch.linalg.svd(change @ root, full_matrices=False)
    inner = torch.linalg.solve_triangular(root, right[:rank], upper=False, left=False)
    return left[:, :rank] * sizes[:rank], inner


class Layerwise:
    """A closed form inside the denoiser."""

    id = "layerwise"
    title = "Layer-wise closed form inside the denoiser"
    paper = "https://arxiv.org/abs/2308.14761"
    citation = ""
    summary = "closed form on the output projections of all transformer blocks, from activations; no training"
    needs = frozenset({"denoiser", "text"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"dense", "lowrank"})
    packages = frozenset({"diffusers"})
    Options = LayerwiseOptions
    work_files: ClassVar[tuple[str, ...]] = ("states-*.safetensors",)
    contract_options: ClassVar[dict[str, Any]] = {
        "trajectories": 2, "harvest": 2, "steps": 4, "keep_words": 2,
    }  # fmt: skip

    def refs(self, info: TargetInfo, options: LayerwiseOptions) -> list[ModuleRef]:
        """The layers that change."""
        ends = LAYERS[options.layers]
        return [ref for ref in info.modules("transformer") if ref.path.endswith(ends) and ref.kind == "linear"]

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        from erase_plugins.training import plan as costs

        options = resolve(LayerwiseOptions, request.options, preset_names(request, info))
        check_templates(options.templates)
        check_no_anchor(request)
        costs.check_trainable(self.id, info)
        refs, kept = self.refs(info, options), options.rollout().kept(request)
        states = (options.trajectories + kept) * min(options.harvest, options.steps)
        rolled = 2.0 * options.steps * (options.trajectories + kept)
        fields = costs.estimate(
            info, request, costs.trainable(refs, options.rank), forwards=rolled + 2 * states, iterations=0, batch=0,
            states=states,
        )  # fmt: skip
        sums = sum(8 * (2 * ref.shape[1] ** 2 + ref.shape[0] * ref.shape[1]) for ref in refs)
        return EditPlan(
            request=request, options=as_dict(options), steps=len(refs), modules=tuple(map(costs.place, refs)),
            notes=self.notes() if options.eta_null > 0 else (),
            **{**fields, "memory_bytes": fields["memory_bytes"] + sums},
        )  # fmt: skip

    def notes(self) -> tuple[str, ...]:
        """What the user is told along with the plan."""
        return ("holds against learned tokens only where classifier-free guidance above 1 is used, with an empty "
                "negative prompt",)  # fmt: skip

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        """Collects over all layers at once, then solves one after the other."""
        from erase_plugins.artifacts.edit import Dense, Edit, LowRank

        options = revive(LayerwiseOptions, plan.options)
        refs = self.refs(target.info, options)
        ctx.start(len(refs))
        sums = _collect(plan.request, options, target, refs, ctx)
        deltas: dict[str, dict[str, Delta]] = {}
        for place, ref in enumerate(refs):
            weight, own = target.module(ref).weight.detach(), sums[ref.path]
            lam = options.lam * float((own.concept + options.keep * own.kept).diagonal().mean())
            change = solve(weight, own, options.keep, lam)
            if options.rank is None:
                found: Delta = Dense(change.float().cpu())
            else:
                own.concept.diagonal().add_(lam)
                outer, inner = cut(change, own.concept, options.rank)
                found = LowRank(inner.float().cpu().contiguous(), outer.float().cpu().contiguous())
            deltas.setdefault(ref.component, {})[ref.weight] = found
            ctx.step(place + 1, len(refs))
        return Edit(target.family.id, deltas)


def _collect(
    request: EraseRequest, options: LayerwiseOptions, target: Target, refs: list[ModuleRef], ctx: RunContext
) -> Mapping[str, Sums]:
    """Mean moments of every layer."""
    import torch

    from erase_plugins.engine.adapters import Trainable
    from erase_plugins.engine.trajectories import repeat

    rolled, phrases = options.rollout(), all_phrases(request)
    rollout = rolled.rollout_on(target, Trainable(target, []), ctx)
    prompts = [template.format(phrase) for template in options.templates for phrase in phrases]
    rollout.check(prompts)
    erase = rollout.pool("erase", prompts * -(-options.trajectories // len(prompts)), "")
    kept = rolled.holding(rollout, request, phrases, options.templates, "")
    null = target.encode([""])

    def batches(pool: Pool) -> Iterator[tuple[Any, Conditioning]]:
        for start in range(0, len(pool.states), _BATCH):
            states = pool.states[torch.arange(start, min(start + _BATCH, len(pool.states)))]
            yield states, pool.cond[states.row.tolist()]
            rollout.progress()

    def zeros(ref: ModuleRef) -> Sums:
        wide, high = ref.shape[1], ref.shape[0]
        return Sums(*(torch.zeros(shape, dtype=torch.float64, device=target.device)
                      for shape in ((wide, wide), (high, wide), (wide, wide))))  # fmt: skip

    sums = {ref.path: zeros(ref) for ref in refs}
    count = len(erase.states) * (2 if options.eta_null > 0 else 1)
    for states, cond in batches(erase):
        seen, blank = (_seen(target, refs, states, asked) for asked in (cond, repeat(null, len(states))))
        for name, own in sums.items():
            (inputs, out), (plain, empty) = seen[name], blank[name]
            own.add(inputs, empty - options.eta * (out - empty), count)
            if options.eta_null > 0:
                own.add(plain, empty + options.eta_null * (out - empty), count)
    for states, cond in batches(kept) if kept is not None else ():
        for asked in (cond, repeat(null, len(states))):
            for name, (inputs, _) in _seen(target, refs, states, asked).items():
                sums[name].kept += inputs.T @ inputs / (2 * len(kept.states) if kept else 1)
    return sums


def _seen(target: Target, refs: list[ModuleRef], states: Any, cond: Conditioning) -> dict[str, tuple[Tensor, Tensor]]:
    """Inputs and outputs without bias, (rows, width) float64, of every layer in one pass."""
    import torch

    found: dict[str, tuple[Tensor, Tensor]] = {}

    def listen(name: str) -> Any:
        def hook(module: Any, given: Any, out: Tensor) -> None:
            plain = out if module.bias is None else out - module.bias
            found[name] = (given[0].flatten(0, -2).double(), plain.flatten(0, -2).double())

        return hook

    handles = [target.module(ref).register_forward_hook(listen(ref.path)) for ref in refs]
    try:
        with torch.no_grad():
            target.predict(states.inputs.to(target.dtype), states.timestep, cond)
    finally:
        for handle in handles:
            handle.remove()
    return found


@hookimpl
def erase_methods() -> list[Layerwise]:
    return [Layerwise()]
