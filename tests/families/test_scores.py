"""Scores of tokens that count, read off last states in pieces: the same numbers and gradients, and far less memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers

from benchmarks.memory import Alive
from erase_plugins.families import scores as module
from erase_plugins.families.causal_lm import CausalLanguageModels
from erase_plugins.families.scores import Scores, scores_by_length, scores_of
from erase_plugins.families.texts import IGNORED, Texts
from erase_plugins.training import Asked
from erase_plugins.training.asked import divergence

WORDS = 37
SHAPE = {
    "vocab_size": WORDS, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 64, "initializer_range": 0.1, "pad_token_id": 0,
}  # fmt: skip
#: architecture -> what is special of its scores
SPECIAL = {
    "LlamaForCausalLM": {}, "Gemma2ForCausalLM": {"final_logit_softcapping": 3.0},
    "CohereForCausalLM": {"logit_scale": 0.25}, "GraniteForCausalLM": {"logits_scaling": 4.0},
    "GPT2LMHeadModel": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}, "GPTNeoXForCausalLM": {},
    "PhiForCausalLM": {}, "Gemma3ForCausalLM": {"final_logit_softcapping": 2.0},
    "Qwen2ForCausalLM": {"tie_word_embeddings": True},
}  # fmt: skip


def model_of(architecture, **more):
    cls = getattr(transformers, architecture)
    torch.manual_seed(0)
    host = cls(cls.config_class(**SHAPE | SPECIAL.get(architecture, {}) | more)).eval()
    family = CausalLanguageModels()
    family.architectures = (*family.architectures, architecture)
    host.config.architectures = [architecture]
    return family.wrap(host, "tiny")


def texts_of(words, lengths=((3, 9), (6, 8), (2, 4)), seed=0):
    """Sequences of (first counted, length) tokens."""
    generator, width = torch.Generator().manual_seed(seed), max(length for _, length in lengths)
    ids = torch.randint(1, words, (len(lengths), width), generator=generator)
    places = torch.arange(width)[None]
    mask = (places < torch.tensor([length for _, length in lengths])[:, None]).long()
    front = torch.tensor([first for first, _ in lengths])[:, None]
    return Texts(ids * mask, torch.where((mask > 0) & (places >= front), ids, IGNORED), mask)


@pytest.mark.parametrize("architecture", SPECIAL)
@pytest.mark.parametrize(
    ("dtype", "piece", "bound"),
    [
        ("float32", 1 << 25, 1e-6),
        ("float32", 4 * WORDS, 1e-6),
        ("float64", 4 * WORDS, 1e-8),
    ],  # norms compute in float32 even there
)
def test_likelihood_divergence_and_their_gradients_are_those_of_all_scores(
    architecture, dtype, piece, bound, monkeypatch
):
    monkeypatch.setattr(module, "PIECE", piece)
    model, texts = model_of(architecture), texts_of(WORDS)
    model.host.to(getattr(torch, dtype))
    parameters = list(model.host.parameters())
    other = texts_of(WORDS, seed=1)
    with torch.no_grad():
        before = model.language.logits(other.ids, texts.mask)
        former = scores_of(model, replace(other, mask=texts.mask, labels=texts.labels))

    def terms(now, reference):
        asked = Asked(texts, now)
        weighed = (asked.nll / asked.counts * torch.tensor([0.3, -0.2, 0.1])).sum()
        return weighed + divergence(now, reference, texts.labels, 2.0)

    plain = terms(model.language.logits(texts.ids, texts.mask), before)
    wanted = torch.autograd.grad(plain, parameters, allow_unused=True)
    for asked in (scores_of, scores_by_length):
        loss = terms(asked(model, texts), former)
        assert float(loss.detach()) == pytest.approx(float(plain.detach()), rel=1e-6)
        for found, part in zip(torch.autograd.grad(loss, parameters, allow_unused=True), wanted, strict=True):
            assert (found is None) == (part is None)
            if part is not None:
                assert (found - part).abs().max() <= bound
    assert not any("forward" in vars(part) or part._forward_hooks for part in model.host.modules())


def test_a_common_beginning_may_be_read_once():
    model, texts = model_of("LlamaForCausalLM"), texts_of(WORDS, ((20, 30),) * 3)
    texts.ids[:, :19] = texts.ids[:1, :19]
    with torch.no_grad():
        whole, once = (scores_of(model, texts, first).costs(texts.labels) for first in (0, 19))
    assert (whole - once).abs().max() <= 1e-5


def test_what_hangs_on_the_body_acts_once():
    model, texts = model_of("GPT2LMHeadModel"), texts_of(WORDS)
    body = model.host.transformer
    body.register_forward_hook(lambda _module, _given, out: type(out)(last_hidden_state=3 * out[0]))
    wanted = Scores.of(model.language.logits(texts.ids, texts.mask), texts.labels).costs(texts.labels)
    assert torch.allclose(scores_of(model, texts).costs(texts.labels), wanted, atol=1e-6)
    assert len(body._forward_hooks) == 1


def test_a_model_that_only_gives_scores_is_asked_for_those():
    model, texts = model_of("LlamaForCausalLM"), texts_of(WORDS)
    whole = scores_of(model, texts).costs(texts.labels)
    model.__class__ = type("Plain", (type(model),), {"_parts": None})
    assert torch.allclose(scores_of(model, texts).costs(texts.labels), whole, atol=1e-6)


def test_some_rows_with_fewer_labels():
    texts = texts_of(WORDS)
    logits = torch.randn(*texts.ids.shape, WORDS)
    rows, labels = torch.tensor([2, 0, 0]), texts.labels[torch.tensor([2, 0, 0])].clone()
    labels[1, 4:] = IGNORED
    there = labels[:, 1:] != IGNORED
    assert torch.equal(Scores.of(logits, texts.labels).at(rows, labels).states, logits[rows, :-1][there])


def test_a_vocabulary_of_full_size_takes_a_small_part_of_the_memory():
    """Both from one run; float32, one text to forget and one to retain, with the divergence."""
    words = 131_072
    model = model_of("LlamaForCausalLM", vocab_size=words, max_position_embeddings=256, hidden_size=16, head_dim=4)
    model.host.requires_grad_(False)
    scale = torch.nn.Parameter(torch.ones(()))
    model.host.model.norm.register_forward_hook(lambda _module, _given, out: out * scale)
    texts = texts_of(words, ((90, 100),) * 2)

    def loss(ask):
        with torch.no_grad():
            before = ask()
        now = ask()
        found = Asked(texts, now).mean + divergence(now, before, texts.labels)
        return float(torch.autograd.grad(found, [scale])[0])

    peaks, found = [], []
    for ask in (lambda: model.language.logits(texts.ids, texts.mask), lambda: scores_of(model, texts)):
        with Alive(model.host.parameters()) as alive:
            found.append(loss(ask))
        peaks.append(alive.peak)
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert peaks[1] < peaks[0] / 4


def test_no_more_scores_than_a_piece_are_there_at_a_time(monkeypatch):
    words, texts = 4096, texts_of(4096, ((1, 60),) * 8)
    model = model_of("LlamaForCausalLM", vocab_size=words)
    model.host.requires_grad_(False)
    model.host.model.norm.weight.requires_grad_(True)

    def peak():
        with Alive(model.host.parameters()) as alive:
            mean = Asked(texts, scores_of(model, texts)).mean
            mean.backward()
        return alive.peak

    whole = peak()
    monkeypatch.setattr(module, "PIECE", 16 * words)
    assert peak() < whole / 4
