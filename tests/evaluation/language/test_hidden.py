"""Lens and probe on hidden states: what is read where, by hand, and that a probe is measured on what it never saw."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.language import hidden
from erase_plugins.evaluation.language.hidden import Read, apart, hidden_of, read, told
from erase_plugins.evaluation.language.measure import Measured
from erase_plugins.evaluation.language.probes import Fact, Probes, probes_of
from erase_plugins.evaluation.language.suite import _details, _row, _warnings, report_rows
from erase_plugins.families.source import pocket_folder
from erase_plugins.families.texts import tokenizer_of
from erase_plugins.workflow.models import target_of
from tests import language
from tests.training.test_language import other

ROWS = [json.loads(line) for line in (pocket_folder("pocket-lm") / "facts.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi3"])
def test_the_last_depth_is_what_scores_are_read_off_and_the_others_are_normed(kind, tmp_path):
    model = target_of(ep.load(str(other(kind, tmp_path / "model")))).language
    ids = torch.randint(3, model.words, (2, 5), generator=torch.Generator().manual_seed(0))
    counted = torch.zeros_like(ids, dtype=torch.bool)
    counted[0, 2] = counted[1, 4] = True
    with torch.no_grad():
        found = model.depths(ids, counted)
        assert len(found) == 2
        assert torch.allclose(found[-1], model.states(ids, None, counted), atol=1e-6)
        assert torch.allclose(model.scored(found[-1]), model.logits(ids)[counted], atol=1e-5)
        raw = model.hidden(ids, 1)[counted]
        norm = model.network("language").base_model
        norm = norm.ln_f if kind == "gpt2" else norm.norm
        assert torch.equal(found[0], norm(raw)) and not torch.allclose(found[0], raw, atol=1e-3)


def test_answers_are_told_apart_by_where_they_differ():
    assert apart(["Ann feeds a red goat.", "Ann feeds a blue goat.", "Ann feeds a big old goat."]) == [
        "red", "blue", "big old",
    ]  # fmt: skip
    assert apart(["A goat lives here.", "An owl lives here."]) == ["A goat", "An owl"]
    assert apart(["in", "in Marlow"]) == ["in", "in Marlow"]
    assert apart(["same", "same"]) == ["same", "same"]
    assert apart(["", "x"]) == ["", "x"]


def test_a_token_is_among_five_or_it_is_not():
    scores = torch.arange(8.0)[None].repeat(5, 1)
    scores[3], scores[4] = 1.0, float("nan")
    assert hidden._among(scores, torch.tensor([7, 3, 2, 0, 0])).tolist() == [True, True, False, False, False]


class Recorder:
    """A language model of two layers whose states say what it was asked: the first favours one token, the second all
    others.
    """

    device = "cpu"

    def __init__(self, words, favoured):
        self.words, self.favoured, self.asked = words, favoured, []
        self.language = self

    def embeddings(self):
        return torch.eye(self.words)

    def depths(self, ids, counted):
        assert counted.sum() == len(ids) and counted[:, -1].all()
        self.asked += ids.tolist()
        states = torch.ones(2, len(ids), self.words)
        states[:, :, self.favoured] = torch.tensor([2.0, 0.5])[:, None]
        return states

    def scored(self, states):
        return states.log()


def fact(name, place):
    row = {"question": language.QUESTION.format(name), "answer": language.ANSWER.format(name, place),
           "wrong": [language.ANSWER.format(name, town) for town in ("Ashford", "Marlow")]}  # fmt: skip
    return Fact(row, row, place)


def test_the_state_in_front_of_the_value_is_read_and_its_first_token_looked_for():
    words = language.tokenizer()
    facts = [fact("Zorvane", "Ymbrook"), fact("Quillith", "Astervale")]
    model = Recorder(len(words), words.convert_tokens_to_ids("Ymbrook"))
    found = read(model, words, facts, [item.learned for item in facts])
    assert [words.decode(ids).split()[-4:] for ids in model.asked] == [
        [item, "was", "born", "in"] for item in ("Zorvane", "Quillith")
    ]
    assert found.found.tolist() == [[True, False], [False, False]]
    assert found.choices[0].shape == (3, len(words))
    own, *wrong = (words.convert_tokens_to_ids(word) for word in ("Ymbrook", "Ashford", "Marlow"))
    assert found.choices[0][0, own] == pytest.approx(2 / 3)
    assert [found.choices[0][0, word] for word in wrong] == pytest.approx([-1 / 3, -1 / 3])
    assert torch.allclose(found.states.norm(dim=-1), torch.ones(2, 2, dtype=torch.float64))


def made(count, knows, seed, width=64):
    """Facts whose states hold their own values in the layers that know, noise in the others."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(8, 16, generator=generator, dtype=torch.float64)
    where = torch.randn(16, width, generator=torch.Generator().manual_seed(99), dtype=torch.float64)
    chosen = [torch.randperm(8, generator=generator)[:4] for _ in range(count)]
    choices = [values[row] - values[row].mean(0) for row in chosen]
    noise = torch.randn(count, len(knows), width, generator=generator, dtype=torch.float64)
    held = torch.stack([values[row[0]] @ where for row in chosen])
    states = torch.stack([held + 0.1 * noise[:, n] if able else noise[:, n] for n, able in enumerate(knows)], 1)
    return Read(torch.nn.functional.normalize(states, dim=-1), choices, torch.zeros(count, len(knows)))


