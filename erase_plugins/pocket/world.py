"""The pocket world: concepts with groups and synonyms, styles, backgrounds. No torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from erase_plugins.errors import UnknownName

FOLDER = Path(__file__).resolve().parent


@dataclass(frozen=True)
class WorldConcept:
    """A drawable thing: its group, emoji code point and other words for it."""

    name: str
    group: str
    codepoint: str
    synonyms: tuple[str, ...]


@dataclass(frozen=True)
class World:
    """Everything a suite needs to build prompts."""

    concepts: tuple[WorldConcept, ...]
    styles: tuple[str, ...]
    backgrounds: tuple[str, ...]
    background_rgb: dict[str, tuple[int, int, int]]
    style_synonyms: dict[str, tuple[str, ...]]
    background_synonyms: dict[str, tuple[str, ...]]

    def concept(self, name: str) -> WorldConcept:
        """The concept with this name.

        Raises:
            UnknownName: the model was not trained on it.
        """
        for item in self.concepts:
            if item.name == name:
                return item
        raise UnknownName("concept in the judge's world", name, [item.name for item in self.concepts])

    def group(self, name: str) -> tuple[WorldConcept, ...]:
        """Concepts of one group."""
        return tuple(item for item in self.concepts if item.group == name)


@lru_cache(maxsize=1)
def pocket_world() -> World:
    """The world that the embedded model was trained on."""
    data = json.loads((FOLDER / "concepts.json").read_text(encoding="utf-8"))
    return World(
        concepts=tuple(
            WorldConcept(item["name"], item["group"], item["codepoint"], tuple(item["synonyms"]))
            for item in data["concepts"]
        ),
        styles=tuple(data["styles"]),
        backgrounds=tuple(data["backgrounds"]),
        background_rgb={name: tuple(item["rgb"]) for name, item in data["backgrounds"].items()},
        style_synonyms={name: tuple(item["synonyms"]) for name, item in data["styles"].items()},
        background_synonyms={name: tuple(item["synonyms"]) for name, item in data["backgrounds"].items()},
    )
