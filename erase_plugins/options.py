"""Options of a method: a frozen dataclass whose fields carry help, bounds, choices and per-profile defaults.

The dataclass is the only place where an option is described; the command line, the nodes and the documentation tables
are generated from it.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from erase_plugins.errors import RequestError, UnknownName


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[Any] = (),
    per: Mapping[str, Any] | None = None,
) -> Any:
    """Dataclass field of an option.

    Args:
        default: value when neither the user nor a profile says otherwise.
        help: one line.
        low, high: inclusive bounds for numbers.
        choices: allowed values.
        per: defaults by profile or family id ("pocket", "sdxl", "style" ...); the first match wins.
    """
    metadata = {"help": help, "low": low, "high": high, "choices": tuple(choices), "per": dict(per or {})}
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class OptionInfo:
    """Description of one option, as shown by ``--help``, the nodes and the documentation."""

    name: str
    type: str
    default: Any
    help: str
    low: float | None
    high: float | None
    choices: tuple[Any, ...]
    per: Mapping[str, Any]


def describe(options: type) -> tuple[OptionInfo, ...]:
    """All options of a method's ``Options`` class in their order."""
    hints = typing.get_type_hints(options)
    return tuple(
        OptionInfo(
            name=item.name,
            type=_type_name(hints[item.name]),
            default=item.default,
            help=item.metadata.get("help", ""),
            low=item.metadata.get("low"),
            high=item.metadata.get("high"),
            choices=item.metadata.get("choices", ()),
            per=item.metadata.get("per", {}),
        )
        for item in dataclasses.fields(options)
    )


def resolve(options: type, given: Mapping[str, Any], profiles: Sequence[str] = ()) -> Any:
    """Instance of ``options`` from what the user gave, then profile defaults, then defaults.

    Args:
        options: a method's ``Options`` class.
        given: option name to value; strings are converted to the declared type.
        profiles: names that pick per-profile defaults, most specific first.

    Raises:
        UnknownName: an option that the method does not have.
        RequestError: a value of the wrong type or outside its bounds.
    """
    known = {item.name: item for item in describe(options)}
    for name in given:
        if name not in known:
            raise UnknownName("option", name, known)
    hints = typing.get_type_hints(options)
    values = {}
    for name, item in known.items():
        if name in given:
            values[name] = _check(item, _convert(name, given[name], hints[name]))
        else:
            match = next((item.per[profile] for profile in profiles if profile in item.per), item.default)
            values[name] = match
    return options(**values)


def as_dict(options: Any) -> dict[str, Any]:
    """Options as a plain dictionary, in declared order."""
    return {item.name: getattr(options, item.name) for item in dataclasses.fields(options)}


def _members(hint: Any) -> tuple[Any, ...]:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return typing.get_args(hint)
    return (hint,)


def _type_name(hint: Any) -> str:
    return " or ".join(
        "none" if part is type(None) else getattr(part, "__name__", str(part)) for part in _members(hint)
    )


def _convert(name: str, value: Any, hint: Any) -> Any:
    members = _members(hint)
    if value is None or (isinstance(value, str) and value.lower() in ("none", "auto") and type(None) in members):
        if type(None) in members:
            return None
        raise RequestError(f"option {name} needs a value of type {_type_name(hint)}")
    for kind in members:
        if kind is type(None):
            continue
        try:
            return _convert_one(value, kind)
        except (TypeError, ValueError):
            continue
    raise RequestError(f"option {name}={value!r} is not of type {_type_name(hint)}")


def _convert_one(value: Any, kind: Any) -> Any:
    if kind is bool:
        if isinstance(value, bool):
            return value
        word = str(value).strip().lower()
        if word in ("true", "yes", "on", "1"):
            return True
        if word in ("false", "no", "off", "0"):
            return False
        raise ValueError(value)
    if kind is int:
        if isinstance(value, bool) or (isinstance(value, float) and not value.is_integer()):
            raise ValueError(value)
        return int(value)
    if kind is float:
        number = float(value)
        if number != number or number in (float("inf"), float("-inf")):
            raise ValueError(value)
        return number
    if kind is str:
        return str(value)
    if typing.get_origin(kind) is tuple:
        inner = typing.get_args(kind)[0]
        parts = value.split(",") if isinstance(value, str) else list(value)
        return tuple(
            _convert_one(part.strip() if isinstance(part, str) else part, inner) for part in parts if part != ""
        )
    raise TypeError(kind)


def _check(item: OptionInfo, value: Any) -> Any:
    if item.choices and value not in item.choices and value is not None:
        raise UnknownName(f"value for option {item.name}", str(value), [str(choice) for choice in item.choices])
    if isinstance(value, int | float) and not isinstance(value, bool):
        if item.low is not None and value < item.low:
            raise RequestError(f"option {item.name}={value} is below its minimum {item.low}")
        if item.high is not None and value > item.high:
            raise RequestError(f"option {item.name}={value} is above its maximum {item.high}")
    return value
