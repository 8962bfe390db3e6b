"""A tiny pipeline with the tokenizer of the full-sized models: all 49408 entries of CLIP, 77 rows, random weights."""

from __future__ import annotations

import gzip
import importlib.util
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

FILE = "bpe_simple_vocab_16e6.txt.gz"
ENTRIES = 49408


@lru_cache(maxsize=1)
def clip_merges() -> list[tuple[str, str]]:
    """Merges of CLIP's tokenizer, most frequent first; read beside the package, which takes seconds to import."""
    found = importlib.util.find_spec("open_clip")
    if found is None or found.origin is None:
        pytest.skip("the vocabulary of CLIP is in open-clip-torch, which is not installed")
    lines = gzip.decompress((Path(found.origin).parent / FILE).read_bytes()).decode().split("\n")
    return [tuple(line.split()) for line in lines[1 : ENTRIES - 2 * 256 - 2 + 1]]  # type: ignore[misc]


@lru_cache(maxsize=1)
def clip_tokenizer() -> Any:
    from transformers import CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    letters = list(bytes_to_unicode().values())
    names = [*letters, *(f"{letter}</w>" for letter in letters), *("".join(pair) for pair in clip_merges())]
    names += ["<|startoftext|>", "<|endoftext|>"]
    assert len(names) == ENTRIES
    return CLIPTokenizer({name: place for place, name in enumerate(names)}, clip_merges(), model_max_length=77)


def clip_pipe(pipe: Any, seed: int = 0, width: int = 32) -> Any:
    """The tiny pipeline, with that tokenizer and a text encoder for it, of rows of ``width``."""
    import torch
    from transformers import CLIPTextConfig, CLIPTextModel

    config = CLIPTextConfig(
        vocab_size=ENTRIES, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=4,
        projection_dim=32, bos_token_id=ENTRIES - 2, eos_token_id=ENTRIES - 1, pad_token_id=ENTRIES - 1,
    )  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        encoder = CLIPTextModel(config)
    pipe.register_modules(tokenizer=clip_tokenizer(), text_encoder=encoder.requires_grad_(False).eval())
    return pipe