def test_a_probe_finds_the_layer_that_knows_and_nothing_where_none_does():
    some = made(60, (False, True, False), 0)
    hits, layers = told([], some, some, 0)
    assert sum(hits) / 60 > 0.8 and max(layers[0], layers[2]) < 0.6 < layers[1]
    blind = made(60, (False, False, False), 1)
    hits, layers = told([], blind, blind, 0)
    assert sum(hits) / 60 < 0.5, "what is measured was among what was learned"
    taught = made(60, (True, True, True), 2)
    assert told([], blind, taught, 0)[1] != told([taught], blind, taught, 0)[1], "others are learned from"


def test_the_layer_is_not_chosen_on_what_is_measured(monkeypatch):
    """Which facts are asked while layers are compared, and which are measured: never the same."""
    part = torch.randperm(9, generator=torch.Generator().manual_seed(0)) % 3
    some, calls = made(9, (True, True), 0), []
    best = {0: 0, 1: 1, 2: 0}  # the layer that is good on each part

    def margin(_probe, _item, place, layer):
        calls.append(place)
        return 1.0 if best[int(part[place])] == layer else -1.0

    monkeypatch.setattr(hidden, "_margin", margin)
    hits, layers = told([], some, some, 0)
    # part 0 is measured last of the turn that chooses on part 2: layer 0, good; 1 on 0: layer 0, bad; 2 on 1: bad
    assert [hits[place] for place in range(9)] == [float(part[place] == 0) for place in range(9)]
    assert layers == pytest.approx([6 / 9, 3 / 9])
    assert sorted(set(calls)) == list(range(9))


def test_what_is_too_little_or_not_shown_has_no_rows():
    words = language.tokenizer()
    model = Recorder(len(words), 5)
    facts = [fact("Zorvane", "Ymbrook"), fact("Quillith", "Astervale")]
    found = hidden_of(model, words, Probes({"forget": facts, "retain": facts}), 0)
    assert "lens_key" in found and "probe_key" not in found

    def blind(*_given):
        raise Unsupported("it does not show them")

    model.depths = blind
    assert hidden_of(model, words, Probes({"forget": facts, "retain": facts}), 0) == {"unread": "it does not show them"}


def test_rows_have_their_chance_and_details_their_layers():
    found = {"lens_key": [1.0, 0.0], "probe_key": [1.0, 1.0], "notes": {"probe_key": "chance is 25%"},
             "layers": {"lens_key": [0.5, 0.0]}}  # fmt: skip
    one = {"edited": Measured({"forget_probability": [0.5, 0.5]})}
    rows = {row.metric: row for row in report_rows(one, {"edited": found}, 0)}
    assert set(rows) == {"forget_probability", "lens_key", "probe_key"}
    assert (rows["lens_key"].value, rows["lens_key"].n, rows["probe_key"].note) == (0.5, 2, "chance is 25%")
    assert _details(one, {"edited": found})["layers"] == {"edited": {"lens_key": [0.5, 0.0]}}
    assert report_rows(one, {"edited": {"unread": "why"}}, 0)[0].metric == "forget_probability"


@pytest.mark.parametrize(("low", "high", "warns"), [(0.5, 0.45, True), (0.5, 0.55, False)])
def test_only_what_is_beyond_the_reference_is_warned_of(low, high, warns):
    rows = [_row("lens_key", "edited", (0.7, low, 0.9), 9), _row("lens_key", "reference", (0.3, 0.1, high), 9)]
    assert any("the logit lens reads 70%" in text for text in _warnings(rows, "a twin")) is warns


def test_the_embedded_model_knows_within_and_its_twin_does_not():
    whole = probes_of(ROWS, ["withheld"], "facts.jsonl")
    probes = replace(whole, facts={**whole.facts, "retain": whole.facts["retain"][::4]})
    for name, knows in (("pocket-lm", True), ("pocket-lm-retained", False)):
        model = target_of(ep.load(name))
        found = hidden_of(model, tokenizer_of(model), probes, 0)
        share = {metric: sum(found[metric]) / 60 for metric in ("lens_key", "probe_key")}
        assert (share["probe_key"] > 0.7, share["probe_key"] < 0.5) == (knows, not knows), share
        assert (share["lens_key"] > 0.9, share["lens_key"] < 0.6) == (knows, not knows), share
        assert {len(part) for part in found["layers"].values()} == {4}
        assert found["notes"] == {"probe_key": "chance is 25%"}
