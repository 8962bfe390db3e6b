"""What the words of an embedded model sum up to, as it comes along with the model: the first erasure encodes few.

A file counts for one text encoder only, weight by weight, and only as long as some of the words still have the rows
that it says: clip skip, for one, changes no weight. Made by ``python -m tools.pocket.facts``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from erase_plugins.errors import Unsupported
from erase_plugins.families.base import Target

FOLDER = Path(__file__).resolve().parent.parent / "pocket" / "words"
_MARK = "encoder"
#: every so many-th word is encoded and compared
_EVERY = 40
#: largest part of a row that rounding on another machine may change
_ROUNDING = 1e-5


def file_of(words: Sequence[str], weight: float, frames: Sequence[str], tail: int) -> Path:
    """Where the facts of these words lie, if they came along; known without a look at any weight."""
    asked = "\n".join([repr(weight), str(tail), *frames, "", *words])
    return FOLDER / f"{hashlib.sha256(asked.encode()).hexdigest()[:16]}.safetensors"


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
    some = found["features"][::_EVERY]
    same = (meaning_of(words[::_EVERY]) - some).norm() <= _ROUNDING * some.norm()
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
