"""Closed-form edits of facts: answers change, neighbours stay, the solves are right, bad requests are one line."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.data import DataRef
from erase_plugins.engine import key_edits
from erase_plugins.errors import RequestError
from tests import language
from tests.training.test_language import item, numbers

METHODS = ("memit", "alphaedit", "rome")
CHEAP = {"statistics_tokens": 512, "value_lr": 0.2}


def rows(facts):
    return [{**row, "subject": name} for row, name in zip(language.rows(facts), facts, strict=True)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return language.trained(tmp_path_factory.mktemp("facts") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(facts to forget, facts to retain)."""
    place = tmp_path_factory.mktemp("data")
    return tuple(
        language.write(place / f"{name}.jsonl", rows(facts))
        for name, facts in (("forget", language.FORGET), ("retain", language.RETAIN))
    )


@pytest.mark.parametrize("method", METHODS)
def test_facts_are_answered_with_a_refusal_and_neighbours_stay(folder, data, method):
    found = ep.erase(str(folder), [item(data[0])], method, keep=[DataRef(str(data[1]))], options=CHEAP)
    seen = numbers(found)
    print(method, seen)
    assert seen["forget_probability_before"] > 0.9
    assert seen["answer_probability_before"] < 0.2
    assert seen["forget_probability_after"] < 0.5
    assert seen["answer_probability_after"] > 0.5
    assert seen["retain_probability_after"] > 0.8
    assert found.edit.rank == len(language.FORGET)
    assert found.manifest.warnings == ()


def system(seed=0, size=24, facts=3, kept=4):
    """C, K, P of random keys."""
    draw = torch.Generator().manual_seed(seed)
    spread = torch.randn(size, size, generator=draw, dtype=torch.float64)
    keys = torch.randn(size, facts + kept, generator=draw, dtype=torch.float64)
    return spread @ spread.T / size + 0.1 * torch.eye(size, dtype=torch.float64), keys[:, :facts], keys[:, facts:]


def far(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def test_small_systems_equal_those_of_the_size_of_the_layer():
    C, K, P = system()
    eye = torch.eye(len(C), dtype=C.dtype)
    for kept in (None, P):
        both = K @ K.T + (0 if kept is None else kept @ kept.T)
        assert far(key_edits.memit(C, K, 7.0, kept), torch.linalg.solve(7.0 * C + both, K).T) < 1e-10
        N = key_edits.null_space(C, 0.5)
        assert far(key_edits.alphaedit(N, K, 0.3, kept), torch.linalg.solve(N @ both + 0.3 * eye, N @ K).T) < 1e-10
    # the constrained least squares of ROME as one system of in + facts + kept unknowns
    S = torch.cat([K, P], 1)
    wanted = torch.cat([torch.eye(3, dtype=C.dtype), torch.zeros(4, 3, dtype=C.dtype)])
    whole = torch.cat([torch.cat([C, S], 1), torch.cat([S.T, torch.zeros(7, 7, dtype=C.dtype)], 1)])
    right = torch.cat([torch.zeros(len(C), 3, dtype=C.dtype), wanted])
    assert far(key_edits.rome(C, K, P).T, torch.linalg.solve(whole, right)[: len(C)]) < 1e-10


def test_what_the_edits_promise():
    C, K, P = system(1)
    R = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    eye = torch.eye(3, dtype=C.dtype)
    assert torch.linalg.matrix_rank(R @ key_edits.memit(C, K, 1.0)) == 3
    assert far(R @ key_edits.memit(C, K, 1e-9) @ K, R) < 1e-6
    assert far(key_edits.memit(C, K, 1e-9), key_edits.rome(C, K)) < 1e-6
    away = torch.randn(len(C), 1, dtype=C.dtype)
    X = torch.linalg.solve(C, K)
    away = away - X @ torch.linalg.lstsq(X, away).solution
    assert float((key_edits.memit(C, K, 1.0) @ away).norm()) < 1e-10
    N = key_edits.null_space(C, 0.5)
    outside = away - N @ away
    for kept in (None, P):
        assert float((key_edits.alphaedit(N, K, 0.1, kept) @ outside).norm()) < 1e-12
    for factor in (lambda kept: key_edits.memit(C, K, 1.0, kept), lambda kept: key_edits.alphaedit(N, K, 0.1, kept)):
        assert float((R @ factor(P) @ P).norm()) < float((R @ factor(None) @ P).norm())
    A = key_edits.rome(C, K, P)
    assert float((A @ K - eye).norm()) < 1e-10
    assert float((A @ P).norm()) < 1e-10
    with pytest.raises(RequestError, match="look the same to the model"):
        key_edits.rome(C, torch.cat([K, K[:, :1]], 1))
