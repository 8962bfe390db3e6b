"""Text from strangers, made harmless for a page: Markdown, HTML, code blocks. No dependency."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence

#: harmless where it stands, and left since people read the source too: "a: b", "a = b", "a_b", "a/b", "[0 to 9]"
_READ = r"(?<=\w): |(?<= )= |(?<=[A-Za-z0-9])[_/](?=[A-Za-z0-9])|\[\d+ to \d+\](?![\[(:])"
#: that, or what a page could read as markup
_MARKUP = re.compile(rf"({_READ})|[^A-Za-z0-9 ,.;'()+%?\-\u0080-\U0010ffff]")
#: control characters, and those that change the direction of text or hide it
_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff\u2028\u2029]+")
_LINKING = re.compile(r"(?i)https?(?=:)|www(?=\.)|@")
#: breaks what a renderer would take for a link or a mention; not visible
_BREAK = "\u2060"
_LONGEST = 300
#: what looks like an access token of the Hub
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
#: characters that fit on a line of a code block on the page
_WIDTH = 84


class Inert(str):
    """Text of ours, or text that was made harmless."""


def flat(text: object, most: int = _LONGEST) -> str:
    """One line without control characters and access tokens, at most ``most`` characters."""
    return _TOKEN.sub("hf_***", " ".join(_HIDDEN.sub(" ", str(text)).split()))[:most]


def prose(text: object, most: int = _LONGEST) -> Inert:
    """Text that shows as it is inside a Markdown paragraph or table cell: no markup, no HTML, no link."""
    broken = _LINKING.sub(lambda found: found[0] + _BREAK, flat(text, most))
    return Inert(_MARKUP.sub(lambda found: found[1] or f"&#{ord(found[0])};", broken))


def listed(texts: Sequence[object], most: int | None = None) -> Inert:
    """Several on one line; of those that are too many, their number."""
    more = 0 if most is None else len(texts) - most
    return Inert(", ".join(map(prose, texts[:most])) + (f" and {more} more" if more > 0 else ""))


def code(text: object) -> Inert:
    """Inline code that cannot end early."""
    plain = flat(text).replace("`", "'").replace("|", "¦")
    return Inert(f"`{plain}`" if plain else "` `")


def block(text: str, language: str = "") -> Inert:
    """A code block whose fence is longer than every run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Inert(f"{fence}{language}\n{text.strip(chr(10))}\n{fence}")


def commands(*parts: Sequence[object]) -> Inert:
    """A shell command from its parts (an option with its value each): on one line, or if too long one part a line."""
    lines = [" ".join(shlex.quote(flat(word)) for word in words) for words in parts]
    whole = " ".join(lines)
    return Inert(whole if len(whole) <= _WIDTH else " \\\n  ".join(lines))


def literal(text: object, most: int = _LONGEST) -> Inert:
    """A Python string with that value, on one line."""
    return Inert(json.dumps(flat(text, most), ensure_ascii=False))
