"""AdaVD: the orthogonal complement in value space, at run time (Wang et al., CVPR 2025, arXiv 2412.06143).

In every cross-attention layer the value row v at token position i > 0 loses its part along the value row u of the
concept's own prompt at the same position, as far as both are alike:

    v' = v - f(cos(v, u)) (v.u / u.u) u,    f(x) = 2 / (1 + exp(-sharpness (x - centre)))

f reaches 2 on purpose: what is surely the concept is turned round. Nothing is fitted; the artifact holds the concept's
values. Several concepts take their parts along an orthonormal basis of their values.

Differs from the official code:
    - samples of the empty prompt are left alone; the official code folds both halves of guidance into one vector, which
      raises every cosine (hence its centre of 0.93) and edits the unconditional half;
    - the centre is calibrated for every layer on prompts with and without the concept, unless it is given;
    - values are recorded once, not in every step: they do not depend on it.

**Positions are absolute**: a concept late in a prompt meets the concept's own rows only at the end and padding rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option, resolve
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import Target, TargetInfo


@dataclass(frozen=True)
class AdaVDOptions:
    """Options of AdaVD."""

    presets = "../presets/adavd.toml"

    centre: float | None = option(None, "cosine at which the factor is 1; none calibrates it, 0.93 is published",
                                  low=-1.0, high=1.0)  # fmt: skip
    sharpness: float = option(100.0, "how steeply the factor rises with the cosine", low=0.0, high=1e6)
    always: bool = option(False, "take the whole part away whatever the cosine (a factor of 1)")
    words: int = option(200, "vocabulary words that the centre is calibrated on", low=8, high=10_000)


class AdaVD:
    """A guard on values; fits any fine-tune and needs no training."""

    id = "adavd"
    title = "Adaptive value decomposition"
    paper = "https://arxiv.org/abs/2412.06143"
    summary = "takes the concept's part out of the values at run time, as far as a prompt's values are like it"
    needs = frozenset({"denoiser", "text", "embedding_map", "cross_attention"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"addon"})
    Options = AdaVDOptions
    contract_options: ClassVar[dict[str, int]] = {"words": 20}
    graph_node = False

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        from erase_plugins.engine.estimate import guard_plan

        options = resolve(AdaVDOptions, request.options, info.profiles)
        refs = info.modules("cross_v")
        values = sum(ref.shape[0] for ref in refs) * info.tokens * (len(request.concepts) + 1)
        return guard_plan(request, options, info, refs, values, options.words)

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        import torch

        from erase_plugins.artifacts.edit import AddOn, Edit
        from erase_plugins.artifacts.prompt_guards import VALUES
        from erase_plugins.engine.calibration import cut, with_and_without

        options = AdaVDOptions(**plan.options)
        concepts = plan.request.concepts
        texts = [concept.text for concept in concepts]
        texts += [phrase for concept in concepts for phrase in concept.prompts]
        rows = target.encode([*texts, ""]).embeds.float().cpu()
        inside, outside = with_and_without(target, concepts, options.words)
        seen = {name: target.encode(part) for name, part in (("in", inside), ("out", outside))}
        behind = {
            name: [(row, slice(last + 1, None)) for row, last in enumerate(cond.last)] for name, cond in seen.items()
        }
        refs, group, unclear = target.modules("cross_v"), {}, 0
        for number, ref in enumerate(refs, 1):
            W = target.weight(ref).float().cpu()
            values = rows @ W.T
            config: dict[str, object] = {"sharpness": options.sharpness, "always": options.always}
            if options.centre is not None:
                config["centre"] = options.centre
            elif not options.always:
                scores = {}
                for name, cond in seen.items():
                    v = cond.embeds.float().cpu() @ W.T
                    alike = torch.stack(
                        [torch.nn.functional.cosine_similarity(v, one[None], dim=-1) for one in values[:-1]]
                    ).amax(0)
                    scores[name] = torch.stack([alike[row, place].mean() for row, place in behind[name]])
                config["centre"], parted = cut(scores["in"], scores["out"])
                unclear += not parted
            weights = {"values": values[:-1].contiguous(), "null": values[-1].contiguous()}
            group[ref.path] = AddOn(VALUES, weights, config)
            ctx.step(number, len(refs))
        if unclear:
            ctx.warn(
                f"in {unclear} of {len(refs)} layers values with and without the concept overlap: some prompts will "
                "pass or other pictures change; measure it"
            )
        return Edit(target.family.id, {target.family.denoiser: group})


@hookimpl
def erase_methods() -> list[AdaVD]:
    return [AdaVD()]
