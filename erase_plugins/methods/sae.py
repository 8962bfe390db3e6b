"""SAeUron: steering of sparse features (Cywinski and Deja, ICML 2025, arXiv 2501.18052).

A sparse autoencoder is trained on what one attention block of the denoiser writes about pictures of the concept and of
other words. Features that are more active for the concept than for the others, by

    s_j = mu_j(concept) / sum_i mu_i(concept) - mu_j(others) / sum_i mu_i(others),

have their activations multiplied by ``factor`` wherever they are above their mean over all concepts. What the
autoencoder does not explain stays as it is.

Differs from the official code (``cywinski/SAeUron``):
    - an autoencoder of its own for every run, trained on few pictures; theirs is large, and shared by all concepts;
    - it reads what the block adds to its input, not the sum, so that the sum need not be taken apart; where no single
      block carries the concept (on pocket: without the whole block 8 of 8 owls are owls) that erases nothing;
    - ``factor`` multiplies an activation; theirs multiplies it and the concept's mean, so its size depends on units;
    - one set of features for all steps of the sampler, so nothing counts steps;
    - ``chosen`` is a number of features, which their quantile is in disguise;
    - when pictures are drawn a threshold for each feature stands for the choice of the k largest.

**It hangs on the denoiser and cannot be a weight change**: the artifact is a patch, with no LoRA file. A later study
(arXiv 2606.31699) finds such features good at telling and poor at steering: look at the pictures.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option, resolve
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import ModuleRef, Target, TargetInfo

_ENDING = ".proj_out"


@dataclass(frozen=True)
class SAEOptions:
    """Options of SAeUron."""

    presets = "../presets/sae.toml"

    block: str = option("", "attention block that is steered, such as up_blocks.1.attentions.1; empty: by kind")
    features: int = option(20_480, "features of the autoencoder", low=8)
    k: int = option(32, "features that tell one position", low=1)
    iterations: int = option(2000, "training steps of the autoencoder", low=2)
    batch: int = option(4096, "positions of a training step", low=1)
    lr: float = option(4e-4, "learning rate of the autoencoder, falling to 0", low=1e-9, high=1.0)
    aux: float = option(1 / 32, "weight of what features that are never active make of the rest", low=0.0)
    chosen: int = option(2, "features of a concept that are steered", low=1, searched=(1, 16))
    factor: float = option(-1.0, "what their activations are multiplied by; 1 changes nothing", low=-100.0, high=100.0,
                           searched=(-5.0, 0.0))  # fmt: skip
    words: int = option(100, "other words that pictures are drawn of, half of them the closest", low=2, high=10_000)
    near: float = option(0.8, "closeness to the concept from which a word is none of the others", low=0.0, high=1.0)
    seeds: int = option(8, "pictures of every prompt with the concept", low=1)
    steps: int = option(50, "sampler steps of a picture", low=1, high=1000)
    harvest: int = option(4, "steps of a picture that are looked at", low=1)
    guidance: float = option(9.0, "classifier-free guidance of the pictures", low=0.0)
    templates: tuple[str, ...] = option(("a picture of {}",), "prompts; {} is the concept or another word")


class SAE:
    """Multiplies the sparse features of a concept in one block; the rest of the block's output stays."""

    id = "sae"
    title = "SAeUron: sparse-autoencoder unlearning"
    paper = "https://arxiv.org/abs/2501.18052"
    summary = "multiplies the concept's features of a sparse autoencoder behind one attention block; weights stay"
    needs = frozenset({"denoiser", "text", "cross_attention"})
    packages = frozenset({"diffusers"})
    kinds = frozenset({"object", "style", "person", "explicit"})
    produces = frozenset({"addon"})
    Options = SAEOptions
    contract_options: ClassVar[dict[str, Any]] = {
        "steps": 4, "harvest": 2, "seeds": 1, "words": 4, "features": 32, "k": 4, "iterations": 6, "batch": 32,
    }  # fmt: skip
    graph_node = False

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        from erase_plugins.engine.erasing import all_phrases, names_of_all
        from erase_plugins.options import as_dict
        from erase_plugins.training.options import check_templates
        from erase_plugins.training.plan import estimate, seconds_of

        options = resolve(SAEOptions, request.options, names_of_all(request, info))
        check_templates(options.templates)
        if options.chosen > options.features or options.k > options.features:
            raise RequestError(f"chosen and k may be at most the number of features, {options.features}")
        ref = place(info, options.block, min(concept.kind for concept in request.concepts))
        prompts = (len(all_phrases(request)) * options.seeds + options.words) * len(options.templates)
        numbers = estimate(
            info, request, 2 * ref.shape[0] * options.chosen * len(request.concepts),
            forwards=prompts * (2.0 * options.steps + options.harvest), iterations=0, batch=0, states=0,
            searches=True,
        )  # fmt: skip
        train = 3.0 * options.iterations * options.batch * 4.0 * ref.shape[0] * options.features
        return EditPlan(
            request=request, options=as_dict(options), modules=(f"{ref.component}.{ref.path}",),
            steps=options.iterations,
            notes=("a patch that hangs on the denoiser: LoRA files and ComfyUI cannot carry it",),
            produces=("addon",),
            **{**numbers, "seconds": round(numbers["seconds"] + seconds_of(train, request.device, [ref]), 1)},
        )  # fmt: skip

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        import torch

        from erase_plugins.artifacts.edit import AddOn, Edit
        from erase_plugins.artifacts.sparse_features import FEATURES
        from erase_plugins.engine.sparse_coder import fit
        from erase_plugins.training.options import revive
        from erase_plugins.training.retain import keep_words

        options, concepts = revive(SAEOptions, plan.options), plan.request.concepts
        ref = place(target.info, options.block, sorted({concept.kind for concept in concepts})[0])
        phrases = [[concept.text, *concept.prompts] for concept in concepts]
        others = keep_words(
            target, [text for group in phrases for text in group], concepts, options.words, options.near,
            ctx.generator("others"),
        )  # fmt: skip
        if len(others) < 2:
            raise RequestError(f"found {len(others)} other words; raise words or lower near")
        groups = [_tokens(options, ref, group * options.seeds, target, ctx) for group in phrases]
        rest = _tokens(options, ref, list(others), target, ctx)
        coder = fit(
            torch.cat([*groups, rest]), options.features, options.k, options.iterations, options.batch, options.lr,
            options.aux, ctx.generator("features"), lambda step: ctx.step(step, options.iterations),
        )  # fmt: skip
        means = torch.stack([coder.mean(part) for part in (*groups, rest)])
        shares = means / means.sum(1, keepdim=True).clamp_min(1e-12)
        chosen: dict[int, None] = {}
        for number, concept in enumerate(concepts):
            score = shares[number] - shares[-1]
            best = score.argsort(descending=True)[: options.chosen]
            best = best[score[best] > 0]
            if not len(best):
                raise RequestError(f"no feature tells '{concept.text}' from the others; raise features or iterations")
            chosen |= dict.fromkeys(best.tolist())
        ctx.note(f"{len(chosen)} of {options.features} features, {coder.unexplained:.0%} of the variance unexplained")
        numbers = torch.tensor(list(chosen))
        weights = coder.parts(numbers, means.mean(0)[numbers], options.factor)
        return Edit(target.family.id, {ref.component: {ref.path: AddOn(FEATURES, weights, {})}})


