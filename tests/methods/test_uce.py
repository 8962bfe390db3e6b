"""UCE on tiny and embedded models."""

from __future__ import annotations

from functools import partial

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.store import lower_for
from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.evaluation import draw as drawing
from erase_plugins.evaluation import shares
from erase_plugins.evaluation.draw import draw
from erase_plugins.pocket.judge import PocketJudge
from erase_plugins.workflow.models import target_of

FAST = {"vocabulary": 60}


def matrix(artifact) -> torch.Tensor:
    delta = artifact.edit.deltas["unet"]["context"]
    return delta.B.double() @ delta.A.double()


def rate(pipe, concept: str, label: str, axis: str = "concept", n: int = 8, steps: int = 4) -> float:
    judge = PocketJudge()
    best = judge.score(draw(pipe, [f"a {concept}"] * n, range(n), steps=steps))[axis].argmax(-1)
    return sum(judge.axes[axis][index] == label for index in best.tolist()) / n


def test_defaults_erase_and_keep(pocket_pipe) -> None:
    artifact = ep.erase(pocket_pipe, "pizza")
    with artifact.apply(pocket_pipe):
        assert rate(pocket_pipe, "pizza", "pizza") == 0
        assert rate(pocket_pipe, "hamburger", "hamburger") >= 7 / 8
        assert rate(pocket_pipe, "dog", "dog") >= 7 / 8


def test_the_first_rows_behind_a_concept_stand_for_all_of_them(pocket_pipe) -> None:
    artifact = ep.erase(pocket_pipe, "pizza", options={"window_tail": 6, "vocabulary_tail": 3})
    with artifact.apply(pocket_pipe):
        assert rate(pocket_pipe, "pizza", "pizza") == 0
        assert rate(pocket_pipe, "hamburger", "hamburger") >= 7 / 8


def test_last_token_alone_changes_nothing_visible_and_the_plan_says_so(pocket_pipe) -> None:
    plan = ep.plan("pocket", "pizza", options={"tokens": "last"})
    assert any("padding" in text for text in plan.warnings)
    artifact = ep.erase(pocket_pipe, "pizza", options={"tokens": "last", "vocabulary": 0})
    assert artifact.manifest.rank == 1
    with artifact.apply(pocket_pipe):
        assert rate(pocket_pipe, "pizza", "pizza") >= 7 / 8


def test_aliases_are_found_by_themselves(pocket_target) -> None:
    notes = []
    artifact = ep.erase(
        pocket_target, "gun", options={"aliases": True}, listeners=[lambda event: notes.append(event.message)]
    )
    (member,) = artifact.edit.meta["statistics"]["members"]
    found = set(member["facts"]["aliases"])
    assert {"pistol", "revolver", "handgun", "firearm", "weapon"} <= found
    assert not found & {"helicopter", "knife", "shrimp"}
    assert any("aliases of gun" in note for note in notes)


def test_words_that_mean_the_same_are_not_kept(pocket_target) -> None:
    artifact = ep.erase(pocket_target, "gun")
    left_out = {name for name, _ in artifact.edit.meta["statistics"]["left_out"]}
    assert {"gun", "pistol"} <= left_out
    assert "dog" not in left_out


def test_guide_decides_what_it_becomes(pocket_pipe) -> None:
    artifact = ep.erase(pocket_pipe, "pizza", to="clock")
    with artifact.apply(pocket_pipe):
        assert rate(pocket_pipe, "pizza", "clock") >= 6 / 8


@pytest.mark.parametrize(("keep", "empty"), [(0.0, 1.0), (0.1, 1.0), (0.5, 0.0), (0.0, 0.0)])
def test_named_prompts_and_the_empty_one_are_kept_with_their_own_weights(tiny_sd1, keep, empty) -> None:
    """X - G over lam + G + H of float64 rows, H = keep * (rows of "dog") + empty * (rows of the empty prompt)."""
    target = target_of(tiny_sd1(), "tiny")
    options = {"vocabulary": 0, "keep_scale": keep, "keep_empty": empty, "tokens": "all", "lam": 0.5}
    artifact = ep.erase(target, "pizza", to="bread", keep=["dog"], options=options)
    C, S, dog, none = (rows.double() for rows in target.encode(["pizza", "bread", "dog", ""]).embeds)
    system = 0.5 * torch.eye(C.shape[1]).double() + C.T @ C + keep * dog.T @ dog + empty * none.T @ none
    wanted = torch.linalg.solve(system.T, ((S - C).T @ C).T).T
    torch.testing.assert_close(matrix(artifact), wanted, rtol=1e-4, atol=1e-5)


def test_on_sdxl_the_plan_says_what_a_map_of_token_rows_leaves(tiny_sdxl, tiny_sd1) -> None:
    for make, told in ((tiny_sdxl, True), (tiny_sd1, False)):
        target = target_of(make(), "tiny")
        for method in ("uce", "rece", "mace"):
            notes = ep.plan(target, "pizza", method).notes
            assert any("pooled row" in note for note in notes) is told
    artifact = ep.erase(target_of(tiny_sdxl(), "tiny"), "pizza", options=FAST)
    assert set(artifact.edit.deltas) == {"unet"}


