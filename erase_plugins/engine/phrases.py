"""Which embedding rows stand for a phrase, which words mean the same, and which words are worth keeping."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from erase_plugins.errors import RequestError
from erase_plugins.families.base import Conditioning, Target

#: 6 phrasings per kind, as the official UCE code expands them
TEMPLATES = {
    "style": ("{}", "painting by {}", "art by {}", "artwork by {}", "picture by {}", "style of {}"),
    "object": ("{}", "image of {}", "photo of {}", "portrait of {}", "picture of {}", "painting of {}"),
}


#: rows counted from the last content row: first, behind the last
ROWS = {"last": (0, 1), "eot": (1, 2), "last+eot": (0, 2)}


def expand(text: str, kind: str) -> tuple[str, ...]:
    """Phrasings of a concept; a blank guide stays blank."""
    if not text.strip():
        return (text,) * len(TEMPLATES["object"])
    return tuple(template.format(text) for template in TEMPLATES.get(kind, TEMPLATES["object"]))


def check_phrase(cond: Conditioning, index: int) -> None:
    """Refuses a phrase without content tokens: it would map the start token and break every prompt.

    Raises:
        RequestError: names the phrase.
    """
    if cond.last[index] < 1:
        raise RequestError(
            f"'{cond.prompts[index]}' has no content tokens for this text encoder; name the concept in words"
        )


def paired_rows(erased: Conditioning, guide: Conditioning, i: int, j: int, mode: str) -> tuple[Tensor, Tensor]:
    """Rows of a phrase and the rows they become, paired.

    Args:
        erased, guide: encoded prompts.
        i, j: which prompt of each.
        mode: "last" takes the last content row; "eot" the end row behind it (TRCE), "last+eot" both; "window" the last
            content row and everything after it that both have (UCE, 2023 code); "all" every row by position (RECE).

    Returns:
        Two (n, dim) float64 tensors.
    """
    a, b = erased.embeds[i].double().cpu(), guide.embeds[j].double().cpu()
    first, second = erased.last[i], guide.last[j]
    if mode in ROWS:
        start, stop = ROWS[mode]
        return a[first + start : first + stop], b[second + start : second + stop]
    if mode == "all":
        return a, b
    far = max(first, second)
    length = a.shape[0]
    return a[first : length - (far - first)], b[second : length - (far - second)]


@dataclass(frozen=True)
class Vocabulary:
    """Common words of the text encoder with their rows, and how close a phrase is to each of them.

    Closeness is the cosine between mean end-and-padding rows, centred on the vocabulary and measured by what the key
    and value projections make of them (Sigma = sum W^T W). Those rows carry the meaning of the whole phrase.
    """

    words: tuple[str, ...]
    cond: Conditioning
    sigma: Tensor

    @classmethod
    def of(cls, target: Target, limit: int, sigma: Tensor) -> Vocabulary:
        """The first ``limit`` words of the target's vocabulary."""
        words = target.vocabulary()[:limit]
        if not words:
            raise RequestError("this text encoder offers no vocabulary; set vocabulary=0 and name what to keep")
        return cls(words, target.encode(words), sigma)

    @cached_property
    def _root(self) -> Tensor:
        size = self.sigma.shape[0]
        ridge = 1e-9 * float(self.sigma.trace()) / size
        return torch.linalg.cholesky(self.sigma + ridge * torch.eye(size, dtype=torch.float64))

    @cached_property
    def _centre(self) -> Tensor:
        return meaning(self.cond).mean(0)

    @cached_property
    def _directions(self) -> Tensor:
        return self._unit(meaning(self.cond))

    def _unit(self, features: Tensor) -> Tensor:
        centred = (features - self._centre) @ self._root
        return centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def closeness(self, cond: Conditioning) -> Tensor:
        """(prompts, words) cosines in -1..1."""
        return self._unit(meaning(cond)) @ self._directions.T

    def near(self, cond: Conditioning, threshold: float) -> tuple[str, ...]:
        """Words at least as close to any of the prompts as ``threshold``, closest first."""
        best = self.closeness(cond).max(0).values
        order = torch.argsort(best, descending=True).tolist()
        return tuple(self.words[index] for index in order if float(best[index]) >= threshold)


def meaning(cond: Conditioning) -> Tensor:
    """Mean of the rows behind the last content token, (prompts, dim) float64."""
    length = cond.embeds.shape[1]
    rows = [cond.embeds[i, min(last + 1, length - 1) :].double().mean(0).cpu() for i, last in enumerate(cond.last)]
    return torch.stack(rows)


def projection_gram(target: Target, group: str = "cross_kv") -> Tensor:
    """Sigma: sum of W^T W over the key and value projections, (dim, dim) float64."""
    total: Tensor | None = None
    for ref in target.modules(group):
        weight = target.weight(ref).double().cpu()
        part = weight.T @ weight
        total = part if total is None else total + part
    assert total is not None
    return total


def lines(values: Sequence[str], limit: int = 8) -> str:
    """A short list for messages."""
    shown = ", ".join(values[:limit])
    return shown + (f" and {len(values) - limit} more" if len(values) > limit else "")
