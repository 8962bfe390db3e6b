"""Messages without what does not belong into them. No dependency, so that every host can use it."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Sequence

_PATH = re.compile(r"(?<![\w:/.~])(?:[A-Za-z]:[\\/]|/)(?:[^\s'\",;:()\\/]+[\\/])+")
_TOKEN = re.compile(r"\b(hf_|ghp_|sk-)[A-Za-z0-9_-]{8,}")
_LOGIN = re.compile(r"(://)[^/\s@]+@")

#: signs of Chinese and Japanese, which put no spaces between words, and of Korean, which hangs endings on names
SIGNS = (
    "\u1100-\u11ff\u3005-\u3007\u3040-\u318f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7ff\uf900-\ufaff"
    "\uff66-\uffdc\U00020000-\U0003ffff"
)
#: these, and letters of other scripts without such spaces (Thai, Lao, Tibetan, Burmese, Khmer)
_JOINED = f"\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff{SIGNS}"
_IS_JOINED = re.compile(f"[{_JOINED}]")


def whole_words(text: str, between: str = r"\s+") -> str:
    """A regular expression that finds a text where it is not a part of longer words.

    Chinese, Japanese, Thai and the like show no ends of words: there it is found wherever it stands, also in a longer
    word, with or without the spaces of ``text``, and a Latin name directly beside such letters is whole.

    Args:
        text: at least one word.
        between: expression for what is between its words.
    """
    words = text.split()
    joined = [(bool(_IS_JOINED.match(word[0])), bool(_IS_JOINED.match(word[-1]))) for word in words]
    found = "" if joined[0][0] else f"(?<![^\\W_{_JOINED}])"
    for place, word in enumerate(words):
        apart = f"(?:{between})?" if place and joined[place - 1][1] and joined[place][0] else between
        found += (apart if place else "") + re.escape(word)
    return found if joined[-1][1] else f"{found}(?![^\\W_{_JOINED}])"


def holds(text: str, words: str) -> bool:
    """Whether ``words`` stand whole in a text, in whatever case and however accents are encoded."""
    said, wanted = (unicodedata.normalize("NFC", item.casefold()) for item in (text, words))
    return bool(wanted.strip()) and re.search(whole_words(wanted), said) is not None


_AN = re.compile(r"(?!(?:uni(?!n)|us[aeiu]|eu|ewe|one\b|once\b|u\b))[aeiou]|hour|honest|heir", re.IGNORECASE)


def an(words: str) -> str:
    """English words behind "a" or "an", as they sound; words that have an article keep it."""
    if words.lower().startswith(("a ", "an ", "the ")):
        return words
    return f"{'an' if _AN.match(words) else 'a'} {words}"


def scrub(text: str) -> str:
    """A message without folders, tokens and logins: they do not belong into bug reports."""
    text = _LOGIN.sub(r"\1***@", _TOKEN.sub(r"\1***", text))
    return _PATH.sub("", text)


def one_line(text: str) -> str:
    """The text on one line; what a terminal would act on becomes a question mark."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(str(text).split()))


def some(texts: Sequence[str], most: int = 5) -> str:
    """The first of several texts, and how many more there are."""
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")


def first_line(error: BaseException) -> str:
    """Type and first line of an error; of a file that could not be used its name, no folder."""
    if isinstance(error, OSError) and error.strerror:
        name = os.path.basename(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else ""
        return f"{type(error).__name__}: {error.strerror}{name and f': {name!r}'}"
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}".rstrip(": ")
