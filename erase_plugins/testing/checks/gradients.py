"""What an edit does to a prompt can be followed by its gradient, which is how attacks look for a way round it."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING

from erase_plugins.errors import Unsupported
from erase_plugins.families.capabilities import DENOISER, TEXT
from erase_plugins.testing.case import Case
from erase_plugins.testing.checks import check_with

if TYPE_CHECKING:
    from torch import Tensor

#: distance of two passes behind the text encoder, where gates open within less than a hundredth
_NEAR = 2e-3


@check_with(DENOISER, TEXT)
def gradient_is_that_of_the_effect(case: Case) -> None:
    """Between two prompts, the gradient of the edited prediction is the slope that small steps measure.

    Asked behind the text encoder, and through it where the model's text encoders take embeddings.
    """
    from erase_plugins.engine.slopes import APART, TokenPath
    from erase_plugins.workflow.applying import apply

    behind = _EncodedPath(case)
    with warnings.catch_warnings(), apply(case.pipe, case.artifact):
        warnings.simplefilter("ignore")  # gates say that these prompts were never encoded
        _follows(behind.values, _NEAR)
        try:
            through = TokenPath(behind.target, case.concept.name)
        except Unsupported:
            return
        _follows(through.values, APART)


def _follows(values: Callable[[Tensor], Tensor], apart: float) -> None:
    from erase_plugins.engine.slopes import TOLERANCE, hidden_share

    off = hidden_share(values, apart)
    assert off is not None, "the edited prediction jumps wherever a prompt changes a little"
    assert off <= TOLERANCE, (
        f"the gradient is off by {off:.0%} of the slope that small steps measure: attacks that follow it do not see "
        "what the edit does; no torch.no_grad() or detach() between a prompt and what is made of it"
    )


class _EncodedPath:
    """What a probe says of prompts between one that does not name the concept (0) and one that does (1)."""

    def __init__(self, case: Case) -> None:
        from erase_plugins.engine.slopes import Probe

        self.target = case.target()
        self.probe = Probe(self.target)
        self.cond = self.target.encode([f"a picture of {case.concept.name}", "a red house"])
        self.named, self.other = self.cond.embeds.split(1)

    def values(self, places: Tensor) -> Tensor:
        """(n,) for places (n,) between 0 and 1."""
        rows = self.other + places[:, None, None].to(self.other) * (self.named - self.other)
        return self.probe.of(dataclasses.replace(self.cond[[0] * len(places)], embeds=rows))
