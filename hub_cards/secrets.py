"""The last look before anything is sent: no access key, and no private text that somebody did not mean to publish."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from typing import Any

from erase_plugins.errors import PushRefused
from erase_plugins.hints import Hint, Sentence
from erase_plugins.plain_text import secret_in
from hub_cards.bundle import PushFile
from hub_cards.errors import tokens

#: vocabularies hold pieces of everything that was ever written
_VOCABULARIES = ("vocab.json", "merges.txt", "tokenizer.json", ".model")
#: archives and pictures: their bytes look like anything
_BINARY = (".zip", ".png", ".jpg", ".gif", ".npz", ".bin")


def check_files(files: Iterable[PushFile], personal: bool = False) -> None:
    """Looks into every file that would be sent.

    Args:
        files: what would be sent.
        personal: e-mail addresses and home folders are meant to be sent.

    Raises:
        PushRefused: names the file, the kind of what is in it and where; the text itself is not shown.
    """
    wanted = [text.encode() for text in tokens()]
    for item in chain.from_iterable(map(_with_packed, files)):
        data = _readable(item)
        if any(text in data for text in wanted):
            raise PushRefused(f"{item.name} holds your access token; take it out and push again; nothing was sent")
        for where, text in _texts(item, data):
            found = secret_in(text, personal or item.name.endswith(_VOCABULARIES))
            if found is not None:
                public = Sentence("take it out, or add ", Hint("personal"), " if it may be public")
                way = public if found[1] else "take it out and make the key void"
                raise PushRefused(f"{item.name}{where} holds what looks like {found[0]}; ", way, "; nothing was sent")


def _with_packed(item: PushFile) -> Iterator[PushFile]:
    """A file, and of an archive what is packed in it."""
    yield item
    if item.name.endswith(".zip"):
        with item.open() as file, zipfile.ZipFile(file) as packed:
            yield from (PushFile(f"{item.name}/{name}", packed.read(name)) for name in packed.namelist())


def _readable(item: PushFile) -> bytes:
    """The bytes that can hold text: of weights only the header, since numbers hold none and are many."""
    with item.open() as file:
        if not item.name.endswith(".safetensors"):
            return file.read()
        length = file.read(8)
        return length + file.read(min(item.size, int.from_bytes(length, "little")))


def _texts(item: PushFile, data: bytes) -> Iterator[tuple[str, str]]:
    """Places and texts of a file; of weights the header, of pictures what is written into them."""
    if item.name.endswith(".png"):
        yield from ((f" ({key})", text) for key, text in _written_into(item))
    if item.name.endswith(_BINARY):
        return
    weights = item.name.endswith(".safetensors")
    text = data[8 if weights else 0 :].decode("utf-8", "replace")
    if weights or item.name.endswith(".json"):
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


def _written_into(item: PushFile) -> list[tuple[str, str]]:
    from PIL import Image

    try:
        with item.open() as file, Image.open(file) as picture:
            picture.load()  # texts may come behind the pixels
            return [(str(key)[:40], str(value)) for key, value in picture.info.items() if isinstance(value, str)]
    except (OSError, ValueError, SyntaxError):
        return []
