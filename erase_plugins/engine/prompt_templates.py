"""Prompts around a concept, made without a language model, and which embedding rows stand for a phrase. No torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from erase_plugins.errors import RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.families.base import Conditioning

#: 6 phrasings per kind, as the official UCE code expands them
TEMPLATES = {
    "style": ("{}", "painting by {}", "art by {}", "artwork by {}", "picture by {}", "style of {}"),
    "object": ("{}", "image of {}", "photo of {}", "portrait of {}", "picture of {}", "painting of {}"),
}
#: phrasings of a concept that need no language model
VARIANTS = ("{} content", "{} scene", "{}-like", "{} theme", "inspired by {}")
#: what a concept becomes when the user does not say
SAFE = {"style": "art", "person": "a person", "explicit": "a person wearing clothes", "object": "an object"}
#: frames with the slot at the start, in the middle and at the end
FRAMES = (
    "{}", "a photo of {}", "a sketch of {} in pencil", "an oil painting showing {}", "a close portrait of {}",
    "a magazine cover with {} on it", "{} seen from far away", "{} in the morning", "a dark street and {} at night",
    "a black and white picture of {}", "a group of visitors looking at {}", "a digital rendering of {}",
    "{} in front of a plain wall", "a blurry snapshot of {} indoors", "a detailed illustration of {}",
)  # fmt: skip
#: captions of pictures by kind
CAPTIONS = {
    "object": ("{}", "a {}", "the {}", "a photo of a {}", "a picture of the {}", "a close view of a {}",
               "a drawing of a {}", "one {} on a plain background", "a small {}", "a large {}"),
    "style": ("{}", "a picture in the style of {}", "a painting by {}", "art by {}", "a drawing in {} style",
              "a landscape by {}", "a portrait in the manner of {}"),
}  # fmt: skip
#: rows counted from the last content row: first, behind the last
ROWS = {"last": (0, 1), "eot": (1, 2), "last+eot": (0, 2)}


def expand(text: str, kind: str) -> tuple[str, ...]:
    """Phrasings of a concept; a blank guide stays blank."""
    if not text.strip():
        return (text,) * len(TEMPLATES["object"])
    return tuple(template.format(text) for template in TEMPLATES.get(kind, TEMPLATES["object"]))


def check_phrase(cond: Conditioning, index: int) -> None:
    """Refuses a phrase without content tokens: it would map the start token and break every prompt.

    Raises:
        RequestError: names the phrase.
    """
    if cond.is_empty(index):
        raise RequestError(
            f"'{cond.prompts[index]}' has no content tokens for this text encoder; name the concept in words"
        )


def paired_rows(erased: Conditioning, guide: Conditioning, i: int, j: int, mode: str) -> tuple[Tensor, Tensor]:
    """Rows of a phrase and the rows they become, paired.

    Args:
        erased, guide: encoded prompts.
        i, j: which prompt of each.
        mode: "last" takes the last content row; "eot" the end row behind it (TRCE), "last+eot" both; "window" the last
            content row and everything after it that both have (UCE, 2023 code); "all" every row by position (RECE).

    Returns:
        Two (n, dim) float64 tensors.
    """
    a, b = erased.embeds[i].cpu().double(), guide.embeds[j].cpu().double()
    first, second = erased.last[i], guide.last[j]
    if mode in ROWS:
        start, stop = ROWS[mode]
        return a[first + start : first + stop], b[second + start : second + stop]
    if mode == "all":
        return a, b
    far = max(first, second)
    length = a.shape[0]
    return a[first : length - (far - first)], b[second : length - (far - second)]


def short_window(
    erased: Conditioning, guide: Conditioning, i: int, j: int, tail: int, tokens: int
) -> tuple[Tensor, Tensor]:
    """`paired_rows` of mode "window" with the last content row and the ``tail`` rows behind it only.

    Those rows count for all that both prompts have behind the last content row.

    Args:
        erased, guide: first rows of prompts, at least ``tail`` behind the last content row where there are so many.
        i, j: which prompt of each.
        tail: rows, 1 or more.
        tokens: rows of a whole prompt.
    """
    first, second = erased.last[i], guide.last[j]
    whole = tokens - 1 - max(first, second)
    count = 1 + min(tail, whole)
    a = erased.embeds[i][first : first + count].cpu().double()
    b = guide.embeds[j][second : second + count].cpu().double()
    if whole > tail:
        weight = a.new_full((count, 1), (whole / tail) ** 0.5)
        weight[0] = 1.0
        a, b = a * weight, b * weight
    return a, b
