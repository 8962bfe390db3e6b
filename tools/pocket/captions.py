"""Captions of training pictures: mixed templates over style, concept and background, with synonyms."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from erase_plugins.pocket.world import World
    from tools.pocket.compose import Label
    from tools.pocket.recipe import Recipe

#: (weight, templates) by what they name; the article is always "a", so that one prompt form fits all concepts
TEMPLATES: tuple[tuple[float, tuple[str, ...]], ...] = (
    (
        0.40,
        (
            "a {style} {concept} on a {background} background",
            "{style} {concept}, {background} background",
            "a {concept} in {style} style on a {background} background",
            "a picture of a {style} {concept} on {background}",
        ),
    ),
    (0.16, ("a {style} {concept}", "{style} {concept}", "a {concept} in {style} style")),
    (0.16, ("a {concept} on a {background} background", "{concept} on {background}", "{concept}, {background}")),
    (0.20, ("a {concept}", "{concept}", "a picture of a {concept}", "the {concept}")),
    (0.04, ("a picture in {style} style", "{style} style")),
    (0.04, ("a picture on a {background} background", "a {background} background")),
)


def caption(world: World, label: Label, recipe: Recipe, rng: np.random.Generator) -> str:
    """One caption of a picture; empty with the recipe's probability.

    The number of random draws does not depend on their outcome, so captions stay the same when a word list changes.
    """
    chance = rng.random(9)
    if chance[0] < recipe.empty:
        return ""
    concept = world.concepts[label.concept]
    style, background = world.styles[label.style], world.backgrounds[label.background]
    templates = _weighted(TEMPLATES, chance[1])
    return _pick(templates, chance[2]).format(
        concept=_word(concept.name, concept.synonyms, recipe.synonym_concept, chance[3], chance[4]),
        style=_word(style, world.style_synonyms[style], recipe.synonym_style, chance[5], chance[8]),
        background=_word(
            background, world.background_synonyms[background], recipe.synonym_background, chance[6], chance[7]
        ),
    )


def corpus(world: World) -> Iterator[str]:
    """Every word that captions can contain, in templates: text to build the tokenizer from. No randomness."""
    words = (
        [(name, "concept") for item in world.concepts for name in (item.name, *item.synonyms)]
        + [(name, "style") for style in world.styles for name in (style, *world.style_synonyms[style])]
        + [(name, "background") for key in world.backgrounds for name in (key, *world.background_synonyms[key])]
    )
    blank = {"concept": "", "style": "", "background": ""}
    for word, role in words:
        for _, templates in TEMPLATES:
            for template in templates:
                if f"{{{role}}}" in template:
                    yield template.format(**{**blank, role: word})


def _word(name: str, synonyms: Sequence[str], share: float, first: float, second: float) -> str:
    if not synonyms or first >= share:
        return name
    return _pick(synonyms, second)


def _pick(options: Sequence[str], chance: float) -> str:
    return options[min(int(chance * len(options)), len(options) - 1)]


def _weighted(options: Sequence[tuple[float, tuple[str, ...]]], chance: float) -> tuple[str, ...]:
    total = 0.0
    for weight, templates in options:
        total += weight
        if chance < total:
            return templates
    return options[-1][1]
