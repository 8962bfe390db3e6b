"""Lines of prose in generated pages are as long as those that people write."""

from __future__ import annotations

import re
from textwrap import wrap

#: what is longer is broken, into lines of at most `WIDTH` characters
LONGEST, WIDTH = 140, 136
_ITEM = re.compile(r"(?:[-*]|\d+\.) ")


def narrow(page: str) -> str:
    """The page with long lines of prose and of lists broken; tables, headings, blocks and HTML are left alone."""
    lines, fenced = [], False
    for line in page.split("\n"):
        fenced ^= line.startswith("```")
        if len(line) <= LONGEST or fenced or line.startswith(("|", "#", "    ", "<", "!")):
            lines.append(line)
            continue
        item = _ITEM.match(line)
        indent = " " * len(item[0]) if item else ""
        lines += wrap(line, WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines)
