"""The words that an attack may choose from: each is one token of the text encoder, alone and beside any other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from erase_plugins.errors import RequestError
from erase_plugins.families.target import Target, Tokens

#: words whose tokens are looked up at once
_CHUNK = 4096
FORBID = ("name", "synonyms", "none")


@dataclass(frozen=True)
class WordTable:
    """Words and their token numbers.

    Attributes:
        words: in token order.
        ids: text encoder -> (words,) int64.
        empty: text encoder -> (tokens,) int64: the empty prompt, from which start, end and padding are taken.
    """

    words: tuple[str, ...]
    ids: Mapping[str, Tensor]
    empty: Mapping[str, Tensor]

    @property
    def room(self) -> int:
        """Words that fit into a prompt."""
        return len(next(iter(self.empty.values()))) - 2

    def text(self, row: Sequence[int]) -> str:
        """The words of places in the table."""
        return " ".join(self.words[place] for place in row)

    def tokens(self, rows: Tensor) -> Tokens:
        """Prompts of (n, k) places in the table, as the tokenizer would give them."""
        count, size = rows.shape
        found = {}
        for name, empty in self.empty.items():
            ids = empty.repeat(count, 1)
            ids[:, size + 1 :] = empty[1 : len(empty) - size].clone()
            ids[:, 1 : size + 1] = self.ids[name][rows.to(self.ids[name].device)]
            found[name] = ids
        return Tokens(found, (size,) * count, tuple(self.text(row) for row in rows.tolist()))

    def put(self, tokens: Tokens, rows: Tensor) -> Tokens:
        """Prompts with (n, k) places of the table in front; padding at the end makes room.

        Raises:
            RequestError: a prompt is too long for it.
        """
        size = rows.shape[1]
        longest = max(tokens.last)
        if longest + size > self.room:
            raise RequestError(
                f"a prompt of {longest} tokens leaves no room for {size} more; the text encoder reads {self.room}"
            )
        ids = {
            name: torch.cat([part[:, :1], self.ids[name][rows.to(part.device)], part[:, 1 : part.shape[1] - size]], 1)
            for name, part in tokens.ids.items()
        }
        texts = tuple(f"{self.text(row)} {text}" for row, text in zip(rows.tolist(), tokens.prompts, strict=True))
        return Tokens(ids, tuple(last + size for last in tokens.last), texts)


def word_table(target: Target, forbidden: Iterable[str] = ()) -> WordTable:
    """Whole words of the target's vocabulary that are one token, without ``forbidden`` ones and their plurals.

    Raises:
        Unsupported: the host shows no tokenizer.
        RequestError: no word is left.
    """
    taken = {form for word in forbidden for form in (word.lower(), f"{word.lower()}s", f"{word.lower()}es")}
    words = [word for word in dict.fromkeys(target.vocabulary()) if word.lower() not in taken]
    kept: list[str] = []
    parts: dict[str, list[Tensor]] = {}
    for start in range(0, len(words), _CHUNK):
        tokens = target.tokens(words[start : start + _CHUNK])
        single = [place for place, last in enumerate(tokens.last) if last == 1]
        kept += [tokens.prompts[place] for place in single]
        for name, ids in tokens.ids.items():
            parts.setdefault(name, []).append(ids[single, 1])
    if not kept:
        raise RequestError(f"{target.info.model} has no whole words to choose from")
    empty = {name: ids[0] for name, ids in target.tokens([""]).ids.items()}
    return WordTable(tuple(kept), {name: torch.cat(found) for name, found in parts.items()}, empty)


def forbidden_words(world: object, names: Iterable[str], rule: str) -> set[str]:
    """Words that a prompt must not contain: those of the names, and with "synonyms" those of their other names."""
    from erase_plugins.evaluation.attacks.phrasing import synonyms

    found: set[str] = set()
    for name in names if rule != "none" else ():
        axis = "style" if name in world.styles else "concept"  # type: ignore[attr-defined]
        others = [phrase.text for phrase in synonyms(world, axis, name)] if rule == "synonyms" else []
        found |= {word for text in (name, *others) for word in text.lower().split()}
    return found
