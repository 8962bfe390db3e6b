"""How likely texts are does not hang on which texts are asked together."""

from __future__ import annotations

import torch

import erase_plugins as ep
from erase_plugins.families.texts import Pair, encoded, tokenizer_of
from erase_plugins.training.language import ask
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
