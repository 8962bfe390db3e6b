"""CIR: collapse of irrelevant representations (Sondej and Yang, 2025, arXiv 2509.11816).

Forgetting comes back easily because it changes what many texts share. The first singular directions of the gradient of
the texts to forget, on the side of inputs and on that of outputs, are such shared representations; the change of every
MLP map is led around them: taken out (hard), or divided by s_i / s_k (soft) or its square (quadratic) as in the
successor RepSelect (arXiv 2606.17168), which finds both sides by one decomposition of the weight gradient, as here.

Differs from the official code: a LoRA whose factors are collapsed in every step, with the bounded loss of NPO and
texts to retain, instead of one gradient applied again and again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import Asked, LanguageMethod, PreferenceOptions, TrainingRun, preference
from erase_plugins.training.asked import ask
from erase_plugins.training.language import Sets

if TYPE_CHECKING:
    from typing import Any

    from torch import Tensor

    from erase_plugins.engine.adapters import Trainable
    from erase_plugins.families.base import ModelSpec
    from erase_plugins.types import EraseRequest

_CITATION = """\
@misc{sondej2025collapse,
  title = {Collapse of Irrelevant Representations ({CIR}) Ensures Robust and Non-Disruptive {LLM} Unlearning},
  author = {Sondej, Filip and Yang, Yushi},
  year = {2025},
  eprint = {2509.11816},
  archivePrefix = {arXiv}
}"""


@dataclass(frozen=True)
class CIROptions(PreferenceOptions):
    """Options of CIR."""

    presets = "../presets/cir.toml"

    modules: str = option("mlp", "linear maps to change", choices=("linear", "attention", "mlp"))
    components: int = option(8, "directions of the gradient that the change is led around", low=1, high=100_000)
    collapse: str = option("hard", "what becomes of them: taken out, or made small",
                           choices=("hard", "soft", "quadratic"))  # fmt: skip


class CIR(LanguageMethod):
    """Forgetting outside of shared representations."""

    id = "cir"
    title = "CIR (collapse of irrelevant representations)"
    paper = "https://arxiv.org/abs/2509.11816"
    citation = _CITATION
    summary = "makes a language model forget texts outside of what they share with others, so that it stays forgotten"
    compares = True
    Options = CIROptions

    def settle(self, options: Any, request: EraseRequest, info: ModelSpec) -> Any:
        if options.parameters != "lora":
            raise RequestError("cir leads the factors of a LoRA around shared directions; leave parameters=lora")
        return super().settle(options, request, info)

    def trainable(self, run: TrainingRun) -> Trainable:
        from erase_plugins.engine.adapters import Trainable
        from erase_plugins.engine.collapsing import CollapsedSlot

        options, generator = run.options, run.ctx.generator("adapters")
        modules: list[Any] = [run.target.module(ref) for ref in run.refs]
        return Trainable(run.target, [
            CollapsedSlot(ref, module, options.rank, options.scale, generator)
            for ref, module in zip(run.refs, modules, strict=True)
        ])  # fmt: skip

    def prepare(self, run: TrainingRun) -> Sets:
        import torch

        from erase_plugins.engine.collapsing import weight_gradients

        sets, options = super().prepare(run), run.options
        batches = torch.arange(len(sets.forget)).split(options.batch)
        losses = [lambda rows=rows: ask(run.target, sets.forget[rows]).nll.sum() for rows in batches]
        with run.adapters.disabled():
            gradients = weight_gradients(run.target, run.refs, losses)
        for slot, gradient in zip(run.adapters.slots, gradients, strict=True):
            slot.lead(gradient, options.components, options.collapse)
        return sets

    def forget_loss(self, run: TrainingRun, forget: Asked, answers: Asked | None) -> Tensor:
        return preference(forget.rise, run.options.beta)


@hookimpl
def erase_methods() -> list[CIR]:
    return [CIR()]
