"""The table in docs/support.md: read, and written from what was measured."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from tests.runtime.support.measure import STEPS

PAGE = Path(__file__).parents[3] / "docs" / "support.md"
WORDS = ("exact", "refused")
_BEGIN, _END = "<!-- written by: python -m tests.runtime.support --write -->\n", "<!-- end of the table -->\n"


def read() -> dict[str, tuple[str, ...]]:
    """Title of a row -> its words, in the order of `STEPS`."""
    found = {}
    for line in _split()[1].splitlines()[2:]:
        title, *words = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
        found[title] = tuple(words)
    return found


def write(rows: Mapping[str, Sequence[str]]) -> None:
    """Puts a new table into the page."""
    head, _, tail = _split()
    lines = [f"| pipeline | {' | '.join(STEPS)} |", "|---" * (len(STEPS) + 1) + "|"]
    lines += [f"| {title} | {' | '.join(words)} |" for title, words in rows.items()]
    PAGE.write_text(head + _BEGIN + "\n".join(lines) + "\n" + _END + tail, encoding="utf-8")


def _split() -> tuple[str, str, str]:
    head, rest = PAGE.read_text(encoding="utf-8").split(_BEGIN)
    table, tail = rest.split(_END)
    return head, table, tail
