"""SPEED on the tiny and the embedded model."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.free_space import free_basis
from erase_plugins.artifacts.solved import statistics_of
from erase_plugins.artifacts.store import lower_for
from erase_plugins.engine.frame_rows import frame_rows
from erase_plugins.errors import RequestError
from erase_plugins.manager import get_manager
from erase_plugins.methods.null_space.solution import Problem, fewer
from erase_plugins.workflow.joint_solution import joint

FAST = {
    "vocabulary": 60, "frames": (), "tokens": "window", "expand": False, "aliases": False, "soft": 0.0, "tau": 1e-3,
    "rho": 1e-3, "vocabulary_frames": ("{}",),
}  # fmt: skip
BOTH = {**FAST, "projections": "both"}


def matrix(artifact) -> torch.Tensor:
    delta = artifact.edit.deltas["unet"]["context"]
    return delta.B.double() @ delta.A.double()


def moved(artifact, target, prompt: str, concept: str) -> float:
    """How far a map moves the rows behind a prompt's last word, relative to the way of the concept."""
    rows, guides = (part.double() for part in statistics_of(artifact.edit).members[concept].pair())
    K, cond = matrix(artifact), target.encode([prompt])
    own = cond.embeds[0, cond.last[0] :].double().cpu()
    return float((own @ K.T).norm(dim=1).mean() / (guides - rows).norm(dim=1).mean())


def test_values_only_by_default_with_one_common_factor(pocket_target) -> None:
    artifact = ep.erase(pocket_target, "pizza", method="null-space", options={**FAST, "projections": "values"})
    group = artifact.edit.deltas["unet"]
    assert group and all(name.endswith("attn2.to_v.weight") for name in group)
    first = next(iter(group.values())).A
    assert all(torch.equal(delta.A, first) for delta in group.values())
    rows, guides = (part.double() for part in statistics_of(artifact.edit).members["pizza"].pair())
    for ref in pocket_target.modules("cross_v"):
        wanted = pocket_target.weight(ref).double() @ (guides - rows).T
        assert torch.allclose(group[ref.weight].B.double(), wanted, rtol=1e-5, atol=1e-5)


def test_values_are_those_of_the_map_for_keys_and_values(pocket_target) -> None:
    parts = {
        name: ep.erase(pocket_target, "pizza", method="null-space", options={**FAST, "projections": name})
        for name in ("values", "both")
    }
    whole = lower_for(parts["both"].edit, pocket_target).deltas["unet"]
    for name, delta in parts["values"].edit.deltas["unet"].items():
        other = whole[name].dense()
        assert float((delta.dense() - other).norm() / other.norm()) < 1e-4


@pytest.mark.parametrize("projections", ["values", "both"])
def test_merging_equals_erasing_together_bit_for_bit(pocket_target, projections) -> None:
    options = {**FAST, "projections": projections}
    parts = [ep.erase(pocket_target, name, method="null-space", options=options) for name in ("dog", "pizza")]
    both = ep.erase(pocket_target, ["dog", "pizza"], method="null-space", options=options)
    merged = ep.merge(parts)
    for (_, _, one), (_, _, other) in zip(merged.edit.items(), both.edit.items(), strict=True):
        assert torch.equal(one.A, other.A) and torch.equal(one.B, other.B)
    alone = ep.revoke(merged, "dog", forget=True)
    for (_, _, one), (_, _, other) in zip(alone.edit.items(), parts[1].edit.items(), strict=True):
        assert torch.equal(one.A, other.A) and torch.equal(one.B, other.B)


def test_a_revoked_concept_becomes_invariant(pocket_target, tmp_path) -> None:
    both = ep.erase(pocket_target, ["hamburger", "pizza"], method="null-space", options=BOTH)
    forgotten = ep.revoke(both, "hamburger", forget=True)
    kept = ep.revoke(both, "hamburger")
    assert statistics_of(kept.edit).revoked == ("hamburger",)
    assert statistics_of(kept.edit).members.keys() == {"pizza"}
    assert moved(forgotten, pocket_target, "hamburger", "pizza") > 0.01
    assert moved(kept, pocket_target, "hamburger", "pizza") < 1e-4
    kept.save(tmp_path / "kept")
    again = ep.revoke(ep.merge([ep.load_artifact(tmp_path / "kept"), ep.erase(
        pocket_target, "dog", method="null-space", options=BOTH)]), "dog", forget=True)  # fmt: skip
    assert torch.equal(matrix(again), matrix(kept))


def test_half_the_strength_goes_half_the_way(pocket_target) -> None:
    options = {**FAST, "projections": "values"}
    parts = [ep.erase(pocket_target, name, method="null-space", options=options) for name in ("dog", "pizza")]
    whole, half = joint(parts), joint(parts, [1.0, 0.5])
    rows = len(statistics_of(parts[0].edit).members["dog"].rows)
    for (_, _, one), (_, _, other) in zip(whole.edit.items(), half.edit.items(), strict=True):
        assert torch.equal(one.A, other.A)
        assert torch.equal(one.B[:, :rows], other.B[:, :rows])
        assert torch.equal(one.B[:, rows:] * 0.5, other.B[:, rows:])


