"""Algebra of low-rank changes: exact where it says so, with known bounds where not."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from erase_plugins.artifacts import lowrank
from erase_plugins.artifacts.edit import CONTEXT, ContextMap, Delta, Dense, Edit, LowRank, Rows
from erase_plugins.artifacts.lowrank import add, compress, lower, total, uniform_rank
from erase_plugins.errors import Unsupported

FAST = settings(max_examples=60, deadline=None)
KEYS = ("a.weight", "b.weight", "c.weight")


def close(first: torch.Tensor, second: torch.Tensor, limit: float = 1e-6, scale: float | None = None) -> bool:
    size = float(second.norm()) if scale is None else scale
    return float((first.double() - second.double()).norm()) <= limit * max(size, 1e-30)


@st.composite
def factors(draw, out=None, inn=None, conv=None):
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    out, inn = out or draw(st.integers(1, 12)), inn or draw(st.integers(1, 12))
    conv = draw(st.booleans()) if conv is None else conv
    rank, size = draw(st.integers(1, 5)), draw(st.sampled_from([1e-3, 1.0, 30.0]))
    kernel = (3, 3) if conv else ()
    A = torch.randn(rank, inn, *kernel, generator=generator)
    return LowRank(A, size * torch.randn(out, rank, *([1] * len(kernel)), generator=generator))


@st.composite
def edits(draw, keys=KEYS):
    deltas: dict[str, Delta] = {}
    for index, key in enumerate(keys):
        if draw(st.booleans()) or index == 0:
            deltas[key] = draw(factors(out=6 + index, inn=5, conv=index == 2))
    return Edit("sd1", {"unet": deltas})


@given(edits())
@FAST
def test_padding_changes_nothing(edit):
    padded = uniform_rank(edit)
    assert len({delta.rank for _, _, delta in padded.items()}) == 1
    assert padded.rank == edit.rank
    for component, key, delta in edit.items():
        assert close(padded.deltas[component][key].dense(), delta.dense())


@given(factors(out=7, inn=5, conv=False), factors(out=7, inn=5, conv=False))
@FAST
def test_sum_of_factors_is_concatenation(first, second):
    both = add(first, second)
    assert isinstance(both, LowRank)
    assert both.rank == first.rank + second.rank
    scale = float(first.dense().norm() + second.dense().norm())
    assert close(both.dense(), first.dense() + second.dense(), scale=scale)


@given(
    st.lists(st.tuples(edits(), st.floats(-3, 3, allow_nan=False).map(lambda x: round(x, 3))), min_size=1, max_size=4)
)
@FAST
def test_weighted_total_is_exact_also_for_negative_weights(parts):
    summed = total(parts)
    for key in KEYS:
        present = [(edit.deltas["unet"][key].dense().double(), w) for edit, w in parts if key in edit.deltas["unet"]]
        assert (key in summed.deltas["unet"]) == bool(present)
        if present:
            expected = sum(weight * dense for dense, weight in present)
            scale = sum(abs(weight) * float(dense.norm()) for dense, weight in present)
            assert close(summed.deltas["unet"][key].dense(), expected, scale=scale)


@given(edits(), st.floats(-2, 2, allow_nan=False))
@FAST
def test_an_edit_and_its_negative_cancel(edit, weight):
    gone = total([(edit, weight), (edit, -weight)])
    for component, key, delta in gone.items():
        assert close(
            delta.dense(), torch.zeros_like(delta.dense()), scale=float(edit.deltas[component][key].dense().norm())
        )


@given(factors(conv=None), st.integers(1, 6))
@FAST
def test_truncation_is_optimal_and_its_error_is_reported(pair, rank):
    edit = Edit("sd1", {"unet": {"a.weight": Dense(pair.dense())}})
    small, errors = compress(edit, rank=rank)
    delta = small.deltas["unet"]["a.weight"]
    assert delta.dense().shape == pair.dense().shape
    flat = pair.dense().flatten(1).double()
    values = torch.linalg.svdvals(flat)
    best = float(values[rank:].norm() / values.norm()) if len(values) > rank else 0.0
    found = float((delta.dense().double() - pair.dense()).norm() / flat.norm())
    assert found <= best + 2e-6
    assert abs(errors["unet a.weight"] - best) < 1e-6


@given(factors(conv=None), st.floats(0.1, 1.0))
@FAST
def test_energy_bound_holds(pair, energy):
    small, _ = compress(Edit("sd1", {"unet": {"a.weight": pair}}), energy=energy)
    kept = small.deltas["unet"]["a.weight"].dense().double().pow(2).sum()
    assert float(kept) >= (energy - 1e-5) * float(pair.dense().double().pow(2).sum())


@given(factors(conv=None))
@FAST
def test_numerical_rank_is_lossless(pair):
    small, errors = compress(Edit("sd1", {"unet": {"a.weight": pair}}))
    found = small.deltas["unet"]["a.weight"]
    assert found.rank <= min(pair.rank, *pair.dense().flatten(1).shape)
    assert close(found.dense(), pair.dense(), 3e-6)
    assert errors["unet a.weight"] < 3e-6


def test_zero_change_compresses_to_rank_one():
    small, errors = compress(Edit("sd1", {"unet": {"a.weight": Dense(torch.zeros(4, 3))}}), rank=2)
    assert not small.deltas["unet"]["a.weight"].dense().any()
    assert errors == {"unet a.weight": 0.0}


@given(st.integers(0, 2**31), st.integers(1, 4))
@FAST
def test_lowering_equals_mapping_the_context(seed, rank):
    generator = torch.Generator().manual_seed(seed)
    A, B = torch.randn(rank, 6, generator=generator), torch.randn(6, rank, generator=generator)
    W, rows = torch.randn(5, 6, generator=generator), torch.randn(9, 6, generator=generator)
    edit = Edit("sd1", {"unet": {CONTEXT: ContextMap(A, B)}})
    lowered = lower(edit, {"unet": ["k.weight"]}, lambda component, name: W)
    changed = rows @ (W + lowered.deltas["unet"]["k.weight"].dense()).T
    assert close(changed, (rows + rows @ A.T @ B.T) @ W.T, 3e-6)


def test_lowering_refuses_another_width():
    edit = Edit("sd1", {"unet": {CONTEXT: ContextMap(torch.ones(1, 6), torch.ones(6, 1))}})
    with pytest.raises(Unsupported, match="takes rows of 4"):
        lower(edit, {"unet": ["k.weight"]}, lambda component, name: torch.ones(5, 4))


def test_a_sum_is_as_precise_as_its_finest_part():
    torch.manual_seed(0)
    coarse = LowRank(torch.randn(2, 8).half(), torch.randn(8, 2).half())
    fine = LowRank(torch.randn(2, 8), 1e-6 * torch.randn(8, 2))
    for pair in ((coarse, fine), (fine, coarse)):
        left = add(*pair).A.double().T @ add(*pair).B.double().T
        wanted = sum(part.A.double().T @ part.B.double().T for part in pair)
        assert torch.allclose(left, wanted, rtol=0, atol=1e-14)


def test_other_kinds_add_up_and_clashes_are_refused():
    assert torch.equal(add(Dense(torch.ones(2)), Dense(torch.ones(2))).dW, torch.full((2,), 2.0))
    rows = add(Rows(torch.tensor([1]), torch.ones(1, 2)), Rows(torch.tensor([1]), torch.ones(1, 2)))
    assert rows.index.tolist() == [1, 1]
    mixed = add(LowRank(torch.ones(1, 2), torch.ones(3, 1)), Dense(torch.ones(3, 2)))
    assert torch.equal(mixed.dense(), torch.full((3, 2), 2.0))
    with pytest.raises(Unsupported, match=r"\(2,\) and \(2, 2\)"):
        add(Dense(torch.ones(2)), Dense(torch.ones(2, 2)))
    with pytest.raises(Unsupported, match="different families"):
        total([(Edit("sd1", {}), 1.0), (Edit("sdxl", {}), 1.0)])


def test_a_low_rank_change_is_cut_without_its_product():
    """A decomposition of the product takes minutes for each layer of a large transformer."""
    generator = torch.Generator().manual_seed(0)
    A, B = torch.randn(8, 12_288, generator=generator), torch.randn(3072, 8, generator=generator)
    edit = Edit("flux", {"transformer": {"a.weight": LowRank(A, B)}})
    before = time.process_time()
    small, errors = compress(edit, rank=4)
    assert time.process_time() - before < 2
    values = torch.linalg.svdvals(torch.linalg.qr(B.double())[1] @ torch.linalg.qr(A.double().T)[1].T)
    assert errors["transformer a.weight"] == pytest.approx(float(values[4:].norm() / values.norm()))
    assert small.deltas["transformer"]["a.weight"].A.shape == (4, 12_288)


def test_a_sum_of_many_copies_each_few_times(monkeypatch):
    changes = [LowRank(torch.full((1, 3), float(number)), torch.ones(2, 1)) for number in range(64)]
    parts = [(Edit("sd1", {"unet": {"a.weight": change}}), 1.0) for change in changes]
    copied = []

    def counted(first, second):
        copied.append(first.rank + second.rank)
        return add(first, second)

    monkeypatch.setattr(lowrank, "add", counted)
    summed = total(parts).deltas["unet"]["a.weight"]
    assert summed.A[:, 0].tolist() == list(range(64))
    assert sum(copied) == 6 * 64
