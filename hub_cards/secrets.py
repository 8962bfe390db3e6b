"""The last look before anything is sent: no file holds the token that it is sent with."""

from __future__ import annotations

import os
from collections.abc import Iterable

from erase_plugins.errors import PushRefused
from hub_cards.bundle import PushFile

_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_SHORTEST = 8


def tokens() -> set[str]:
    """The tokens that this process knows."""
    from huggingface_hub import get_token

    found = {get_token() or "", *(os.environ.get(name, "") for name in _VARIABLES)}
    return {text.strip() for text in found if len(text.strip()) >= _SHORTEST}


def check_files(files: Iterable[PushFile]) -> None:
    """Looks into every file that would be sent.

    Raises:
        PushRefused: names the file that holds a token.
    """
    wanted = [text.encode() for text in tokens()]
    for item in files:
        if any(_holds(item, text) for text in wanted):
            raise PushRefused(f"{item.name} holds your access token; take it out and push again; nothing was sent")


def _holds(item: PushFile, wanted: bytes) -> bool:
    end, seen, texts = b"", 0, None
    for part in item.parts():
        if texts is None:
            texts = _texts(item, part)
        if wanted in end + part:
            return True
        end, seen = part[-len(wanted) :], seen + len(part)
        if seen >= texts:  # numbers hold no token, and weights are large
            break
    return False


def _texts(item: PushFile, start: bytes) -> int:
    """How many bytes of a file can be text: of weights only the header."""
    if not item.name.endswith(".safetensors") or len(start) < 8:
        return item.size
    return min(item.size, 8 + int.from_bytes(start[:8], "little"))
