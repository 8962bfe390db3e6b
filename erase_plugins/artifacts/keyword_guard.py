"""A guard that looks for words in a prompt. It changes no weights: without it the model is what it was.

A text is normalised (width, look-alike letters, accents, case, weights and tags of prompts) and read as it is and
with digits for letters. A keyword, or its plural, hits if its letters stand in a row of whole words, whatever is
between them, in any order of its words, or read backwards. Scripts without spaces between words are read sign by
sign: a name is found inside a sentence, and in a longer word (`artifacts.guard_words`). In a private guard the
keywords are HMACs under a key that is not in the file, so that the file names nobody; misspelt words are found by
public guards only, and not in those scripts nor where vowels are marks or are not written.
"""

from __future__ import annotations

import hashlib
import hmac
import itertools
import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from erase_plugins.artifacts import policy
from erase_plugins.artifacts.atomic import atomic_file
from erase_plugins.artifacts.guard_words import (
    ALIKE,
    TAG,
    WEIGHT,
    enough,
    exact,
    letters,
    normalised,
    parts,
    stands_alone,
    without_ending,
    without_prefix,
    words,
)
from erase_plugins.artifacts.strict_json import parse
from erase_plugins.errors import CorruptArtifact, RequestError
from erase_plugins.plain_text import SIGNS

FILE, TYPE = "guard.json", "keyword"
NORMALISER = 5
#: whose guards are read as well, and find what they always found: one knew no words without spaces around them, one no
#: marks that are vowels, one no letters in reverse and no endings
_SPACED, _UNMARKED, _UPRIGHT = 2, 3, 4
#: a keyword has at least so many letters, or signs of Chinese, Japanese and Korean
_LETTERS, _SIGNS = 3, 2
#: a keyword has no more letters and no more words than this
_LONGEST, _WORDS = 60, 4
#: letters in reverse are a name from so many on, in several words and in one: shorter words are others backwards
#: ("stressed", "desserts")
_BACKWARDS, _BACKWARDS_ALONE = 6, 9
#: 1 is read as i and as l
_LEET = tuple(str.maketrans("013457892@$!", f"o{one}eastbgzasi") for one in "il")
_WORD, _SIGN = re.compile(r"[^\W_]+"), re.compile(f"[{SIGNS}]")
_WORD_OR_SIGN = re.compile(f"[{SIGNS}]|[^\\W_{SIGNS}]+")


@dataclass(frozen=True)
class Verdict:
    """Whether a text is hit; the reason names the concept's id and the stage, never the text."""

    hit: bool
    concept: str = ""
    action: str = ""
    reason: str = ""


