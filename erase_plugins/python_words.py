"""The package's sentences in the words of Python: options of the command line become arguments."""

from __future__ import annotations

import re
from collections.abc import Callable
from functools import wraps
from typing import Any

from erase_plugins.errors import EraseError

#: options that are arguments of another name or form
_OTHERS = {
    "all-files": "layouts=['all']",
    "pairs": "gallery=",
    "erase": "concepts=",
    "set": "options=",
    "base": "target=",
}
_SWITCHES = ("force", "personal", "prune", "private", "dry-run", "offline", "any-base", "resume", "create-pr")
#: an option with what stands for its value, outside a whole command
_OPTION = re.compile(r"('erase-plugins [^']*')|(?<![\w-])--([a-z][a-z-]*)(?: ([A-Z][A-Z_]*|other)\b)?")


def in_python(sentence: str) -> str:
    """A sentence of the package as Python says it; whole commands in quotes stay."""

    def argument(found: re.Match[str]) -> str:
        whole, name, value = found.groups()
        if whole:
            return whole
        if name in _OTHERS:
            return _OTHERS[name]
        shown = "True" if name in _SWITCHES else f"'{value}'" if value else ""
        return f"{name.replace('-', '_')}={shown}"

    return _OPTION.sub(argument, sentence)


def speaks_python(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its errors in the words of Python; classes, fields and causes stay."""

    @wraps(function)
    def called(*arguments: Any, **options: Any) -> Any:
        try:
            return function(*arguments, **options)
        except EraseError as error:
            if len(error.args) == 1 and isinstance(error.args[0], str):
                error.args = (in_python(error.args[0]),)
            raise

    return called
