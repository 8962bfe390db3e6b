"""Text from strangers, made harmless: Markdown, HTML, code blocks, YAML."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from typing import Any

_MARKUP = re.compile(r"[^A-Za-z0-9 ,.'()+\-\u0080-\U0010ffff]")
#: control characters, and those that change the direction of text or hide it
_HIDDEN = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ud800-\udfff\u2028\u2029]+")
_LINKING = re.compile(r"(?i)https?(?=:)|www(?=\.)|@")
#: breaks what a renderer would take for a link or a mention; not visible
_BREAK = "\u2060"
_LONGEST = 300
#: what people write between these marks on the Hub is kept by the next push
USER, USER_END = "<!-- user -->", "<!-- /user -->"
#: what looks like an access token of the Hub
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{20,}")
#: characters that fit on a line of a code block on the page
_WIDTH = 84


def flat(text: object, most: int = _LONGEST) -> str:
    """One line without control characters and access tokens, at most ``most`` characters."""
    return _TOKEN.sub("hf_***", " ".join(_HIDDEN.sub(" ", str(text)).split()))[:most]


def prose(text: object) -> str:
    """Text that shows as it is inside a Markdown paragraph or table cell: no markup, no HTML, no link."""
    broken = _LINKING.sub(lambda found: found[0] + _BREAK, flat(text))
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", broken)


def code(text: object) -> str:
    """Inline code that cannot end early."""
    plain = flat(text).replace("`", "'").replace("|", "¦")
    return f"`{plain}`" if plain else "` `"


def block(text: str, language: str = "") -> str:
    """A code block whose fence is longer than every run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def folded(title: str, text: str) -> str:
    """A part that people open when they need it; ``title`` is ours, never a stranger's."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def command(*words: object) -> str:
    """A shell command on one line."""
    return " ".join(shlex.quote(flat(word)) for word in words)


def commands(*parts: Sequence[object]) -> str:
    """A shell command from its parts (an option with its value each): on one line, or if too long one part a line."""
    lines = [command(*words) for words in parts]
    whole = " ".join(lines)
    return whole if len(whole) <= _WIDTH else " \\\n  ".join(lines)


def literal(text: object, most: int = _LONGEST) -> str:
    """A Python string with that value, on one line."""
    return json.dumps(flat(text, most), ensure_ascii=False)


def document(data: dict[str, Any], parts: Sequence[str]) -> str:
    """The text of a README.md: front matter, the parts of its body, and room for what people write on the Hub."""
    return front_matter(data) + "\n" + "\n\n".join([*parts, f"{USER}\n{USER_END}"]) + "\n"


def front_matter(data: dict[str, Any]) -> str:
    """YAML front matter; everything that is not plainly a word is quoted by the writer."""
    from huggingface_hub.utils import yaml_dump

    return f"---\n{yaml_dump(data, sort_keys=False)}---\n"
