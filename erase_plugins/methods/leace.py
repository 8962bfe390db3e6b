"""LEACE: exact linear guard on hidden states (Belrose et al., NeurIPS 2023, arXiv 2306.03819).

What a linear map reads shall not tell texts to forget (z = 1) from texts to retain (z = 0). With S the covariance of
its inputs x and s their covariance with z, the smallest change after which x and z are uncorrelated, so that no linear
probe beats guessing, takes out one direction:

    x' = x - s (S^-1 s)^T x / (s^T S^-1 s),   written into the map:  dW = -W s (S^-1 s)^T / (s^T S^-1 s).

The maps are changed one after the other, each for the inputs that those before it leave. Probes that are not linear may
still tell, and what is common to both kinds of text stays: this blinds a model to a topic, it forgets no single fact.

Differs from the paper: the constant part, which keeps the mean of x, is left out, since most language models have no
biases to hold it; correlations do not depend on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.errors import RequestError
from erase_plugins.families.capabilities import LANGUAGE
from erase_plugins.families.facts import asked, named, tells_of_others
from erase_plugins.families.texts import apart, encoded, tokenizer_of
from erase_plugins.hints import Hint
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import as_dict, option, resolve
from erase_plugins.training.likelihood import note_likelihood, tell_likelihood
from erase_plugins.training.text_requests import check_texts
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import ModelSpec, Target

_CITATION = """\
@inproceedings{belrose2023leace,
  title = {{LEACE}: Perfect Linear Concept Erasure in Closed Form},
  author = {Belrose, Nora and Schneider-Joseph, David and Ravfogel, Shauli and Cotterell, Ryan and Raff, Edward and
            Biderman, Stella},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2023}
}"""
_BATCH, _TOKENS = 16, 64


@dataclass(frozen=True)
class LeaceOptions:
    """Options of LEACE."""

    modules: str = option("mlp", "linear maps to guard", choices=("linear", "attention", "mlp"))
    ridge: float = option(0.01, "share of the mean variance that every direction gets", low=1e-9, high=10.0)
    max_tokens: int = option(512, "tokens of a text, prompt included; the rest is cut", low=2, high=1_000_000)


def guard(X: Tensor, z: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Directions s (in,) and a (in,), so that x - s (a x) is uncorrelated with z; float64.

    Args:
        X: (m, in) inputs.
        z: (m,) 1 or 0.
        ridge: see `LeaceOptions`.
    """
    import torch

    X, z = X.double() - X.double().mean(0), z.double() - z.double().mean()
    S, s = X.T @ X / len(X), X.T @ z / len(X)
    S = S + max(ridge * float(S.diagonal().mean()), 1e-30) * torch.eye(len(S), dtype=S.dtype)
    a = torch.linalg.solve(S, s)
    return s, a / (s @ a).clamp_min(1e-300)


class LEACE:
    """Linear guard of the inputs of linear maps."""

    id = "leace"
    title = "LEACE (linear guard on hidden states)"
    paper = "https://arxiv.org/abs/2306.03819"
    citation = _CITATION
    summary = "closed form, one rank per map: no linear probe of what a language model reads tells a topic"
    needs = frozenset({LANGUAGE})
    packages = frozenset({"transformers"})
    kinds = frozenset({"object", "behaviour", "dataset"})
    produces = frozenset({"lowrank"})
    reads_data = True
    half_weights: ClassVar[bool] = True  # what is solved for are inputs; a language model is loaded as its files are
    Options = LeaceOptions
    contract_options: ClassVar[dict[str, Any]] = {}

    def plan(self, request: EraseRequest, info: ModelSpec) -> EditPlan:
        """The plan with its cost, from configuration alone."""
        from erase_plugins.training.plan import place, seconds_of

        request, options = named(request), resolve(LeaceOptions, request.options)
        check_texts(self.id, request, info, answers=False)
        if not request.retain_data and not tells_of_others(request):
            raise RequestError(
                "leace tells texts to forget from others; give the others: ", Hint("retain", "others.jsonl")
            )
        refs = info.modules(options.modules)
        work = len(refs) * sum(math.prod(ref.shape) for ref in info.refs) * _TOKENS * _BATCH
        return EditPlan(
            request=request, options=as_dict(options), modules=tuple(map(place, refs)), steps=len(refs),
            seconds=seconds_of(work + sum(float(ref.shape[1]) ** 3 for ref in refs), request.device, info.refs),
            memory_bytes=8 * 2 * max(ref.shape[1] for ref in refs) ** 2,
            file_bytes=4 * sum(sum(ref.shape) for ref in refs), produces=("lowrank",),
        )  # fmt: skip

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        """Solves for one map after the other."""
        import torch

        from erase_plugins.artifacts.edit import Edit, LowRank
        from erase_plugins.engine.fact_editing import in_force, inputs
        from erase_plugins.families.model import TRANSPOSED

        request, options, tokenizer = plan.request, LeaceOptions(**plan.options), tokenizer_of(target)
        forget, kept = asked(request)
        apart(forget, kept)
        sets = {
            name: encoded(target, tokenizer, pairs, options.max_tokens)
            for name, pairs in (("forget", forget), ("retain", kept))
        }
        for name, texts in sets.items():
            note_likelihood(target, ctx, name, "before", texts, _BATCH)
        refs = target.info.modules(options.modules)
        changes: list[Any] = []
        deltas: dict[str, dict[str, Any]] = {}
        ctx.start(len(refs))
        for number, ref in enumerate(refs):
            with in_force(target, changes):
                first, second = (inputs(target, ref, texts, _BATCH) for texts in sets.values())
            z = torch.cat([torch.ones(len(first)), torch.zeros(len(second))])
            s, a = guard(torch.cat([first, second]), z, options.ridge)
            weight = target.weight(ref).cpu().double()
            weight = weight.T if ref.kind == TRANSPOSED else weight
            A, R = a[None].float(), -(weight @ s)[:, None].float()
            changes.append((ref, A, R))
            change = LowRank(A, R)
            deltas.setdefault(ref.component, {})[ref.weight] = change.transposed() if ref.kind == TRANSPOSED else change
            ctx.step(number + 1, len(refs))
        with in_force(target, changes):
            for name, texts in sets.items():
                note_likelihood(target, ctx, name, "after", texts, _BATCH)
        tell_likelihood(ctx)
        return Edit(target.family.id, deltas)


@hookimpl
def erase_methods() -> list[LEACE]:
    return [LEACE()]