def test_retained_directions_do_not_move(pocket_target) -> None:
    artifact = ep.erase(pocket_target, "pizza", method="null-space", options=BOTH)
    statistics = statistics_of(artifact.edit)
    free = free_basis(statistics.kept_gram(), statistics.solver["tau"])
    held = torch.eye(256, dtype=torch.float64) - free @ free.T
    K = matrix(artifact)
    assert free.shape[1] < 256
    assert float((K @ held).norm() / K.norm()) < 1e-5


def test_safe_span_becomes_what_is_shared_with_the_retained_words(pocket_target) -> None:
    options = {**BOTH, "anchor": "safe-span"}
    parts = [ep.erase(pocket_target, name, method="null-space", options=options) for name in ("dog", "pizza")]
    statistics = statistics_of(parts[1].edit)
    rows, guides = (part.double() for part in statistics.members["pizza"].pair())
    unsafe = free_basis(statistics.kept_gram(), statistics.solver["safe"])
    shared = rows - rows @ unsafe @ unsafe.T
    assert float((guides - shared).norm() / (rows - shared).norm()) < 0.1
    both = ep.erase(pocket_target, ["dog", "pizza"], method="null-space", options=options)
    assert torch.equal(matrix(ep.merge(parts)), matrix(both))
    with pytest.raises(RequestError, match="leave out to="):
        ep.plan("pocket", ep.Concept("pizza", anchor="hamburger"), "null-space", options={"anchor": "safe-span"})


def test_what_cannot_be_erased_is_refused(pocket_target) -> None:
    with pytest.raises(RequestError, match="leave no direction to edit"):
        ep.erase(pocket_target, "pizza", method="null-space", options={**FAST, "tau": 1e-9})
    statistics = statistics_of(ep.erase(pocket_target, "pizza", method="null-space", options=BOTH).edit)
    free = free_basis(statistics.kept_gram(), statistics.solver["tau"])
    member = statistics.members["pizza"]
    inside = member.rows.double() - member.rows.double() @ free @ free.T
    members = {"pizza": replace(member, rows=inside.float())}
    with pytest.raises(RequestError, match="'pizza' lies inside what is retained"):
        Problem(replace(statistics, members=members)).check()


def test_a_fine_tune_gets_its_own_values(pocket_target) -> None:
    """Solving on other weights makes the changes of those weights, not of the old ones."""
    options = {**FAST, "projections": "values"}
    artifact = ep.erase(pocket_target, "pizza", method="null-space", options=options)
    statistics = statistics_of(artifact.edit)
    old = {name: part.extra["up"] for name, part in statistics.members.items()}
    members = {name: replace(part, extra={"up": 0 * old[name]}) for name, part in statistics.members.items()}
    renewed = get_manager().method("null-space").renew(replace(statistics, members=members), pocket_target)
    assert torch.equal(renewed.members["pizza"].extra["up"], old["pizza"])


def test_concepts_stand_in_prompts_and_become_the_prompt_without_them(pocket_target) -> None:
    frames = ("a {}", "a {} on red")
    rows, guides = frame_rows(["dog"], " ", frames, pocket_target)
    G, X = torch.zeros(256, 256, dtype=torch.float64), torch.zeros(256, 256, dtype=torch.float64)
    for with_it, without, place in (("a dog", "a", 1), ("a dog on red", "a on red", 1)):
        one, other = (pocket_target.encode([text]).embeds[0].double().cpu() for text in (with_it, without))
        start = pocket_target.encode(["a dog"]).last[0]
        length = min(len(one) - start, len(other) - place)
        one, other = one[start : start + length], other[place : place + length]
        G, X = G + one.T @ one, X + other.T @ one
    rows, guides = rows.double(), guides.double()
    assert float((rows.T @ rows - G).norm() / G.norm()) < 1e-5
    assert float((guides.T @ rows - X).norm() / X.norm()) < 1e-5
    with pytest.raises(RequestError, match="'a picture' has no place"):
        frame_rows(["dog"], " ", ("a picture",), pocket_target)


def test_many_rows_make_the_same_changes_at_the_rank_of_the_space(pocket_target) -> None:
    generator = torch.Generator().manual_seed(0)
    D, up = (torch.randn(*size, generator=generator, dtype=torch.float64) for size in ((300, 32), (8, 300)))
    small, (other,) = fewer(D, [up])
    assert small.shape == (32, 32)
    assert torch.allclose(other.double() @ small.double(), up @ D, atol=1e-3)
    assert fewer(D[:16], [up])[0].shape == (16, 32)


@pytest.mark.parametrize(("frames", "said"), [((), "there is none"), (("a picture",), "'a picture' has no place {}")])
def test_kept_words_need_a_prompt_to_stand_in(frames, said) -> None:
    with pytest.raises(RequestError, match=f"vocabulary_frames: {said}"):
        ep.plan("pocket", "pizza", "null-space", options={"vocabulary_frames": frames})
    options = {"vocabulary_frames": frames, "vocabulary": 0}  # what the sentence offers
    assert ep.plan("pocket", "pizza", "null-space", options=options).options["vocabulary"] == 0
