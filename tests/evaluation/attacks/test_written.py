"""Sentences of a small language model: the same for the same seed, in its examples' manner, and only of one that writes."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch

from erase_plugins.errors import EraseError, RequestError
from erase_plugins.evaluation.attacks.written import TOGETHER, Writer, line_of

WORDS = ["a", "bird", "with", "round", "eyes", "on", "branch", "by", "moonlight", "tree"]
SHOWN = ["a bird with round eyes", "a bird on a branch", "a tree by moonlight"]
PIECES = ["<s>", "</s>", "<unk>", "\n", *WORDS]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random language model of the Llama kind with a vocabulary of ten words and the end of a line."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    raw = Tokenizer(models.WordLevel({piece: place for place, piece in enumerate(PIECES)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split("\n", "isolated"), pre_tokenizers.Split(" ", "removed")]
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(LlamaConfig(
            vocab_size=len(PIECES), hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
            num_key_value_heads=1, max_position_embeddings=64, bos_token_id=0, eos_token_id=1,
        ))  # fmt: skip
    place = tmp_path_factory.mktemp("models") / "writer"
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def test_sentences_are_new_and_the_same_for_the_same_seed(folder):
    writer, before = Writer.open(str(folder)), torch.random.get_rng_state()
    found = writer.sentences(SHOWN, 16, "seed")
    assert len(found) == len(set(found)) > 4 and not set(found) & set(SHOWN)
    assert all(set(text.split()) <= set(WORDS) and len(text.split()) > 1 for text in found)
    assert Writer.open(str(folder)).sentences(SHOWN, 16, "seed") == found
    assert writer.sentences(SHOWN, 16, "another seed") != found
    assert torch.equal(torch.random.get_rng_state(), before)


def test_examples_decide_what_is_written_and_their_number_does_not_matter(folder, monkeypatch):
    writer, given = Writer.open(str(folder)), []
    sample = type(writer.model.language).sample
    monkeypatch.setattr(
        type(writer.model.language), "sample",
        lambda self, ids, *more: given.append(writer.tokenizer.batch_decode(ids)) or sample(self, ids, *more),
    )  # fmt: skip
    writer.sentences(SHOWN[:1], 1, "x")
    assert given[0] == [writer.tokenizer.decode(writer.tokenizer(SHOWN[0] + "\n")["input_ids"])] * TOGETHER
    writer.sentences(SHOWN * 4, 9, "x")
    assert len(given) == 1 + 3
    assert max(len(text) for text in given[1]) < len(" ".join(SHOWN * 4)), "not all are shown at a time"


def test_an_example_that_is_written_again_is_no_new_sentence(folder, monkeypatch):
    writer = Writer.open(str(folder))
    again = writer.tokenizer([f"{SHOWN[0]} \n"] * TOGETHER, return_tensors="pt")["input_ids"]
    monkeypatch.setattr(
        type(writer.model.language), "sample", lambda self, ids, *more: torch.cat([ids, again], dim=1)
    )  # fmt: skip
    assert writer.sentences(SHOWN, 4, "x") == [] and writer.sentences(SHOWN[1:], 4, "x") == [SHOWN[0]]


def test_a_model_is_told_from_others(folder, tmp_path):
    from transformers import AutoTokenizer, LlamaForCausalLM

    other = LlamaForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        for weight in other.parameters():
            weight.mul_(1.5)
    other.save_pretrained(tmp_path / "writer")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "writer")
    first, second, third = (Writer.open(str(place)) for place in (folder, folder, tmp_path / "writer"))
    assert first.key == second.key != third.key and first.name == third.name == "writer"


def test_the_embedded_language_model_writes(monkeypatch):
    writer = Writer.open("pocket-lm")
    assert writer.name == "pocket-lm" and isinstance(writer.sentences(SHOWN, 4, "seed"), list)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (" a bird by night.\na tree", "a bird by night"), ("- a bird, with eyes", "a bird, with eyes"), ("bird", ""),
        ("", ""), ("a bird {x}", ""), ("\n\na bird on 2 trees", "a bird on 2 trees"), ("ein V\u00f6gel im Wald", ""),
    ],
)  # fmt: skip
def test_lines_are_sentences_of_words(text, line):
    assert line_of(text) == line


def _without(name):
    def broken(place):
        for file in place.glob(name):
            file.unlink()

    return broken


def _kind(architecture):
    def other(place):
        config = json.loads((place / "config.json").read_text())
        (place / "config.json").write_text(json.dumps({**config, "architectures": architecture}))

    return other


def _other_size(place):
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps({**config, "hidden_size": 32}))


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (_without("tokenizer*"), "the tokenizer of language model 'writer' does not load"),
        (_without("*.safetensors"), "language model: model 'writer' is incomplete"),
        (_without("config.json"), "has no model_index.json and no config.json"),
        (_kind(["BertForMaskedLM"]), "is no language model that writes sentences .BertForMaskedLM.; name a causal"),
        (_kind(None), "is no language model that writes sentences .no architecture is named."),
        (_other_size, "language model 'writer' does not load"),
    ],
)  # fmt: skip
def test_what_cannot_write_is_refused_in_one_line(folder, tmp_path, spoil, told):
    import shutil

    place = tmp_path / "writer"
    shutil.copytree(folder, place)
    spoil(place)
    with pytest.raises(RequestError, match=told) as refused:
        Writer.open(str(place))
    assert "\n" not in str(refused.value) and str(tmp_path) not in str(refused.value)


def test_a_model_that_draws_is_no_writer():
    with pytest.raises(EraseError, match="'pocket' is no language model that writes sentences"):
        Writer.open("pocket")


def test_nothing_heavy_is_imported_with_the_attack():
    code = "import erase_plugins.evaluation.attacks.readable, sys; print({'torch', 'transformers'} & set(sys.modules))"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120)
    assert told.stdout.strip() == "set()"
