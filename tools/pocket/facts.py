"""Sums over the words of pocket, kept beside it: ``python -m tools.pocket.facts`` after weights or presets changed."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

from torch import Tensor

#: closed forms whose facts come along, by what they keep of the words
METHODS = ("uce",)


def main() -> None:
    import erase_plugins as ep
    from erase_plugins.engine import shipped_words, vocabulary
    from erase_plugins.workflow.models import as_target

    for old in shipped_words.FOLDER.glob("*.safetensors"):
        old.unlink()
    made = vocabulary.word_facts

    def kept(*asked: Any, **more: Any) -> tuple[Tensor, Tensor | None]:
        target, words, weight, frames, tail = asked
        features, block = made(*asked, **more)
        if block is not None:
            facts = {"features": features, "block": vocabulary.pack(block)}
            print(shipped_words.write(target, words, weight, frames, tail, facts))
        return features, block

    with patch.object(vocabulary, "word_facts", kept):
        for method in METHODS:
            ep.erase(as_target("pocket"), ["pizza"], method)


if __name__ == "__main__":
    main()
