"""Presets: option defaults by kind of model and kind of concept, kept as data in TOML files. No torch.

The files beside this module belong to the built-in methods and to the options that they share. In a file, ``[pocket]``
and ``[sdxl]`` are kinds of model, ``[pocket.style]`` is a kind of concept on one of them, ``[style]`` a kind of concept
on every model. As tables they are named "pocket", "sdxl", "pocket style" and "style".
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from erase_plugins.errors import RequestError

#: name of a table -> option -> value
Tables = Mapping[str, Mapping[str, Any]]
#: a file beside the module that defines the options, or the content of such a file
Source = str | Mapping[str, Any]


def parse(text: str, where: str) -> dict[str, Any]:
    """Content of a TOML text.

    Args:
        text: the TOML text.
        where: what messages call it.

    Raises:
        RequestError: not TOML; names the line.
    """
    import tomllib

    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise RequestError(f"{where} is not valid TOML: {' '.join(str(error).split())}") from error


def flatten(data: Mapping[str, Any], where: str) -> dict[str, dict[str, Any]]:
    """Tables of a preset by name, the most specific of a model first; options outside any table are in table "".

    Raises:
        RequestError: tables in tables in tables.
    """
    found: dict[str, dict[str, Any]] = {}
    for model, content in data.items():
        if not isinstance(content, Mapping):
            continue
        inner = {name: values for name, values in content.items() if isinstance(values, Mapping)}
        for kind, values in inner.items():
            deeper = [name for name, value in values.items() if isinstance(value, Mapping)]
            if deeper:
                raise RequestError(
                    f"{where} has a table [{model}.{kind}.{deeper[0]}]; allowed are [MODEL], [MODEL.KIND] and [KIND]"
                )
            found[f"{model} {kind}"] = dict(values)
        own = {name: value for name, value in content.items() if name not in inner}
        if own or not inner:
            found[model] = own
    outside = {name: value for name, value in data.items() if not isinstance(value, Mapping)}
    return {**found, "": outside} if outside else found


def shipped(source: Source, owner: type) -> tuple[str, Tables]:
    """What messages call the presets of a class of options, and its tables.

    Args:
        source: the class attribute ``presets``: a file name, relative to the module of ``owner``, or a mapping.
        owner: the class that has the attribute.

    Raises:
        RequestError: the file is missing, is not TOML, or has options outside any table.
    """
    if isinstance(source, str):
        module = sys.modules[owner.__module__]
        where = f"preset {Path(source).name}"
        if not getattr(module, "__file__", None):
            raise RequestError(f"{where} of {owner.__name__} cannot be found: its module has no file; give a mapping")
        tables = _read(Path(str(module.__file__)).parent / source, where)
    elif isinstance(source, Mapping):
        where = f"presets of {owner.__name__}"
        tables = flatten(source, where)
    else:
        raise RequestError(f"{owner.__name__}.presets is {source!r}; give a file name or a mapping")
    if "" in tables:
        raise RequestError(f"{where} has {next(iter(tables['']))} outside any table; its default stands in the options")
    return where, tables


@lru_cache(maxsize=256)
def _read(path: Path, where: str) -> Tables:
    try:
        return flatten(parse(path.read_text(encoding="utf-8-sig"), where), where)
    except OSError as error:
        raise RequestError(f"{where} is missing beside {path.parent.name}; is it part of the package?") from error
    except UnicodeDecodeError as error:
        raise RequestError(f"{where} is not UTF-8 text") from error


def title(table: str) -> str:
    """A table as it is written in a file."""
    return f"[{table.replace(' ', '.')}]" if table else "outside any table"
