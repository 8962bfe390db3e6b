"""What the words of embedded models sum up to, as it comes along with them: the first erasure encodes few.

A file counts for one text encoder only, weight by weight, and only as long as some of the words still have the rows
that it says: clip skip, for one, changes no weight. Made by ``python -m tools.pocket.facts``.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from torch import Tensor

from erase_plugins.engine.words import known_words
from erase_plugins.errors import Unsupported
from erase_plugins.families.base import Target, TargetInfo
from erase_plugins.families.naming import whole_words

FOLDER = Path(__file__).resolve().parent.parent / "pocket" / "words"
_MODEL = FOLDER.parent / "model"
#: the embedded models' text encoder, and what of its configuration tells it from others
_ENCODER, _SIZES = "text_encoder", ("hidden_size", "num_hidden_layers", "vocab_size")
#: every so many-th word is encoded and compared
EVERY = 40
#: largest part of a row that rounding on another machine may change
_ROUNDING = 1e-5


def file_of(words: Sequence[str], weight: float, frames: Sequence[str], tail: int, mark: str) -> Path:
    """Where the facts of these words lie, if they came along; ``mark`` is the text encoder's `encoder_mark`."""
    asked = "\n".join([repr(weight), str(tail), *frames, "", *words])
    return FOLDER / f"{hashlib.sha256(asked.encode()).hexdigest()[:16]}-{mark}.safetensors"


def _any_encoder(words: Sequence[str], weight: float, frames: Sequence[str], tail: int) -> bool:
    """Whether facts of these words came along for some text encoder; known without a look at any weight."""
    return any(FOLDER.glob(file_of(words, weight, frames, tail, "*").name))


def come_along(info: TargetInfo, limit: int, scale: float, frames: tuple[str, ...], tail: int) -> bool:
    """Whether the facts of the first ``limit`` words of a model came along, as far as its configuration tells."""
    told = info.configs.get(_ENCODER, {})
    own = json.loads((_MODEL / _ENCODER / "config.json").read_text(encoding="utf-8"))
    if info.width != own["hidden_size"] or any(told.get(name) != own[name] for name in _SIZES):
        return False
    entries = json.loads((_MODEL / "tokenizer" / "vocab.json").read_text(encoding="utf-8"))
    words = known_words(whole_words(entries))[:limit]
    return _any_encoder(words, scale / len(words), frames, tail)


def encoder_mark(target: Target, words: Sequence[str]) -> str:
    """Digest of the text encoder's weights and of the words' token numbers, 32 digits.

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
    return found.hexdigest()[:32]


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
    if not _any_encoder(words, weight, frames, tail):
        return None
    try:
        file = file_of(words, weight, frames, tail, encoder_mark(target, words))
    except Unsupported:
        return None
    if not file.is_file():
        return None
    from erase_plugins.artifacts.tensors import read_tensors

    found, _ = read_tensors(file)
    found["features"] = found["features"].double()
    some = found["features"][::EVERY]
    same = (meaning_of(words[::EVERY]) - some).norm() <= _ROUNDING * some.norm()
    return found if bool(same) else None


def write(
    target: Target, words: Sequence[str], weight: float, frames: Sequence[str], tail: int, facts: Mapping[str, Tensor]
) -> Path:
    """Keeps facts where `read` finds them."""
    from erase_plugins.artifacts.tensors import write_tensors

    file = file_of(words, weight, frames, tail, encoder_mark(target, words))
    file.parent.mkdir(exist_ok=True)
    write_tensors(file, {**facts, "features": facts["features"].float()}, {})
    return file
