"""SAFREE, its part on prompt embeddings (Yoon et al., ICLR 2025, arXiv 2410.12761).

Tokens that lead to a concept lose it. With C the pooled embeddings of the concept's phrases, P_C the projector on their
span, p_i the pooled embedding of the prompt with its i-th token masked and P_I the projector on the span of all p_i:
token i leads to the concept if d_i = |(I - P_C) p_i| is at least (1 + alpha) times the mean of the others' d_j; its row
e_i becomes (I - P_C) P_I e_i.
The rows are used in the first steps only, the more the less they are like the old ones. The paper's part on latents
(Fourier components of skip features) is not here.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.errors import RunRefused
from erase_plugins.runtime.guardrails.looking import listed
from erase_plugins.runtime.guardrails.watch import Quiet

#: steepness and middle of the curve that gives the number of steps; the second pair for styles
CURVES = {"concept": (2.5, 5.333), "style": (3.5, 5.5)}
#: replaces a masked token (the official code's choice: an ordinary token, no mask)
MASK = 0


def basis(rows: Tensor) -> Tensor:
    """Orthonormal columns (dim, rank) of the span of rows (n, dim), float64."""
    wide = rows.double()
    _, sizes, right = torch.linalg.svd(wide, full_matrices=False)
    kept = sizes > sizes.max().clamp_min(1e-300) * 1e-6
    return right[kept].T


def onto(basis_: Tensor, rows: Tensor) -> Tensor:
    """Rows (n, dim) projected on a span, float64."""
    return rows.double() @ basis_ @ basis_.T


def triggers(masked: Tensor, concept: Tensor, alpha: float) -> Tensor:
    """Which tokens lead to the concept, (n,) bool; none in a prompt of one token.

    Args:
        masked: (n, dim) pooled embeddings of the prompt, each with one token masked.
        concept: (dim, k) basis of the concept.
        alpha: how far above the others' mean a token has to be.
    """
    far = (masked.double() - onto(concept, masked)).norm(dim=-1)
    if len(far) < 2:
        return torch.zeros(len(far), dtype=torch.bool)
    others = (far.sum() - far) / (len(far) - 1)
    return far >= (1.0 + alpha) * others


def cleaned(rows: Tensor, masked: Tensor, concept: Tensor, alpha: float) -> tuple[Tensor, float]:
    """Content rows of a prompt without the concept where they lead to it, and beta: how unlike the old ones all become.

    Args:
        rows: (n, dim) rows of the content tokens.
        masked, concept, alpha: as for `triggers`.
    """
    inside = onto(basis(masked), rows)
    without = inside - onto(concept, inside)
    hit = triggers(masked, concept, alpha)
    beta = 1.0 - float(torch.cosine_similarity(rows.double(), without, dim=-1).mean())
    return torch.where(hit[:, None], without, rows.double()).to(rows.dtype), beta


def last_step(beta: float, curve: tuple[float, float]) -> int:
    """Last step, from 0, in which the cleaned rows are used."""
    steep, middle = curve
    return round(10.0 / (1.0 + math.exp(-2.0 * steep * (10.0 * beta - middle))))


class Safree(Quiet):
    """Cleaned rows in the place of the prompt's in the first steps of a picture."""

    def __init__(
        self, phrases: list[str], alpha: float, curve: tuple[float, float], target: Any, denoiser: nn.Module,
        strength: float,
    ) -> None:  # fmt: skip
        self.alpha, self.curve, self.target, self.strength = alpha, curve, target, strength
        self.concept = basis(self._pooled(target.tokens(phrases).ids["text_encoder"]))
        self.step, self.rows, self.guided = 0, 0, False
        self.cleaned: Tensor | None = None
        self.until: list[int] = []
        self.handle = denoiser.register_forward_pre_hook(self._exchange, with_kwargs=True, prepend=True)

    @torch.no_grad()
    def _pooled(self, ids: Tensor) -> Tensor:
        encoder = self.target.pipe.text_encoder
        found: Tensor = encoder(ids.to(encoder.device)).pooler_output.float().cpu()
        return found

    def before(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments as they are.

        Raises:
            RunRefused: embeddings in the place of a prompt.
        """
        if given.get("prompt") is None:
            raise RunRefused("the guard 'safree' cannot read prompt_embeds; give the prompt as text")
        return given

    def after(self, given: dict[str, Any], result: Any) -> Any:
        """The result as it is; cleaned rows are kept for the first steps."""
        embeds, prompts = result[0], listed(given["prompt"])
        self.step, self.rows = 0, int(embeds.shape[0])
        self.guided = bool(given.get("do_classifier_free_guidance"))
        tokens = self.target.tokens(prompts)
        pictures, self.until = self.rows // len(prompts), []
        new = embeds.clone()
        for place, last in enumerate(tokens.last):
            block = slice(place * pictures, (place + 1) * pictures)
            ids = tokens.ids["text_encoder"][place]
            if last < 2:
                self.until += [-1] * pictures
                continue
            without = ids.repeat(last, 1)
            without[torch.arange(last), torch.arange(1, last + 1)] = MASK
            rows = embeds[block.start, 1 : last + 1].float().cpu()
            rows, beta = cleaned(rows, self._pooled(without), self.concept, self.alpha)
            new[block, 1 : last + 1] = rows.to(new)
            self.until += [last_step(beta, self.curve)] * pictures
        self.cleaned = new
        return result

    def end(self) -> None:
        """The picture is finished: passes from now on are not its steps."""
        self.rows, self.cleaned = 0, None

    def _exchange(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if self.strength == 0.0 or self.cleaned is None or "encoder_hidden_states" not in kwargs:
            return None
        states, start = kwargs["encoder_hidden_states"].clone(), self.rows * self.guided
        for place, last in enumerate(self.until):
            if self.step <= last:
                states[start + place] = self.cleaned[place].to(states)
        self.step += 1
        return args, {**kwargs, "encoder_hidden_states": states}

    def detach(self) -> None:
        """Takes the hook off."""
        self.handle.remove()
