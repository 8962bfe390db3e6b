"""Whether a plugin and this program agree on the hooks: what it was written for against what is served here."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable
from itertools import chain

from erase_plugins import hookspecs
from erase_plugins.errors import PluginError

#: attribute of a plugin that says for which hooks it was written
API_ATTRIBUTE = "ERASE_PLUGINS_API"
_COMPARE: dict[str, Callable[[int, int], bool]] = {
    "<=": operator.le,
    ">=": operator.ge,
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
_PART = re.compile(r"(<=|>=|==|!=|<|>)\s*(\d{1,6})")


def check_api(stated: object) -> None:
    """Accepts what a plugin states if some version of the hooks that is served here lies in it.

    Args:
        stated: a number, or a range such as ">=1,<3".

    Raises:
        PluginError: no served version is in it, with the side that has to be updated; or it cannot be read.
    """
    parts = _parts(stated)
    oldest, newest = hookspecs.API_OLDEST, hookspecs.API_VERSION
    if any(_inside(version, parts) for version in range(oldest, newest + 1)):
        return
    # nothing changes beyond the numbers that are named, so one step further is far enough
    later = chain((newest + 1,), (number + step for _, number in parts for step in (0, 1) if number + step > newest))
    side = (
        "a newer erase-plugins"
        if any(_inside(version, parts) for version in later)
        else "a newer version of this package"
    )
    here = f"hooks {newest}" if oldest == newest else f"hooks {oldest} to {newest}"
    raise PluginError(f"written for hooks {stated}, this is {here}; install {side}")


def _parts(stated: object) -> list[tuple[str, int]]:
    if isinstance(stated, int) and not isinstance(stated, bool):
        return [("==", stated)]
    found = [_PART.fullmatch(part.strip()) for part in stated.split(",")] if isinstance(stated, str) else [None]
    parts = [(item[1], int(item[2])) for item in found if item is not None]
    if len(parts) < len(found):
        raise PluginError(f"{API_ATTRIBUTE} is {stated!r:.40}; write a number such as 1, or a range such as '>=1,<3'")
    return parts


def _inside(version: int, parts: list[tuple[str, int]]) -> bool:
    return all(_COMPARE[sign](version, number) for sign, number in parts)
