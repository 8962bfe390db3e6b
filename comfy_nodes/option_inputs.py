"""Widgets for the options of a method, and back. No torch, no ComfyUI.

Where the value depends on the model or on the kind of concept, the widget says "auto" until somebody writes a value;
so a workflow follows the method's defaults instead of freezing those of one model.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import floor, log10
from typing import Any

from erase_plugins.options import OptionInfo, describe

from .spec import Input
from .wording import in_the_graph

AUTO = "auto"
_LARGEST = 2**31 - 1


def widget_name(option: str, taken: Collection[str]) -> str:
    """Name of an option's widget; those of the node itself come first."""
    return f"option_{option}" if option in taken else option


def option_inputs(options: type, taken: Collection[str]) -> tuple[Input, ...]:
    """One optional widget for every option, in its order.

    Args:
        options: a method's ``Options`` class.
        taken: names of the node's own inputs.
    """
    return tuple(_widget(item, widget_name(item.name, taken)) for item in describe(options))


def given_options(options: type, taken: Collection[str], values: Mapping[str, Any]) -> dict[str, Any]:
    """Options that were written, by their own names; "auto" and what is missing are left to the method."""
    named = {item.name: values.get(widget_name(item.name, taken), AUTO) for item in describe(options)}
    return {name: value for name, value in named.items() if value != AUTO}


def _widget(item: OptionInfo, name: str) -> Input:
    automatic = bool(item.per) or item.default is None
    help_text = in_the_graph(item.help)
    tooltip = f"{help_text[:1].upper()}{help_text[1:]}. {_defaults(item)}"
    kinds = item.type.split(" or ")
    if item.choices or ("bool" in kinds and automatic):
        entries = [str(choice) for choice in item.choices] or ["true", "false"]
        default = AUTO if automatic else str(item.default)
        return Input(
            name, "COMBO", tooltip, False, {"default": default}, tuple([AUTO, *entries] if automatic else entries)
        )
    if automatic or "tuple" in kinds or "str" in kinds:
        default = AUTO if automatic else _text(item.default)
        return Input(name, "STRING", tooltip, False, {"default": default})
    if "bool" in kinds:
        return Input(name, "BOOLEAN", tooltip, False, {"default": item.default})
    low = -_LARGEST if item.low is None else item.low
    high = _LARGEST if item.high is None else item.high
    if "int" in kinds:
        return Input(name, "INT", tooltip, False, {"default": item.default, "min": int(low), "max": int(high)})
    if "float" in kinds:
        limits = {"default": item.default, "min": float(low), "max": float(high), "step": _step(item.default)}
        return Input(name, "FLOAT", tooltip, False, {**limits, "round": False})
    raise TypeError(f"option {item.name} is of type {item.type}, for which there is no widget")


def _step(value: float) -> float:
    """A tenth of the leading digit, at most 0.05: small rates can be set, strengths move quickly."""
    return min(0.05, 10.0 ** (floor(log10(abs(value))) - 1)) if value else 0.01


def _text(value: Any) -> str:
    return ", ".join(str(part) for part in value) if isinstance(value, tuple) else str(value)


def _defaults(item: OptionInfo) -> str:
    """What holds where nothing is written."""
    first = "chosen by the method" if item.default is None else _text(item.default) or "empty"
    others = [f"{_text(value) or 'empty'} ({preset})" for preset, value in item.per.items()]
    word = AUTO if others or item.default is None else "default"
    return f"{word[:1].upper()}{word[1:]}: {', '.join([first, *others])}."
