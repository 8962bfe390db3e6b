"""Messages without what does not belong into them. No dependency, so that every host can use it."""

from __future__ import annotations

import re

_PATH = re.compile(r"(?<![\w:/.~])(?:[A-Za-z]:[\\/]|/)(?:[^\s'\",;:()\\/]+[\\/])+")
_TOKEN = re.compile(r"\b(hf_|ghp_|sk-)[A-Za-z0-9_-]{8,}")
_LOGIN = re.compile(r"(://)[^/\s@]+@")


def scrub(text: str) -> str:
    """A message without folders, tokens and logins: they do not belong into bug reports."""
    text = _LOGIN.sub(r"\1***@", _TOKEN.sub(r"\1***", text))
    return _PATH.sub("", text)


def one_line(text: str) -> str:
    """The text on one line; what a terminal would act on becomes a question mark."""
    return "".join(sign if sign.isprintable() else "?" for sign in " ".join(str(text).split()))


def first_line(error: BaseException) -> str:
    """Type and first line of an error."""
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}".rstrip(": ")
