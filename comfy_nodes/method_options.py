"""Options of every method that the Erase node takes, as its script in the browser shows them. No torch."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

from erase_plugins.options import OptionInfo, describe

from .erasing import TRAINING, trains
from .nodes.methods import drawing_methods
from .search_options import AUTO
from .wording import in_the_graph

#: options that are shown at once where a method trains; all others are folded away
_COMMON = ("iterations", "lr", "rank")
#: the one of a search
_MINUTES = "minutes"
#: of those that a search may try, so many are shown at once
_MOST = 3
_TRAINING_HELP = {
    "seed": "seed of everything random in the training; the same seed gives the same erasure",
    "preview_every": "training steps between pictures of the first concept; 0 shows none",
}


@cache
def option_words() -> dict[str, str]:
    """Name of an option -> what the form calls it. Options of other packages need no entry."""
    found: dict[str, str] = json.loads(Path(__file__).with_name("option_words.json").read_text(encoding="utf-8"))
    return found


def _label(name: str) -> str:
    return option_words().get(name, name.replace("_", " "))


def method_titles() -> dict[str, dict[str, Any]]:
    """Id of a method -> its whole title, which a list in a narrow node cuts, and whether it trains or searches."""
    return {item.id: {"title": item.title, "trains": trains(item), "searches": item is AUTO} for item in _entries()}


def method_options() -> dict[str, list[dict[str, Any]]]:
    """Id of a method -> its options in the order of the form."""
    return {item.id: _options(item) for item in _entries()}


def _entries() -> list[Any]:
    return [AUTO, *(entry.item for entry in drawing_methods())]


def _options(method: Any) -> list[dict[str, Any]]:
    training = trains(method)
    described = describe(method.Options)
    main = {item.name for item in [item for item in described if item.searched][:_MOST]}
    main |= set(_COMMON) if training else {_MINUTES}
    own = [_option(item, item.name in main) for item in described]
    taken = {item["name"] for item in own}
    shared = [
        {"name": name, "label": _label(name), "help": _TRAINING_HELP[name], "default": str(value), "choices": [],
         "number": True, "whole": True, "low": 0, "high": 2**31 - 1, "main": name == "seed"}
        for name, value in TRAINING.items() if training and name not in taken
    ]  # fmt: skip
    return [*own, *shared]


def _option(item: OptionInfo, main: bool) -> dict[str, Any]:
    kinds = item.type.split(" or ")
    automatic = bool(item.per) or item.default is None
    choices = [str(choice) for choice in item.choices] or (["true", "false"] if "bool" in kinds else [])
    return {
        "name": item.name, "label": _label(item.name), "help": in_the_graph(item.help),
        "default": "" if automatic else _text(item.default),
        "choices": choices, "number": bool({"int", "float"} & set(kinds)), "whole": "float" not in kinds,
        "low": item.low, "high": item.high, "main": main,
    }  # fmt: skip


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(str(part) for part in value) if isinstance(value, tuple) else str(value)
