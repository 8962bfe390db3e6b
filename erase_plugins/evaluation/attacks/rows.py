"""Files of learned token rows, for stock loaders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

#: keys in textual-inversion files: one text encoder stands under its token, two under what every reader calls them
TWO_ENCODERS = {"text_encoder": "clip_l", "text_encoder_2": "clip_g"}
#: values in the metadata show that the file is ours
STAMP = "erase_plugins.attack"


def write_rows(rows: Mapping[str, Tensor], token: str, path: Path) -> None:
    """Writes a textual-inversion file that stock diffusers, ComfyUI and A1111 load.

    One text encoder: the rows under the name of the token. Two: under ``clip_l`` and ``clip_g``.
    """
    from safetensors.torch import save_file

    named = {token: next(iter(rows.values()))} if len(rows) == 1 else {
        TWO_ENCODERS[name]: value for name, value in rows.items()
    }  # fmt: skip
    save_file(named, path, metadata={STAMP: "concept-inversion", "token": token})
