"""How likely texts are does not hang on which texts are asked together."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.families.texts import IGNORED, Pair, encoded, tokenizer_of
from erase_plugins.training import likelihood
from erase_plugins.training.asked import ask
from erase_plugins.training.likelihood import likelihoods
from erase_plugins.workflow.models import target_of
from tests import language
from tests.training.test_language import other


def test_likelihoods_do_not_hang_on_the_order_of_texts(tmp_path):
    target = target_of(ep.load(str(other("llama", tmp_path / "llama"))))
    names = [*language.FORGET, *language.RETAIN]
    pairs = [Pair(language.QUESTION.format(name) * (1 + n % 3), " ".join([name] * (1 + n)), "row", True)
             for n, name in enumerate(names)]  # fmt: skip
    texts = encoded(target, tokenizer_of(target), pairs, 64)
    nll, counts = likelihoods(target, texts, 3)
    with torch.no_grad():
        wanted = ask(target, texts)
    torch.testing.assert_close(nll, wanted.nll, rtol=1e-5, atol=1e-5)
    assert torch.equal(counts, wanted.counts)


def test_a_text_in_which_nothing_counts_costs_nothing_and_changes_no_other(tmp_path):
    target = target_of(ep.load(str(other("llama", tmp_path / "llama"))))
    pairs = [Pair(language.QUESTION.format(name), name, "row", True) for name in language.RETAIN]
    texts = encoded(target, tokenizer_of(target), pairs, 64)
    before = likelihoods(target, texts, 4)[0]
    texts.labels[1] = IGNORED
    nll, counts = likelihoods(target, texts, 4)
    assert (float(nll[1]), int(counts[1])) == (0.0, 0)
    torch.testing.assert_close(nll[[0, 2, 3]], before[[0, 2, 3]])
    texts.labels[:] = IGNORED
    assert not likelihoods(target, texts, 4)[0].any()


def test_what_is_noted_of_texts_by_hand(monkeypatch):
    """One token that is certain, and two of 1/4 each: 2 ln 4 over three tokens, and a mean of 1 and 1/4."""
    found = torch.tensor([0.0, 2 * math.log(4)]), torch.tensor([1, 2])
    monkeypatch.setattr(likelihood, "likelihoods", lambda *given: found)
    ctx = SimpleNamespace(numbers={})
    likelihood.note_likelihood(None, ctx, "forget", "after", None, 4)  # type: ignore[arg-type]
    assert ctx.numbers == {
        "forget_nll_after": pytest.approx(2 * math.log(4) / 3), "forget_probability_after": pytest.approx(0.625),
    }  # fmt: skip
    assert (
        likelihood.rise_of_retained(SimpleNamespace(numbers={"retain_nll_before": 1.0, "retain_nll_after": 1.5})) == 0.5
    )
    assert likelihood.rise_of_retained(ctx) == 0.0
