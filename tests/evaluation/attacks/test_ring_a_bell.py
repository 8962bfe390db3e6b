"""Ring-A-Bell: direction, fitness, what is kept on disk, shared files, rates."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.attacks import encoder_search
from erase_plugins.evaluation.attacks.encoder_search import direction, encoder_fitness, found_words, mean_difference
from erase_plugins.evaluation.attacks.ring_a_bell import _SETS, PROMPTS, RingABell, RingABellOptions, find_prompts
from erase_plugins.evaluation.attacks.vocabulary import word_table
from erase_plugins.evaluation.prompts import worded_prompts
from erase_plugins.evaluation.run import Subject as Run
from erase_plugins.workflow.measure import open_subject
from tests.evaluation.attacks.fakes import Judge, Subject, budget_of


def test_a_direction_is_linear():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(6, 4, 8, generator=generator) for _ in range(2))
    found = mean_difference(first, second)
    assert torch.equal(mean_difference(torch.full((5, 1, 1), 3.0), torch.ones(5, 1, 1)), torch.full((1, 1), 2.0))
    assert torch.allclose(found, -mean_difference(second, first))
    assert torch.allclose(found, mean_difference(torch.cat([first, first]), torch.cat([second, second])), atol=1e-6)
    with pytest.raises(Unsupported, match="4 and 4 sentences are not at least 5 pairs"):
        mean_difference(first[:4], second[:4])
    with pytest.raises(Unsupported, match="6 and 5 sentences"):
        mean_difference(first, second[:5])
    with pytest.raises(Unsupported, match="there is no direction"):
        mean_difference(first, first)


@pytest.fixture(scope="module")
def pocket_subject(pocket_target):
    return SimpleNamespace(target=pocket_target, judge=Judge(), erased=["owl"], seed=0, model="pocket")


def test_both_halves_of_the_pairs_give_the_same_direction(pocket_target, pocket_subject):
    """0.5 between halves, 0.2 where the sides of the pairs are shuffled (the specification's bounds)."""
    judge = pocket_subject.judge
    names = [item.name for item in judge.world().concepts if item.name != "owl"][:20]
    with_it = worded_prompts(judge, ["owl"], [("owl", "owl")] * 20, 0)
    without = worded_prompts(judge, ["owl"], [(name, "owl") for name in names], 0)
    p, q = (pocket_target.encode([item.text for item in items]).embeds for items in (with_it, without))
    cosine = lambda a, b: float(torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), 0))  # noqa: E731
    assert cosine(mean_difference(p[::2], q[::2]), mean_difference(p[1::2], q[1::2])) > 0.5
    swap = torch.randperm(20, generator=torch.Generator().manual_seed(1))[:10]
    mixed_p, mixed_q = p.clone(), q.clone()
    mixed_p[swap], mixed_q[swap] = q[swap], p[swap]
    assert cosine(mean_difference(mixed_p, mixed_q), direction(pocket_subject, "owl", 20)) < 0.2


def test_batched_fitness_is_that_of_one_at_a_time_and_zero_at_the_source(pocket_target):
    table = word_table(pocket_target)
    rows = np.random.RandomState(0).randint(0, len(table.words), (6, 4))
    wanted = pocket_target.encode([table.text(rows[2])]).embeds[0]
    fitness = encoder_fitness(pocket_target, table, wanted)
    batched = fitness(rows)
    assert np.allclose(
        batched, np.concatenate([fitness(rows[place : place + 1]) for place in range(6)]), rtol=1e-5, atol=1e-3
    )
    assert batched[2] == pytest.approx(0, abs=1e-3) and batched[[0, 1, 3, 4, 5]].min() > 1


def searched(target, folder, generations, stop=None, key="k"):
    table = word_table(target)
    wanted = target.encode(["a owl"]).embeds[0]

    def report(done):
        if done == stop:
            raise KeyboardInterrupt

    budget = budget_of(folder, 1)
    return found_words(target, table, wanted, (3, 8, generations), 0, key, budget, report)


def test_a_killed_search_goes_on_and_a_finished_one_is_read_from_disk(tiny_sd1, tmp_path, monkeypatch):
    from erase_plugins.workflow.models import target_of

    target = target_of(tiny_sd1(), "tiny")
    monkeypatch.setattr(encoder_search, "_SAVE_EVERY", 2)
    whole = searched(target, tmp_path / "w", 8, key="whole")
    with pytest.raises(KeyboardInterrupt):
        searched(target, tmp_path / "k", 8, stop=5, key="killed")
    assert json.loads((tmp_path / "k" / "killed.json").read_text())["generation"] == 4
    resumed = searched(target, tmp_path / "k", 8, key="killed")
    assert (resumed["row"], resumed["loss"]) == (whole["row"], whole["loss"])
    monkeypatch.setattr(encoder_search, "search", lambda *a, **k: pytest.fail("searched again"))
    assert searched(target, tmp_path / "other", 8, key="whole") == whole
    (encoder_search.disk_cache.folder() / "whole.safetensors").unlink()


def knows(text, edit):
    """The base knows the name and two odd prompts; the edit leaves one of these."""
    if edit == "destroyed":
        return None
    return "owl" if "hoot" in text or (edit == "off" and ("owl" in text.split() or "wise" in text)) else None


def shared_file(folder, encoder="", **more):
    content = {
        "kind": "erase-plugins ring-a-bell prompts", "version": 1, "model": "m", "encoder": encoder, "concepts": ["owl"],
        "prompts": [{"prompt": "hoot lamp", "shows": "owl", "loss": 1.0}, {"prompt": "wise chair", "shows": "owl", "loss": 2.0},
                    {"prompt": "dog", "shows": "dog", "loss": 0.0}],
    }  # fmt: skip
    place = folder / PROMPTS
    place.write_text(json.dumps(content | more))
    return str(place)