@dataclass(frozen=True)
class KeywordGuard:
    """A policy.

    Attributes:
        concept: id of what is guarded; no name in a private guard.
        marks: the keywords, or their HMACs.
        private: which of the two.
        action: "block", or "flag" to report only.
        message: what is answered in the place of what was blocked.
        key: of a private guard; kept outside the file.
        normaliser: the version of what makes words of a text.
    """

    concept: str
    marks: frozenset[str]
    private: bool = False
    action: str = "flag"
    message: str = ""
    key: bytes = b""
    normaliser: int = NORMALISER

    def check(self, text: str) -> Verdict:
        """Looks at a text.

        Raises:
            RequestError: a private guard without its key.
        """
        if self.private and not self.key:
            raise RequestError(f"the guard of {self.concept} is private and was opened without its key")
        views = _views(text, self.normaliser)
        if any(self._meant(form) for view in views for form in _rows(view, self.normaliser)) or (
            self.normaliser > _UPRIGHT and any(self._named(form) for view in views for form in _backwards(view))
        ):
            return Verdict(True, self.concept, self.action, f"{self.concept}: keyword")
        return Verdict(False)

    def _named(self, form: str) -> bool:
        return (_mark(self.key, form) if self.private else form) in self.marks

    def _meant(self, form: str) -> bool:
        if self.private or self._named(form) or (exact(form) if self.normaliser > _UNMARKED else
                                                 self.normaliser > _SPACED and _SIGN.search(form)):  # fmt: skip
            return self._named(form)
        seen, long = _seen(form), len(form)
        return long >= 5 and any(
            abs(long - len(mark)) <= most and (seen ^ others).bit_count() <= 2 * most and distance(form, mark) <= most
            for mark, most, others in self._misspelt
        )

    @cached_property
    def _misspelt(self) -> tuple[tuple[str, int, int], ...]:
        """Keywords of six letters or more: one of less than eight may be one slip away, another one two."""
        return tuple((mark, 1 if len(mark) < 8 else 2, _seen(mark)) for mark in self.marks if len(mark) >= 6)

    # ---- file --------------------------------------------------------------------------------------------------

    def write(self, path: Path) -> None:
        """Writes the policy; the key is not in it."""
        with atomic_file(path) as work:
            work.write_text(json.dumps(self.to_policy(), indent=2, ensure_ascii=True) + "\n", encoding="ascii")

    def to_policy(self) -> dict[str, Any]:
        """The policy as JSON (`erase_plugins.artifacts.policy`)."""
        stage = {"type": TYPE, "normaliser": self.normaliser, "private": self.private, "keywords": sorted(self.marks)}
        return policy.make(self.concept, [stage], self.action, self.message, shareable=not self.private)

    @classmethod
    def read(cls, path: Path, key: bytes = b"") -> KeywordGuard:
        """The policy in a file.

        Raises:
            CorruptArtifact: another schema, a claim about weights, or not what `write` wrote.
        """
        try:
            return cls.from_policy(parse(path.read_text(encoding="ascii")), key)
        except (OSError, ValueError, RecursionError) as error:
            raise CorruptArtifact(f"'{path.name}' is not a guard of this version, or was changed") from error

    @classmethod
    def from_policy(cls, data: Mapping[str, Any], key: bytes = b"") -> KeywordGuard:
        """Inverse of `to_policy`.

        Raises:
            CorruptArtifact: as for `read`.
        """
        try:
            (stage,) = policy.checked(data)["stages"]
            marks, private = stage["keywords"], stage["private"]
            sound = (
                stage["type"] == TYPE and stage["normaliser"] in (_SPACED, _UNMARKED, _UPRIGHT, NORMALISER)
                and type(private) is bool and data["shareable"] is not private and bool(marks)
                and all(
                    re.fullmatch("[0-9a-f]{64}", item) if private else _letters(item, stage["normaliser"]) == item
                    for item in marks
                )
            )  # fmt: skip
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptArtifact("this is not a guard by keyword") from error
        if not sound:
            raise CorruptArtifact("this is not a guard by keyword of this version, or it was changed")
        told = data["action"], str(data["message"])
        return cls(str(data["concept"]), frozenset(marks), private, *told, key, int(stage["normaliser"]))


def keyword_guard(
    concept: str, keywords: Sequence[str], *, key: bytes = b"", action: str = "flag", message: str = ""
) -> KeywordGuard:
    """A guard for keywords; private if a key is given.

    Raises:
        RequestError: no keyword, one that is too short or long, an unknown action, or nothing to answer when blocked.
    """
    forms = [form for text in keywords for form in _orders(text)]
    if not forms:
        raise RequestError("a guard needs at least one keyword")
    policy.check_action(action, message)
    marks = frozenset(_mark(key, form) for form in forms) if key else frozenset(forms)
    return KeywordGuard(concept, marks, bool(key), action, message, key)


def _mark(key: bytes, form: str) -> str:
    return hmac.new(key, form.encode(), hashlib.sha256).hexdigest()


def _unmarked(text: str) -> str:
    """As normalisers up to `_UNMARKED` did it: lower case, without tags, weights and all marks."""
    plain = WEIGHT.sub("", TAG.sub(" ", text))
    plain = unicodedata.normalize("NFKD", unicodedata.normalize("NFKC", plain)).casefold()
    seen = "".join(sign for sign in plain if not unicodedata.combining(sign) and unicodedata.category(sign) != "Cf")
    return "".join(ALIKE.get(sign, sign) for sign in seen)


