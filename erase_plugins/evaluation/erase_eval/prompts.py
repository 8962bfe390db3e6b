"""Prompts of EraseEval: naming the concept, meaning it without naming it, and about other things."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from erase_plugins.errors import RequestError
from erase_plugins.evaluation.prompts import Prompt, quick_prompts

#: prompts that name the concept, and as many that do not
PROMPTS = 8
#: distinct templates in which the judge of a concept sees it
_TEMPLATES = 20
#: parts of a name shorter than this say nothing
_PIECE = 4


@dataclass(frozen=True)
class Asked:
    """All prompts of one evaluation by the name of their set.

    Attributes:
        train: per concept the sets that its judge is trained on (base only): concept, neighbours, others.
        measured: sets drawn with and without the edit: "explicit: NAME" and "implicit: NAME" per concept, "retained".
        reference: the retained prompts with other seeds (base only).
    """

    train: Mapping[str, tuple[list[Prompt], list[Prompt], list[Prompt]]]
    measured: Mapping[str, list[Prompt]]
    reference: list[Prompt]


def make_prompts(
    judge: Any, erased: Sequence[str], *, images: int, training: int, retained: int, seed: int,
    implicit: Mapping[str, Sequence[str]], pieces: Mapping[str, Sequence[str]],
) -> Asked:  # fmt: skip
    """The prompts of an evaluation, the same for the same arguments.

    Args:
        judge: gives the world that prompts are made of.
        erased: names of the concepts.
        images: pictures that name a concept, and as many that mean it.
        training: pictures that the judge of a concept is trained on.
        retained: prompts about other things.
        seed: every picture has a seed of its own, made from this.
        implicit: concept -> prompts of the user's own that mean it without naming it.
        pieces: concept -> parts of its name as the tokenizer cuts it.

    Raises:
        RequestError: fewer than two pictures per prompt.
        Unsupported: the judge does not know a concept.
    """
    each = images // PROMPTS
    if each < 2:
        raise RequestError(f"{images} pictures are too few for {PROMPTS} prompts; give images={2 * PROMPTS} or more")
    train, measured = {}, {}
    for number, name in enumerate(erased):
        start = seed * 1_000_003 + number * 50_021
        named = _distinct(quick_prompts(judge, [name], 60, seed)["target"])
        measured[f"explicit: {name}"] = _seeded(named[:PROMPTS], each, start)
        own = [Prompt(text, 0, named[0].expected, named[0].axis) for text in implicit.get(name, ())]
        meant = own or quick_prompts(judge, [name], 60, seed)["synonym"]
        meant = [item for item in _distinct(meant) if not tells(item.text, name, pieces.get(name, ()))]
        measured[f"implicit: {name}"] = _seeded(meant[:PROMPTS], each, start + 10_000)
        sets = quick_prompts(judge, [name], training, seed + 1)
        neighbours = sets["neighbour"][: training // 4]
        parts = (
            _cycled(named[PROMPTS:] or named, training // 2), neighbours,
            sets["kept"][: training - training // 2 - len(neighbours)],
        )  # fmt: skip
        train[name] = tuple(_numbered(part, start + 20_000 + 5_000 * turn) for turn, part in enumerate(parts))
    others = quick_prompts(judge, erased, retained, seed)["kept"]
    measured["retained"] = _numbered(others, seed * 1_000_003 + 900_000)
    return Asked(train, measured, _numbered(others, seed * 1_000_003 + 950_000))  # type: ignore[arg-type]


def tells(text: str, concept: str, pieces: Sequence[str] = ()) -> bool:
    """Whether a prompt gives the concept's name away: a word of it, in any form, or a part of four letters or more."""
    words = [_stem(word) for word in re.findall(r"\w+", text.lower())]
    parts = [_stem(word) for word in re.findall(r"\w+", concept.lower())]
    if any(part in words for part in parts if len(part) > 2):
        return True
    joined, whole = "".join(parts), "".join(re.findall(r"\w+", text.lower()))
    long = {piece.lower().strip("Ġ▁ ") for piece in pieces}
    return (len(joined) >= _PIECE and joined in whole) or any(
        piece in word for piece in long if len(piece) >= _PIECE for word in words
    )


def _stem(word: str) -> str:
    """A word without the ending of a plural or a possessive."""
    for ending, left in (("ies", "y"), ("ves", "f"), ("ses", "s"), ("xes", "x"), ("ches", "ch"), ("shes", "sh")):
        if word.endswith(ending) and len(word) > len(ending) + 1:
            return word.removesuffix(ending) + left
    return word[:-1] if word.endswith("s") and not word.endswith("ss") and len(word) > 3 else word


def read_implicit(path: str) -> dict[str, list[str]]:
    """Prompts by concept from a JSON file: ``{"owl": ["a night bird with large eyes", ...]}``.

    Raises:
        RequestError: not there, or of another form.
    """
    if not path:
        return {}
    place = Path(path)
    try:
        found = json.loads(place.read_text(encoding="utf-8"))
        if isinstance(found, dict) and all(
            isinstance(texts, list) and all(isinstance(text, str) and text.strip() for text in texts)
            for texts in found.values()
        ):
            return found
    except (OSError, ValueError):
        pass
    raise RequestError(f"'{place.name}' is no JSON object of concepts with lists of prompts; see docs/evaluation.md")


def _distinct(prompts: Sequence[Prompt]) -> list[Prompt]:
    return list({item.text: item for item in prompts}.values())


def _seeded(prompts: Sequence[Prompt], each: int, start: int) -> list[Prompt]:
    return [
        replace(item, seed=start + 100 * place + turn) for place, item in enumerate(prompts) for turn in range(each)
    ]


def _numbered(prompts: Sequence[Prompt], start: int) -> list[Prompt]:
    return [replace(item, seed=start + place) for place, item in enumerate(prompts)]


def _cycled(prompts: Sequence[Prompt], count: int) -> list[Prompt]:
    few = prompts[:_TEMPLATES]
    return [few[place % len(few)] for place in range(count)]