def fake():
    subject = Subject(knows)
    subject.target.fingerprint = dict
    return subject


def test_shared_prompts_are_measured_without_a_search(tmp_path):
    subject = fake()
    path = shared_file(tmp_path, encoder_search.encoder_hash(subject.target))
    report = RingABell().run(subject, budget_of(tmp_path / "w", 6 * _SETS, **options(prompts=path)))
    found = {(row.metric, row.subject): row.value for row in report.rows}
    assert (report.success.value, report.success.subject, report.control.value) == (0.5, "2 prompts", 0.0)
    assert found["target_rate", "plain name"] == 0.0 and found["base_rate", "found prompts"] == 1.0
    assert found["target_rate", "best prompt, again"] == 1.0 and report.found["best"] == "hoot lamp"
    assert [item["rate"] for item in report.details["prompts"]] == [1.0, 0.0]
    next(item for item in report.attachments if item.name == PROMPTS).write(tmp_path / "again.json")
    assert all("rate" not in item for item in json.loads((tmp_path / "again.json").read_text())["prompts"])
    assert report.warnings == () and report.queries == subject.queries <= 6 * _SETS


def options(**given):
    return dataclasses.asdict(RingABellOptions(**given))


def test_prompts_of_another_encoder_are_called_a_transfer(tmp_path):
    report = RingABell().run(
        fake(), budget_of(tmp_path / "w", _SETS, **options(prompts=shared_file(tmp_path, "other")))
    )
    assert any("searched on another text encoder (that of m): a transfer" in text for text in report.warnings)


def test_files_that_cannot_be_used(tmp_path):
    def refused(path, told):
        with pytest.raises(RequestError, match=told):
            RingABell().run(fake(), budget_of(tmp_path / "w", _SETS, **options(prompts=str(path))))

    refused(tmp_path / "absent.json", "'absent.json' cannot be read")
    refused(shared_file(tmp_path, kind="else"), "hold owl, not owl")
    refused(shared_file(tmp_path, prompts=[{"prompt": "dog", "shows": "dog"}], concepts=["dog"]), "hold dog, not owl")
    refused(shared_file(tmp_path, prompts=3), "cannot be read")


@pytest.mark.parametrize("forbid", ["name", "synonyms"])
def test_the_search_on_the_embedded_encoder(pocket_subject, tmp_path, forbid):
    from erase_plugins.evaluation.attacks.ring_a_bell import find_prompts

    given = RingABellOptions(count=2, words=3, population=16, generations=6, pairs=8, forbid=forbid, eta=2.0)
    sources = worded_prompts(pocket_subject.judge, ["owl"], [("owl", "owl")] * 3, 0)
    made = find_prompts(pocket_subject, budget_of(tmp_path / "w", 1), given, sources)
    assert [item["source"] for item in made["prompts"]] == [item.text for item in sources[:2]]
    for item in made["prompts"]:
        words = item["prompt"].split()
        assert len(words) == 3 and "owl" not in words and item["loss"] > 0
        assert forbid == "name" or not {"hoot", "wise"} & set(words)
    with pytest.raises(RequestError, match="40 words do not fit; the text encoder of pocket reads 30"):
        find_prompts(pocket_subject, budget_of(tmp_path / "w", 1), dataclasses.replace(given, words=40), sources)


class NameOnly(Run):
    """Draws with another word's embedding in the place of the name's, and is else untouched."""

    def generate(self, inputs, seeds=(), *, edit="on", strength=None):
        if edit != "on":
            return super().generate(inputs, seeds, edit=edit, strength=strength)
        table = self.pipe.text_encoder.get_input_embeddings().weight.data
        name, other = (int(self.target.tokens([word]).ids["text_encoder"][0, 1]) for word in ("owl", "chair"))
        kept = table[name].clone()
        table[name] = table[other]
        try:
            self.queries += len(inputs)
            return self.draw(inputs, seeds)
        finally:
            table[name] = kept


@pytest.mark.full
def test_who_exchanged_only_the_name_is_found_out(pocket_pipe, pocket_target):
    """Test 7 of the specification: found words bring back what the name does not; a model that never saw it at chance."""
    subject = open_subject(pocket_pipe, [ep.erase(pocket_target, "owl", "uce")], RingABell())
    subject.__class__ = NameOnly
    given = {"reference": str(Path(__file__).parents[2] / "pocket" / "reference")}
    report = run_attack(RingABell(), lambda: subject, 12 * _SETS, settings=given)
    rates = {(row.metric, row.subject): row.value for row in report.rows}
    assert report.success.value > rates["target_rate", "plain name"] + 0.1
    assert report.control.subject == "control: reference model" and report.control.value <= 0.1


def test_what_is_looked_for_is_the_prompt_plus_eta_times_the_direction(pocket_subject, tmp_path, monkeypatch):
    wanted = []

    def words(target, table, goal, size, *_more):
        wanted.append(goal)
        return {"row": [0] * size[0], "loss": 1.0, "evaluated": 1}

    monkeypatch.setattr(encoder_search, "direction", lambda subject, name, pairs: torch.full((1, 1), 2.0))
    monkeypatch.setattr(encoder_search, "found_words", words)
    source = worded_prompts(pocket_subject.judge, ["owl"], [("owl", "owl")], 0)
    given = RingABellOptions(eta=-0.5, words=2)
    made = find_prompts(pocket_subject, budget_of(tmp_path / "w", _SETS, **options()), given, source)
    plain = pocket_subject.target.encode([source[0].text]).embeds[0]
    torch.testing.assert_close(wanted[0], plain - 1.0)
    assert made["prompts"][0]["source_loss"] == pytest.approx(plain.numel(), rel=1e-4)
