"""Others of the same kind are the words near the subjects, asked in the same words; aliases are told by the answer."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from erase_plugins.families.texts import Pair
from erase_plugins.training.peers import _told, another_name, peers

LANDS = ("Zorvania", "Ymbria", "Quillia", "Tressia", "Marland", "Dunmark")
FIRST = ("Wal", "Ber", "Her", "Mon", "Tues", "Pau", "Otti", "Kar", "Lo", "Ste", "Bru", "Gud", "Ing", "Sig", "Ra")
LAST = ("ter", "ta", "mann", "day", "la", "lie", "son", "wick", "ne", "rid", "mar", "bert", "gard", "lind", "fe", "no")
WORDS = ("the", "water", "stone", *(f"{first}{last}" for first in FIRST for last in LAST))


@dataclass
class Tokenizer:
    """One token a word, marked as byte-level tokenizers mark the beginning of one."""

    tokens: tuple[str, ...]
    all_special_ids: tuple[int, ...] = (0,)

    def __len__(self) -> int:
        return len(self.tokens)

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [self.tokens.index(f"Ġ{word}") for word in text.split()]}

    def convert_ids_to_tokens(self, numbers: Any) -> list[str]:
        return [self.tokens[number] for number in numbers]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens).replace("Ġ", " ")


@pytest.fixture(autouse=True)
def written(monkeypatch):
    """Names of several tokens that the model writes."""
    names: list[tuple[int, ...]] = []
    monkeypatch.setattr("erase_plugins.training.peers.longer_names", lambda *_given: names)
    return names


@pytest.fixture
def model():
    """Lands lie together; how often a word is written is a much longer direction than that."""
    tokens = ("<s>", "ria", *(f"Ġ{word}" for word in (*LANDS, *WORDS)))
    draw = torch.Generator().manual_seed(0)
    table = 0.3 * torch.randn(len(tokens), 8, generator=draw)
    table[2 : 2 + len(LANDS), 0] += 2.0
    table[:, 1] += 20 * torch.rand(len(tokens), generator=draw)
    return SimpleNamespace(language=SimpleNamespace(embeddings=lambda: table)), Tokenizer(tokens)


def asked(*names):
    return [
        Pair(wording.format(name), f"{name}'s own.", f"row {number}", subject=name)
        for number, name in enumerate(names) for wording in ("What is {}'s capital ?", "The capital of {} is")
    ]  # fmt: skip


def test_others_are_of_the_same_kind_and_asked_in_all_wordings(model):
    found = peers(*model, asked(*LANDS[:2]), [], 4)
    assert {pair.subject for pair in found} == set(LANDS[2:])
    assert [pair.prompt.startswith("What") for pair in found] == [True, False] * 4
    for pair in found:
        assert pair.subject in pair.prompt
        assert not any(name in f"{pair.prompt} {pair.completion}" for name in LANDS[:2])


def test_those_that_are_given_count_but_come_not_back(model):
    kept = [Pair("x", "y", "row", subject=f"Great {LANDS[2].lower()}")]
    found = peers(*model, asked(*LANDS[:2]), kept, 4)
    assert {pair.subject for pair in found} == set(LANDS[3:])
    assert peers(*model, asked(*LANDS[:2]), [], 0) == []


def test_only_whole_words_written_like_the_subject_are_names(model, monkeypatch):
    monkeypatch.setattr("erase_plugins.training.peers._SPARSE", 1)
    found = peers(*model, asked(*LANDS[:2]), [], 9999)
    assert {pair.subject for pair in found} == {*LANDS[2:], *(word for word in WORDS if word[0].isupper())}


def test_names_that_the_model_writes_are_others_too(model, written):
    numbers = {word: model[1].tokens.index(f"Ġ{word}") for word in LANDS}
    written += [(numbers[LANDS[4]], numbers[LANDS[5]]), (numbers[LANDS[0]],)]
    found = {pair.subject for pair in peers(*model, asked(*LANDS[:2]), [], 4)}
    assert found == {*LANDS[2:], f"{LANDS[4]} {LANDS[5]}"}  # the second is a subject itself


def test_a_small_vocabulary_has_no_kinds(model):
    assert len(peers(*model, asked(*LANDS[:2]), [], 9999)) == 2 * 4  # of 246 words


def test_another_name_is_told_by_what_is_said_of_it():
    assert another_name("\nThe answer is: PARIS,\n", ["Paris."])
    assert not another_name("Parisians say so", ["Paris."])
    assert not another_name("anything", ["...", " "])


def test_kinds_share_the_names_that_are_looked_for(model, monkeypatch):
    wanted = []
    monkeypatch.setattr("erase_plugins.training.peers._nearest", lambda *given: wanted.append(given[-1]) or [])
    rows = [*asked(*LANDS[:2]), *(Pair(f"Who is {name} ?", ".", "row", subject=name) for name in ("Walter", "Berta"))]
    assert peers(*model, rows, [], 9) == []
    assert wanted == [4, 4]


def test_a_part_of_a_name_was_given_and_a_part_of_a_word_was_not():
    assert _told("Lee", {"ann lee"})
    assert not _told("Ann", {"hannah lee"})
