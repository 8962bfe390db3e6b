"""Words that a text encoder knows: which of them mean the same as a phrase, and what they sum up to.

All words are encoded once for an encoder, in batches; what is needed of them stays in `disk_cache`, so the next session
need not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from erase_plugins.artifacts.ledger import gram_sum, pack, unpack
from erase_plugins.engine import disk_cache, shipped_words
from erase_plugins.engine.door_rows import kept_parts, part_meaning
from erase_plugins.engine.stop_words import stopped
from erase_plugins.engine.words import most_words, real_words
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.base import Conditioning, Target, TargetInfo
from erase_plugins.types import Concept

#: raised when the same rows give other facts
_FORMAT = 3
#: what words stand in where nothing is said: nothing
ALONE = ("{}",)
#: words that are encoded before their rows are summed up and let go, and values of these rows (2 GiB in float32)
_BATCH, _VALUES = 1024, 1 << 29
#: prompts with short rows that are encoded at once, at least
_FEWEST = 16
#: a text encoder of more rows is asked for the first rows behind a word only, so many, where all words are searched
_WHOLE, _TAIL = 32, 3
#: words whose rows are kept at hand for the rest of the run
_AT_HAND = 300


@dataclass(frozen=True)
class Vocabulary:
    """Words that the text encoder knows, how close a phrase is to each of them, and their sum.

    Closeness is the cosine between mean end-and-padding rows, centred on the vocabulary and measured by what the key
    and value projections make of them (Sigma = sum W^T W). Those rows carry the meaning of the whole phrase.

    Attributes:
        words: those that are kept, most common first.
        searched: those that are compared with phrases, the kept ones first.
        features: `meaning` of each searched word, (words, dim) float64.
        sigma: (dim, dim) float64; None: rows go through ``readers`` one by one, which costs less for few of them.
        weight: of each word in the sum.
        frames: prompts that the words of the sum stand in, in turn.
        block: ledger sum of their rows, (dim, dim) int64; None if they weigh nothing.
        tail: rows behind a word's last token that are encoded, as in `word_facts`.
        readers: where there is no sigma, weight of each projection that reads text rows and the columns it reads.
        rows: of the words that this call has encoded, as the sum counts them; few or none.
    """

    words: tuple[str, ...]
    searched: tuple[str, ...]
    features: Tensor
    sigma: Tensor | None
    weight: float = 0.0
    frames: tuple[str, ...] = ALONE
    block: Tensor | None = None
    tail: int = 0
    readers: tuple[tuple[Tensor, slice], ...] = ()
    rows: Mapping[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        target: Target,
        limit: int,
        sigma: Tensor | None,
        scale: float = 0.0,
        frames: tuple[str, ...] = ALONE,
        tail: int = 0,
        search: bool = False,
    ) -> Vocabulary:
        """The first ``limit`` of the target's `real_words`; ``scale`` is what all together weigh in the sum.

        With ``search`` phrases are compared with all others too.

        Raises:
            RequestError: no words.
        """
        known = real_words(target)
        words = known[:limit]
        if not words:
            raise RequestError("this text encoder offers no vocabulary; set vocabulary=0 and name what to keep")
        weight = scale / len(words)
        rows: dict[str, Tensor] = {}
        features, block = word_facts(target, words, weight, frames, tail, rows if limit <= _AT_HAND else None)
        others = known[limit:] if search else ()
        if others:
            features = torch.cat([features, word_facts(target, others, 0.0, tail=tail)[0]])
        _note(target.info, limit, scale, frames, tail, search)
        refs = target.readers() if sigma is None else ()
        readers = tuple((target.weight(ref), target.columns(ref)) for ref in refs)
        return cls(words, (*words, *others), features, sigma, weight, frames, block, tail, readers, rows)

    @classmethod
    def whole(cls, target: Target) -> Vocabulary:
        """All `real_words`, of which nothing is summed up."""
        tail = search_tail(target.info)
        table = cls.of(target, len(real_words(target)), projection_gram(target), tail=tail)
        _note(target.info, *_all(tail), False)
        return table

    @cached_property
    def _root(self) -> Tensor | None:
        if self.sigma is None:
            return None
        size = self.sigma.shape[0]
        ridge = 1e-9 * float(self.sigma.trace()) / size
        return torch.linalg.cholesky(self.sigma + ridge * torch.eye(size, dtype=torch.float64))

    def _read(self, rows: Tensor) -> Tensor:
        """What the projections make of rows, (n, outputs), or as many numbers with the same products as the width."""
        if self._root is not None:
            return rows @ self._root
        return torch.cat([rows[:, columns] @ weight.cpu().double().T for weight, columns in self.readers], dim=1)

    @cached_property
    def _centre(self) -> Tensor:
        return self.features.mean(0)

    @cached_property
    def _directions(self) -> Tensor:
        return self._unit(self.features)

    def _unit(self, features: Tensor) -> Tensor:
        centred = self._read(features - self._centre)
        return centred / centred.norm(dim=1, keepdim=True).clamp_min(1e-12)

    def closeness(self, cond: Conditioning) -> Tensor:
        """(prompts, words) cosines in -1..1."""
        return self._unit(meaning(cond, self.tail)) @ self._directions.T

    def between(self, cond: Conditioning, others: Conditioning) -> Tensor:
        """(prompts, others) cosines in -1..1, of phrases that need not be words."""
        return self._unit(meaning(cond, self.tail)) @ self._unit(meaning(others, self.tail)).T

    def near(self, cond: Conditioning, threshold: float) -> tuple[str, ...]:
        """Words at least as close to any of the prompts as ``threshold``, closest first."""
        best = self.closeness(cond).max(0).values
        order = torch.argsort(best, descending=True).tolist()
        return tuple(self.searched[index] for index in order if float(best[index]) >= threshold)

    def not_kept(self, cond: Conditioning, threshold: float, concepts: Sequence[Concept]) -> tuple[str, ...]:
        """Words that must not be held in place while ``concepts`` are erased; all kept words are drawn past this.

        Those at least as close to a prompt as ``threshold``, closest first, then the stop lists of the concepts' kinds.
        """
        close = self.near(cond, threshold)
        return (*close, *sorted(stopped(self.searched, concepts) - set(close)))


def search_tail(info: TargetInfo) -> int:
    """Rows behind a word that count where all words are searched; 0 is all."""
    return _TAIL if info.tokens > _WHOLE else 0


def words_to_encode(
    info: TargetInfo, limit: int, scale: float = 0.0, frames: tuple[str, ...] = ALONE, tail: int = 0,
    search: bool = False,
) -> int:  # fmt: skip
    """How many prompts `Vocabulary.of` with the same arguments would encode, from configuration alone, about.

    Facts that an earlier run kept, or that came along with the model, cost nothing or little. Which words the text
    encoder knows shows only when it is loaded; at most those of its table.
    """
    if disk_cache.folder() is not None:
        if scale and not search and shipped_words.come_along(info, limit, scale, frames, tail):
            return limit // shipped_words.EVERY  # compared, in every session
        if disk_cache.read(_noted(info, limit, scale, frames, tail, search)) is not None:
            return 0
    table = max((int(part.get("vocab_size") or 0) for part in info.configs.values()), default=0) or limit
    framed = min(limit, table) * (scale > 0 and frames != ALONE)
    return framed + min(limit if not search else max(limit, most_words()), table)


def rows_to_search(info: TargetInfo) -> int:
    """Rows of prompts that `Vocabulary.whole` would encode, from configuration alone, about; 0 where they are kept."""
    tail = search_tail(info)
    words = words_to_encode(info, *_all(tail))
    return words * (min(tail + 2, info.tokens) if tail else info.tokens)


def _all(tail: int) -> tuple[int, float, tuple[str, ...], int]:
    """What `Vocabulary.whole` notes: the number of words that an encoder knows shows only when it is loaded."""
    return most_words(), 0.0, ALONE, tail


def _noted(
    info: TargetInfo, limit: int, scale: float, frames: tuple[str, ...], tail: int, search: bool
) -> str:  # fmt: skip
    """Name of the note that facts are kept; what they are kept under takes a loaded model to tell."""
    asked = (_FORMAT, torch.__version__, info.model, info.width, info.tokens, limit, scale, frames, tail, search)
    return f"noted-{hashlib.sha256(repr(asked).encode()).hexdigest()[:32]}"


def _note(info: TargetInfo, *asked: Any) -> None:
    """Notes that facts of words are kept. It is read whenever they are, so they are never forgotten before it."""
    name = _noted(info, *asked)
    if disk_cache.folder() is not None and disk_cache.read(name) is None:
        disk_cache.write(name, {"kept": torch.tensor(1)})


def meaning(cond: Conditioning, tail: int = 0) -> Tensor:
    """Mean of the rows behind the last content token, (prompts, dim) float64; of the first ``tail`` of them, or all."""
    if cond.parts:
        return part_meaning(cond)
    length = cond.embeds.shape[1]
    starts = [min(last + 1, length - 1) for last in cond.last]
    rows = [cond.embeds[i, first : first + (tail or length)].cpu().double().mean(0) for i, first in enumerate(starts)]
    return torch.stack(rows)


def projection_gram(target: Target) -> Tensor:
    """Sigma: sum of W^T W over the projections that read text rows, (dim, dim) float64."""
    total = torch.zeros(target.info.width, target.info.width, dtype=torch.float64)
    for ref in target.readers():
        weight, columns = target.weight(ref).cpu().double(), target.columns(ref)
        total[columns, columns] += weight.T @ weight
    return total


def encoded(target: Target, prompts: Sequence[str], tail: int) -> Conditioning:
    """Prompts with all their rows, or with the first ``tail`` rows behind the last token.

    A prompt has the same rows to the bit whatever is encoded along. Matrix products of a few rows are rounded otherwise
    than larger ones on some processors, so that few short prompts are filled up.
    """
    if not (tail and target.family.causal):
        return target.rows(prompts)
    filled = [*prompts, *[prompts[-1]] * (_FEWEST - len(prompts))]
    return target.encode_start(filled, tail)[: len(prompts)]


def kept_rows(cond: Conditioning, tail: int, tokens: int) -> list[Tensor]:
    """Rows (n, dim) float32 of every prompt without the start row, which is the same for all.

    Padding rows count for those that were not encoded as well. The same whatever else was encoded along.

    Args:
        cond: result of `encoded`.
        tail: as given there.
        tokens: rows of a whole prompt.
    """
    if cond.parts:
        return [kept_parts(cond, index) for index in range(len(cond.last))]
    found = []
    for embeds, last in zip(cond.embeds, cond.last, strict=True):
        rows = embeds[1 : last + 1 + tail if tail else tokens].float().cpu().contiguous()
        padding, whole = len(rows) - last - 1, tokens - last - 2
        if 0 < padding < whole:
            rows = torch.cat([rows[: last + 1], rows[last + 1 :] * (whole / padding) ** 0.5])
        found.append(rows)
    return found


def framed_words(words: Sequence[str], frames: Sequence[str]) -> list[str]:
    """Every word in its frame."""
    return [frames[place % len(frames)].format(word) for place, word in enumerate(words)]


def word_facts(
    target: Target, words: Sequence[str], weight: float, frames: Sequence[str] = ALONE, tail: int = 0,
    rows: dict[str, Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """`meaning` of each word, and the ledger sum of their rows in ``frames``, ``weight`` each; None at weight 0.

    Each word is rounded by itself, so that it can be taken out of the sum again exactly. The same to the last bit
    whether encoded now or in an earlier session; what came along with an embedded model was rounded on the machine that
    made it.

    With ``tail`` only so many rows behind a word, the end row and padding, are encoded: padding rows hardly differ from
    each other, so the first ones count for all.

    Where words are encoded now, ``rows`` is given those that are summed up.
    """
    width = target.info.width
    like: dict[str, tuple[tuple[int, ...], torch.dtype]] = {"features": ((len(words), width), torch.float64)}
    if weight > 0:
        like["block"] = ((width * (width + 1) // 2,), torch.int64)
    key = None if disk_cache.folder() is None else _key(target, words, weight, frames, tail)
    found = None if key is None else disk_cache.read(key, like)
    if found is None and key is not None:
        found = shipped_words.read(
            target, words, weight, frames, tail, lambda some: meaning(encoded(target, some, tail), tail)
        )
    if found is None:
        prompts = framed_words(words, frames) if weight > 0 else list(words)
        features = torch.empty(len(words), width, dtype=torch.float64)
        alone = list(prompts) == list(words)  # then one pass gives both

        def summed() -> Iterator[Tensor]:
            for places, cond in by_length(target, prompts, tail):
                if alone:
                    features[places] = meaning(cond, tail)
                parts = kept_rows(cond, tail, target.info.tokens) if weight > 0 else []
                if rows is not None:
                    rows.update(zip((words[place] for place in places), parts, strict=False))
                yield from parts

        found = {}
        if weight > 0:
            found["block"] = pack(gram_sum(((part, None) for part in summed()), weight))
        if not alone or weight <= 0:
            for places, cond in by_length(target, words, tail):
                features[places] = meaning(cond, tail)
        found["features"] = features
        if key is not None:
            disk_cache.write(key, found)
    return found["features"], unpack(found["block"], width) if weight > 0 else None


def by_length(target: Target, prompts: Sequence[str], tail: int) -> Iterator[tuple[list[int], Conditioning]]:
    """(numbers of prompts, these encoded); where short rows will do, those of one length together."""
    groups: dict[int, list[int]] = {}
    if not prompts:
        return
    lengths: Sequence[int] = (0,) * len(prompts)
    if tail and target.family.causal:
        with suppress(Unsupported):  # a host that does not show its tokens
            lengths = target.tokens(prompts).last
    for place, length in enumerate(lengths):
        groups.setdefault(length, []).append(place)
    rows = target.info.tokens + sum(target.family.padding(target.info))
    most = max(min(_BATCH, _VALUES // (rows * target.info.width)), 1)
    for _, places in sorted(groups.items()):
        for start in range(0, len(places), most):
            batch = places[start : start + most]
            yield batch, encoded(target, [prompts[place] for place in batch], tail)


def _key(target: Target, words: Sequence[str], weight: float, frames: Sequence[str], tail: int) -> str | None:
    """Name of the facts of these words: differs when any of their rows may differ by a bit.

    Rows of a word come from its token rows and the layers. The former are hashed. Every weight of the latter, clip
    skip, LoRAs and the kernels of this machine leave their mark on the bits of any prompt: the empty one stands.

    Returns:
        None if the host does not show its tokens.
    """
    found = hashlib.sha256(f"{_FORMAT} {torch.__version__} {weight!r} {tail}".encode())
    try:
        tokens = target.tokens(framed_words(words, frames))
        for name in sorted(tokens.ids):
            ids = tokens.ids[name]
            rows = target.token_rows(name, ids.unique())
            found.update(b"".join(part.cpu().contiguous().numpy().tobytes() for part in (ids, rows.float())))
    except Unsupported:
        return None
    probe = target.encode([""]).embeds
    found.update("\n".join([*words, *frames, str(tokens.last), probe.device.type, str(probe.dtype)]).encode())
    found.update(probe.float().cpu().contiguous().numpy().tobytes())
    return f"words-{found.hexdigest()[:32]}"
