"""A filter of finished pictures, as an outside package would bring one along: a type of stage, and a guard made of it.

The last resort of guards: whatever words were used, the picture itself is looked at before anybody sees it. It needs a
classifier that knows the concept, costs its passes, and is as right as it is. Nothing is removed from the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import erase_plugins
from erase_plugins.artifacts.policy import make, numbers
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.options import as_dict, option, resolve
from erase_plugins.runtime.guardrails.watch import Quiet
from erase_plugins.types import EditPlan, RunResult

#: by name, as a guard says it: pictures (PIL) -> how surely each shows what is guarded against, 0..1
CLASSIFIERS: dict[str, Callable[[Sequence[Any]], Sequence[float]]] = {}


class Filter(Quiet):
    """Around the function through which a pipeline's pictures leave it.

    Attributes:
        seen: scores of all pictures so far.
    """

    def __init__(self, score: Callable[[Sequence[Any]], Sequence[float]], threshold: float, strength: float) -> None:
        self.score, self.threshold, self.strength = score, threshold, strength
        self.seen: list[float] = []

    def before(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments as they are.

        Raises:
            Unsupported: latents leave the pipeline, which nobody can look at.
        """
        if given["output_type"] == "latent":
            raise Unsupported("a filter looks at pictures, not at output_type='latent'; ask for 'pil', 'np' or 'pt'")
        return given

    def after(self, given: dict[str, Any], result: Any) -> Any:
        """The pictures, black ones in the place of those that are hit."""
        from diffusers.image_processor import VaeImageProcessor
        from PIL import Image

        pictures = result
        if given["output_type"] != "pil":
            array = VaeImageProcessor.pt_to_numpy(result) if given["output_type"] == "pt" else result
            pictures = VaeImageProcessor.numpy_to_pil(array)
        scores = [float(value) for value in self.score(pictures)]
        if len(scores) != len(pictures):
            raise RequestError(f"the classifier gave {len(scores)} scores for {len(pictures)} pictures")
        self.seen += scores
        hits = [place for place, score in enumerate(scores) if score >= self.threshold]
        if given["output_type"] == "pil":
            return [Image.new("RGB", item.size) if place in hits else item for place, item in enumerate(pictures)]
        result[hits] = 0
        return result


class PictureFilter:
    """The type of stage."""

    id, title, roles = "picture-filter", "Looks at finished pictures and blackens hits", frozenset({"text"})

    def attach(self, placing: Any) -> list[Any]:
        """Around the image processor of a pipeline."""
        name, (threshold,) = str(placing.stage.get("classifier")), numbers(placing.stage, ("threshold",))
        processor = getattr(placing.target.host, "image_processor", None)
        if processor is None:
            raise Unsupported("this pipeline has no image processor through which its pictures come")
        if name not in CLASSIFIERS:
            raise Unsupported(f"no classifier '{name}' is registered in CLASSIFIERS; register the one it was made with")
        return [(processor, "postprocess", Filter(CLASSIFIERS[name], threshold, placing.strength))]


@dataclass(frozen=True)
class Options:
    """Options of the guard."""

    classifier: str = option("", "name under which CLASSIFIERS holds it")
    threshold: float = option(0.5, "from which score a picture is not shown", low=0.01, high=1.0)


class FilterGuard:
    """Says which classifier looks, and from which score on."""

    id, title, paper = "picture-filter", "Filter of finished pictures", "common practice"
    summary = "guard, no erasure: a classifier looks at finished pictures"
    needs, kinds = frozenset({"denoiser", "text"}), frozenset({"object", "style"})
    packages, produces, level = frozenset({"diffusers"}), frozenset(), "picture"
    Options = Options
    graph_node = False
    contract_options = {"classifier": "stand-in"}

    def plan(self, request: Any, info: Any) -> EditPlan:
        """From the configuration alone."""
        options = resolve(Options, request.options, info.profiles)
        if options.classifier not in CLASSIFIERS:
            raise RequestError(f"no classifier '{options.classifier}' is registered; known: {', '.join(CLASSIFIERS)}")
        return EditPlan(request=request, options=as_dict(options), steps=1)

    def run(self, plan: EditPlan, target: Any, ctx: Any) -> RunResult:
        """The policy."""
        ctx.step(1, 1)
        names = ", ".join(concept.text for concept in plan.request.concepts)
        stage = {"type": "picture-filter", **{name: plan.options[name] for name in ("classifier", "threshold")}}
        return RunResult(None, guards=(make(names, [stage], "flag"),))


erase_methods = erase_plugins.hookimpl(lambda: [FilterGuard()], specname="erase_methods")
erase_guard_stages = erase_plugins.hookimpl(lambda: [PictureFilter()], specname="erase_guard_stages")
