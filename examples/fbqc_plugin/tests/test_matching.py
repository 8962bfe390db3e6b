"""Matching against exhaustive small errors and failure rates measured with another program."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from erase_fbqc.matching import (
    MissingMatching,
    _decoder,
    _residual,
    error_failures,
    matching_library,
    mixed_failures,
)
from erase_fbqc.network import syndrome_graph

from erase_plugins.errors import RequestError


def seed(number: int = 1) -> np.random.SeedSequence:
    return np.random.SeedSequence(number)


@pytest.mark.parametrize(("name", "size"), [("6ring", 3), ("6ring", 5), ("4star", 3), ("4star", 5)])
def test_every_single_error_is_corrected(name, size):
    graph = syndrome_graph(name, size)
    assert not _residual(graph, _decoder(graph, np.ones(graph.edges)), np.eye(graph.edges, dtype=bool)).any()


def test_pairs_are_corrected_at_five_and_ambiguous_at_three():
    rng = np.random.default_rng(0)
    for size, low, high in ((5, 0.0, 0.0), (3, 0.08, 0.16)):
        graph = syndrome_graph("6ring", size)
        errors = np.zeros((5000, graph.edges), bool)
        for row in errors:
            row[rng.choice(graph.edges, 2, replace=False)] = True
        failed = _residual(graph, _decoder(graph, np.ones(graph.edges)), errors).any(1).mean()
        assert low <= failed <= high


@pytest.mark.parametrize(
    ("name", "size", "rate", "share"),
    [("6ring", 6, 0.005, 0.0074), ("6ring", 6, 0.0107, 0.1466), ("6ring", 6, 0.020, 0.655), ("6ring", 10, 0.0107, 0.1465),
     ("4star", 6, 0.0065, 0.101), ("4star", 6, 0.0085, 0.248)],
)  # fmt: skip
def test_failure_rates_of_the_table(name, size, rate, share):
    failed = error_failures(syndrome_graph(name, size), rate, 4000, seed()).any(1).mean()
    assert failed == pytest.approx(share, abs=0.03)


def test_bond_of_four_flips_is_their_parity():
    graph, rng = syndrome_graph("4star", 3), np.random.default_rng(0)
    parity = (rng.random((200_000, 4)) < 0.05).sum(1) % 2
    assert float(graph.bond_flip(0.05)) == pytest.approx(parity.mean(), abs=0.003)


def test_mixed_noise_reduces_to_both_ends():
    graph = syndrome_graph("6ring", 6)
    assert mixed_failures(graph, 0.0, 0.0107, 200, seed()).any(2).mean() == pytest.approx(0.1466, abs=0.04)
    few = mixed_failures(graph, 0.02, 0.001, 50, seed()).any(2).mean()
    many = mixed_failures(graph, 0.12, 0.005, 50, seed()).any(2).mean()
    assert few < 0.05
    assert many > 0.5


@pytest.mark.parametrize("rate", [0.0, 0.5, 0.7, -0.1])
def test_bad_error_rates_are_named(rate):
    with pytest.raises(RequestError, match=str(rate)):
        error_failures(syndrome_graph("6ring", 3), rate, 100, seed())


def test_without_the_library_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "pymatching", None)
    with pytest.raises(MissingMatching, match=r"erase-plugins-fbqc\[mwpm\]") as caught:
        matching_library()
    assert caught.value.exit_code == 4
