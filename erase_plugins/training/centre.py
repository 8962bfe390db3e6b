"""What AEGIS adds to negative guidance (Li et al., ICLR 2026, arXiv 2602.06771): a moving concept, a turned gradient.

The concept whose prediction the target goes away from is a token. Before every training step it takes a step by the
sign of the gradient towards what the frozen model and the student answer to the concept's prompt, the centre of what is
left of it and what was there:

    e <- e - step sign d/de [ |eps*(x, e) - eps*(x, c)|^2 + |eps*(x, e) - eps(x, c)|^2 ]

The weights are held without any data: the gradient of |theta - theta0|^2 counts where it opposes that of erasing, and
only its part across it, with a weight that grows from 0 over the training.

Written from a summary of the paper; its code was not available.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from erase_plugins.engine.adapters import LoraSlot, Trainable
from erase_plugins.engine.inversion import LearnedRows, slots
from erase_plugins.engine.trajectories import States, ask, join

if TYPE_CHECKING:
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import Conditioning, Target
    from erase_plugins.types import Concept


class Centre:
    """One token per concept; carried by the checkpoints of a training.

    Args:
        target: the model; `erase_plugins.families.target.Target.encode_live` encodes the tokens.
        adapters: switched off for the frozen model.
        concepts: what is erased; the tokens begin as the mean embedding of a name's tokens.
        templates: prompts with {} for the concept or its token.
        size: of a step, in units of the embeddings.
        ctx: counts passes.
    """

    def __init__(
        self, target: Target, adapters: Trainable, concepts: Sequence[Concept], templates: Sequence[str], size: float,
        ctx: RunContext,
    ) -> None:  # fmt: skip
        self.target, self.adapters, self.size, self.ctx = target, adapters, size, ctx
        self.where = slots(target, templates, "{}", 1)
        self.rows = [name_row(target, concept.text) for concept in concepts]
        self._place = {
            template.format(phrase): (owner, place)
            for owner, concept in enumerate(concepts)
            for place, template in enumerate(templates)
            for phrase in (concept.text, *concept.prompts)
        }

    def prediction(self, states: States, cond: Conditioning) -> Tensor:
        """The frozen model's answers to the prompts with the tokens as they are; afterwards the tokens move on.

        Args:
            states: with the frozen model's predictions for ``cond`` by the name "prompt".
            cond: prompts of the concepts, encoded.
        """
        places = [self._place[prompt] for prompt in cond.prompts]
        learned = {owner: LearnedRows(self.target, self.rows[owner]) for owner, _ in places}
        with torch.no_grad():
            student = ask(self.target, states.inputs, states.timestep, cond, self.ctx)
        with self.adapters.disabled(), torch.enable_grad():
            tokens = join([learned[owner].encode(self.where, [place]) for owner, place in places])
            found = ask(self.target, states.inputs, states.timestep, tokens, self.ctx)
            away = (found - states.predictions["prompt"]).square() + (found - student).square()
            grads = torch.autograd.grad(away.mean(), [item.rows for item in learned.values()])
        for owner, grad in zip(learned, grads, strict=True):
            self.rows[owner] = self.rows[owner] - self.size * grad.sign()
        return found.detach()

    def tensors(self) -> dict[str, Tensor]:
        """The tokens."""
        return {str(owner): rows for owner, rows in enumerate(self.rows)}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        self.rows = [tensors[str(owner)].to(rows) for owner, rows in enumerate(self.rows)]


def name_row(target: Target, name: str) -> Tensor:
    """Mean embedding of a name's tokens, (1, width of all text encoders) float32."""
    tokens = target.tokens([name])
    own = slice(1, tokens.last[0] + 1)
    parts = [target.token_rows(encoder, ids[0, own]).float().mean(0) for encoder, ids in tokens.ids.items()]
    return torch.cat(parts, dim=-1)[None]


def change_size(adapters: Trainable) -> Tensor:
    """|theta - theta0|^2 with its gradient; of a low-rank change B A it is tr(B^T B A A^T)."""
    total = torch.zeros(())
    for slot in adapters.slots:
        if isinstance(slot, LoraSlot):
            A, B = slot.A.flatten(1), slot.B.flatten(1)
            total = total.to(A.device) + slot.scale**2 * ((B.T @ B) * (A @ A.T)).sum()
        else:
            total = sum((part.square().sum() for _, part in slot.parts()), total)
    return total


def turned(erase: Sequence[Tensor | None], hold: Sequence[Tensor | None], weight: float) -> list[Tensor | None]:
    """Gradients of erasing, and across them ``weight`` times those that hold, where these oppose them."""
    pairs = [(one, other) for one, other in zip(erase, hold, strict=True) if one is not None and other is not None]
    opposed = sum(float((one * other).sum()) for one, other in pairs)
    size = sum(float(one.square().sum()) for one in erase if one is not None)
    if opposed >= 0 or not size:
        return list(erase)
    share = opposed / size
    return [
        one if one is None or other is None else one + weight * (other - share * one)
        for one, other in zip(erase, hold, strict=True)
    ]