def place(info: TargetInfo, block: str, kind: str) -> ModuleRef:
    """The last layer of an attention block: the named one, or of the first wide ones on the way up by kind.

    Raises:
        Unsupported: there is no such block; names those that there are.
    """
    ends = {
        ref.path.removesuffix(_ENDING): ref for ref in info.modules("transformer")
        if ref.path.endswith(_ENDING) and ".attentions." in ref.path
    }  # fmt: skip
    if block and block not in ends:
        raise Unsupported(f"{info.model} has no attention block '{block}'; it has {', '.join(sorted(ends))}")
    if block:
        return ends[block]
    up = sorted(name for name in ends if name.startswith("up_blocks.")) or sorted(ends)
    if not up:
        raise Unsupported(f"{info.model} has no attention blocks that features could be read behind")
    first = [name for name in up if name.split(".attentions.")[0] == up[0].split(".attentions.")[0]]
    return ends[first[min(2 if kind == "style" else 1, len(first) - 1)]]


def _tokens(options: SAEOptions, ref: ModuleRef, texts: list[str], target: Target, ctx: RunContext) -> Tensor:
    """Positions (n, d) float32 of pictures of texts in every template."""
    import torch

    from erase_plugins.engine.image_tokens import image_tokens

    prompts = [frame.format(text) for text in texts for frame in options.templates]
    found = image_tokens(
        target, [ref], prompts, ctx.generator(f"pictures {texts[0]}"), ctx, steps=options.steps, picked=options.harvest,
        guidance=options.guidance,
    )  # fmt: skip
    return torch.cat([tokens.flatten(0, 1).float().cpu() for _, _, tokens in found])


@hookimpl
def erase_methods() -> list[SAE]:
    return [SAE()]