def test_moderate_maps_to_the_empty_prompt(pocket_target) -> None:
    moderate = ep.erase(pocket_target, "gun", options={**FAST, "mode": "moderate"})
    explicit = ep.erase(pocket_target, ep.Concept("gun", anchor=""), options=FAST)
    assert torch.equal(matrix(moderate), matrix(explicit))


def test_debias_balances_attributes(pocket_pipe, monkeypatch) -> None:
    """Backgrounds of "a cloud": after debiasing, two chosen ones come out about equally often."""
    monkeypatch.setattr(shares, "attribute_shares", partial(shares.attribute_shares, images=16))
    monkeypatch.setattr(drawing, "draw", partial(draw, steps=4, fast=False))
    options = {"mode": "debias", "attributes": "red,blue", "rounds": 3}
    messages = []
    artifact = ep.erase(pocket_pipe, "cloud", options=options, listeners=[messages.append])
    worst = [event.numbers["imbalance"] for event in messages if "imbalance" in event.numbers]
    assert worst
    assert min(worst) <= 0.25
    with artifact.apply(pocket_pipe):
        assert rate(pocket_pipe, "cloud", "cloud") >= 0.5


def test_tensor_targets_lose_the_old_direction(pocket_target) -> None:
    artifact = ep.erase(pocket_target, "pizza", to="dog", options={**FAST, "technique": "tensor"})
    assert artifact.edit.kinds == {"lowrank"}
    assert not artifact.edit.statistics
    (plain,) = {delta.A.shape for _, _, delta in artifact.edit.items()}
    assert plain[1] == 256


def test_rank_cap_is_near_the_exact_edit(pocket_target) -> None:
    exact, capped = (ep.erase(pocket_target, "pizza", options={**FAST, "rank": rank}) for rank in (None, 8))
    assert capped.manifest.rank == 8
    error = capped.edit.meta["truncation_error"]
    sigma_norm = float((matrix(exact) - matrix(capped)).norm() / matrix(exact).norm())
    assert 0 < error < 0.2
    assert sigma_norm < 0.5


def test_lora_equals_mapping_the_embeddings(tiny_sd1) -> None:
    pipe = tiny_sd1()
    target = target_of(pipe)
    artifact = ep.erase(pipe, "pizza", to="dog", options={"vocabulary": 0})
    cond = target.encode(["a pizza and a car"])
    latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    mapped = cond[0]
    mapped.embeds = (cond.embeds.double() + cond.embeds.double() @ matrix(artifact).T).float()
    with torch.no_grad():
        expected = target.predict(latents, 500, mapped)
        with artifact.apply(pipe):
            assert torch.allclose(target.predict(latents, 500, cond), expected, atol=1e-5)


@pytest.mark.parametrize("build", ["tiny_sd1", "tiny_sdxl"])
def test_every_projection_gets_the_same_map(build: str, request: pytest.FixtureRequest) -> None:
    target = target_of(request.getfixturevalue(build)())
    artifact = ep.erase(target, "pizza", to="dog", options={"vocabulary": 20})
    lowered = lower_for(artifact.edit, target)
    assert len(lowered) == len(target.modules("cross_kv"))
    for ref in target.modules("cross_kv"):
        expected = target.weight(ref).double() @ matrix(artifact)
        assert torch.allclose(lowered.deltas["unet"][ref.weight].dense().double(), expected, atol=1e-6)


def test_hundred_concepts_at_once(pocket_target) -> None:
    world = PocketJudge().world()
    names = [item.name for item in world.concepts[:100]]
    artifact = ep.erase(pocket_target, names)
    assert len(artifact.manifest.concepts) == 100
    assert artifact.manifest.rank <= 256


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"concepts": " "}, "empty"),
        ({"concepts": ["pizza", "Pizza"]}, "twice"),
        ({"concepts": "pizza", "keep": ["pizza"]}, "both erased and kept"),
        ({"concepts": "pizza", "to": "pizza"}, "itself"),
        ({"concepts": "pizza", "options": {"lam": 0}}, "lam"),
        ({"concepts": "pizza", "options": {"mode": "debias"}}, "attributes"),
        ({"concepts": "pizza", "options": {"mode": "moderate", "technique": "tensor"}}, "technique"),
        ({"concepts": "pizza", "options": {"tokens": "first"}}, "first"),
    ],
)
def test_bad_requests_are_refused_before_any_work(arguments: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        ep.plan("pocket", **arguments)


def test_unknown_option_and_empty_phrase(pocket_target) -> None:
    with pytest.raises(UnknownName, match="tokens"):
        ep.plan("pocket", "pizza", options={"token": "all"})
    with pytest.raises(RequestError, match="content"):
        ep.erase(pocket_target, ep.Concept("pizza", prompts=("",)), options=FAST)
