"""Options of a method: a frozen dataclass whose fields carry help, bounds and choices.

The dataclass is the only place where an option is described; the command line, the nodes and the documentation tables
are generated from it. Defaults that depend on the kind of model or concept come from its presets
(`erase_plugins.presets`): a class attribute ``presets`` with the name of a TOML file beside the module, or a mapping. A
class inherits the presets of its bases, except for options that it declares anew.
"""

from __future__ import annotations

import dataclasses
import inspect
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from erase_plugins import presets as files
from erase_plugins.errors import RequestError, UnknownName


def option(
    default: Any,
    help: str,
    *,
    low: float | None = None,
    high: float | None = None,
    choices: Sequence[Any] = (),
    per: Mapping[str, Any] | None = None,
    place: bool = False,
    searched: Sequence[Any] = (),
) -> Any:
    """Dataclass field of an option.

    Args:
        default: value when neither the user nor a preset says otherwise.
        help: one line.
        low, high: inclusive bounds for numbers.
        choices: allowed values.
        per: presets of this one option ("pocket", "pocket style", "sdxl", "style" ...), for methods without a file.
        place: the value names files on this machine, of which a manifest keeps the last part.
        searched: what ``auto`` may try: the two ends of a range for a number (in powers where they lie a factor of ten
            apart), single values for anything else.
    """
    metadata = {
        "help": help, "low": low, "high": high, "choices": tuple(choices), "per": dict(per or {}), "place": place,
        "searched": tuple(searched),
    }  # fmt: skip
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class OptionInfo:
    """Description of one option, as shown by ``--help``, the nodes and the documentation.

    ``per`` holds the presets: kind of model or concept to value. ``searched`` is what ``auto`` may try.
    """

    name: str
    type: str
    default: Any
    help: str
    low: float | None
    high: float | None
    choices: tuple[Any, ...]
    per: Mapping[str, Any]
    searched: tuple[Any, ...] = ()


@lru_cache(maxsize=512)
def describe(options: type) -> tuple[OptionInfo, ...]:
    """All options of a method's ``Options`` class in their order, with its presets.

    Raises:
        RequestError: a preset names an unknown option or a value that is not allowed.
    """
    declared = _declared(options)
    tables = _presets(options, declared)
    return tuple(
        dataclasses.replace(
            item, per={**item.per, **{name: row[item.name] for name, row in tables.items() if item.name in row}}
        )
        for item in declared.values()
    )


def resolve(options: type, given: Mapping[str, Any], presets: Sequence[str] = ()) -> Any:
    """Instance of ``options`` from what the user gave, then presets, then defaults.

    Args:
        options: a method's ``Options`` class.
        given: option name to value; strings are converted to the declared type.
        presets: kinds of model and concept that pick presets, most specific first.

    Raises:
        UnknownName: an option that the method does not have.
        RequestError: a value of the wrong type or outside its bounds.
    """
    known = {item.name: item for item in describe(options)}
    for name in given:
        if name not in known:
            raise UnknownName("option", name, known)
    hints = _hints(options)
    values = {}
    for name, item in known.items():
        if name in given:
            values[name] = _check(item, _convert(name, given[name], hints[name]))
        else:
            match = next((item.per[preset] for preset in presets if preset in item.per), item.default)
            values[name] = match
    return options(**values)


def check_tables(options: type, tables: files.Tables, where: str) -> dict[str, dict[str, Any]]:
    """The tables of a preset with every value in the type of its option.

    Args:
        options: a method's ``Options`` class.
        tables: from `erase_plugins.presets.flatten`.
        where: what messages call the preset.

    Raises:
        UnknownName: an option that the method does not have, with the nearest that it has.
        RequestError: names file, table, option and what is allowed.
    """
    declared, hints = _declared(options), _hints(options)
    found: dict[str, dict[str, Any]] = {}
    for table, row in tables.items():
        place = f"{where}, {files.title(table)}"
        found[table] = {}
        for name, value in row.items():
            if name not in declared:
                raise UnknownName(f"option in {place}", name, declared)
            try:
                found[table][name] = _check(declared[name], _convert(name, value, hints[name]))
            except RequestError as error:
                raise RequestError(f"{place}: ", error) from error
    return found


def preset_files(options: type) -> list[str]:
    """Names of the preset files of a class and its bases, those of the bases first."""
    sources = [vars(owner).get("presets") for owner in reversed(options.__mro__)]
    return [source.rpartition("/")[2] for source in sources if isinstance(source, str)]


#: types of the fields of an ``Options`` class: reading them takes longest here, and each is asked for often
_hints = lru_cache(maxsize=512)(typing.get_type_hints)


@lru_cache(maxsize=512)
def _declared(options: type) -> dict[str, OptionInfo]:
    """Options as the fields of the dataclass describe them."""
    hints = _hints(options)
    return {
        item.name: OptionInfo(
            name=item.name,
            type=_type_name(hints[item.name]),
            default=item.default,
            help=item.metadata.get("help", ""),
            low=item.metadata.get("low"),
            high=item.metadata.get("high"),
            choices=item.metadata.get("choices", ()),
            per=item.metadata.get("per", {}),
            searched=item.metadata.get("searched", ()),
        )
        for item in dataclasses.fields(options)
    }


def _presets(options: type, declared: Mapping[str, OptionInfo]) -> dict[str, dict[str, Any]]:
    """Presets of a class and its bases, in the order of its own file."""
    found: dict[str, dict[str, Any]] = {}
    order: list[str] = []
    for owner in reversed(options.__mro__):
        for name in inspect.get_annotations(owner):
            for row in found.values():
                row.pop(name, None)
        source = vars(owner).get("presets") if "presets" not in declared else None
        if source is not None:
            where, tables = files.shipped(source, owner)
            order = [*tables, *order]
            for name, row in check_tables(owner, tables, where).items():
                found.setdefault(name, {}).update(row)
    return {name: found[name] for name in dict.fromkeys(order)}


def as_dict(options: Any) -> dict[str, Any]:
    """Options as a plain dictionary, in declared order."""
    return {item.name: getattr(options, item.name) for item in dataclasses.fields(options)}


def as_setting(value: Any) -> str:
    """A value as ``--set`` takes it."""
    if isinstance(value, list | tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


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
    ways = "; write true or false" if bool in members else ""
    raise RequestError(f"option {name}={value!r} is not of type {_type_name(hint)}{ways}")


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
        if isinstance(value, bool):
            raise TypeError(value)
        number = float(value)
        if number != number or number in (float("inf"), float("-inf")):
            raise ValueError(value)
        return number
    if kind is str:
        if isinstance(value, list | tuple | Mapping):
            raise TypeError(value)
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
