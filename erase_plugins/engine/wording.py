"""Whether the words of a request mean anything to a model, as far as that can be known without looking at pictures.

Three things can be known. A text encoder reads a limited number of tokens: what lies behind is cut. It may have no
token for a character. And where a registered judge's world is all that the model draws, a name outside of it is
unknown. A tokenizer of full size splits any word into known pieces, so there the pieces say nothing, and that is said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.base import Target
from erase_plugins.families.capabilities import TEXT
from erase_plugins.judge_world import world_of
from erase_plugins.types import EraseRequest

#: a word in so many pieces is likely to be rare
_MANY = 3
#: start and end token of every prompt
_FRAME = 2


def check_length(request: EraseRequest, target: Target) -> None:
    """Refuses phrases of which the text encoder would not read the end.

    Raises:
        RequestError: names the phrase, its length, and what would be cut.
    """
    if TEXT not in target.info.capabilities:
        return
    phrases = [(text, "a concept") for concept in request.concepts for text in (concept.text, *concept.prompts)]
    phrases += [(concept.anchor, "what takes its place") for concept in request.concepts if concept.anchor]
    phrases += [(text, "what is kept") for text in request.preserve]
    room = target.info.tokens - _FRAME
    for text, what in phrases:
        pieces = _pieces(target, text)
        if pieces is not None and len(pieces) > room:
            raise RequestError(
                f"'{_short(text)}' ({what}) has {len(pieces)} tokens, the text encoder of {target.info.model} reads "
                f"{room}: the end would be cut without a trace; say it in fewer words, or give its parts one by one"
            )


@dataclass(frozen=True)
class Doubt:
    """Why a concept may mean nothing to the model."""

    concept: str
    reason: str
    #: known for certain, not just suspected
    certain: bool = True

    def __str__(self) -> str:
        return f"'{_short(self.concept)}' {self.reason}"


def doubts(request: EraseRequest, target: Target, judges: Iterable[Any]) -> tuple[Doubt, ...]:
    """What speaks against the concepts of a request, in their order; nothing is drawn.

    Args:
        request: names the concepts.
        target: the model.
        judges: one that knows everything the model draws tells names outside of that.
    """
    if TEXT not in target.info.capabilities:
        return ()
    world = _world(target, judges)
    return tuple(
        Doubt(concept.text, reason, certain)
        for concept in request.concepts
        if "shareable" not in concept.extra  # it stands for a name that nobody is told
        for reason, certain in _reasons(concept.text, target, world)
    )


def _reasons(text: str, target: Target, world: tuple[str, ...] | None) -> Iterator[tuple[str, bool]]:
    pieces = _pieces(target, text)
    if pieces is not None and pieces and None in pieces:
        read = " ".join(piece for piece in pieces if piece is not None) or "nothing"
        yield f"has characters for which the text encoder has no token; it reads {read}", True
    if world is not None:
        if not _mentions(text, world):
            close = get_close_matches(text.strip().lower(), world, n=1)
            some = f"; it draws {', '.join(world[:8])} and {len(world) - 8} more"
            meant = f"; did you mean '{close[0]}'?" if close else some
            yield f"is nothing that {target.info.model} was trained to draw{meant}", True
        return
    words = [(word, _pieces(target, word)) for word in text.split()]
    rare = [f"{word} ({' '.join(map(str, found))})" for word, found in words if found and len(found) >= _MANY]
    if rare:
        yield (
            f"is read in pieces: {', '.join(rare)}; whether {target.info.model} knows it cannot be told from that, so "
            "look at a picture of it first",
            False,
        )


def _pieces(target: Target, text: str) -> tuple[str | None, ...] | None:
    """Pieces of a prompt, None for what has no token; None altogether where the host does not show its tokenizer."""
    try:
        return target.pieces(text)
    except Unsupported:
        return None


def _world(target: Target, judges: Iterable[Any]) -> tuple[str, ...] | None:
    """Everything that the model draws, by all its names; None if nobody knows that."""
    for judge in judges:
        if getattr(judge, "complete", False) and judge.accepts(target.info):
            return tuple(dict.fromkeys(name.lower() for name in _names(world_of(judge))))
    return None


def _names(world: Any) -> Iterator[str]:
    for item in world.concepts:
        yield item.name
    for names, synonyms in ((world.styles, "style_synonyms"), (world.backgrounds, "background_synonyms")):
        yield from names
        for others in getattr(world, synonyms, {}).values():
            yield from others
    for item in world.concepts:
        yield from item.synonyms


def _mentions(text: str, world: tuple[str, ...]) -> bool:
    """Whether the phrase is, or contains as whole words, a name of the world; plurals count."""
    plain = f" {' '.join(text.lower().replace('-', ' ').split())} "
    return any(f" {form} " in plain for name in world for form in (name.replace("-", " "), f"{name}s", f"{name}es"))


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."
