"""Catalogues of translations: one file per language, English string -> translation. What is missing stays English."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

FOLDER = Path(__file__).parent / "catalogues"
#: stand for any text in an entry; what they stand for is looked up by itself, and "{known}" fits only what is found
HOLES = re.compile(r"(\{\}|\{known\})")


def translated_languages() -> list[str]:
    """Languages with a catalogue."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


@cache
def catalogue(language: str) -> dict[str, str]:
    """Entries of a language; none for English."""
    path = FOLDER / f"{language}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def translate(text: str, language: str) -> str | None:
    """The translation of a text; None if the catalogue has none.

    Args:
        text: English. Entries with holes fit texts that differ in names or values, such as those of methods.
        language: of the editor.
    """
    entries = catalogue(language)
    if text in entries:
        return entries[text]
    for pattern, translation in entries.items():
        parts = HOLES.split(pattern)
        if len(parts) == 1:
            continue
        found = re.fullmatch("(.+)".join(map(re.escape, parts[::2])), text, flags=re.DOTALL)
        if found and all(
            hole == "{}" or part in entries for hole, part in zip(parts[1::2], found.groups(), strict=True)
        ):
            return translation.format(*(entries.get(part, part) for part in found.groups()))
    return None
