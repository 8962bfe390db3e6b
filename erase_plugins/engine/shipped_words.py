"""What the words of an embedded model sum up to, as it comes along with the model: the first erasure encodes few.

A file counts for one text encoder only, weight by weight, and only as long as some of the words still have the rows
that it says: clip skip, for one, changes no weight. Made by ``python -m tools.pocket.facts``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from erase_plugins.engine.words import known_words
from erase_plugins.errors import Unsupported
from erase_plugins.families.base import Target, TargetInfo
from erase_plugins.families.naming import whole_words

FOLDER = Path(__file__).resolve().parent.parent / "pocket" / "words"
_MARK = "encoder"
_MODEL = FOLDER.parent / "model"
#: the embedded model's text encoder, and what of its configuration tells it from others
_ENCODER, _SIZES = "text_encoder", ("hidden_size", "num_hidden_layers", "vocab_size")
#: every so many-th word is encoded and compared
EVERY = 40
#: largest part of a row that rounding on another machine may change
_ROUNDING = 1e-5


def file_of(words: Sequence[str], weight: float, frames: Sequence[str], tail: int) -> Path:
    """Where the facts of these words lie, if they came along; known without a look at any weight."""
    asked = "\n".join([repr(weight), str(tail), *frames, "", *words])
    return FOLDER / f"{hashlib.sha256(asked.encode()).hexdigest()[:16]}.safetensors"


def come_along(info: TargetInfo, limit: int, scale: float, frames: tuple[str, ...], tail: int) -> bool:
    """Whether the facts of the first ``limit`` words of a model came along, as far as its configuration tells."""
    told = info.configs.get(_ENCODER, {})
    own = json.loads((_MODEL / _ENCODER / "config.json").read_text(encoding="utf-8"))
    if any(told.get(name) != own[name] for name in _SIZES):
        return False
    entries = json.loads((_MODEL / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    words = known_words(whole_words(entries))[:limit]
    return file_of(words, scale / len(words), frames, tail).is_file()


def encoder_mark(target: Target, words: Sequence[str]) -> Tensor:
    """Digest of the text encoder's weights and of the words' token numbers, 32 bytes.

    Raises:
        Unsupported: the host does not show its tokens.
    """
    found = hashlib.sha256()
    ids = target.tokens(words).ids
    for name in sorted(ids):
        found.update(name.encode() + ids[name].cpu().contiguous().numpy().tobytes())
    for ref in sorted(target.info.refs, key=lambda ref: (ref.component, ref.path)):
        if ref.component in ids:
            weight = target.weight(ref).float().cpu().contiguous()
            found.update(f"{ref.component}.{ref.path} {tuple(weight.shape)}".encode() + weight.numpy().tobytes())
    return torch.frombuffer(bytearray(found.digest()), dtype=torch.uint8)


def read(
    target: Target, words: Sequence[str], weight: float, frames: Sequence[str], tail: int,
    meaning_of: Callable[[Sequence[str]], Tensor],
) -> dict[str, Tensor] | None:  # fmt: skip
    """The facts of words as `vocabulary.word_facts` keeps them; None if none came along for this text encoder.

    Args:
        target: whose text encoder is asked.
        words, weight, frames, tail: see there.
        meaning_of: `vocabulary.meaning` of words, encoded now.
    """
    file = file_of(words, weight, frames, tail)
    if not file.is_file():
        return None
    from erase_plugins.artifacts.tensors import read_tensors

    found, _ = read_tensors(file)
    try:
        if not torch.equal(found.pop(_MARK), encoder_mark(target, words)):
            return None
    except Unsupported:
        return None
    found["features"] = found["features"].double()
    some = found["features"][::EVERY]
    same = (meaning_of(words[::EVERY]) - some).norm() <= _ROUNDING * some.norm()
    return found if bool(same) else None


def write(
    target: Target, words: Sequence[str], weight: float, frames: Sequence[str], tail: int, facts: Mapping[str, Tensor]
) -> Path:
    """Keeps facts where `read` finds them."""
    from erase_plugins.artifacts.tensors import write_tensors

    file = file_of(words, weight, frames, tail)
    file.parent.mkdir(exist_ok=True)
    tensors = {**facts, "features": facts["features"].float(), _MARK: encoder_mark(target, words)}
    write_tensors(file, tensors, {})
    return file
