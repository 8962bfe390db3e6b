"""Which prompts were encoded lately: token numbers, found again by the embeddings that a denoiser is given.

A text encoder is watched with one hook while gates that know their concept's name are in force. Of every prompt it
keeps one row per layer: the one behind the last token, in which causal encoders gather the whole prompt. A context
whose row is that one, up to a cast, was made of those token numbers. Rows are compared, not positions in a batch, so
repetition by classifier-free guidance and several windows of a long prompt do not matter.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.names import PROMPTS

#: rows that are kept of all prompts together (12 MB at a width of 768)
_MOST = 4096
#: units in the last place of the coarser type by which a row may differ: half precision, float32
_HALF_ULPS, _ULPS = 2.0, 8.0


@dataclass(frozen=True, eq=False)
class _Known:
    ids: tuple[int, ...]
    place: int
    rows: Tensor


class PromptMemory:
    """Prompts that one text encoder has encoded since it is watched.

    Args:
        encoder: a text encoder that takes ``input_ids`` first or by name.
    """

    def __init__(self, encoder: nn.Module) -> None:
        self.encoder = encoder
        self.users = 0
        self.changes = 0  # how often a prompt came in
        self._found: tuple[Any, ...] = ()
        self.told = False  # whether somebody was warned of an unknown prompt
        self._known: deque[_Known] = deque()
        self._handle: Any = None

    @classmethod
    def of(cls, encoder: nn.Module) -> PromptMemory:
        """The memory of an encoder with one more user, who is to `leave` it."""
        found: PromptMemory | None = encoder.__dict__.get(PROMPTS)
        if found is None:
            found = cls(encoder)
            found._handle = encoder.register_forward_hook(found._seen, with_kwargs=True)
            object.__setattr__(encoder, PROMPTS, found)
        found.users += 1
        return found

    def leave(self) -> None:
        """One user less; the last one takes the hook off."""
        self.users -= 1
        if self.users == 0:
            self._handle.remove()
            self.encoder.__dict__.pop(PROMPTS, None)

    def _seen(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        ids = kwargs.get("input_ids", args[0] if args else None)
        parts = output if isinstance(output, tuple) else (getattr(output, "last_hidden_state", None),)
        last = next((part for part in parts if isinstance(part, Tensor) and part.ndim == 3), None)
        if not isinstance(ids, Tensor) or ids.ndim != 2 or last is None:
            return
        self.remember(ids, last, tuple(getattr(output, "hidden_states", None) or ()))

    @torch.no_grad()
    def remember(self, ids: Tensor, last: Tensor, hidden: tuple[Tensor, ...] = ()) -> None:
        """Keeps prompts with what they were encoded to.

        Args:
            ids: token numbers (prompts, tokens), padded.
            last: the encoder's output (prompts, tokens, dim).
            hidden: outputs of its layers, each of that shape; pipelines take one of them, some through the last norm.
        """
        norm = getattr(getattr(self.encoder, "text_model", self.encoder), "final_layer_norm", None)
        for number, row in enumerate(ids.tolist()):
            place = end_of(row)
            rows = torch.stack([last[number, place], *(part[number, place] for part in hidden)]).detach()
            if hidden and norm is not None:
                rows = torch.cat([rows, norm(rows[1:])])
            known = _Known(tuple(row), place, rows)
            same = next((item for item in self._known if item.ids == known.ids), None)
            if same is None or same.rows.shape != rows.shape or not torch.equal(same.rows, rows.to(same.rows)):
                self._known.append(known)
                self.changes += 1
        while len(self._known) > 1 and sum(len(item.rows) for item in self._known) > _MOST:
            self._known.popleft()

    def find(self, rows: Tensor, context: Tensor | None = None) -> list[list[tuple[int, ...]]]:
        """Token numbers of the prompts that every window of a context was made of; empty where none is known.

        Args:
            rows: (windows, tokens, dim); an encoder narrower than the context made its first columns.
            context: what the windows were cut from; several gates that ask for the same one are answered alike.
        """
        if context is None or context.is_inference():
            return self._find(rows)
        asked = (context._version, rows.shape, self.changes)
        if not self._found or self._found[0] is not context or self._found[1] != asked:
            self._found = (context, asked, self._find(rows))
        found: list[list[tuple[int, ...]]] = self._found[2]
        return found

    def _find(self, rows: Tensor) -> list[list[tuple[int, ...]]]:
        found: list[list[tuple[int, ...]]] = [[] for _ in range(len(rows))]
        for group in self._groups(rows):
            stored = torch.cat([item.rows.to(rows.device) for item in group])  # encoders may be offloaded
            owners = [item for item in group for _ in item.rows]
            here = rows[:, group[0].place, : stored.shape[1]]
            for window, number in equal(here, stored).nonzero().tolist():
                found[window].append(owners[number].ids)
        return found

    def _groups(self, rows: Tensor) -> Iterator[list[_Known]]:
        """Known prompts of one length, width and type."""
        groups: dict[Any, list[_Known]] = {}
        for item in list(self._known):
            if item.place < rows.shape[1] and item.rows.shape[1] <= rows.shape[2]:
                groups.setdefault((item.place, item.rows.shape[1], item.rows.dtype), []).append(item)
        yield from groups.values()


def end_of(ids: list[int]) -> int:
    """Place of the first of the equal numbers that a padded prompt ends with, or of its last token."""
    place = len(ids) - 1
    while place > 0 and ids[place - 1] == ids[-1]:
        place -= 1
    return place


def equal(rows: Tensor, stored: Tensor) -> Tensor:
    """(windows, n): whether rows (windows, dim) are the stored ones (n, dim), cast as they are or by way of a half."""
    if rows.dtype == stored.dtype == torch.float32:
        casts = (stored, *(stored.to(half).to(stored.dtype) for half in (torch.float16, torch.bfloat16)))
        return torch.stack([_equal(rows, cast) for cast in casts]).any(0)
    return _equal(rows, stored)


def _equal(rows: Tensor, stored: Tensor) -> Tensor:
    step = max(torch.finfo(rows.dtype).eps, torch.finfo(stored.dtype).eps)
    share = step * (_ULPS if step < 1e-6 else _HALF_ULPS)
    one, other = rows.float()[:, None], stored.float()[None]
    slack = share * (other.abs() + 0.01 * other.abs().amax(-1, keepdim=True))
    return ((one - other).abs() <= slack).all(-1)
