"""Others of the same kind as subjects that are forgotten, found in a model's own vocabulary. No torch at import.

A neighbour that nobody names is as easily hurt by an edit as one that is given. Names that a model knows well are often
one token, and what it reads in place of names of one kind lies close together; names of several tokens it writes into
the prompts itself. So the whole words nearest to the subjects, and such names, stand in the same prompts for those that
were not given, in every wording, since one wording says little of another. What the model says of them is what stays.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from erase_plugins.families.texts import Pair, canonical
from erase_plugins.families.token_words import token_words
from erase_plugins.training.names import longer_names

if TYPE_CHECKING:
    from erase_plugins.families.base import Target

#: of so many words one at most is of a kind, as being nearest says nothing otherwise
_SPARSE = 50
#: share of the mean variance that every direction of the vocabulary gets
_RIDGE = 0.1


def peers(
    target: Target, tokenizer: Any, forget: Sequence[Pair], kept: Sequence[Pair], count: int
) -> list[Pair]:  # fmt: skip
    """Prompts of ``forget`` with other subjects, each new subject in all wordings.

    Args:
        target, tokenizer: the model.
        forget: rows with a subject each; those with subjects in the same words make up a kind.
        kept: rows that are protected anyway; subjects of theirs count, but come not back.
        count: how many near words are looked for, over all kinds.
    """
    given = {canonical(pair.subject) for pair in (*forget, *kept) if pair.subject}
    found: list[Pair] = []
    kinds = _kinds(forget)
    words, pieces = token_words(tokenizer) if kinds and count else ({}, [])
    for wordings, subjects in kinds:
        alike = _alike(words, subjects)
        names = _nearest(target, tokenizer, subjects, alike, count // len(kinds))
        if names:
            longer = longer_names(target, tokenizer, wordings, alike, pieces)
            names = [*names, *(_written(tokenizer, numbers) for numbers in longer)]
        found += [replace(_asked(wording, name), completion=".") for name in names
                  if not _told(name, given) for wording in wordings]  # fmt: skip
    return found


def another_name(said: str, answers: Sequence[str]) -> bool:
    """Whether what a model says of a subject is one of the answers that are forgotten."""
    text = _bare(said)
    return any(bare in text for bare in map(_bare, answers) if bare.strip())


def _kinds(forget: Sequence[Pair]) -> list[tuple[list[Pair], tuple[str, ...]]]:
    """Rows that are wordings of one question, one row for each, and the subjects that are asked in all of them."""
    asked: dict[tuple[str, str], list[Pair]] = {}
    for pair in forget:
        front, _, back = pair.prompt.rpartition(pair.subject)
        asked.setdefault((front, back), []).append(pair)
    kinds: dict[tuple[str, ...], list[Pair]] = {}
    for pairs in asked.values():
        kinds.setdefault(tuple(sorted({pair.subject for pair in pairs})), []).append(pairs[0])
    return [(wordings, subjects) for subjects, wordings in kinds.items()]


def _asked(pair: Pair, name: str) -> Pair:
    front, _, back = pair.prompt.rpartition(pair.subject)
    return replace(pair, prompt=f"{front}{name}{back}", subject=name, unknown=None, otherwise=())


def _alike(words: dict[int, str], subjects: Sequence[str]) -> dict[int, str]:
    """Words that begin like a subject, capital or not."""
    capital = {name[:1].isupper() for name in subjects}
    return {number: word for number, word in words.items() if word[:1].isupper() in capital}


def _nearest(
    target: Target, tokenizer: Any, subjects: Sequence[str], words: dict[int, str], count: int
) -> list[str]:  # fmt: skip
    """Words nearest in the mean over the subjects."""
    import torch

    count = min(count, len(words) // _SPARSE)
    if not count:
        return []
    table = target.language.embeddings()
    found = table[list(words)].cpu().double()
    own = [tokenizer(f" {name}", add_special_tokens=False)["input_ids"] for name in subjects]
    kind = torch.stack([table[part].cpu().double().mean(0) for part in own]).mean(0)
    # how often a word is written says most about how it is read, and nothing about its kind; so directions in which
    # all words differ count less (Fisher's discriminant)
    middle = found.mean(0)
    spread = torch.cov(found.T, correction=0)
    spread += _RIDGE * spread.diagonal().mean() * torch.eye(len(spread), dtype=spread.dtype)
    order = ((found - middle) @ torch.linalg.solve(spread, kind - middle)).argsort(descending=True).tolist()
    texts = list(words.values())
    names = dict.fromkeys(texts[place] for place in order)
    mine = set(map(canonical, subjects))
    return [name for name in names if canonical(name) not in mine][:count]


def _written(tokenizer: Any, numbers: Sequence[int]) -> str:
    return str(tokenizer.convert_tokens_to_string(tokenizer.convert_ids_to_tokens(list(numbers)))).strip()


def _told(name: str, given: set[str]) -> bool:
    """Whether a name is one of those given, or a part of one."""
    return any(f" {canonical(name)} " in f" {other} " for other in given)


def _bare(text: str) -> str:
    """Letters and digits only, with a space at both ends."""
    plain = "".join(part if part.isalnum() else " " for part in unicodedata.normalize("NFKC", text).casefold())
    return f" {' '.join(plain.split())} "
