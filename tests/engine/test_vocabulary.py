"""What is kept of the common words between sessions is what would be computed, and belongs to one encoder only."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.ledger import gram
from erase_plugins.engine import disk_cache
from erase_plugins.engine.vocabulary import word_facts
from erase_plugins.families.base import Target
from erase_plugins.families.diffusers_target import DiffusersTarget


@pytest.fixture
def place(tmp_path, monkeypatch):
    monkeypatch.setenv(disk_cache.VARIABLE, str(tmp_path))
    return tmp_path


class Counting(DiffusersTarget):
    """Counts the prompts that its text encoder sees."""

    seen_prompts = 0

    def _encode_chunk(self, prompts):
        self.seen_prompts += len(prompts)
        super()._encode_chunk(prompts)


def solve(pipe, method="uce", **options):
    """A fresh target's artifact, and how many prompts were encoded for it."""
    target = Counting(pipe, "x")
    concepts = [ep.Concept("pizza", anchor="hamburger"), ep.Concept("dog")]
    artifact = ep.erase(target, concepts, method, keep=["a cat"], **options)
    return artifact, target.seen_prompts


def tensors(artifact):
    delta = artifact.edit.deltas["unet"]["context"]
    return {"A": delta.A, "B": delta.B, **artifact.edit.statistics}


@pytest.mark.parametrize("method", ["uce", "rece"])
def test_the_artifact_is_the_same_with_a_full_an_empty_and_no_memory(pocket_pipe, place, monkeypatch, method):
    first, all_words = solve(pocket_pipe, method)
    second, few_words = solve(pocket_pipe, method)
    monkeypatch.setenv(disk_cache.VARIABLE, "0")
    third, without = solve(pocket_pipe, method)
    assert few_words < all_words - 250
    assert without == all_words
    wanted = tensors(third)
    assert len(wanted["L"]) > 0  # words that mean nearly the same, encoded anew when they are in no memory
    for found in (first, second):
        assert tensors(found).keys() == wanted.keys()
        assert all(torch.equal(value, wanted[name]) for name, value in tensors(found).items())


def test_a_damaged_file_is_replaced(pocket_pipe, place):
    _, all_words = solve(pocket_pipe)
    (file,) = place.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert solve(pocket_pipe)[1] == all_words
    assert file.read_bytes() == whole


def test_other_encoders_words_and_weights_have_entries_of_their_own(tiny_sd1, place):
    pipe = tiny_sd1()
    target = DiffusersTarget(pipe, "x")
    words = target.vocabulary()[:20]

    def entries(used, words=words, weight=0.1):
        word_facts(DiffusersTarget(used, "x"), words, weight)
        return len(list(place.iterdir()))

    assert entries(pipe) == 1
    assert entries(pipe) == 1
    assert entries(pipe, weight=0.2) == 2
    assert entries(pipe, words=words[:19]) == 3
    assert entries(pipe, words=words[::-1]) == 4
    with torch.no_grad():
        last = pipe.text_encoder.encoder.layers[-1].mlp.fc2.weight
        last[0, 0] += 1e-3
        assert entries(pipe) == 5
        last[0, 0] -= 1e-3
        token = int(target.tokens([words[7]]).ids["text_encoder"][0, 1])
        pipe.text_encoder.get_input_embeddings().weight[token, 0] += 1e-3
    assert entries(pipe) == 6


def test_both_encoders_of_sdxl_count(tiny_sdxl, place):
    pipe = tiny_sdxl()
    for changed in (None, pipe.text_encoder, pipe.text_encoder_2):
        if changed is not None:
            with torch.no_grad():
                next(p for n, p in changed.named_parameters() if n.endswith("layers.0.mlp.fc1.weight")).mul_(1.01)
        target = DiffusersTarget(pipe, "x")
        word_facts(target, target.vocabulary()[:20], 0.1)
    assert len(list(place.iterdir())) == 3


def test_a_host_that_does_not_show_its_tokens_keeps_nothing(pocket_pipe, place):
    class Closed(DiffusersTarget):
        def token_table(self, component):
            return Target.token_table(self, component)

    target = Closed(pocket_pipe, "x")
    word_facts(target, target.vocabulary()[:20], 0.1)
    assert not list(place.iterdir())


def test_words_are_summed_in_their_frames_and_compared_without(pocket_target, monkeypatch):
    monkeypatch.setenv(disk_cache.VARIABLE, "0")
    words = pocket_target.vocabulary()[:5]
    features, block = word_facts(pocket_target, words, 0.5, ("{}", "a {} on red"))
    alone, other = word_facts(pocket_target, words, 0.5)
    prompts = [words[0], f"a {words[1]} on red", words[2], f"a {words[3]} on red", words[4]]
    wanted = sum(gram(rows[1:].float(), 0.5) for rows in pocket_target.encode(prompts).embeds)
    assert torch.equal(features, alone)
    assert torch.equal(block, wanted)
    assert not torch.equal(block, other)


def test_words_left_out_are_taken_out_in_their_frames(pocket_pipe, pocket_target, place):
    frames = ("{}", "a {} on red")
    options = {"vocabulary": 200, "vocabulary_frames": frames}
    artifact = ep.erase(pocket_pipe, "dog", "uce", options=options)
    words = pocket_target.vocabulary()[:200]
    left = dict(artifact.edit.meta["statistics"]["left_out"])
    assert left
    prompts = [frames[words.index(word) % 2].format(word) for word in sorted(left)]
    assert torch.equal(artifact.edit.statistics["L"], pocket_target.encode(prompts).embeds[:, 1:].flatten(0, 1).float())
