"""Access keys and private texts in files that are about to leave this machine: whether there are some, and where."""

from __future__ import annotations

import io
import json
import os
import re
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import lru_cache
from typing import Any, BinaryIO

from erase_plugins.errors import PushRefused
from erase_plugins.hints import Hint, Sentence
from erase_plugins.plain_text import one_line, scrub

#: vocabularies hold pieces of everything that was ever written
_VOCABULARIES = ("vocab.json", "merges.txt", "tokenizer.json", ".model")
#: archives and pictures: their bytes look like anything
_BINARY = (".zip", ".png", ".jpg", ".gif", ".npz", ".bin")
_LINK = re.compile(r"\b[a-z]+://\S+")
#: characters of an access token at least
_SHORTEST = 8
OWN_TOKEN = "your access token"

#: what gives access to something; never sent
KEYS = {
    "a Hugging Face token": r"\bhf_[A-Za-z0-9]{20,}|\bapi_org_[A-Za-z0-9]{20,}",
    "an API key (sk-...)": r"\bsk-[A-Za-z0-9_-]{20,}",
    "a GitHub token": r"\bgh[pousr]_[A-Za-z0-9]{20,}|\bgithub_pat_[A-Za-z0-9_]{20,}",
    "a GitLab token": r"\bglpat-[A-Za-z0-9_-]{20,}",
    "an AWS access key": r"\b(?:AKIA|ASIA)[A-Z0-9]{16}\b",
    "an AWS secret key": r"(?i:aws.{0,20}secret.{0,20}?)[\s:='\"\\]{1,5}[A-Za-z0-9/+]{40}(?![A-Za-z0-9/+])",
    "a Google API key": r"\bAIza[A-Za-z0-9_-]{35}",
    "a Slack token": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}",
    "a private key": r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY",
    "a login in an address": r"://[^\s/:@\"']{1,200}:[^\s/@\"']{1,200}@",
}
#: what is about a person or their machine; sent if they say so
PERSONAL = {
    "an e-mail address": r"(?<![\w.+-])[\w.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.[A-Za-z]{2,24}\b",
    "a home folder": r"(?<![\w.])(?:/home|/Users|/root)/[^\s/\"'<>]+|\b[A-Za-z]:[\\/]+Users[\\/]+[^\s\\/\"'<>]+",
}


@lru_cache(maxsize=4096)  # names of weights and words of cards stand in every file of a library
def secret_in(text: str, personal: bool = False) -> tuple[str, bool] | None:
    """What a text holds that should not be published, and whether it is about a person rather than an access key.

    Args:
        text: any text.
        personal: what is about a person may be published.
    """
    kinds = KEYS if personal else {**KEYS, **PERSONAL}
    return next(((what, what in PERSONAL) for what, pattern in kinds.items() if re.search(pattern, text)), None)


def own_tokens() -> set[str]:
    """The access tokens of the Hub that this process knows."""
    from huggingface_hub import get_token

    found = {get_token() or "", *(os.getenv(name, "") for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"))}
    return {text.strip() for text in found if len(text.strip()) >= _SHORTEST}


def clean(text: object) -> str:
    """A text of the Hub's client on one line, without tokens, links and folders."""
    plain = _LINK.sub("", str(text))
    for token in own_tokens():
        plain = plain.replace(token, "***")
    return one_line(scrub(plain))[:300]


def refuse(name: str, file: BinaryIO, tokens: Iterable[str] = (), personal: bool = False) -> None:
    """Refuses a file with something that should not be published.

    Args:
        name, file, tokens, personal: as for `leak`.

    Raises:
        PushRefused: names the file, the kind of what is in it and where; the text itself is not shown.
    """
    found = leak(name, file, tokens, personal)
    if found is not None:
        public = Sentence("take it out, or add ", Hint("personal"), " if it may be public")
        way = public if found[2] else "take it out and make the key void"
        raise PushRefused(f"{found[0]} holds {found[1]}; ", way, "; nothing was sent")


def leak(name: str, file: BinaryIO, tokens: Iterable[str] = (), personal: bool = False) -> tuple[str, str, bool] | None:
    """The first thing in a file that should not be published; the text itself is not told.

    Args:
        name: of the file; its ending says how it is read. Of an archive every packed file is read as well.
        file: its bytes.
        tokens: access tokens of this user, which may look like any word.
        personal: e-mail addresses and home folders may be published.

    Returns:
        The place, what is there, and whether it is about a person rather than an access key; None if there is nothing.
    """
    data = _readable(name, file)
    if any(token.encode() in data for token in tokens):
        return name, OWN_TOKEN, False
    for where, text in _texts(name, data):
        if found := secret_in(text, personal or name.endswith(_VOCABULARIES)):
            return f"{name}{where}", f"what looks like {found[0]}", found[1]
    if name.endswith(".zip"):
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            parts = ((f"{name}/{part}", io.BytesIO(packed.read(part))) for part in packed.namelist())
            return next(filter(None, (leak(*part, tokens, personal) for part in parts)), None)
    return None


def _readable(name: str, file: BinaryIO) -> bytes:
    """The bytes that can hold text: of weights only the header, since numbers hold none and are many."""
    if not name.endswith(".safetensors"):
        return file.read()
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    length = file.read(8)
    return length + file.read(min(size, int.from_bytes(length, "little")))


def _texts(name: str, data: bytes) -> Iterator[tuple[str, str]]:
    """Places and texts of a file; of weights the header, of pictures what is written into them."""
    if name.endswith(".png"):
        yield from ((f" ({key})", text) for key, text in _written_into(data))
    if name.endswith(_BINARY):
        return
    weights = name.endswith(".safetensors")
    text = data[8 if weights else 0 :].decode("utf-8", "replace")
    if weights or name.endswith(".json"):
        with suppress(ValueError, RecursionError):
            yield from _strings(json.loads(text), "header" if weights else "")
            return
    if secret_in(text) is not None:
        yield from ((f" (line {number})", line) for number, line in enumerate(text.splitlines(), start=1))


def _strings(data: Any, place: str) -> Iterator[tuple[str, str]]:
    """Every text of a JSON value, keys too, with its place."""
    if isinstance(data, str):
        yield (f" ({place})" if place else ""), data
    elif isinstance(data, dict):
        for key, value in data.items():
            yield (f" ({place})" if place else ""), str(key)
            yield from _strings(value, f"{place}.{key[:40]}" if place else key[:40])
    elif isinstance(data, list):
        for number, value in enumerate(data):
            yield from _strings(value, f"{place}[{number}]")


def _written_into(data: bytes) -> list[tuple[str, str]]:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as picture:
            picture.load()  # texts may come behind the pixels
            return [(str(key)[:40], str(value)) for key, value in picture.info.items() if isinstance(value, str)]
    except (OSError, ValueError, SyntaxError):
        return []
