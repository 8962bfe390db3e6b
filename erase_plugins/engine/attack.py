"""Learned prompts that bring a concept back: the inner loop of adversarial training, in one place for every method.

The rows of an attack stand either among the embeddings that the denoiser reads (`in_context`) or among the token
embeddings that the text encoder reads (`Prefix`). They move by Adam, or by signed steps (projected gradient descent);
one signed step is the fast variant. Only the rows take a gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.engine.loop import load_optimizer, optimizer_tensors
from erase_plugins.errors import RequestError
from erase_plugins.families.base import Conditioning, Target, Tokens

RULES = ("adam", "sign")


class Attack:
    """Trainable rows that minimise a loss.

    Args:
        start: where they begin (rows, width); copied.
        rate: step size.
        rule: "adam", or "sign": every value moves by ``rate`` against the sign of its gradient.
        decay: weight decay of Adam.
        radius: no value leaves the cube of this half width around the start; None: no bound.
    """

    def __init__(
        self, start: Tensor, rate: float, rule: str = "adam", decay: float = 0.0, radius: float | None = None
    ) -> None:
        if rule not in RULES:
            raise RequestError(f"unknown attack rule '{rule}'; choose one of {', '.join(RULES)}")
        self.start = start.detach().clone().float()
        self.rows = nn.Parameter(self.start.clone())
        self.rate, self.rule, self.radius = rate, rule, radius
        self._optimizer = torch.optim.Adam([self.rows], lr=rate, weight_decay=decay)

    def step(self, loss: Tensor, keep_graph: bool = False) -> float:
        """One update against the gradient of ``loss``; returns its value. ``keep_graph`` if the pass is used again."""
        (grad,) = torch.autograd.grad(loss, [self.rows], retain_graph=keep_graph)
        with torch.no_grad():
            if self.rule == "sign":
                self.rows.sub_(self.rate * grad.sign())
            else:
                self.rows.grad = grad
                self._optimizer.step()
                self._optimizer.zero_grad(set_to_none=True)
            if self.radius is not None:
                self.rows.copy_(self.start + (self.rows - self.start).clamp(-self.radius, self.radius))
        return float(loss.detach())

    def run(self, loss_of: Callable[[Tensor, int], Tensor], steps: int) -> list[float]:
        """``steps`` updates; ``loss_of(rows, step)`` is asked before each. Returns the losses."""
        return [self.step(loss_of(self.rows, step)) for step in range(steps)]

    def tensors(self) -> dict[str, Tensor]:
        """State for a checkpoint."""
        return {"start": self.start, "rows": self.rows.detach(), **optimizer_tensors(self._optimizer)}

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        self.start.copy_(tensors["start"])
        self.rows.copy_(tensors["rows"])
        load_optimizer(self._optimizer, tensors)


class Attacks:
    """Named attacks that live as long as a training run; carried through its checkpoints (see `loop.train`)."""

    def __init__(self, members: Mapping[str, Attack]) -> None:
        self.members = dict(members)

    def __getitem__(self, name: str) -> Attack:
        return self.members[name]

    def tensors(self) -> dict[str, Tensor]:
        """State of all of them."""
        names = enumerate(self.members.values())
        return {f"{n}.{name}": part for n, attack in names for name, part in attack.tensors().items()}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Inverse of `tensors`."""
        for n, attack in enumerate(self.members.values()):
            prefix = f"{n}."
            own = {name.removeprefix(prefix): part for name, part in tensors.items() if name.startswith(prefix)}
            attack.load(own)


def in_context(cond: Conditioning, rows: Tensor | Sequence[Tensor]) -> Conditioning:
    """Encoded prompts with ``rows`` right behind the last content token of each, in place of what stood there.

    Args:
        cond: encoded prompts.
        rows: (rows, width) for all prompts, or one such tensor per prompt.

    Raises:
        RequestError: no room left.
    """
    parts = [rows] * len(cond.last) if isinstance(rows, Tensor) else list(rows)
    length, made = cond.embeds.shape[1], []
    for embeds, last, new in zip(cond.embeds, cond.last, parts, strict=True):
        end = last + 1 + len(new)
        if end > length:
            raise RequestError(f"{len(new)} learned rows behind {last} tokens do not fit into {length}; use fewer")
        made.append(torch.cat([embeds[: last + 1], new.to(embeds.dtype), embeds[end:]]))
    return replace(cond, embeds=torch.stack(made))


@dataclass(frozen=True)
class Prefix:
    """Learned token embeddings in front of prompts.

    Attributes:
        target: the model.
        count: embeddings; all text encoders get as many, side by side in one row of an attack.
    """

    target: Target
    count: int

    def start(self, encoders: Sequence[str], generator: torch.Generator) -> Tensor:
        """Embeddings of random vocabulary entries (count, sum of widths)."""
        tables = [self.target.token_table(name) for name in encoders]
        picks = [torch.randint(len(table), (self.count,), generator=generator).to(table.device) for table in tables]
        return torch.cat([table[pick].float() for table, pick in zip(tables, picks, strict=True)], dim=-1)

    def check(self, tokens: Tokens) -> None:
        """Refuses prompts that leave no room.

        Raises:
            RequestError: a prompt does not fit any more.
        """
        length = next(iter(tokens.ids.values())).shape[1]
        if max(tokens.last) + self.count + 2 > length:
            raise RequestError(
                f"a prompt of {max(tokens.last)} tokens leaves no room for {self.count} more in {length}; shorten it"
            )

    def encode(self, tokens: Tokens, rows: Tensor) -> Conditioning:
        """``tokens`` with the prefix ``rows`` behind the start token, encoded with gradients; see `check`."""
        self.check(tokens)
        ids, embedded, place = {}, {}, 0
        length = next(iter(tokens.ids.values())).shape[1]
        for name, part in tokens.ids.items():
            filler = part[:, 1:2].expand(-1, self.count)  # any ordinary token: its embedding is replaced
            ids[name] = torch.cat([part[:, :1], filler, part[:, 1 : length - self.count]], dim=1)
            table = self.target.token_table(name)
            own = rows[:, place : place + table.shape[1]].expand(len(part), -1, -1)
            plain = table[ids[name]]
            embedded[name] = torch.cat([plain[:, :1], own.to(plain.dtype), plain[:, 1 + self.count :]], dim=1)
            place += table.shape[1]
        moved = Tokens(ids, tuple(last + self.count for last in tokens.last), tokens.prompts)
        return self.target.encode_live(moved, embedded)


def token_rows(target: Target, prompt: str, phrase: str) -> tuple[int, ...]:
    """Rows of a phrase inside a prompt, by its token numbers.

    Raises:
        RequestError: the phrase is not in the prompt.
    """
    both: Any = target.tokens([prompt, phrase])
    ids = next(iter(both.ids.values())).tolist()
    whole, part = ids[0][: both.last[0] + 1], ids[1][1 : both.last[1] + 1]
    for start in range(1, len(whole) - len(part) + 1):
        if part and whole[start : start + len(part)] == part:
            return tuple(range(start, start + len(part)))
    raise RequestError(f"'{phrase}' is not in the prompt '{prompt[:60]}', or it was cut off")
