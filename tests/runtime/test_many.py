"""Many edits in force: what one more costs does not grow with their number, and any one comes off to the last bit."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.edit import Edit, LowRank
from erase_plugins.runtime import patcher
from erase_plugins.workflow.applying import apply_all
from erase_plugins.workflow.models import as_target

COUNT = 8


@pytest.fixture
def pipe(tiny_sd1):
    return tiny_sd1()


def edits(pipe, count: int = COUNT) -> list[ep.Artifact]:
    base = ep.erase(pipe, "pizza", to="dog", options={"vocabulary": 0})
    draw = torch.Generator().manual_seed(1)
    found = []
    for number in range(count):
        deltas = {
            ref.weight: LowRank(
                torch.randn(2, ref.shape[1], generator=draw) / 8, torch.randn(ref.shape[0], 2, generator=draw) / 8
            )
            for ref in as_target(pipe).readers()
        }
        found.append(ep.Artifact(replace(base.manifest, name=f"edit {number}"), Edit("sd1", {"unet": deltas})))
    return found


def weights(pipe) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in pipe.unet.state_dict().items()}


def same(one, other) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


@pytest.fixture
def work(monkeypatch) -> Counter:
    """Counts low-rank changes that are formed and parameters that are written."""
    done: Counter = Counter()
    add, written = patcher.Record._added, patcher.Record._written

    def added(base, changes):
        done["changes"] += len(changes)
        return add(base, changes)

    def write(record):
        done["written"] += 1
        written(record)

    monkeypatch.setattr(patcher.Record, "_added", staticmethod(added))
    monkeypatch.setattr(patcher.Record, "_written", write)
    return done


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_one_more_edit_is_one_more_sum(pipe, work, dtype):
    pipe.unet.to(dtype)
    artifacts, projections = edits(pipe), len(as_target(pipe).readers())
    for artifact in artifacts:
        ep.apply(pipe, artifact, any_base=True)
    few = 0 if dtype == torch.float32 else 3  # the first sums of a half are not kept: 1 + 2 + 3
    assert work["changes"] == projections * (COUNT + few)


def test_edits_that_come_together_are_written_once(pipe, work):
    artifacts, projections = edits(pipe), len(as_target(pipe).readers())
    apply_all(pipe, artifacts)
    assert work == {"changes": projections * COUNT, "written": 2 * projections}  # set aside, and written


def test_edits_of_different_strengths_add_up_alike_whoever_came_first(pipe):
    artifacts, found = list(zip(edits(pipe, 3), (0.3, 1.0, 3.0), strict=True)), []
    for order in (artifacts, artifacts[::-1]):
        handles = [ep.apply(pipe, item, strength) for item, strength in order]
        found.append(weights(pipe))
        for handle in handles:
            handle.remove()
    assert same(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("strengths", [[1.0] * COUNT, [0.5, 1.0, -2.0, 1.0, 0.25, 1.0, 3.0, 1.0]])
def test_any_one_comes_off_to_the_last_bit(pipe, dtype, strengths):
    pipe.unet.to(dtype)
    artifacts, before = edits(pipe), weights(pipe)
    handles = [ep.apply(pipe, item, strength) for item, strength in zip(artifacts, strengths, strict=True)]
    all_of_them = weights(pipe)
    handles[2].remove()
    found = weights(pipe)
    for handle in handles:
        handle.remove()
    assert same(weights(pipe), before)
    for number, (item, strength) in enumerate(zip(artifacts, strengths, strict=True)):
        if number != 2:
            ep.apply(pipe, item, strength)
    assert same(weights(pipe), found)
    assert not same(found, all_of_them)


def test_together_is_the_same_as_one_after_the_other(pipe):
    artifacts, before = edits(pipe), weights(pipe)
    handles = apply_all(pipe, artifacts)
    found = weights(pipe)
    for handle in handles:
        handle.remove()
    assert same(weights(pipe), before)
    for artifact in artifacts:
        ep.apply(pipe, artifact)
    assert same(weights(pipe), found)


def test_a_piece_is_a_piece_alone_and_with_others(pipe, monkeypatch):
    monkeypatch.setattr(patcher, "_PIECE", 96)
    artifacts = edits(pipe)
    handles = apply_all(pipe, artifacts)
    found = weights(pipe)
    for handle in handles:
        handle.remove()
    for artifact in artifacts:
        ep.apply(pipe, artifact)
    assert same(weights(pipe), found)


def test_where_one_fails_none_is_in_force(pipe):
    artifacts, before = edits(pipe), weights(pipe)
    deltas = {"unet": {"no.such.weight": LowRank(torch.ones(1, 4), torch.ones(4, 1))}}
    wrong = replace(artifacts[1], edit=Edit("sd1", deltas))
    with pytest.raises(ep.errors.BaseMismatch):
        apply_all(pipe, [*artifacts[:4], wrong])
    assert same(weights(pipe), before)
    assert ep.applied(pipe) == []
    with apply_all(pipe, artifacts[:1])[0]:
        assert not same(weights(pipe), before)
    assert same(weights(pipe), before)


def test_closed_forms_that_are_added_up_say_so(pocket_target):
    """One after the other they move more of the neighbours than solved jointly, which the second handle says."""
    made = [ep.erase(pocket_target, name, "uce", options={"vocabulary": 50}) for name in ("car", "dog")]
    first, second = apply_all(pocket_target, made)
    try:
        assert first.warnings == ()
        assert len(second.warnings) == 1
        assert "added to 'erase_car'" in second.warnings[0]
    finally:
        second.remove()
        first.remove()
    with ep.apply(pocket_target, ep.merge(made)) as joint:
        assert joint.warnings == ()
    rows = pocket_target.encode(["bus", "train", "cat", "horse"]).embeds.double()

    def change(artifact):
        (delta,) = artifact.edit.deltas["unet"].values()
        return delta.B.double() @ delta.A.double()

    def drift(total):
        return float((rows @ total.T).norm() / rows.norm())

    assert drift(change(made[0]) + change(made[1])) > drift(change(ep.merge(made)))


def test_a_checksum_knows_the_places_of_rows():
    """Two's complement bits: 1.0 is 0x3F800000; row 0 counts once, row 1 three times."""
    from erase_plugins.runtime.patcher import checksum

    one, two = 0x3F800000, 0x40000000
    assert checksum(torch.tensor([[1.0], [2.0]])) == one + 3 * two
    assert checksum(torch.tensor([[2.0], [1.0]])) == two + 3 * one
    assert checksum(torch.tensor(1.0)) == one
