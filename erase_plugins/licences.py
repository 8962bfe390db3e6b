"""Licence identifiers that the Hub takes."""

from __future__ import annotations

from difflib import get_close_matches
from functools import cache
from pathlib import Path

from erase_plugins.errors import RequestError
from erase_plugins.hints import Hint

OTHER = "other"


@cache
def identifiers() -> tuple[str, ...]:
    """All of them."""
    lines = Path(__file__).with_suffix(".txt").read_text(encoding="utf-8").split("\n")
    return tuple(line for line in lines if line and not line.startswith("#"))


def checked(given: str) -> tuple[str, str | None]:
    """The identifier as the Hub writes it, and the name that goes with "other".

    Args:
        given: an identifier in any case, or "other:NAME".

    Raises:
        RequestError: the Hub has no such identifier, or a name is missing or stands where there is none.
    """
    text, _, name = (part.strip() for part in given.partition(":"))
    text, named = text.lower(), Hint("license", "other:NAME")
    if text not in identifiers():
        close = get_close_matches(text, identifiers(), n=1)
        meant = f"; did you mean '{close[0]}'?" if close else "."
        raise RequestError(
            f"the Hub has no licence '{text[:60]}'{meant} https://hf.co/docs/hub/repositories-licenses lists those of "
            "the Hub; for another one give ", named
        )  # fmt: skip
    if (text == OTHER) != bool(name):
        raise RequestError(f"only licence '{OTHER}' has a name, and needs one: ", named)
    return text, name or None
