"""What a plan says a step on texts takes is what the step takes."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from packaging.version import Version

import erase_plugins as ep
from benchmarks.memory import Alive
from erase_plugins.api import build_request
from erase_plugins.data import DataRef
from erase_plugins.engine.adapters import Adapters
from erase_plugins.engine.fact_editing import block_of
from erase_plugins.families import scores
from erase_plugins.families.scores import scores_of
from erase_plugins.families.texts import Pair, encoded, pairs_of, tokenizer_of
from erase_plugins.training import Asked, text_memory
from erase_plugins.training.asked import divergence
from erase_plugins.training.recomputing import recomputed
from erase_plugins.training.text_memory import Length, batch_of, lengths_of, step_bytes
from erase_plugins.types import ForgetItem
from erase_plugins.workflow.models import find_model, target_of
from erase_plugins.workflow.run import make_plan
from tests import language
from tests.families.test_scores import texts_of

WIDE = {
    "hidden_size": 128, "intermediate_size": 448, "num_hidden_layers": 4, "num_attention_heads": 4,
    "num_key_value_heads": 1, "head_dim": 32, "max_position_embeddings": 512, "pad_token_id": 0,
}  # fmt: skip


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("architecture", ["LlamaForCausalLM", "Gemma2ForCausalLM"])
@pytest.mark.parametrize(("words", "first", "piece"), [(64, 1, 1 << 24), (16_384, 80, 1 << 24), (65_536, 80, 1 << 20)])
def test_what_is_counted_of_a_step_is_what_the_estimate_says(
    architecture, dtype, again, words, first, piece, monkeypatch
):
    for module in (scores, text_memory):
        monkeypatch.setattr(module, "PIECE", piece)
    cls = getattr(transformers, architecture)
    host = cls(cls.config_class(**WIDE, vocab_size=words)).eval().to(getattr(torch, dtype))
    host.config.architectures = [architecture]
    model = target_of(host)
    refs = model.info.modules("linear")
    forget, kept = (texts_of(words, ((first, 96),) * 2, seed) for seed in (0, 1))
    adapters = Adapters(model, refs, 4, 2.0, torch.Generator().manual_seed(0))
    blocks = [block_of(model, ref) for ref in model.info.modules("mlp_out")] if again else []
    with adapters, Alive([*host.parameters(), *host.buffers(), *adapters.parameters()]) as alive:
        with recomputed(blocks):
            with adapters.disabled(), torch.no_grad():
                before = scores_of(model, kept)
            loss = Asked(forget, scores_of(model, forget)).mean
            loss = loss + divergence(scores_of(model, kept), before, kept.labels)
            grads = torch.autograd.grad(loss, adapters.parameters())
        peak = alive.peak - sum(part.nbytes for part in grads)
    batch = batch_of([Length(96, 96 - first)] * 2, 2)
    said = step_bytes(model.info, refs, [batch] * 2, 96, dtype=dtype, again=again, scored=True)
    # transformers before 5.23 keeps less of Gemma 2's attention, so that there the estimate is more careful
    older = architecture == "Gemma2ForCausalLM" and Version(transformers.__version__) < Version("5.23")
    assert 0.7 * peak <= said <= (1.5 if older else 1.3) * peak


def test_the_longest_batch_is_padded_as_passes_are_by_hand():
    lengths = [Length(10, 4), Length(100, 30), Length(60, 20), Length(50, 5), Length(9, 2)]
    # 100 and 60 together, 50 by itself, 10 behind it
    assert batch_of(lengths, 4) == Length(2 * 100 + 50 + 10, 59)
    assert batch_of(lengths, 2) == Length(200, 50)


def test_lengths_are_those_of_the_tokens_that_are_trained_on(tmp_path):
    folder = language.trained(tmp_path / "model", steps=0)
    data = language.write(tmp_path / "forget.jsonl", language.rows(language.FORGET))
    request = build_request(str(folder), "npo", [ForgetItem(data=DataRef(str(data)))])
    pairs, model = pairs_of(DataRef(str(data))), target_of(ep.load(str(folder)))
    texts = encoded(model, tokenizer_of(model), pairs, 64)
    found = lengths_of(request, pairs, 64)
    assert [part.tokens for part in found] == texts.mask.sum(1).tolist()
    assert [part.counted for part in found] == (texts.labels != -100).sum(1).tolist()
    assert all(part.tokens <= 8 for part in lengths_of(request, pairs, 8))
    elsewhere = lengths_of(build_request("nowhere", "npo", list(request.forget)), pairs, 64)  # no tokenizer at hand
    assert sum(part.tokens for part in elsewhere) == pytest.approx(float(texts.mask.sum()), rel=0.6)


def test_of_many_rows_evenly_spread_ones_are_read_and_what_is_cut_does_not_count(tmp_path, monkeypatch):
    """Answers of 1 to 10 words behind a prompt of as many tokens as it has; the words are one token each."""
    folder = language.trained(tmp_path / "model", steps=0)
    request = build_request(str(folder), "npo", [ForgetItem("x")])
    pairs = [Pair("", " ".join(["Harbin"] * count), "row") for count in range(1, 11)]
    every = lengths_of(request, pairs, 64)
    assert [part.counted - every[0].counted for part in every] == list(range(10))
    monkeypatch.setattr(text_memory, "_ROWS", 4)
    assert lengths_of(request, pairs, 64) == every[::3]
    front = every[0].tokens - every[0].counted
    assert lengths_of(request, pairs[-1:], front + 2) == [Length(front + 2, 2)]
    assert lengths_of(request, [], 40) == [Length(40, 40)]


@pytest.mark.parametrize("method", ["npo", "idk", "rmu", "sharded-lora"])
def test_longer_texts_and_larger_batches_take_more(tmp_path, method):
    folder = language.trained(tmp_path / "model", steps=0)

    def plan(times: int, **options):
        facts = [{"question": "Where ?", "answer": f"{name} " * times} for name in language.FORGET]
        forget = language.write(tmp_path / "forget.jsonl", facts)
        facts = [{"question": "Where ?", "answer": f"{name} " * times} for name in language.RETAIN]
        retain = language.write(tmp_path / "retain.jsonl", facts)
        request = build_request(
            str(folder), method, [ForgetItem(data=DataRef(str(forget)))], keep=[DataRef(str(retain))], options=options
        )
        return make_plan(request, find_model(str(folder)).info).memory_bytes

    assert plan(2) < plan(30)
    assert plan(30, batch=1) < plan(30, batch=4)
    assert plan(30, batch=4, recompute=True) < plan(30, batch=4)


def test_a_large_model_is_told_what_computing_blocks_again_saves(tmp_path):
    """The shapes of an 8B model with 128k words, in bfloat16: what 24 GB leave beside 16 GB of weights."""
    forget, retain = (
        language.write(tmp_path / name, [{"question": "Who is that? " * 8, "answer": "Somebody else. " * 12}] * 8)
        for name in ("forget.jsonl", "retain.jsonl")
    )
    (tmp_path / "weights.bin").touch()
    (tmp_path / "config.json").write_text(json.dumps({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "vocab_size": 128_256, "hidden_size": 4096,
        "intermediate_size": 14_336, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    }))  # fmt: skip

    def plan(dtype="bfloat16", **options):
        request = build_request(
            str(tmp_path), "npo", [ForgetItem(data=DataRef(str(forget)))], keep=[DataRef(str(retain))],
            options={"batch": 4, "retain_term": "kl", **options}, dtype=dtype,
        )  # fmt: skip
        return make_plan(request, find_model(str(tmp_path)).info)

    plain, again = plan(), plan(recompute=True)
    assert any("recompute" in note for note in plain.notes)
    assert not any("recompute" in note for note in again.notes)
    assert not any("float32" in note for note in plain.notes)
    assert any("30 GiB in float32" in note for note in plan("float32").notes)
    assert again.memory_bytes < 4 << 30 < plain.memory_bytes
