"""Concepts that not everybody wants to see: which they are, and pictures made unrecognisable."""

from __future__ import annotations

import io
from collections.abc import Iterable
from typing import Any

#: kinds of concepts whose pictures are blurred
BLURRED = ("explicit", "person")
#: kinds whose page asks the visitor first
ADULT = ("explicit",)
#: groups (also as the name of the concept itself) that count as kind "explicit"
GROUPS = frozenset({
    "explicit", "nudity", "naked", "nude", "nsfw", "sexual", "sex", "porn", "pornography", "violence", "blood", "gore",
    "shocking", "hate", "harassment", "self-harm", "suicide", "illegal activity", "drugs", "weapons", "child abuse",
})  # fmt: skip
#: a picture is reduced to this many pixels along its longer edge before it is enlarged again
_LEFT = 6


def kinds_of(concepts: Iterable[Any]) -> set[str]:
    """Kinds of the concepts; those of a group in `GROUPS` count as "explicit"."""
    found = set()
    for concept in concepts:
        words = {concept.text.strip().lower(), str(concept.extra.get("group", "")).strip().lower()}
        found.add("explicit" if words & GROUPS else concept.kind)
    return found


def to_blur(concepts: Iterable[Any]) -> bool:
    """Whether pictures of these concepts are blurred unless somebody asks otherwise."""
    return bool(kinds_of(concepts) & set(BLURRED))


def adults_only(concepts: Iterable[Any]) -> bool:
    """Whether the page gets the Hub's notice unless somebody asks otherwise."""
    return bool(kinds_of(concepts) & set(ADULT))


def blurred(data: bytes) -> bytes:
    """A PNG of the same size in which nothing can be recognised: six pixels are left, the rest is interpolated."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as file:
        picture = file.convert("RGB")
    scale = _LEFT / max(picture.size)
    small = picture.resize([max(1, round(edge * scale)) for edge in picture.size], Image.Resampling.BOX)
    return png(small.resize(picture.size, Image.Resampling.BICUBIC))


def is_png(data: bytes) -> bool:
    """Whether a file with this content says that it is a PNG."""
    return data.startswith(b"\x89PNG\r\n\x1a\n")


def png(picture: Any) -> bytes:
    """A PIL picture as PNG, the same bytes for the same pixels, with no metadata but the program's name."""
    from erase_plugins.artifacts.places import png_stamp

    out = io.BytesIO()
    picture.save(out, format="PNG", pnginfo=png_stamp())
    return out.getvalue()