def _letters(text: str, normaliser: int) -> str:
    return letters(text) if normaliser > _UNMARKED else "".join(filter(str.isalnum, _unmarked(text)))


def _views(text: str, normaliser: int) -> set[tuple[str, ...]]:
    """The words of a text, as they are and with digits for letters."""
    if normaliser > _UNMARKED:
        plain = unicodedata.normalize("NFC", normalised(text))  # a syllable of Korean is one sign
        return {parts(view) for view in (plain, *map(plain.translate, _LEET))}
    plain, pattern = _unmarked(text), _WORD
    if normaliser > _SPACED:
        plain, pattern = unicodedata.normalize("NFC", plain), _WORD_OR_SIGN  # a syllable of Korean is one sign
    return {tuple(pattern.findall(view)) for view in (plain, *map(plain.translate, _LEET))}


def _rows(words: Sequence[str], normaliser: int) -> Iterator[str]:
    """Letters of every row of whole words; single letters count as parts of a word that was spaced out."""
    for start in range(len(words)):
        form, long = "", 0
        for word in words[start:]:
            form += word
            long += len(word) > 1 and not (normaliser > _UNMARKED and stands_alone(word))
            if len(form) > _LONGEST or long > _WORDS:
                break
            if len(form) >= _LETTERS or (len(form) >= _SIGNS and all(map(_SIGN.match, form))):
                yield unicodedata.normalize("NFD", form)
                if normaliser > _UNMARKED and (rest := without_prefix(form)):
                    yield rest
                if normaliser > _UPRIGHT and (stem := without_ending(form)):
                    yield stem


def _backwards(words: Sequence[str]) -> Iterator[str]:
    """The same rows read from their ends, in scripts whose letters stand by themselves."""
    for start in range(len(words)):
        form, count, long = "", 0, 0
        for word in words[start:]:
            form, count, long = form + word, count + 1, long + (len(word) > 1)
            if len(form) > _LONGEST or long > _WORDS or exact(form):
                break
            if len(form) >= (_BACKWARDS if count > 1 else _BACKWARDS_ALONE):
                yield form[::-1]


def _orders(text: str) -> list[str]:
    found = words(normalised(text))
    joined = "".join(found)
    if not enough(unicodedata.normalize("NFC", joined), _LETTERS, _SIGNS) or (
        len(joined) > _LONGEST or len(found) > _WORDS
    ):
        raise RequestError(
            f"a keyword has {_LETTERS} to {_LONGEST} letters and at most {_WORDS} words; {_SIGNS} signs or more in "
            "Chinese, Japanese and Korean, and more than one syllable of Thai and the like"
        )
    named = itertools.permutations(found)
    return ["".join((*order[:-1], last)) for order in named for last in _numbers(order[-1])]


def _numbers(word: str) -> tuple[str, ...]:
    """A word and its plurals as English makes them."""
    return (word, f"{word}s", f"{word}es", *([f"{word[:-1]}ies"] if word.endswith("y") else []))


def _seen(form: str) -> int:
    """Which letters a word has, as bits: a slip changes two at most, so that few pairs have to be measured."""
    found = 0
    for sign in form:
        found |= 1 << ord(sign) % 64
    return found


def distance(one: str, other: str) -> int:
    """Damerau-Levenshtein distance (adjacent letters may be swapped once)."""
    before: list[int] = []
    row = list(range(len(other) + 1))
    for place, sign in enumerate(one, 1):
        last, before, row = before, row, [place, *[0] * len(other)]
        for at, letter in enumerate(other, 1):
            row[at] = min(before[at] + 1, row[at - 1] + 1, before[at - 1] + (sign != letter))
            if place > 1 and at > 1 and sign == other[at - 2] and one[place - 2] == letter:
                row[at] = min(row[at], last[at - 2] + 1)
    return row[-1]
