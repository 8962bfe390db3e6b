"""The last look before anything is sent: no access key, and no private text that somebody did not mean to publish."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Iterable, Iterator
from typing import Any

from erase_plugins.errors import PushRefused
from erase_plugins.hints import Hint, Sentence
from erase_plugins.plain_text import secret_in
from hub_cards.bundle import PushFile

_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_SHORTEST = 8
#: vocabularies hold pieces of everything that was ever written
_VOCABULARIES = ("vocab.json", "merges.txt", "tokenizer.json", ".model")
#: archives and pictures: their bytes look like anything
_BINARY = (".zip", ".png", ".jpg", ".gif", ".npz", ".bin")


def tokens() -> set[str]:
    """The tokens that this process knows."""
    from huggingface_hub import get_token

    found = {get_token() or "", *(os.getenv(name, "") for name in _VARIABLES)}
    return {text.strip() for text in found if len(text.strip()) >= _SHORTEST}


def check_files(files: Iterable[PushFile], personal: bool = False) -> None:
    """Looks into every file that would be sent.

    Args:
        files: what would be sent.
        personal: e-mail addresses and home folders are meant to be sent.

    Raises:
        PushRefused: names the file, the kind of what is in it and where; the text itself is not shown.
    """
    wanted = [text.encode() for text in tokens()]
    for item in files:
        if any(_holds(item, text) for text in wanted):
            raise PushRefused(f"{item.name} holds your access token; take it out and push again; nothing was sent")
        for where, text in _texts(item):
            check_text(f"{item.name}{where}", text, personal or item.name.endswith(_VOCABULARIES))


def check_text(where: str, text: str, personal: bool = False) -> None:
    """Looks into one text.

    Args:
        where: file and place, for the message.
        text: what would be sent.
        personal: e-mail addresses and home folders are meant to be sent.

    Raises:
        PushRefused: see `check_files`.
    """
    found = secret_in(text, personal)
    if found is not None:
        public = Sentence("take it out, or add ", Hint("personal"), " if it may be public")
        way = public if found[1] else "take it out and make the key void"
        raise PushRefused(f"{where} holds what looks like {found[0]}; ", way, "; nothing was sent")


def _texts(item: PushFile) -> Iterator[tuple[str, str]]:
    """Places and texts of a file; of weights the header, of pictures what is written into them."""
    if item.name.endswith(".png"):
        yield from ((f" ({key})", text) for key, text in _written_into(item))
    if item.name.endswith(_BINARY):
        return
    data, end = b"", None
    for part in item.parts():
        data += part
        end = _text_bytes(item, data) if end is None else end
        if len(data) >= end:
            break
    weights = item.name.endswith(".safetensors")
    text = data[8 if weights else 0 : end].decode("utf-8", "replace")
    if weights or item.name.endswith(".json"):
        try:
            yield from _strings(json.loads(text), "header" if weights else "")
            return
        except (ValueError, RecursionError):
            pass
    for number, line in enumerate(text.splitlines(), start=1):
        yield f" (line {number})", line


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
        with Image.open(io.BytesIO(item.source) if isinstance(item.source, bytes) else item.source) as picture:
            picture.load()  # texts may come behind the pixels
            return [(str(key)[:40], str(value)) for key, value in picture.info.items() if isinstance(value, str)]
    except (OSError, ValueError, SyntaxError):
        return []


def _holds(item: PushFile, wanted: bytes) -> bool:
    end, seen, texts = b"", 0, item.size
    for part in item.parts():
        texts = texts if seen else _text_bytes(item, part)
        if wanted in end + part:
            return True
        end, seen = part[-len(wanted) :], seen + len(part)
        if seen >= texts:  # numbers hold no token, and weights are large
            break
    return False


def _text_bytes(item: PushFile, start: bytes) -> int:
    """How many bytes of a file can be text: of weights only the header."""
    if not item.name.endswith(".safetensors") or len(start) < 8:
        return item.size
    return min(item.size, 8 + int.from_bytes(start[:8], "little"))
