"""Sums over the words of embedded models, kept beside them: ``python -m tools.pocket.facts``.

To be run after weights, presets or what is summed up changed.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

from torch import Tensor

from erase_plugins.families.source import POCKET, POCKET_NATURAL

#: not pocket-flow: its two text encoders have seven times as much, 2.9 MB of a wheel that is nearly full
MODELS = (POCKET, POCKET_NATURAL)
#: closed forms whose facts come along, by what they keep of the words
METHODS = ("uce",)


def main() -> None:
    import erase_plugins as ep
    from erase_plugins.engine import disk_cache, shipped_words, vocabulary
    from erase_plugins.workflow.models import as_target

    made = vocabulary.word_facts
    files: list[Path] = []

    def kept(
        target: Any, words: Any, weight: float, frames: Any = vocabulary.ALONE, tail: int = 0, rows: Any = None
    ) -> tuple[Tensor, Tensor | None]:
        features, block = made(target, words, weight, frames, tail, rows)
        if block is not None:
            facts = {"features": features, "block": vocabulary.pack(block)}
            files.append(shipped_words.write(target, words, weight, frames, tail, facts))
            print(files[-1])
        return features, block

    # without the cache nothing that came along is read either
    with patch.object(vocabulary, "word_facts", kept), patch.dict(os.environ, {disk_cache.VARIABLE: "0"}):
        for model in MODELS:
            for method in METHODS:
                ep.erase(as_target(model), ["pizza"], method)
    for old in set(shipped_words.FOLDER.glob("*.safetensors")) - set(files):
        old.unlink()


if __name__ == "__main__":
    main()
