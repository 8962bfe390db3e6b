"""How unlikely is enough: texts stop to push once they are as unlikely as the same texts about somebody unknown.

A row of a text to forget may hold in ``unknown`` how it would read of somebody whom the model cannot know. What such a
text costs the unchanged model in nat per token is the bound of the row: where a model would be that never saw it. No
torch at import.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from erase_plugins.engine.stopping import Stop
from erase_plugins.families.texts import Pair, Texts, encoded, tokenizer_of

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.engine.context import RunContext
    from erase_plugins.training.method import TrainingRun


@dataclass(frozen=True)
class Bounds(Stop):
    """Which texts were beyond their bound when they were last seen; ends training when all were.

    Attributes:
        beyond: (n,) 1 for such a text, else 0; carried from step to step.
    """

    beyond: Tensor

    def tensors(self) -> dict[str, Tensor]:
        """What is carried."""
        return {"beyond": self.beyond}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        self.beyond.copy_(tensors["beyond"])

    def reached(self, ctx: RunContext, done: int, edit_of: Callable[[], Any]) -> bool:
        """Whether training ends after ``done`` steps."""
        if not bool(self.beyond.all()):
            return False
        ctx.numbers["stopped_after"] = done
        ctx.note(f"stopped after {done} steps: every text is as unlikely as one about somebody unknown")
        return True

    def pushing(self, rows: Tensor, cost: Tensor, bound: Tensor) -> Tensor:
        """(n,) whether these rows still push, with ``cost`` and ``bound`` (n,) in nat per token."""
        found = cost.detach() < bound
        self.beyond[rows] = (~found).to(self.beyond.dtype)
        return found


def bounded(run: TrainingRun, texts: Texts, pairs: Sequence[Pair], ask: Callable[[Texts], Any]) -> Texts:
    """The texts with their bounds, and training told to end there; a text whose row names nobody unknown has none.

    Args:
        run: of which the changes are still none.
        texts, pairs: what is to be forgotten.
        ask: gives what the model says of texts (`training.Asked`).
    """
    import torch

    there = [number for number, pair in enumerate(pairs) if pair.unknown is not None]
    if not there:
        return texts
    others = encoded(run.target, tokenizer_of(run.target), [pair.unknown for pair in pairs if pair.unknown],
                     run.options.max_tokens)  # fmt: skip
    with torch.no_grad():
        parts = [
            ask(others[rows]) for rows in torch.arange(len(there), device=others.ids.device).split(run.options.batch)
        ]
        cost = torch.cat([part.nll / part.counts for part in parts])
    bound = torch.full((len(texts),), math.inf, dtype=cost.dtype, device=cost.device)
    bound[there] = cost
    run.ctx.numbers["unknown_probability"] = float((-cost).exp().mean())
    run.stop = run.carried = Bounds(0.0, 1, 0, torch.zeros(len(texts), device=cost.device))
    return replace(texts, bound=bound)
