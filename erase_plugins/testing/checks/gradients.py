"""What an edit does to a prompt can be followed by its gradient, which is how attacks look for a way round it."""

from __future__ import annotations

import dataclasses
import warnings
from typing import TYPE_CHECKING

from erase_plugins.families.capabilities import DENOISER, TEXT
from erase_plugins.testing.case import Case
from erase_plugins.testing.checks import check_with

if TYPE_CHECKING:
    from torch import Tensor

#: places between two prompts, and how far apart the passes are that measure a slope there
_PLACES, _APART = 17, 2e-3
#: relative to the steepest slope: slopes to both sides that differ by more are a jump or a bend, where nothing is asked
TOLERANCE = 0.05


@check_with(DENOISER, TEXT)
def gradient_is_that_of_the_effect(case: Case) -> None:
    """Between two prompts, the gradient of the edited prediction is the slope that small steps measure.

    An edit that hides its gradient withstands attacks that follow it, and no others (Athalye et al., arXiv 1802.00420).
    """
    import torch

    from erase_plugins.workflow.applying import apply

    slope = _Slope(case)
    places = ((torch.arange(_PLACES) + 0.5) / _PLACES).requires_grad_()
    with warnings.catch_warnings(), apply(case.pipe, case.artifact):
        warnings.simplefilter("ignore")  # gates say that these prompts were never encoded
        values = slope.values(places)
        found = torch.autograd.grad(values.sum(), places)[0] if values.requires_grad else torch.zeros(_PLACES)
        with torch.no_grad():
            before, here, after = (slope.values(places.detach() + step) for step in (-_APART, 0.0, _APART))
    left, right = (here - before) / _APART, (after - here) / _APART
    steepest = float(torch.cat([left, right]).abs().quantile(0.9).clamp_min(1e-12))
    smooth = (left - right).abs() <= 2 * TOLERANCE * steepest
    assert bool(smooth.any()), "the edited prediction jumps wherever a prompt changes a little"
    off = float(((left + right) / 2 - found)[smooth].abs().max()) / steepest
    assert off <= TOLERANCE, (
        f"the gradient is off by {off:.0%} of the slope that small steps measure: attacks that follow it do not see "
        "what the edit does; no torch.no_grad() or detach() between a prompt and what is made of it"
    )


class _Slope:
    """A number that the model makes of prompts between one that names the concept and one that does not."""

    def __init__(self, case: Case) -> None:
        import torch

        self.target = case.target()
        named = f"a picture of {case.concept.name}"
        self.cond = self.target.encode([named] * _PLACES)
        self.named, self.other = self.target.encode([named, "a red house"]).embeds.split(1)
        generator = torch.Generator().manual_seed(7)
        shape = self.target.info.latent_shape
        one, self.weights = (torch.randn(shape, generator=generator).to(self.target.device) for _ in range(2))
        self.latents = one.to(self.target.dtype).expand(_PLACES, *shape)

    def values(self, places: Tensor) -> Tensor:
        """(n,) for places (n,) between 0, the other prompt, and 1, the one that names the concept."""
        rows = self.other + places[:, None, None].to(self.other) * (self.named - self.other)
        predicted = self.target.predict(self.latents, 500, dataclasses.replace(self.cond, embeds=rows)).float()
        found: Tensor = (predicted * self.weights).flatten(1).sum(1).cpu()
        return found
