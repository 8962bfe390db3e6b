"""Whether the gradient of an edited model is that of its effect: what attacks follow, or a blind for them.

An edit that hides its gradient withstands attacks that follow it, and no others (Athalye et al., arXiv 1802.00420). The
gradient is compared with the slope that small steps measure, at places between a prompt that names the concept and one
that has a neutral word there. Where slopes to both sides differ (gates open in jumps), nothing is asked.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from erase_plugins.engine.inversion import THINGS, LearnedRows, predicted, slots, start_rows
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.target import Conditioning, Target

#: places between the two, and how far apart the passes are that measure a slope there
PLACES, APART = 17, 1e-2
#: relative to the steepest slope: slopes to both sides that differ by twice as much are a jump or a bend
TOLERANCE = 0.05
#: for attacks: fewer places, and what is worth a word
_FEW, _WRONG = 9, 0.5
_TIMESTEP, _SEED = 500, 7


def hidden_share(values: Callable[[Tensor], Tensor], apart: float = APART, places: int = PLACES) -> float | None:
    """How far the gradient is off, as a share of the steepest slope; None if the values jump everywhere.

    Args:
        values: gives numbers (n,) for places (n,) between 0 and 1, each for its own place.
        apart: distance of the passes that measure a slope; rounding drowns small ones, large ones miss jumps.
        places: how many of them.
    """
    where = ((torch.arange(places) + 0.5) / places).requires_grad_()
    with torch.enable_grad():
        made = values(where)
        # weights may want a gradient where the places get none
        (found,) = torch.autograd.grad(made.sum(), where, allow_unused=True) if made.requires_grad else (None,)
        found = torch.zeros(places) if found is None else found
    with torch.no_grad():
        before, here, after = (values(where.detach() + step) for step in (-apart, 0.0, apart))
    left, right = (here - before) / apart, (after - here) / apart
    steepest = float(torch.cat([left, right]).abs().quantile(0.9).clamp_min(1e-12))
    smooth = (left - right).abs() <= 2 * TOLERANCE * steepest
    return float(((left + right) / 2 - found)[smooth].abs().max()) / steepest if bool(smooth.any()) else None


def hidden_warning(target: Target, concept: str) -> list[str]:
    """What an attack that follows gradients must say of a model, in the state in which it is attacked; or nothing.

    Nothing is said where it cannot be asked: the model's numbers are coarser than the steps, it jumps everywhere, its
    text encoders take no embeddings, or the name fills a prompt.
    """
    if target.dtype not in (torch.float32, torch.float64):
        return []
    try:
        off = hidden_share(TokenPath(target, concept).values, places=_FEW)
    except (RequestError, Unsupported):
        return []
    if off is None or off <= _WRONG:
        return []
    return [
        f"the gradient of the edited model is off by {off:.0%} of what small steps measure: the edit hides from "
        "attacks that follow gradients, this one among them, so what it did not find says little"
    ]


class Probe:
    """A number that a model makes of a prompt: its prediction for noise at the middle timestep, weighted at random."""

    def __init__(self, target: Target) -> None:
        self.target = target
        generator = torch.Generator().manual_seed(_SEED)
        shape = target.info.latent_shape
        self.latents, self.weights = (torch.randn(shape, generator=generator).to(target.device) for _ in range(2))

    def of(self, cond: Conditioning) -> Tensor:
        """(n,) on the processor, for n prompts, with gradients."""
        count = len(cond.embeds)
        latents = self.latents.expand(count, *self.latents.shape)
        said = predicted(self.target, latents, torch.full((count,), _TIMESTEP, device=latents.device), cond).float()
        found: Tensor = (said * self.weights).flatten(1).sum(1).cpu()
        return found


class TokenPath:
    """What a `Probe` says of prompts whose word goes from a neutral one (0) to the concept's name (1).

    It goes through the text encoders, so that edits of these are in it.

    Args:
        target: the model in the state that is asked.
        concept: a name that the model's tokenizer can read.

    Raises:
        RequestError: the name leaves no room in a prompt.
        Unsupported: the model's text encoders take no embeddings.
    """

    def __init__(self, target: Target, concept: str) -> None:
        self.probe, prompt = Probe(target), f"a picture of {concept}"
        count = max(target.tokens([concept]).last[0], 1)
        self.rows = LearnedRows(target, start_rows(target, THINGS, count))
        self.where = slots(target, [prompt], concept, count)
        with torch.no_grad():
            self.rows.encode(self.where)  # refused here where the text encoders take no embeddings
        own = slice(self.where.starts[0], self.where.starts[0] + count)
        named = [target.token_rows(name, ids[0, own]).float() for name, ids in target.tokens([prompt]).ids.items()]
        self.neutral, self.named = self.rows.rows.detach(), torch.cat(named, dim=-1)

    def values(self, places: Tensor) -> Tensor:
        """(n,) for places (n,)."""
        moved = self.neutral + places[:, None, None].to(self.neutral) * (self.named - self.neutral)
        return self.probe.of(self.rows.encode(self.where, [0] * len(places), moved))
