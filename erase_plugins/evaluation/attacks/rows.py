"""Learned token rows: new embeddings that stand where a word stood in a prompt. Nothing else of the model moves."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from erase_plugins.engine.adapters import Trainable
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.target import Conditioning, Target, Tokens

#: keys in textual-inversion files: one text encoder stands under its token, two under what every reader calls them
TWO_ENCODERS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
#: values in the metadata show that the file is ours
STAMP = "erase_plugins.attack"


@dataclass(frozen=True)
class Slots:
    """Prompts with room for rows: ``starts`` is the first row of each prompt, ``count`` how many there are."""

    tokens: Tokens
    starts: tuple[int, ...]
    count: int


def slots(target: Target, prompts: Sequence[str], word: str, count: int) -> Slots:
    """Token numbers of prompts in which ``word`` makes room for ``count`` rows.

    Args:
        target: gives tokens and their number.
        prompts: each names the word.
        word: what is replaced, the first time it occurs as a whole word.
        count: rows.

    Raises:
        RequestError: a prompt does not name the word, or is too long.
    """
    before, after = zip(*(_around(prompt, word) for prompt in prompts), strict=True)
    left, right, empty, any_word = (target.tokens(list(texts)) for texts in (before, after, [""], ["a"]))
    ids: dict[str, Tensor] = {}
    for name, bare in empty.ids.items():
        length, rows = bare.shape[1], []
        filler = any_word.ids[name][0, 1:2].expand(count)  # its embedding is replaced
        for place, prompt in enumerate(prompts):
            content = left.last[place] + count + right.last[place]
            if content + 2 > length:
                raise RequestError(f"'{prompt}' with {count} learned rows has {content} tokens, more than {length - 2}")
            first, last = left.ids[name][place, 1 : left.last[place] + 1], right.ids[name][place]
            parts = [bare[0, :1], first, filler, last[1 : right.last[place] + 1], bare[0, 1:]]
            rows.append(torch.cat(parts)[:length])
        ids[name] = torch.stack(rows)
    ends = tuple(a + count + b for a, b in zip(left.last, right.last, strict=True))
    return Slots(Tokens(ids, ends, tuple(prompts)), tuple(last + 1 for last in left.last), count)


def _around(prompt: str, word: str) -> tuple[str, str]:
    found = re.search(rf"(?<!\w){re.escape(word)}(?!\w)", prompt)
    if found is None:
        raise RequestError(f"'{prompt}' does not name '{word}', so nothing can stand in its place")
    return prompt[: found.start()], prompt[found.end() :]


class LearnedRows(Trainable):
    """Rows in training, (count, sum of the widths of all text encoders).

    Args:
        target: the model as it is attacked.
        start: their first values.
    """

    def __init__(self, target: Target, start: Tensor) -> None:
        super().__init__(target, [])
        self.target = target
        self.rows = nn.Parameter(start.detach().clone())

    def named_parameters(self) -> dict[str, nn.Parameter]:
        return {"rows": self.rows}

    def encode(self, where: Slots, picks: Sequence[int] | None = None) -> Conditioning:
        """Prompts (or those at ``picks``) with the rows in their slots, encoded with gradients."""
        tokens, starts = where.tokens, list(where.starts)
        if picks is not None:
            tokens, starts = tokens[picks], [starts[pick] for pick in picks]
        embedded, place = {}, 0
        prompt = torch.arange(len(starts), device=self.rows.device)[:, None]
        row = torch.tensor(starts, device=self.rows.device)[:, None] + torch.arange(where.count, device=prompt.device)
        for name, ids in tokens.ids.items():
            plain = self.target.token_table(name)[ids].to(self.rows.dtype)
            own = self.rows[:, place : place + plain.shape[-1]]
            embedded[name] = plain.index_put((prompt.expand_as(row), row), own.expand(len(starts), -1, -1))
            place += plain.shape[-1]
        return self.target.encode_live(tokens, embedded)

    def by_encoder(self) -> dict[str, Tensor]:
        """Rows of each text encoder (count, width), float32."""
        found, place = {}, 0
        for name in self.target.tokens([""]).ids:
            width = self.target.token_table(name).shape[1]
            found[name] = self.rows.detach()[:, place : place + width].float().cpu().contiguous().clone()
            place += width
        return found


def start_rows(target: Target, words: Sequence[str], count: int, chosen: bool = False) -> Tensor:
    """Rows to begin with: the embedding of the first of ``words`` that is one token, else the mean of all tokens.

    Args:
        target: the model.
        words: candidates.
        count: rows, all alike.
        chosen: the user named the word, so it must be one token.

    Raises:
        RequestError: the chosen word is not one token.
        Unsupported: the model has no text encoder whose embeddings can be read.
    """
    encoders = list(target.tokens([""]).ids)
    if not encoders:
        raise Unsupported(f"{target.info.model} has no text encoder; there is no token to learn")
    for word in words:
        tokens = target.tokens([word])
        if tokens.last == (1,):
            rows = [target.token_rows(name, tokens.ids[name][0, 1:2]) for name in encoders]
            return torch.cat(rows, dim=-1).float().repeat(count, 1)
    if chosen:
        raise RequestError(f"start '{words[0]}' is not one token of {target.info.model}; name another word")
    means = [target.token_table(name).float().mean(0, keepdim=True) for name in encoders]
    return torch.cat(means, dim=-1).repeat(count, 1)


def write_rows(rows: Mapping[str, Tensor], token: str, path: Path) -> None:
    """Writes a textual-inversion file that stock diffusers, ComfyUI and A1111 load.

    One text encoder: the rows under the name of the token. Two: under ``clip_l`` and ``clip_g``.
    """
    from safetensors.torch import save_file

    named = {token: next(iter(rows.values()))} if len(rows) == 1 else {
        TWO_ENCODERS[name]: value for name, value in rows.items()
    }  # fmt: skip
    save_file(named, path, metadata={STAMP: "concept-inversion", "token": token})
