"""Trains the tests' stand-in for CLIP's text encoder on captions of the shipped words; minutes of one core.

    python -m tools.standin [--minutes 10]

Two captions of one word, or of its singular and plural, belong together, all others of a batch do not (InfoNCE on the
mean of end and padding rows), and those rows tell the word's kind. That gives what tests need and real encoders have:
words that mean the same are close, words of one kind closer than others, and the rows behind a word carry it.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from erase_plugins.engine import stop_words
from erase_plugins.engine.words import listed

FRAMES = (
    "{}", "{}", "a {}", "the {}", "a photo of a {}", "a photo of the {}", "a painting of a {}", "{} in the garden",
    "a small {} on a table", "a picture of {}", "two {} by the sea", "an old {}", "drawing of a {}",
)  # fmt: skip
#: pairs of a step; rows read in most steps, and in every so many-th step all of them
_PAIRS, _SHORT, _EVERY = 64, 16, 12
_TEMPERATURE, _KIND_WEIGHT = 0.1, 0.3
_END = 49407


def main() -> None:
    """Trains and writes the file."""
    from tests.standin import FILE

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of processor time")
    parser.add_argument("--steps", type=int, default=1500)
    parser.add_argument("--out", type=Path, default=FILE)
    given = parser.parse_args()
    save_file(trained(given.minutes, given.steps), given.out)


def items() -> list[tuple[tuple[str, ...], int]]:
    """(forms of a word, number of its kind): singular and plural together, also words on the stop lists."""
    kinds: dict[str, Sequence[str]] = dict(listed())
    for kind, words in stop_words.lists().items():
        kinds[f"stop {kind}"] = [word for word in words if not word.endswith("*")]
    found: list[tuple[tuple[str, ...], int]] = []
    taken: set[str] = set()
    for number, own in enumerate(kinds.values()):
        for word in own:
            forms = tuple(form for form in (word, f"{word}s", f"{word}es") if form == word or form in own)
            if word not in taken:
                found.append((forms, number))
                taken.update(forms)
    return found


def caption(forms: Sequence[str], others: Sequence[str], draw: random.Random) -> str:
    """A caption of one form, in a third of the cases with another word behind it."""
    text = draw.choice(FRAMES).format(draw.choice(forms))
    return f"{text} and {draw.choice(others)}" if draw.random() < 0.3 else text


def trained(minutes: float, steps: int) -> dict[str, Tensor]:
    """The trained weights in float16: rows of the tokens that occur, their numbers, and everything else by name."""
    from tests.engine.clip_words import clip_tokenizer
    from tests.standin import HIDDEN, ROWS, network

    tokenizer, words = clip_tokenizer(), items()
    others = [forms[0] for forms, _ in words]
    texts = [frame.format(form) for forms, _ in words for form in forms for frame in ("{}", "{} and")]
    known = {token for row in tokenizer([*texts, *FRAMES])["input_ids"] for token in row}
    used = torch.tensor(sorted(known))
    torch.manual_seed(0)
    draw = random.Random(0)
    encoder = network(len(used))
    kinds = nn.Linear(HIDDEN, 1 + max(kind for _, kind in words))
    with torch.no_grad():
        for name, part in encoder.named_parameters():
            if "token_embedding" in name:
                part.normal_(std=0.05)
    optimizer = torch.optim.AdamW([*encoder.parameters(), *kinds.parameters()], lr=1e-3, weight_decay=0.01)
    begun = time.process_time()

    def read(captions: Sequence[str], rows: int) -> Tensor:
        ids = tokenizer(list(captions), padding="max_length", truncation=True, max_length=rows, return_tensors="pt")
        numbers = ids["input_ids"]
        states = encoder(torch.searchsorted(used, numbers))[0]
        behind = (numbers == _END).float()[..., None]
        return (states * behind).sum(1) / behind.sum(1)

    done = 0.0
    for step in range(steps):
        if (done := max(done, (time.process_time() - begun) / 60 / minutes, step / steps)) >= 1:
            break
        rate = min(1.0, (step + 1) / 50) * 0.5 * (1 + math.cos(math.pi * done))
        optimizer.param_groups[0]["lr"] = 2e-3 * rate
        rows = ROWS if step % _EVERY == 0 else _SHORT
        chosen = draw.sample(words, _PAIRS // 4 if rows == ROWS else _PAIRS)
        captions = [caption(forms, others, draw) for _ in range(2) for forms, _ in chosen]
        means = read(captions, rows)
        one, other = functional.normalize(means, dim=1).chunk(2)
        near, own = one @ other.T / _TEMPERATURE, torch.arange(len(chosen))
        loss = functional.cross_entropy(near, own) + functional.cross_entropy(near.T, own)
        labels = torch.tensor([kind for _, kind in chosen] * 2)
        loss = loss + _KIND_WEIGHT * functional.cross_entropy(kinds(means), labels)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0:
            sys.stdout.write(f"step {step}: loss {float(loss):.3f}, {time.process_time() - begun:.0f} s\n")
            sys.stdout.flush()
    return packed(encoder, used)


def packed(encoder: Any, used: Tensor) -> dict[str, Tensor]:
    """What the file holds."""
    found = {"used": used.int()}
    for name, value in encoder.state_dict().items():
        if value.is_floating_point():
            found["rows" if "token_embedding" in name else name] = value.half().contiguous()
    return found


if __name__ == "__main__":
    main()
