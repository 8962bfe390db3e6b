"""How likely texts are to a model, before and after an edit, for manifests and messages. No torch at import."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from erase_plugins.families.scores import scores_of
from erase_plugins.families.texts import IGNORED, Texts

if TYPE_CHECKING:
    from torch import Tensor


def likelihoods(target: Any, texts: Texts, batch: int) -> tuple[Tensor, Tensor]:
    """(n,) negative log-likelihood of every sequence as the model is now, and the number of its tokens."""
    import torch

    # like lengths waste no padding, and rows that begin alike are read together
    order = sorted(range(len(texts)), key=lambda row: (int(texts.mask[row].sum()) // 8, texts.ids[row].tolist()))
    places = torch.tensor(order, device=texts.ids.device)
    parts = []
    with torch.no_grad():
        for rows in places.split(batch):
            part = texts[rows]
            # where the first label of all rows stands; a row may have none, since nothing in it is new
            first = max(int((part.labels != IGNORED).any(0).int().argmax()) - 1, 0)
            cost = scores_of(target, part, first).costs(part.labels)
            parts.append((cost.sum(1), (part.labels[:, 1:] != IGNORED).sum(1)))
    back = places.argsort()
    nll, counts = (torch.cat(found)[back] for found in zip(*parts, strict=True))
    return nll, counts


def means(target: Any, texts: Texts, batch: int) -> tuple[float, float]:
    """Nat per token of all texts together, and the mean over texts of the probability exp(-nat per token)."""
    nll, counts = likelihoods(target, texts, batch)
    return float(nll.sum() / counts.sum()), float((-nll / counts).exp().mean())


def note_likelihood(target: Any, ctx: Any, name: str, when: str, texts: Texts, batch: int) -> None:
    """How likely texts are, for the manifest: nat per token, and the mean probability exp(-nat per token)."""
    nll, probability = means(target, texts, batch)
    ctx.numbers[f"{name}_nll_{when}"] = nll
    ctx.numbers[f"{name}_probability_{when}"] = probability


def tell_likelihood(ctx: Any) -> None:
    """Tells the user what became of both sides."""
    numbers = ctx.numbers
    for name, what in (("forget", "forgotten"), ("retain", "retained")):
        if f"{name}_probability_after" in numbers:
            before, after = (numbers[f"{name}_probability_{when}"] for when in ("before", "after"))
            ctx.note(f"{what} texts: probability {before:.3g} before, {after:.3g} now")


def rise_of_retained(ctx: Any) -> float:
    """By how many nat per token retained texts became less likely."""
    return float(ctx.numbers.get("retain_nll_after", 0.0) - ctx.numbers.get("retain_nll_before", 0.0))
