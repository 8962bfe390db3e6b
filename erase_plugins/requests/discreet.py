"""Keeps the names of a request out of everything that is written or said about it."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from erase_plugins.errors import EraseError, RunRefused
from erase_plugins.hints import Hint, Sentence, in_terminal
from erase_plugins.plain_text import whole_words

SUBJECT = "[subject]"
#: fields of a manifest that no request can bring a name into
_OURS = frozenset({"base", "method", "versions", "created", "files", "kinds", "strength", "schema"})


class Discretion:
    """Knows how names may turn up in texts: in any case, with other signs between their words, as file names."""

    def __init__(self, names: Sequence[str]) -> None:
        forms = {form for name in names for form in _forms(name)}
        words = {word for name in names for word in re.findall(r"\w{4,}", name)}
        self._whole = _pattern(forms)
        self._any = _pattern(forms | words)

    def scrub(self, text: str) -> str:
        """The text with every name, and every longer word of one, replaced."""
        return self._any.sub(SUBJECT, unicodedata.normalize("NFC", text))

    def _said(self, text: str) -> str:
        """What an error says; its hints stay hints unless a name stands in one of them or across two parts."""
        if isinstance(text, Sentence):
            made = text.mapped(self.scrub)
            if all(self.scrub(words) == words for words in (str(made), in_terminal(made))):
                return made
        return self.scrub(text)

    def clean(self, value: Any) -> Any:
        """A JSON-ready value with all its texts scrubbed, keys included."""
        if isinstance(value, str):
            return self.scrub(value)
        if isinstance(value, Mapping):
            return {self.scrub(str(key)): self.clean(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self.clean(item) for item in value)
        return value

    @contextmanager
    def quiet(self) -> Iterator[None]:
        """Exceptions of the with-block come out without names, and without the errors behind them."""
        try:
            yield
        except Exception as error:
            error.args = tuple(self._said(item) if isinstance(item, str) else item for item in error.args)
            if isinstance(error, OSError) and not isinstance(error, EraseError):
                error.filename = None if error.filename is None else self.scrub(str(error.filename))
            error.__cause__ = error.__context__ = None
            raise

    def check_folder(self, folder: Path) -> None:
        """Looks through everything that was written.

        Raises:
            RunRefused: a name is in a file or in its name.
        """
        for path in sorted(item for item in folder.rglob("*") if item.is_file()):
            if self._whole.search(path.name) or any(self._whole.search(text) for text in _texts(path)):
                raise RunRefused(
                    f"the method wrote the name into a {path.suffix or 'nameless'} file, so nothing of it was kept; "
                    "plan again and choose another remedy with ",
                    Hint("method"),
                )


def _forms(name: str) -> Iterator[str]:
    yield name
    yield " ".join(re.findall(r"[a-z0-9]+", name.lower()))  # as file names have it
    yield from (unicodedata.normalize(form, name) for form in ("NFC", "NFD", "NFKC"))


def _pattern(forms: set[str]) -> re.Pattern[str]:
    parts = {whole_words(form, r"[\W_]+") for form in forms if form.strip()}
    ordered = "|".join(sorted(parts, key=lambda part: (-len(part), part)))
    return re.compile(ordered, re.IGNORECASE)


def _texts(path: Path) -> Iterator[str]:
    """The texts in a file that somebody may have put into it."""
    if path.suffix == ".safetensors":
        from erase_plugins.artifacts.header import read_header

        for text in read_header(path).metadata.values():
            yield from _in_json(text)
    elif path.suffix == ".json":
        yield from _in_json(path.read_text(encoding="utf-8"))
    else:
        yield path.read_bytes().decode("utf-8", "ignore")


def _in_json(text: str) -> Iterator[str]:
    try:
        value = json.loads(text)
    except ValueError:
        yield text
        return
    yield from _strings(value, _OURS)


def _strings(value: Any, skip: frozenset[str] = frozenset()) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            if key not in skip:
                yield from _strings(item)
    elif isinstance(value, list):
        for item in value:
            yield from _strings(item)
