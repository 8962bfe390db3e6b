"""How close a prompt is to anchors, with an encoder whose vectors are known."""

from __future__ import annotations

import hashlib
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from erase_plugins.families.capabilities import TextEncoder
from erase_plugins.families.sentences import LONGEST, Remembered, embedded, score, windows
from erase_plugins.types import ForgetItem

WIDTH = 24


def vector(text):
    """A vector that only hangs on the text."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")
    return torch.randn(WIDTH, generator=torch.Generator().manual_seed(seed))


class Target:
    """Two rows in front, which do not count, then the vector of a text with 1 more and 1 less of the first axis."""

    windows, meanings = TextEncoder.windows, TextEncoder.meanings

    def encode(self, texts):
        around = torch.zeros(2, WIDTH)
        around[0, 0], around[1, 0] = 1.0, -1.0
        rows = [torch.cat([torch.full((2, WIDTH), 100.0), vector(text) + around]) for text in texts]
        return SimpleNamespace(embeds=torch.stack(rows), last=[1] * len(texts))


CENTER = vector("what all have in common")


def unit(text):
    return (vector(text) - CENTER) / (vector(text) - CENTER).norm()


def test_a_text_is_its_end_and_padding_rows_less_what_is_common_at_unit_length():
    torch.testing.assert_close(
        embedded(Target(), ["an owl", "a cat"], CENTER), torch.stack([unit("an owl"), unit("a cat")])
    )


def test_the_nearest_of_all_anchors_and_of_all_rows_of_words_counts():
    text, anchors = "a very old owl", torch.stack([unit("owl"), unit("a cat"), unit("night")])
    by_hand = max(float(unit(piece) @ anchor) for piece in windows(text, Target.windows) for anchor in anchors)
    assert score(Target(), text, CENTER, anchors) == pytest.approx(by_hand, abs=1e-6)
    assert by_hand == pytest.approx(1.0, abs=1e-6), "the word owl is a row of words by itself"
    whole = float((unit(text) @ anchors.T).max())
    assert score(Target(), text, CENTER, anchors[1:]) >= whole
    assert score(Target(), text, CENTER, anchors[[2, 0, 1]]) == score(Target(), text, CENTER, anchors)
    assert score(Target(), "  ", CENTER, anchors) == -1.0


def test_what_reaches_the_threshold_is_hit():
    from erase_plugins.artifacts.policy import packed
    from erase_plugins.runtime.guardrails.looking import ByEmbedding

    policy = {"concept": ForgetItem("owl").name, "action": "block"}
    for below, hit in ((1e-4, True), (-1e-4, False)):
        tau = score(Target(), "a cat", CENTER, unit("owl")[None]) - below
        stage = {"center": packed(CENTER), "anchors": packed(unit("owl")[None]), "tau": tau}
        assert ByEmbedding(policy, stage, Target()).check("a cat").hit is hit


def test_a_text_is_asked_for_once():
    class Counting(Target):
        asked: ClassVar[list[str]] = []

        def encode(self, texts):
            self.asked.extend(texts)
            return super().encode(texts)

    once = Remembered(Counting())
    found = once.meanings(["owl", "cat", "owl"])
    torch.testing.assert_close(found, Target().meanings(["owl", "cat", "owl"]))
    torch.testing.assert_close(once.meanings(["cat", "dog"]), Target().meanings(["cat", "dog"]))
    assert Counting.asked == ["owl", "cat", "dog"]


def test_a_language_model_says_a_text_in_one_word():
    """Rows as transformers gives them for every text by itself, without padding."""
    from erase_plugins.workflow.models import as_target
    from tests import language

    words = language.tokenizer()
    model = language.llama(len(words))
    target = as_target(model)
    target.__dict__["tokenizer"] = words
    texts = [
        f"{name} {'was born ' * (number % 7)}" for number, name in enumerate([*language.FORGET, *language.RETAIN] * 5)
    ]
    texts += ["Zorvane " * LONGEST]  # read up to LONGEST signs
    found = target.meanings(texts[:-1])
    for text, row in zip(texts[:-1], found, strict=True):
        ids = words(f'This sentence : "{text}" means in one word:"', return_tensors="pt")["input_ids"]
        with torch.no_grad():
            alone = model(input_ids=ids, output_hidden_states=True).hidden_states[-1][0, -1]
        torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-5)
    cut = texts[-1][:LONGEST]
    torch.testing.assert_close(target.meanings(texts[-1:]), target.meanings([cut]))
    assert set(language.FORGET) <= {word.capitalize() for word in target.vocabulary()}
    assert "<s>" not in target.vocabulary() and "." not in target.vocabulary()
