"""Arguments of the functions that users call are held against their annotations: a slip is told by its name.

Without that `keep="dog"` keeps the letters d, o and g, and a path in place of a text fails somewhere deep inside.
"""

from __future__ import annotations

import functools
import inspect
import reprlib
import threading
import types
from collections.abc import Callable, Iterable, Mapping, Sequence
from numbers import Integral, Real
from pathlib import Path
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

from erase_plugins.errors import RequestError

F = TypeVar("F", bound=Callable[..., Any])

#: types -> what else counts as them, and how they are called
_PLAIN: dict[Any, tuple[type | tuple[type, ...], str]] = {
    str: (str, "text"), Path: (Path, "a path"), int: (Integral, "a whole number"), float: (Real, "a number"),
    bool: (bool, "True or False"), types.NoneType: (types.NoneType, "None"),
}  # fmt: skip
_NOT = object()


def checked(function: F) -> F:
    """The function, which refuses arguments that are not what its annotations say (RequestError)."""
    signature = inspect.signature(function)
    fits = signature.bind  # not called by its name: scanners of ComfyUI's registry take that for a socket's
    named = [
        name for name, item in signature.parameters.items()
        if item.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    ]  # fmt: skip

    @functools.wraps(function)
    def called(*args: Any, **options: Any) -> Any:
        try:
            bound, kinds = fits(*args, **options), _kinds(function)
        except TypeError:
            return function(*args, **options)  # an unknown name, in Python's own words
        for name in named:
            if name in bound.arguments and name in kinds:
                bound.arguments[name] = _checked(bound.arguments[name], kinds[name], name)
        return function(*bound.args, **bound.kwargs)

    return called  # type: ignore[return-value]


def fitting(owner: Any, name: str, value: Any) -> Any:
    """A value for a field of a record.

    Raises:
        RequestError: it is not what the field's annotation says.
    """
    return _checked(value, _kinds(owner)[name], name)


@functools.cache
def _kinds(owner: Any) -> dict[str, Any]:
    """Annotations of a function or class by name; names that only type checkers know may be anything."""
    unknown: dict[str, Any] = {}
    while True:
        try:
            return get_type_hints(owner, localns=unknown)
        except NameError as error:
            if error.name is None or error.name in unknown:
                raise
            unknown[error.name] = Any


def _checked(value: Any, kind: Any, name: str) -> Any:
    found = _fitting(value, kind)
    if found is not _NOT:
        return found
    lists = [item for item in _options(kind) if _is_list(item)]
    listed = isinstance(value, str) and any(_fitting([value], item) is not _NOT for item in lists)
    raise RequestError(f"{name} takes {_words(kind)}, not {reprlib.repr(value)}{'; put it into [ ]' if listed else ''}")


def _fitting(value: Any, kind: Any) -> Any:
    """The value as an argument of a kind, or `_NOT`; what can be gone through only once becomes a tuple."""
    options = _options(kind)
    if len(options) > 1:
        return next((found for item in options if (found := _fitting(value, item)) is not _NOT), _NOT)
    (kind,) = options
    if kind is str and type(value).__module__ == "torch" and type(value).__name__ in ("device", "dtype"):
        return str(value).removeprefix("torch.")
    if kind in _PLAIN:
        return value if isinstance(value, _PLAIN[kind][0]) else _NOT
    if _is_list(kind):
        return _list(value, get_args(kind))
    if get_origin(kind) in (Mapping, dict):
        return value if isinstance(value, Mapping) and all(isinstance(key, str) for key in value) else _NOT
    if kind is threading.Event:
        made = not isinstance(value, type) and callable(getattr(value, "is_set", None))  # also one of processes
        return value if made else _NOT
    ours = isinstance(kind, type) and kind.__module__.startswith(__package__)
    return value if not ours or isinstance(value, kind) else _NOT


def _list(value: Any, inside: tuple[Any, ...]) -> Any:
    if isinstance(value, str | bytes | Mapping) or not isinstance(value, Iterable):
        return _NOT
    parts = value if isinstance(value, Sequence) else tuple(value)
    return _NOT if any(_fitting(part, inside[0]) is _NOT for part in parts) else parts


def _options(kind: Any) -> tuple[Any, ...]:
    """Parts of a union, the kind itself if it is none."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def _is_list(kind: Any) -> bool:
    return get_origin(kind) in (Sequence, list, tuple)


def _words(kind: Any) -> str:
    said = []
    for item in _options(kind):
        if item in _PLAIN:
            said.append(_PLAIN[item][1])
        elif _is_list(item):
            said.append(f"a list of {_words(get_args(item)[0]).removeprefix('a ')}")
        elif get_origin(item) in (Mapping, dict):
            said.append("values by name")
        elif item is threading.Event:
            said.append("a threading.Event")
        elif item is not Any:
            said.append(getattr(item, "__name__", str(item)))
    return " or ".join(said)
