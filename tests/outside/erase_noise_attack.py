"""A package of somebody else: an attack on classifiers. It looks for an input on which the erased label comes back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import erase_plugins
from erase_plugins.errors import RequestError
from erase_plugins.options import option
from erase_plugins.types import Attachment, AttackReport, EvalRow

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class Options:
    """Options of the attack."""

    size: float = option(0.5, "largest change of a value of the input", low=0.0, high=10.0)


class FindNoise:
    """Random starts and signed gradient steps; queries are inputs that the edited model is asked about."""

    id, title = "find-noise", "Inputs that bring a label back"
    needs, packages, needs_judge = frozenset({"classifier"}), frozenset({"torch"}), False
    budgets = {"quick": 40, "standard": 400, "long": 4000}
    Options = Options
    attachments = ("found.json",)

    def run(self, subject: Any, budget: Any) -> AttackReport:
        import json

        import torch

        model = subject.target.classifier
        gone = [model.labels.index(name) for name in subject.erased if name in model.labels]
        if not gone:
            raise RequestError(f"{', '.join(subject.erased) or 'nothing'} is no label of {subject.model}")
        count = max(budget.queries // 8, 1)
        generator = torch.Generator().manual_seed(budget.seed)
        start = torch.randn(count, *model.input_shape, generator=generator)
        size = budget.options["size"]
        best = self._steps(subject, start, gone, size, max(budget.queries // count - 3, 0), budget)
        rows = {}
        for name, batch, edit in (("noise", start, "on"), ("found", best, "on"), ("destroyed", best, "destroyed")):
            rows[name] = _row(name, self._hits(subject.generate(batch, edit=edit), gone))
        found = {"size": size, "first": best[0].flatten()[:8].tolist()}
        return AttackReport(
            attack=self.id, model=subject.model, budget=budget.name, success=rows["found"], control=rows["noise"],
            rows=tuple(rows.values()), found=found, artifacts=tuple(item.name for item in subject.artifacts),
            erased=tuple(subject.erased), strength=subject.strength, seeds=(budget.seed,), queries=subject.queries,
            passes=subject.queries,
            attachments=(Attachment("found.json", lambda path: path.write_text(json.dumps(found)), "what was found"),),
        )  # fmt: skip

    def _steps(self, subject: Any, start: Tensor, gone: list[int], size: float, steps: int, budget: Any) -> Tensor:
        """White box: gradients with the edit on; each step asks about every input once."""
        import torch

        change = torch.zeros_like(start)
        with subject.under("on"):
            for step in range(steps):
                change.requires_grad_(True)
                logits = subject.target.classifier.logits(start + change)
                (slope,) = torch.autograd.grad(logits[:, gone].amax(1).sum() - logits.mean(1).sum(), change)
                subject.queries += len(start)
                change = (change.detach() + size / 4 * slope.sign()).clamp(-size, size)
                budget.progress("search", step + 1, steps)
        return (start + change).detach()

    def _hits(self, logits: Tensor, gone: list[int]) -> list[bool]:
        return [int(label) in gone for label in logits.argmax(-1)]


def _row(name: str, hits: list[bool]) -> EvalRow:
    """Share with its Wilson interval."""
    n, share, z = len(hits), sum(hits) / len(hits), 1.96
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z * (share * (1 - share) / n + z * z / (4 * n * n)) ** 0.5 / (1 + z * z / n)
    return EvalRow("label_rate", name, share, max(middle - half, 0.0), min(middle + half, 1.0), n)


erase_attacks = erase_plugins.hookimpl(lambda: [FindNoise()], specname="erase_attacks")
