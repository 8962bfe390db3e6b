"""Geometry against the stabilizers: ranks, degrees, sheets, golden loops. Expected values: specification's derivations."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from erase_fbqc.matching import incidence, sheets
from erase_fbqc.network import syndrome_graph
from erase_fbqc.percolation import first_loops
from erase_fbqc.stabilizers import Span, check_rank, four_star, rotated_six_ring, six_ring, six_ring_outcomes

from erase_plugins.errors import RequestError


@pytest.mark.parametrize("size", [2, 3, 4])
@pytest.mark.parametrize(("build", "qubits"), [(six_ring, 12), (four_star, 24)])
def test_check_group_has_two_checks_per_cell_and_six_sheets(build, qubits, size):
    network = build(size)
    assert network.qubits == qubits * size**3
    assert len(network.fusions) == qubits * size**3 // 2
    assert sorted(qubit for pair in network.fusions for qubit in pair) == list(range(network.qubits))
    assert check_rank(network) == 2 * (size**3 - 1) + 6


def test_rotated_drawing_needs_an_even_size():
    assert [check_rank(rotated_six_ring(size)) for size in (2, 3, 4)] == [8 - 2 + 6, 29, 64 - 2 + 6]


def test_six_ring_graph_is_the_check_group():
    network, resources = six_ring(3), Span(six_ring(3).resources)
    local, every = Span(), []
    graph = syndrome_graph("6ring", 3)
    for part in six_ring_outcomes(3):
        checks: dict[int, list[int]] = {}
        for outcome, one, two in part:
            for vertex in (one, two):
                checks.setdefault(vertex, []).append(outcome)
        assert {len(members) for members in checks.values()} == {12}
        for members in checks.values():
            product = 0
            for outcome in members:
                product ^= network.outcomes[outcome]
            assert resources.reduce(product) == 0  # the product of these outcomes is fixed by the resource states
            local.add(product)
        every += [outcome for outcome, _, _ in part]
        assert len(part) == graph.edges
    assert sorted(every) == list(range(324))  # every outcome in exactly one graph
    assert local.rank == 52
    primal = sorted(tuple(sorted(ends)) for _, *ends in six_ring_outcomes(3)[0])
    built = sorted(tuple(sorted(pair)) for pair in zip(graph.start.tolist(), graph.end.tolist(), strict=True))
    assert _distances(primal, 3) == _distances(built, 3)  # same displacements, so the same lattice


def test_sheets_of_the_six_ring_are_checks():
    """The outcomes that cross the seam of an axis multiply to something that the resource states fix."""
    network, resources = six_ring(3), Span(six_ring(3).resources)
    primal, dual = six_ring_outcomes(3)
    rank = Span()
    for part in (primal, dual):
        checks: dict[int, int] = {}
        for outcome, one, two in part:
            for vertex in (one, two):
                checks[vertex] = checks.get(vertex, 0) ^ network.outcomes[outcome]
        for product in checks.values():
            rank.add(product)
        for axis in range(3):
            sheet = 0
            for outcome, one, two in part:
                if _crosses(one, two, axis, 3):
                    sheet ^= network.outcomes[outcome]
            assert resources.reduce(sheet) == 0
            rank.add(sheet)
    assert rank.rank == 58  # checks and sheets together are all there is


@pytest.mark.parametrize(("name", "degree", "edges", "sheet"), [("6ring", 12, 6, 27), ("4star", 24, 12, 36)])
def test_degrees_edges_and_sheets(name, degree, edges, sheet):
    graph = syndrome_graph(name, 3, merged=False)
    assert graph.edges == edges * 27
    assert set(np.bincount(np.concatenate([graph.start, graph.end]))) == {degree}
    assert list(sheets(graph).sum(1)) == [sheet] * 3
    assert not (incidence(graph).sum(0) % 2).any()


def test_rotated_graph_is_the_same_lattice():
    graph = syndrome_graph("6ring", 6, "rotated")
    assert (graph.vertices, graph.edges) == (108, 648)
    assert set(np.bincount(np.concatenate([graph.start, graph.end]))) == {12}
    with pytest.raises(RequestError, match="size 7"):
        syndrome_graph("6ring", 7, "rotated")


@pytest.mark.parametrize(("name", "count"), [("6ring", 54), ("4star", 1728)])
def test_number_of_shortest_loops(name, count):
    """L = 3: straight lines only, 6 L^2 and 3 L^2 4^L of them."""
    graph = syndrome_graph(name, 3, merged=False)
    steps: dict[tuple[int, int], list[int]] = {}
    for one, two, label in zip(graph.start.tolist(), graph.end.tolist(), graph.label.tolist(), strict=True):
        steps.setdefault((one, two), []).append(label)
        steps.setdefault((two, one), []).append(label)
    found = 0
    for a, b, c in itertools.combinations(range(27), 3):
        labels = itertools.product(steps.get((a, b), []), steps.get((b, c), []), steps.get((c, a), []))
        found += sum(1 for x, y, z in labels if x ^ y ^ z)
    assert found == count


GOLDEN = {
    ("6ring", 3): [21, 21, 21, 21], ("6ring", 4): [42, 38, 41, 46], ("6ring", 6): [152, 181, 128, 151],
    ("6ring", 8): [376, 407, 401, 313], ("4star", 3): [16, 18, 19, 28], ("4star", 4): [63, 65, 53, 36],
    ("4star", 6): [208, 185, 171, 182], ("4star", 8): [411, 413, 500, 448],
}  # fmt: skip


@pytest.mark.parametrize(("name", "size"), GOLDEN)
def test_golden_orders(name, size):
    graph = syndrome_graph(name, size, merged=False)
    found = []
    for number in range(4):
        key = (np.arange(graph.edges, dtype=np.uint64) * 2654435761 + 97 * number) % 2**32
        key ^= key >> np.uint64(15)
        key = key * 2246822519 % 2**32
        key ^= key >> np.uint64(13)
        found.append(int(first_loops(graph, np.argsort(key, kind="stable"))[0]))
    assert found == GOLDEN[name, size]


def _crosses(one: int, two: int, axis: int, size: int) -> bool:
    first, second = (vertex // size ** (2 - axis) % size for vertex in (one, two))
    return abs(first - second) == size - 1


def _distances(pairs: list[tuple[int, int]], size: int) -> dict[tuple[int, ...], int]:
    found: dict[tuple[int, ...], int] = {}
    for one, two in pairs:
        step = tuple((two // size**k - one // size**k) % size for k in (2, 1, 0))
        step = min(step, tuple(-value % size for value in step))
        found[step] = found.get(step, 0) + 1
    return found


@pytest.mark.parametrize("bad", [2, 33, 4.0, True, "6"])
def test_bad_sizes_are_named(bad):
    with pytest.raises(RequestError, match=str(bad)):
        syndrome_graph("6ring", bad)
