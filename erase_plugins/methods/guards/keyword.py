"""Keyword guard: looks for words in prompts and answers, however they are spelled.

Width, case, accents, look-alike letters of other scripts, invisible signs, spaces and marks between letters, digits for
letters, plurals and the order of words do not matter; of words with six letters or more slips are found too. Letters in
reverse are read where several words have six or more of them, or one has nine: shorter words are others backwards. In
Chinese, Japanese, Korean, Thai, Lao, Khmer, Burmese and Tibetan a name is found wherever its signs stand, inside of a
sentence too; Arabic and Hebrew names also behind a small word that hangs on them, Bengali and Tamil names of four signs
or more in front of the commonest endings of a case, Turkish ones in front of an apostrophe. Slips are not found there,
nor in the scripts of India, where vowel signs tell names apart. What it does not find: descriptions, translations,
other names and other endings that hang on a name (Bengali, Marathi, Tamil), unless they are given (``prompts`` of the
concept).

With ``key`` the file holds HMAC-SHA256 of the words and names nobody, and it is refused by a push; who has the key can
test names against it, so it stays out of the artifact. Slips are not found then. The key is a file of 32 random bytes
that only its owner may read (``head -c 32 /dev/urandom > key; chmod 600 key``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.keyword_guard import KeywordGuard, keyword_guard
from erase_plugins.hookspecs import hookimpl
from erase_plugins.methods.guards.guardrail import Guardrail, LookingOptions
from erase_plugins.options import option
from erase_plugins.types import EraseRequest, ForgetItem

if TYPE_CHECKING:
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import ModelSpec

#: key of a hidden concept's extra fields
MARKS = "marks"


@dataclass(frozen=True)
class KeywordOptions(LookingOptions):
    """Options of the keyword guard."""

    key: str | None = option(None, "file with the key of the HMACs; none: the words stand in the file", place=True)


class Keyword(Guardrail):
    """Refuses prompts that name a concept."""

    id = "keyword-guard"
    title = "Keyword guard"
    paper = "https://arxiv.org/abs/2307.03941"
    summary = "guard, no erasure: refuses prompts that name the concept, in other spellings too; plain or as HMACs"
    Options = KeywordOptions

    def prepared(self, request: EraseRequest, options: KeywordOptions, info: ModelSpec) -> EraseRequest:
        """The request; with a key without any name, HMACs in their place."""
        options.check(info)
        key = b""
        if options.key is not None:
            from erase_plugins.artifacts.marks import read_key

            key = read_key(Path(options.key))
        made = [guard(item, options, key) for item in request.forget]  # refuses unusable words now
        if not key:
            return request
        hidden = tuple(
            ForgetItem(f"hidden {place}", item.kind, extra={MARKS: sorted(found.marks), "shareable": False})
            for place, (item, found) in enumerate(zip(request.forget, made, strict=True), 1)
        )
        return replace(request, forget=hidden)

    def policies(
        self, request: EraseRequest, options: KeywordOptions, target: Any, ctx: RunContext
    ) -> Sequence[dict[str, Any]]:
        return [
            KeywordGuard(item.text, frozenset(item.extra[MARKS]), True, options.action, options.message).to_policy()
            if MARKS in item.extra
            else guard(item, options).to_policy()
            for item in request.forget
        ]


def guard(item: ForgetItem, options: KeywordOptions, key: bytes = b"") -> KeywordGuard:
    """The guard of one concept.

    Raises:
        RequestError: words that are too short or too many.
    """
    return keyword_guard(item.name, [item.text, *item.prompts], key=key, action=options.action, message=options.message)


@hookimpl
def erase_methods() -> list[Keyword]:
    return [Keyword()]
