"""Exact sums: adding, joining and revoking are bit-equal to never having done otherwise."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from erase_plugins.artifacts import statistics_file as module
from erase_plugins.artifacts.ledger import FRACTION_BITS, from_ledger, gram, gram_sum, pack, unpack
from erase_plugins.artifacts.statistics import Member, Statistics
from erase_plugins.artifacts.statistics_file import statistics_from_tensors, statistics_to_tensors
from erase_plugins.errors import ArtifactError, CorruptArtifact, RequestError

D = 16


def rows(n: int, seed: int) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def make(*names: str, keep: tuple[str, ...] = ("",), **solver) -> Statistics:
    seeds = {name: sum(map(ord, name)) for name in names}
    members = {
        name: Member(name, rows(3, seed), rows(3, seed + 1000), 1.0, near=(f"word{seed % 3}",))
        for name, seed in seeds.items()
    }
    words = {f"word{index}": rows(4, 50 + index) for index in range(5)}
    block = gram_sum(((part, None) for part in words.values()), 0.01)
    left_out = {word: part for word, part in words.items() if any(word in item.near for item in members.values())}
    return Statistics(
        D, members, {text: rows(5, 90 + len(text)) for text in keep}, 0.1, {"method": "uce", "lam": 0.5, **solver}, block,
        {"words": 5, "weight": 0.01, "hash": "x"}, left_out,
    )  # fmt: skip


def same(a: Statistics, b: Statistics) -> bool:
    return all(torch.equal(x, y) for x, y in zip((*a.ledgers, a.kept_ledger), (*b.ledgers, b.kept_ledger), strict=True))


def test_ledger_rounds_once_and_close_to_the_truth() -> None:
    part = rows(7, 1)
    assert float((from_ledger(gram(part)) - part.double().T @ part.double()).abs().max()) <= 2.0**-FRACTION_BITS
    assert torch.equal(unpack(pack(gram(part)), D), gram(part))


@pytest.mark.parametrize("scale", [1, 30, 300])  # float64 only, spilling into int64, int64 only
def test_sums_are_exact_in_any_order_and_across_the_switch_to_integers(scale: int) -> None:
    parts = [rows(3, seed) * scale for seed in range(8)]
    one = gram_sum((part, None) for part in parts)
    other = gram_sum((part, None) for part in reversed(parts))
    assert torch.equal(one, other)
    assert torch.equal(one, sum(gram(part) for part in parts))
    assert torch.equal(one - gram(parts[3]), sum(gram(part) for index, part in enumerate(parts) if index != 3))


def test_sums_refuse_what_does_not_fit() -> None:
    with pytest.raises(RequestError, match="too large"):
        gram(torch.full((2, D), 1e12))
    with pytest.raises(RequestError, match="finite"):
        gram(torch.full((2, D), float("nan")))


def test_joining_equals_collecting_together_in_any_order() -> None:
    whole = make("fox", "owl", "ant")
    assert same(make("fox").joined([make("owl"), make("ant")]), whole)
    assert same(make("ant").joined([make("fox"), make("owl")]), whole)


def test_joining_a_member_twice_counts_once() -> None:
    assert same(make("fox", "owl").joined([make("owl", "ant")]), make("fox", "owl", "ant"))


def test_forgetting_equals_never_having_had_it() -> None:
    assert same(make("fox", "owl", "ant").without(["owl"], keep_them=False), make("fox", "ant"))


def test_revoking_keeps_the_rows_from_then_on() -> None:
    after = make("fox", "owl").without(["owl"], keep_them=True)
    assert set(after.keep) == {"", "owl"}
    difference = after.kept_ledger - make("fox").kept_ledger
    assert torch.equal(difference, gram(make("owl").members["owl"].rows, 0.1))


def test_an_erased_prompt_is_not_kept() -> None:
    joined = make("fox", keep=("", "owl")).joined([make("owl")])
    assert set(joined.keep) == {""}
    assert same(joined, make("fox", "owl"))


def test_unknown_member_names_close_ones() -> None:
    with pytest.raises(ArtifactError, match="fox"):
        make("fox", "owl").without(["fix"], keep_them=True)
    with pytest.raises(ArtifactError, match="last"):
        make("fox").without(["fox"], keep_them=True)


def test_different_settings_are_not_joined() -> None:
    with pytest.raises(ArtifactError, match="solver"):
        make("fox").joined([make("owl", lam=0.7)])


@pytest.mark.parametrize("limit", [10_000, 0])
def test_storage_round_trip_with_rows_and_with_sums_only(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT_BYTES", limit)
    whole = make("fox", "owl", keep=("", "cat"))
    tensors, facts = statistics_to_tensors(whole)
    assert ("C" in tensors) == ("K" in tensors) == bool(limit)
    back = statistics_from_tensors(tensors, facts)
    assert same(back, whole)
    assert list(back.members) == ["fox", "owl"]
    assert back.solver == whole.solver
    if limit:
        assert same(back.without(["owl"], keep_them=False), make("fox", keep=("", "cat")))
        return
    with pytest.raises(ArtifactError, match="model="):
        back.without(["owl"], keep_them=False)
    again = back.with_rows({"owl": whole.members["owl"]})
    assert same(again.without(["owl"], keep_them=False), make("fox", keep=("", "cat")))


def test_damaged_statistics_are_refused() -> None:
    tensors, facts = statistics_to_tensors(make("fox"))
    with pytest.raises(CorruptArtifact):
        statistics_from_tensors({**tensors, "C": tensors["C"][:2]}, facts)
    with pytest.raises(CorruptArtifact):
        statistics_from_tensors({name: part for name, part in tensors.items() if name != "S"}, facts)
    with pytest.raises(CorruptArtifact):
        statistics_from_tensors({**tensors, "H": tensors["H"].double()}, facts)
    with pytest.raises(CorruptArtifact):
        statistics_from_tensors(tensors, {**facts, "schema": 99})


def test_kept_rows_count_several_times_where_a_vocabulary_is_kept() -> None:
    one = make("fox", "dog", keep=("", "a cat"))
    assert torch.equal(one.kept_gram(4), 4 * one.kept_gram())
    plain = replace(one, block=None, left_out={}, block_facts={})
    assert torch.equal(plain.kept_gram(4), plain.kept_gram())
