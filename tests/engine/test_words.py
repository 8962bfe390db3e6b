"""What is kept and searched are words, also where the tokenizer is full of fragments; small worlds keep their own."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.solved import statistics_of
from erase_plugins.engine import disk_cache
from erase_plugins.engine import vocabulary as vocabularies
from erase_plugins.engine.collect import filler_words, refresh
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.stop_words import stopped
from erase_plugins.engine.vocabulary import Vocabulary, meaning, projection_gram, search_tail
from erase_plugins.engine.words import known_words, listed, real_words
from erase_plugins.errors import ArtifactError
from erase_plugins.methods.uce import UCEOptions
from erase_plugins.training.priors import chosen_priors
from erase_plugins.training.retain import keep_words
from erase_plugins.training.text_tuning import HeldStates, same_meaning
from erase_plugins.types import Concept, EraseRequest
from erase_plugins.workflow.calibrate import concepts
from erase_plugins.workflow.models import target_of
from tests.engine.clip_words import clip_pipe, clip_tokenizer

FRAGMENTS = {"ing", "ers", "ght", "ent", "ter", "ure", "ack", "tion", "ness", "ful", "ster", "der", "ple", "ight"}


#: as on full-sized models
SMALL = {"vocabulary": 100, "vocabulary_tail": 3}


@pytest.fixture
def target(tiny_sd1, tmp_path, monkeypatch):
    monkeypatch.setenv(disk_cache.VARIABLE, str(tmp_path))
    return target_of(clip_pipe(tiny_sd1()), "tiny")


@pytest.fixture(scope="module")
def clip_words():
    entries = sorted((place, name) for name, place in clip_tokenizer().get_vocab().items() if name.endswith("</w>"))
    return tuple(name[:-4] for _, name in entries)


def test_the_list_holds_thousands_of_plain_words():
    words = [word for kind in listed().values() for word in kind]
    assert len(set(words)) >= 4000
    assert all(re.fullmatch("[a-z]{2,}", word) for word in words)
    assert not FRAGMENTS & set(words)


def test_words_of_the_clip_tokenizer_are_no_fragments(clip_words):
    assert set(clip_words) >= FRAGMENTS  # what was taken before
    known = known_words(clip_words)
    assert 3500 < len(known) == len(set(known))
    assert not FRAGMENTS & set(known)
    whole, artists = set(clip_words), set(listed()["artists"])
    assert set(known) - whole <= artists <= set(known)  # everything else is one token
    assert {"person", "dog"} <= set(known[:100])
    assert len({kind for kind, words in listed().items() if set(words) & set(known[:40])}) == len(listed())


@pytest.mark.parametrize("concept", concepts())
def test_neighbours_of_common_concepts_can_be_found(clip_words, concept):
    one_token = {*clip_words, *listed()["artists"]}
    wanted = {word for word in concepts()[concept]["near"].split() if word in one_token}
    assert len(wanted) >= 2
    assert {concept, *wanted} <= set(known_words(clip_words))


def test_a_small_world_keeps_its_own_words(pocket_target):
    assert real_words(pocket_target) == pocket_target.vocabulary()
    assert known_words(["cat", "ing"]) == ("cat", "ing")


def test_no_pool_holds_fragments_or_words_on_a_stop_list(target):
    erased = Concept("pizza", kind="explicit")
    request = EraseRequest("tiny", (erased,), "advunlearn")
    held = HeldStates.of(target, ["pizza"], request, 10_000, 1.0, ("{}", "a photo of a {}"), RunContext("t"))
    pools = {
        "kept": set(keep_words(target, ["pizza"], [erased], 10_000, 1.0, torch.Generator().manual_seed(0))),
        "priors": set(chosen_priors(target, ["pizza"], [erased], [], 10_000, 1.0, RunContext("t"))),
        "sentences": {word for prompt in held.prompts for word in prompt.split()} - {"a", "of"},
    }
    known = set(real_words(target))
    barred = stopped(known, [erased])
    assert {"sex", "skin", "body", "lingerie"} <= barred
    for name, pool in pools.items():
        assert len(pool) > 3000, name
        assert pool <= known - barred, name
        assert {"person", "dog"} <= pool, name
    for pool in (same_meaning(target, ["pizza"], -2.0), filler_words("x", 2000, target)):
        assert set(pool) <= known
        assert len(pool) >= 2000


def test_closed_forms_keep_a_hundred_words_and_look_for_aliases_in_all(target):
    plain = ep.erase(target, "pizza", "uce", options={**SMALL, "near": 1.0})
    assert plain.edit.meta["statistics"]["block"]["words"] == 100
    found = ep.erase(target, "pizza", "uce", options={**SMALL, "aliases": True, "alias_threshold": 0.0, "near": 1.0})
    aliases = statistics_of(found.edit).members["pizza"].facts["aliases"]
    assert len(aliases) > 1000
    assert set(aliases) < set(real_words(target)) - {"pizza"}


def test_words_are_encoded_in_batches_with_the_same_result(target, monkeypatch):
    sizes = []
    plain = vocabularies.encoded

    def encoded(target, prompts, tail):
        sizes.append(len(prompts))
        return plain(target, prompts, tail)

    monkeypatch.setattr(vocabularies, "encoded", encoded)
    table = Vocabulary.whole(target)
    assert max(sizes) <= 1024
    assert sum(sizes) == len(table.searched) == len(real_words(target))  # every word once
    assert target._cache.keys() <= {"", table.searched[0]}  # rows of thousands of words are not kept
    some = table.searched[2000:2010]
    wanted = meaning(plain(target, some, search_tail(target.info)), search_tail(target.info))
    torch.testing.assert_close(table.features[2000:2010], wanted, rtol=1e-4, atol=1e-5)
    sizes.clear()
    again = Vocabulary.whole(target)
    assert not sizes  # from disk
    assert torch.equal(again.features, table.features)


def test_a_word_finds_itself_among_all(target):
    table = Vocabulary.of(target, 10, projection_gram(target), tail=3, search=True)
    for word in ("dog", "church", "vermeer"):
        assert table.near(target.encode([word]), 0.999)[:1] == (word,)
    assert len(table.words) == 10


def test_an_artifact_that_kept_fragments_is_still_read_anew(target, monkeypatch):
    monkeypatch.setattr(vocabularies, "real_words", lambda target: target.vocabulary())
    artifact = ep.erase(target, "pizza", "uce", options={"vocabulary": 10, "near": 1.0})
    statistics = statistics_of(artifact.edit)
    assert "ing" in target.vocabulary()[:10]
    again = refresh(statistics, target, UCEOptions(vocabulary=10, near=1.0).recipe())
    assert torch.equal(again.block, statistics.block)
    facts = {**statistics.block_facts, "hash": "0" * 16}
    with pytest.raises(ArtifactError, match="another vocabulary"):
        refresh(replace(statistics, block_facts=facts), target, UCEOptions().recipe())
