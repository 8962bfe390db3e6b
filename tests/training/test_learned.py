"""Adapters trained on what stays: shards that forget by leaving out, and private training with its bound."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.data import DataRef
from erase_plugins.errors import RequestError
from tests import language
from tests.training.test_language import item, numbers

CHEAP = {"steps": 4, "batch": 2, "lr": 1e-2, "rank": 2, "modules": "mlp"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("learned") / "model"
    words = language.tokenizer()
    language.llama(len(words)).save_pretrained(place)
    words.save_pretrained(place)
    return place


def data(place, names, facts):
    return language.write(place / f"{names}.jsonl", language.named(facts))


def made(folder, method, gone, staying, **options):
    return ep.erase(str(folder), [item(gone)], method, keep=[DataRef(str(staying))], options=CHEAP | options)


def same(first, second):
    pairs = zip(first.edit.items(), second.edit.items(), strict=True)
    return all(torch.equal(one.A, two.A) and torch.equal(one.B, two.B) for (_, _, one), (_, _, two) in pairs)


def test_who_is_left_out_is_gone_exactly_and_only_their_shard_is_trained(folder, tmp_path):
    people = language.RETAIN | {"Zorvane": "Ymbrook"}
    none = data(tmp_path, "none", {"Tressok": "Ivermoor"})
    store = {"shards": 3, "store": str(tmp_path / "store")}
    first = made(folder, "sharded-lora", none, data(tmp_path, "all", people), **store)
    assert numbers(first)["shards_trained"] == numbers(first)["shards"] > 1
    kept = {path.name for path in (tmp_path / "store").iterdir()}
    gone, staying = data(tmp_path, "gone", {"Zorvane": "Ymbrook"}), data(tmp_path, "staying", language.RETAIN)
    second = made(folder, "sharded-lora", gone, staying, **store)
    assert numbers(second)["shards_trained"] <= 1
    assert not same(first, second)
    assert same(second, made(folder, "sharded-lora", none, staying, shards=3))  # never given, nothing stored
    left = {path.name for path in (tmp_path / "store").iterdir()}
    assert len(kept - left) == 1
    for path in (tmp_path / "store").iterdir():
        assert not any(word.encode() in path.read_bytes() for word in [*people, *people.values()])


def test_what_stays_may_not_hold_what_goes(folder, tmp_path):
    gone = data(tmp_path, "gone", {"Zorvane": "Ymbrook"})
    more = language.write(tmp_path / "more.jsonl", [{"text": "Tressok .", "subject": "ZORVANE"}])
    with pytest.raises(
        RequestError, match=r"subject of data 'more\.jsonl', row 1 is that of data 'gone\.jsonl', row 1"
    ) as caught:
        made(folder, "sharded-lora", gone, more)
    assert "orvane" not in str(caught.value).lower()
    with pytest.raises(RequestError, match="trains an adapter on the rows that stay"):
        ep.plan(str(folder), [item(gone)], "dp-lora")


def test_private_training_says_what_it_costs_and_nothing_of_its_rows(folder, tmp_path):
    from erase_plugins.engine.private import epsilon

    gone, staying = data(tmp_path, "gone", {"Zorvane": "Ymbrook"}), data(tmp_path, "staying", language.RETAIN)
    first, second = (made(folder, "dp-lora", gone, staying, rate=0.5, sigma=2.0) for _ in range(2))
    seen = numbers(first)
    assert seen["epsilon"] == pytest.approx(epsilon(0.5, 2.0, CHEAP["steps"], 1e-5))
    assert seen["people"] == len(language.RETAIN)
    assert not any("probability" in name or "nll" in name for name in seen)
    assert not same(first, second)  # the noise is nobody's to repeat
    lone = language.write(tmp_path / "lone.jsonl", language.rows(language.RETAIN))
    assert "count as people of their own" in " ".join(made(folder, "dp-lora", gone, lone).manifest.warnings)
