"""The world of a judge: what prompts are made of. A plugin's is looked at before anything relies on it. No torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from erase_plugins.errors import PluginError, UnknownName
from erase_plugins.plain_text import an

_PARTS = ("concepts", "styles", "backgrounds")


def world_of(judge: Any) -> Any:
    """The world of a judge.

    Raises:
        PluginError: part of it is missing or of another type; names the judge, its module and the part.
    """
    world = judge.world()
    if fault := _fault(world):
        module = type(judge).__module__.removeprefix("erase_plugins_file_")
        raise PluginError(f"judge '{judge.id}' ({module}): world() {fault}; tell its author")
    return world


def concept_of(world: Any, name: str) -> Any:
    """The concept of this name.

    Raises:
        UnknownName: not in this world.
    """
    for item in world.concepts:
        if item.name == name:
            return item
    raise UnknownName("concept in the judge's world", name, [item.name for item in world.concepts])


def synonyms_of(world: Any, axis: str, name: str) -> Sequence[str]:
    """Other words for a concept or a style; a world need not have any for styles."""
    if axis == "style":
        return getattr(world, "style_synonyms", {}).get(name, ())
    return concept_of(world, name).synonyms


def _fault(world: Any) -> str:
    """What is wrong with a world, with what would be right; empty if nothing is."""
    missing = [name for name in _PARTS if not hasattr(world, name)]
    if missing:
        return (
            f"returned {'None' if world is None else an(type(world).__name__)} without {', '.join(missing)}; return an "
            f"object with the attributes {', '.join(_PARTS)}, tuples that may be empty"
        )
    if not isinstance(world.concepts, list | tuple):
        return f"has {an(type(world.concepts).__name__)} for concepts; a tuple of objects is needed"
    for place, item in enumerate(world.concepts):
        if not all(isinstance(getattr(item, key, None), str) for key in ("name", "group")):
            return f"has a concept (number {place + 1}) without the texts name and group"
        if not _texts(getattr(item, "synonyms", None)):
            return f"has the concept '{item.name}' without synonyms, a tuple of texts that may be empty"
    for name in _PARTS[1:]:
        if not _texts(getattr(world, name)):
            return f"has {an(type(getattr(world, name)).__name__)} for {name}; a tuple of texts is needed"
    for name in ("style_synonyms", "background_synonyms"):
        words = getattr(world, name, {})
        if not isinstance(words, Mapping) or not all(map(_texts, words.values())):
            return f"has {name} that do not map names to tuples of texts"
    return ""


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
