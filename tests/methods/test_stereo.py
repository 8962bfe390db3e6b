"""STEREO: the target, the rounds, the fresh start of the second stage, what is trained and what is refused."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import erase_plugins as ep
from erase_plugins.api import build_request
from erase_plugins.engine import pools
from erase_plugins.engine.context import RunContext
from erase_plugins.errors import RequestError
from erase_plugins.methods.stereo import compositional_target
from erase_plugins.testing.models import changed_since
from erase_plugins.testing.observe import snapshot
from erase_plugins.workflow.models import target_of
from tests.methods.runs import begun, prepared

FAST = {
    "iterations": 3, "trajectories": 3, "harvest": 2, "steps": 4, "keep_words": 0, "batch": 2, "precision": "float32",
    "templates": "{},a {}", "search_iterations": 2, "search_lr": 1e-2, "inversion_steps": 2, "inversion_batch": 2,
    "inversion_pictures": 2, "adversarial_rounds": 2, "anchors": "dog", "anchor_weight": 1.0, "concept_weight": 3.0, "rank": 4, "cooldown": 0.0,
}  # fmt: skip


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def run_of(target, concepts="pizza", **options):
    return begun(target, build_request("tiny", "stereo", concepts, options={**FAST, **options}))


def drawn(count):
    generator = torch.Generator().manual_seed(0)
    return [torch.randn((2, 4, 8, 8), generator=generator, dtype=torch.float64) for _ in range(count)]


def test_the_target_leaves_the_empty_prompt_towards_the_anchor_and_away_from_all_members():
    null, anchor, c, v = drawn(4)
    found = compositional_target(null, anchor, [c, v], 1.5, 3.0)
    torch.testing.assert_close(found, null * (1 - 1.5 + 3) + 1.5 * anchor - 1.5 * c - 1.5 * v)
    torch.testing.assert_close(compositional_target(null, anchor, [c, v], 0.0, 0.0), null)
    torch.testing.assert_close(compositional_target(null, None, [c], 0.0, 2.0), null - 2 * (c - null))


def test_every_member_is_erased_as_often_and_its_states_want_what_the_untouched_model_says(target, monkeypatch):
    """Three members (name, two tokens): the wanted predictions, asked again one by one."""
    seen = []
    real = pools.mean_squares
    monkeypatch.setattr(pools, "mean_squares", lambda *given: seen.append(given[1]) or real(*given))
    with prepared(run := run_of(target)) as loss:
        members, before = [pool.cond for pool in run.state], len(seen)
        assert before == 2 * 2  # rounds times steps of the first stage
        for step in range(7):
            loss(step)
        parts = [terms[0] for terms in seen[before:]]
        counts = Counter(int(step % len(members)) for step in range(7))
        assert max(counts.values()) - min(counts.values()) <= 1
        for step, (states, cond, wanted, weight, _) in enumerate(parts):
            own = members[step % 3]
            rows = states.row.tolist()
            assert torch.equal(cond.embeds, own[rows].embeds) and weight == 1.0
            with run.adapters.disabled(), torch.no_grad():
                null, anchor, *all_of_them = (
                    target.predict(states.inputs, states.timestep, asked)
                    for asked in (target.encode([""] * 2), target.encode(["dog"] * 2),
                                  *(pool.cond[[row % len(pool.cond.last) for row in rows]] for pool in run.state))
                )  # fmt: skip
            away = sum(part - null for part in all_of_them) / 3
            torch.testing.assert_close(wanted, null + (anchor - null) - 3 * away, atol=1e-5, rtol=1e-4)


def test_without_a_prompt_the_prediction_goes_the_other_way_if_asked(target, monkeypatch):
    """With guidance w > 1 even a prediction that is the concept's own then leaves the concept, if eta_null > w/(w-1)."""
    seen = []
    real = pools.mean_squares
    monkeypatch.setattr(pools, "mean_squares", lambda *given: seen.append(given[1]) or real(*given))
    with prepared(run := run_of(target, adversarial_rounds=1, null_weight=0.3, eta_null=1.5)) as loss:
        loss(0)
        states, cond, wanted, weight, _ = seen[-1][-1]
        assert cond.prompts == ("", "") and weight == 0.3
        rows = states.row.tolist()
        with run.adapters.disabled(), torch.no_grad():
            null, *members = (
                target.predict(states.inputs, states.timestep, asked)
                for asked in (target.encode([""] * 2),
                              *(pool.cond[[row % len(pool.cond.last) for row in rows]] for pool in run.state))
            )  # fmt: skip
    away = sum(part - null for part in members) / 2
    torch.testing.assert_close(wanted, null + 1.5 * away, atol=1e-5, rtol=1e-4)
    guided = wanted + 4.0 * (null + away - wanted)
    assert float(((guided - null) * away).sum()) < 0


def test_the_second_stage_starts_at_the_original_and_the_tokens_are_found_against_the_erased(target):
    before = snapshot(target.pipe)
    first = {**FAST, "adversarial_rounds": 1}
    with prepared(run := run_of(target, **first)):
        for name, part in run.adapters.named_parameters().items():
            assert not name.endswith(".B") or float(part.detach().abs().max()) == 0
        (_, token) = (pool.cond for pool in run.state)
        assert {name for name in run.adapters.named_parameters() if "attn2" in name} == set()
    with prepared(other := run_of(target, **{**first, "search_lr": 0.0})):
        assert not torch.equal(token.embeds, other.state[1].cond.embeds)
    assert not changed_since(target.pipe, before)
    assert not torch.equal(token.embeds[0], target.encode(["object"]).embeds[0])


def test_what_was_found_is_in_no_file_and_a_resumed_run_reads_it(target, tmp_path):
    asked = build_request("tiny", "stereo", "pizza", options=FAST)
    ctx = RunContext("stereo", work=tmp_path)
    with prepared(run := begun(target, asked, ctx=ctx)):
        tokens = [pool.cond.embeds for pool in run.state[1:]]
        passes = ctx.numbers["unet_forwards"]
    again = RunContext("stereo", work=tmp_path, resume=True)
    with prepared(run := begun(target, asked, ctx=again)):
        assert all(torch.equal(a, pool.cond.embeds) for a, pool in zip(tokens, run.state[1:], strict=True))
        assert again.numbers["unet_forwards"] <= passes + 2 * 3 * 6  # only the teacher's answers for other members
    artifact = ep.erase(target, "pizza", "stereo", options=FAST)
    rows = {part.shape for _, _, delta in artifact.edit.items() for part in delta.tensors().values()}
    width = target.token_table("text_encoder").shape[1]
    assert (1, width) not in rows
    assert all(component == "unet" for component, _, _ in artifact.edit.items())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"anchors": "a small pizza"}, "names the concept"),
        ({"anchor_weight": 0.0, "concept_weight": 0.0}, "nothing would be erased"),
        ({"adversarial_rounds": 0}, "adversarial_rounds"),
    ],
)
def test_refusals(target, options, told):
    with pytest.raises(RequestError, match=told):
        run_of(target, **options)


def test_two_concepts_have_tokens_of_their_own(target):
    with prepared(run := run_of(target, ["pizza", "dog"], anchors="umbrella", adversarial_rounds=1)) as loss:
        assert len(run.state) == 4
        assert torch.isfinite(loss(3))
