"""What a step of training on texts takes, from a model's configuration and the texts' lengths. No torch at import.

Checked by counting the tensors of a pass (tests). What linear maps give a token is the unit of what a pass keeps for
its way back; where blocks are computed again it keeps what goes into them, and one block at a time. Scores over the
vocabulary are there for tokens that count, `families.scores.PIECE` at a time.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import EraseError
from erase_plugins.families.scores import PIECE
from erase_plugins.families.texts import Pair, numbers_of

if TYPE_CHECKING:
    from erase_plugins.families.base import ModelSpec, ModuleRef
    from erase_plugins.types import EraseRequest

#: rows of a set that are read for an estimate, and tokens of a text that cannot be read
_ROWS, _TOKENS = 1024, 64
#: bytes of UTF-8 that a token stands for where no tokenizer is at hand, and tokens of a turn's own marks
_BYTES, _MARKS = 3.5, 4
#: what a pass keeps, what its way back has at once beside that, and the same where blocks are computed again; in units
#: of what the linear maps of a block give, by bytes of a value (fitted to Llama, Qwen 2, Phi 3 and Gemma 2, where norms
#: and softmax of half precision compute in float32)
_KEPT, _BACK, _AGAIN = {2: 2.5, 4: 2.2}, {2: 1.5, 4: 0.8}, {2: 3.5, 4: 2.5}
#: bytes of every pair of tokens and head where attention is computed in the open
_OPEN = 8
_BLOCK = re.compile(r".*?\.(\d+)\.")


@dataclass(frozen=True)
class Length:
    """Tokens of a text, and how many of them count."""

    tokens: int
    counted: int


def lengths_of(request: EraseRequest, pairs: Sequence[Pair], longest: int) -> list[Length]:
    """Lengths of texts, of evenly spread ones where they are many; in tokens where the tokenizer lies at hand."""
    tokenizer, found = _tokenizer(request), []
    for pair in pairs[:: max(-(-len(pairs) // _ROWS), 1)]:
        if tokenizer is None:
            asked, said = (
                int(len(text.encode()) / _BYTES) + _MARKS for text in (pair.prompt + pair.begun, pair.completion)
            )
        else:
            asked, said = map(len, numbers_of(tokenizer, pair))
        tokens = min(asked + said, longest)
        found.append(Length(tokens, max(tokens - asked, 1)))
    return found or [Length(min(_TOKENS, longest), min(_TOKENS, longest))]


def _tokenizer(request: EraseRequest) -> Any:
    """The tokenizer beside a model, None where it is not on this disk."""
    from erase_plugins.families.notices import without_notices
    from erase_plugins.families.source import find_source

    try:
        source = find_source(request.model, request.revision)
        with without_notices():
            from transformers import AutoTokenizer

            return AutoTokenizer.from_pretrained(source.location, revision=source.revision, local_files_only=True)
    except (EraseError, OSError, ValueError, ImportError):
        return None


def batch_of(lengths: Sequence[Length], batch: int) -> Length:
    """The longest batch: its tokens with padding as `families.scores.scores_by_length` pads, and those that count."""
    most, tokens = sorted(lengths, key=lambda length: length.tokens, reverse=True)[:batch], 0
    left = [length.tokens for length in most]
    while left:
        near = [length for length in left if 2 * length > left[0]]
        tokens, left = tokens + left[0] * len(near), left[len(near) :]
    return Length(tokens, sum(length.counted for length in most))


def step_bytes(
    info: ModelSpec, trained: Sequence[ModuleRef], batches: Sequence[Length], longest: int, *, dtype: str, again: bool,
    scored: bool,
) -> int:  # fmt: skip
    """Bytes that a step takes beside weights and what is trained.

    Args:
        info: the model.
        trained: its maps that are trained; blocks in front of them keep nothing.
        batches: what goes through it with gradients.
        longest: tokens of the longest text.
        dtype: of the weights.
        again: whether blocks are computed again on the way back.
        scored: whether the pass goes to the end and scores are read off; else it ends behind what is trained.
    """
    config, value = info.configs[info.components("language")[0]], 4 if dtype == "float32" else 2
    width = next((ref.shape[1] for ref in info.refs if ref.kind == "embedding"), 0)
    blocks: dict[int, int] = {}
    for ref in info.refs:
        if (number := _block(ref)) is not None and ref.kind != "embedding":
            given = prod(ref.shape[1:]) if ref.kind not in ("linear", "conv") else ref.shape[0]
            blocks[number] = blocks.get(number, 0) + given
    touched = [number for number in map(_block, trained) if number is not None] or [0]
    last = max(blocks, default=0) if scored else max(touched)
    passed = [given for number, given in blocks.items() if min(touched) <= number <= last]
    most = max(passed, default=0)
    open_ = _OPEN * int(config.get("num_attention_heads", 1)) * longest if config.get("attn_logit_softcapping") else 0
    # all passes of a step are kept, and one of them at a time is on its way back
    kept = value * width * (len(passed) + 2) if again else _KEPT[value] * value * sum(passed) + open_ * len(passed)
    back = (_AGAIN if again else _BACK)[value] * value * most + open_
    held, back = sum(length.tokens for length in batches) * kept, max(length.tokens for length in batches) * back
    if scored:  # as they come (Gemma's soft caps keep one more), with float32 copies: two of what is kept, else six
        sizes = [int(config.get("vocab_size", 0)) * length.counted for length in batches]
        come = value * (2 if config.get("final_logit_softcapping") else 1)
        held += sum((8 + come) * size for size in sizes if size <= PIECE)
        back = max(back, *((12 + come) * size if size <= PIECE else (24 + come) * PIECE for size in sizes))
    return int(held + back)


def _block(ref: ModuleRef) -> int | None:
    found = _BLOCK.match(ref.path)
    return int(found[1]) if found else None
