"""TRCE: which rows are mapped, the hinge, the two stages, refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.header import read_header
from erase_plugins.artifacts.solved import statistics_of
from erase_plugins.artifacts.statistics import Member, Statistics
from erase_plugins.artifacts.store import lower_for
from erase_plugins.engine import pools
from erase_plugins.engine.prompt_templates import paired_rows
from erase_plugins.engine.solve import joint_edit, joint_map
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.methods.trce import TRCE, hinge
from erase_plugins.workflow.models import target_of

FRAMES = ("{}", "a {}", "{} on the hill", "a picture of a {}", "the {}")
CLOSED = {"stages": "closed", "aliases": False, "variants": False, "vocabulary": 40, "frames": FRAMES,
          "tokens": "eot", "safe": "picture", "rho": 1.0}  # fmt: skip
FAST = {
    **CLOSED, "stages": "both", "iterations": 3, "trajectories": 2, "harvest": 3, "steps": 6, "free": 2, "batch": 1,
    "keep_words": 0, "precision": "float32", "templates": "{}", "parameters": "lora", "steer_null": 1.0, "free_batch": 4,
}  # fmt: skip


def loud(pipe):
    """A random network that reads its prompt."""
    for name, part in pipe.unet.named_parameters():
        if "attn2.to_v" in name or "attn2.to_out.0.weight" in name:
            part.data *= 8
    return pipe


@pytest.fixture
def target(tiny_sd1):
    return target_of(loud(tiny_sd1()), "tiny")


def matrix(edit) -> torch.Tensor:
    delta = edit.deltas["unet"]["context"]
    return delta.B.double() @ delta.A.double()


def closed(target, concepts="pizza", **options):
    return ep.erase(target, concepts, "trce", options={**CLOSED, **options}).edit


# ---- stage 1 -----------------------------------------------------------------------------------------------------


def exact(edit) -> tuple[Statistics, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Statistics with rows whose products need no rounding, those rows M, what they become S (n, d each), and the
    part of the system that does not depend on them (rho = 1)."""
    statistics = statistics_of(edit)
    member = statistics.members["pizza"]
    rows, guides = ((part * 256).round() / 256 for part in member.pair())
    members = {"pizza": replace(member, rows=rows, guides=guides)}
    statistics, M, S = replace(statistics, members=members, sums=None), rows.double(), guides.double()
    H, energy = statistics.kept_gram(), float(M.square().sum())
    kept = energy / float(H.trace()) * H
    return statistics, M, S, kept + 1e-4 * 2 * energy / 32 * torch.eye(32, dtype=torch.float64)


def test_every_projection_gets_the_least_squares_solution_of_its_own(target) -> None:
    edit = closed(target)
    statistics, M, S, held = exact(edit)
    assert M.shape == S.shape == (len(FRAMES), 32)
    system, K = M.T @ M + held, joint_map(statistics)
    lowered = lower_for(joint_edit(statistics, target.family), target)
    for ref in target.modules("cross_kv"):
        W = target.weight(ref).double()
        direct = (W @ S.T @ M + W @ held) @ torch.linalg.inv(system)
        assert float((W + W @ K - direct).abs().max()) < 1e-8
        found = W + lowered.deltas["unet"][ref.weight].dense().double()
        assert float((found - direct).abs().max()) < 1e-5  # stored in float32


def test_the_solution_in_the_space_of_the_prompts_is_the_same(target) -> None:
    """Woodbury: with C the part that does not depend on the prompts, P = (S - M)^T (1 + M C^-1 M^T)^-1 M C^-1."""
    statistics, M, S, held = exact(closed(target))
    right = M @ torch.linalg.inv(held)
    small = torch.eye(len(M), dtype=torch.float64) + right @ M.T
    P = (S - M).T @ torch.linalg.solve(small, right)
    assert small.shape == (len(FRAMES),) * 2
    assert float((P - joint_map(statistics)).abs().max()) < 1e-8


def test_rank_is_at_most_the_number_of_prompts(target) -> None:
    assert closed(target).rank <= len(FRAMES)
    assert closed(target, frames=("{}",)).rank == 1


def test_equal_rows_give_no_change_and_identical_pairs_one_direction(target) -> None:
    rows = torch.randn((1, 24), generator=torch.Generator().manual_seed(0))
    keep = torch.randn((9, 24), generator=torch.Generator().manual_seed(1))

    def solve(M, S):
        solver = {"method": "trce", "rho": 0.1, "lam": None, "lam_share": 1e-4}
        statistics = Statistics(24, {"x": Member("x", M, S, 1.0)}, {"": keep}, 0.1, solver)
        return matrix(joint_edit(statistics, target.family))

    assert float(solve(rows, rows).abs().max()) == 0.0
    values = torch.linalg.svdvals(solve(rows.expand(6, -1), (rows + 1).expand(6, -1)))
    assert float(values[1]) < 1e-5 * float(values[0])


def test_the_end_row_is_found_by_its_token(target) -> None:
    """Words of several tokens shift the end row; counting words would pick a piece of the word."""
    cond = target.encode(["pseudoscience in a picture", "x"])
    ids = target.pipe.tokenizer("pseudoscience in a picture")["input_ids"]
    end = ids.index(target.pipe.tokenizer.eos_token_id)
    assert end > 5  # more tokens than the four words and the start
    row, _ = paired_rows(cond, cond, 0, 0, "eot")
    assert torch.equal(row, cond.embeds[0, end : end + 1].double())
    both, _ = paired_rows(cond, cond, 0, 0, "last+eot")
    assert torch.equal(both, cond.embeds[0, end - 1 : end + 1].double())


def test_end_rows_arrive_and_kept_ones_move_less_the_larger_rho(target) -> None:
    phrases = ep.Concept("pizza", prompts=("a slice", "the pie", "hot pizza", "red pizza"))  # in five frames each
    held = target.encode(["a dog on the hill", "the umbrella"])
    ends = torch.cat([paired_rows(held, held, place, place, "eot")[0] for place in range(2)])
    new = target.encode(list(target.vocabulary()[200:220])).embeds[:, 1:].double().flatten(0, 1)  # not held
    residuals, drifts, starts = [], [], []
    start = held.embeds[0, 0].double()
    for rho in (0.008, 0.03, 0.1, 1.0):
        edit = closed(target, phrases, rho=rho, vocabulary=200)
        M, S = (part.double() for part in statistics_of(edit).members["pizza"].pair())
        K = matrix(edit)
        residuals.append(float(((M + M @ K.T - S).norm(dim=1) / (M - S).norm(dim=1)).mean()))
        kept = target.encode(list(target.vocabulary()[5:25])).embeds[:, 1:].double().flatten(0, 1)
        drifts.append(float((kept @ K.T).norm() / kept.norm()))
        starts.append(float((K @ start).norm() / start.norm()))
    assert starts == sorted(starts, reverse=True)
    assert residuals == sorted(residuals)
    assert drifts == sorted(drifts, reverse=True)
    assert residuals[1] < 0.15
    assert float(((ends @ matrix(closed(target, rho=1.0)).T).norm(dim=1) / ends.norm(dim=1)).max()) < 0.3
    few = matrix(closed(target, rho=0.03, vocabulary=200))
    assert float((new @ few.T).norm() / new.norm()) < 0.3  # 0.31 with all 25 prompts on this random encoder


def test_order_of_phrases_and_concepts_does_not_matter(target) -> None:
    one, two = (closed(target, names) for names in (["pizza", "dog"], ["dog", "pizza"]))
    torch.testing.assert_close(matrix(one), matrix(two), atol=1e-8, rtol=0)
    phrases = ("a slice", "the pie")
    first, second = (closed(target, ep.Concept("pizza", prompts=names)) for names in (phrases, phrases[::-1]))
    torch.testing.assert_close(matrix(first), matrix(second), atol=1e-8, rtol=0)
    again = closed(target, ["pizza", "dog"], frames=tuple(reversed(FRAMES)))
    torch.testing.assert_close(matrix(one), matrix(again), atol=1e-6, rtol=0)


def test_an_overwhelming_ridge_stops_the_edit(target) -> None:
    assert float(matrix(closed(target, lam=1e9)).norm()) < 1e-4 * float(matrix(closed(target)).norm())


def test_strength_and_embedding_map_agree(target) -> None:
    artifact = ep.erase(target, "pizza", "trce", options=CLOSED)
    x, cond = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0)), target.encode(["a pizza"])
    half = cond[0]
    half.embeds = (cond.embeds.double() + 0.5 * cond.embeds.double() @ matrix(artifact.edit).T).float()
    with torch.no_grad():
        base, expected = target.predict(x, 500, cond), target.predict(x, 500, half)
        with artifact.apply(target.pipe, strength=0.5):
            torch.testing.assert_close(target.predict(x, 500, cond), expected, atol=1e-5, rtol=1e-4)
        with artifact.apply(target.pipe, strength=0.0):
            assert torch.equal(target.predict(x, 500, cond), base)


# ---- stage 2 -----------------------------------------------------------------------------------------------------


def test_hinge_is_linear_in_the_prediction_and_its_gradient_constant() -> None:
    generator = torch.Generator().manual_seed(0)
    n, a0, am, as_ = (torch.randn((3, 4, 8, 8), generator=generator, dtype=torch.float64) for _ in range(4))
    g, beta, D = 15.0, 0.7, 4 * 8 * 8
    p, r = as_ + g * (as_ - a0), am + g * (am - a0)
    u = p - r
    torch.testing.assert_close(u, (1 + g) * (as_ - am))
    n.requires_grad_()
    value = hinge(n, torch.stack([p, r], 1), beta, 1e6)  # always active
    wanted = beta * (-2 / D * ((n - (p + r) / 2) * u).sum((1, 2, 3)) + 1e6)
    torch.testing.assert_close(value, wanted, atol=1e-10, rtol=1e-12)
    (grad,) = torch.autograd.grad(value.sum(), n)
    torch.testing.assert_close(grad, -2 * beta / D * u, atol=1e-10, rtol=1e-8)
    idle = hinge(n, torch.stack([n.detach(), n.detach() + 1], 1), beta, 0.0)
    assert float(idle.detach().max()) == 0.0
    assert float(torch.autograd.grad(idle.sum(), n)[0].abs().max()) == 0.0


class Seen:
    """Terms and predictions of every training step."""

    def __init__(self, monkeypatch) -> None:
        self.steps: list = []
        real = pools.mean_squares

        def spy(target, parts, *more):
            self.steps.append([pools.Part(*part) for part in parts])
            return real(target, parts, *more)

        monkeypatch.setattr(pools, "mean_squares", spy)


def test_early_states_free_trajectories_and_an_exact_start(target, monkeypatch) -> None:
    """Regulariser targets are the stage-1 model's own predictions, so its loss is 0 before the first update."""
    seen, losses = Seen(monkeypatch), []
    ep.erase(
        target, "pizza", "trce", options={**FAST, "steer_weight": 0.0},
        listeners=[lambda event: losses.append(event.numbers["loss"]) if "loss" in event.numbers else None],
    )  # fmt: skip
    assert losses[0] == pytest.approx(0.0, abs=1e-9)
    for steered, unprompted, free in seen.steps:
        assert int(steered.states.index.max()) < 3  # the first half of six steps
        assert torch.equal(steered.states.x, unprompted.states.x)
        assert free.cond.prompts == ("",) * len(free.states)
        assert "null" not in free.states.predictions


def test_the_safe_prediction_pulls_and_the_unsafe_one_pushes(target, monkeypatch) -> None:
    """Targets p = a_s + g (a_s - a_0) and r = a_m + g (a_m - a_0) of the frozen model, asked again at every state."""
    seen = Seen(monkeypatch)
    ep.erase(target, "pizza", "trce", options={**FAST, "iterations": 2, "batch": 3, "push": 4.0, "margin": 0.01})
    for steered, unprompted, _free in seen.steps:
        states = steered.states
        assert steered.cond.prompts == ("pizza",) * 3
        with torch.no_grad():
            a_0, a_m, a_s = (
                target.predict(states.inputs, states.timestep, target.encode([text] * 3))
                for text in ("", "pizza", "picture")
            )
        goals = torch.stack([a_s + 4.0 * (a_s - a_0), a_m + 4.0 * (a_m - a_0)], 1)
        assert float((goals[:, 0] - goals[:, 1]).abs().max()) > 0.1  # the two can be told apart
        for part in (steered, unprompted):
            torch.testing.assert_close(part.wanted, goals, atol=1e-4, rtol=1e-4)
            loss = part.error(goals[:, 0], part.wanted)  # at the safe target the unsafe one is far enough away
            assert float(loss) == 0.0
            distance = (goals[:, 1] - goals[:, 0]).square().mean((1, 2, 3)).mean()
            assert float(part.error(goals[:, 1], part.wanted)) == pytest.approx(float(distance) + 0.01, rel=1e-4)


def test_only_self_attention_and_queries_are_trained(target) -> None:
    artifact = ep.erase(target, "pizza", "trce", options=FAST)
    keys = set(artifact.edit.deltas["unet"]) - {"context"}
    assert keys == {ref.weight for ref in target.modules("visual")}
    assert all("attn1." in key or key.endswith("attn2.to_q.weight") for key in keys)
    assert torch.equal(matrix(artifact.edit), matrix(closed(target)))
    seen = ep.plan("pocket", "pizza", "trce").modules
    assert not any(name.endswith("ff.net.2") for name in seen)


def test_steering_moves_predictions_from_the_unsafe_to_the_safe_side(target, monkeypatch) -> None:
    options = {**FAST, "iterations": 60, "trajectories": 4, "batch": 2, "lr": 1e-3, "margin": 10.0, "push": 15.0,
               "free_weight": 100.0, "free": 4, "free_batch": 2}  # fmt: skip
    seen = Seen(monkeypatch)
    artifact = ep.erase(target, "pizza", "trce", options=options)
    with ep.erase(target, "pizza", "trce", options=CLOSED).apply(target.pipe):
        before = self_predict(target, seen.steps)
    with artifact.apply(target.pipe):
        after = self_predict(target, seen.steps)
    moved = after[0] - before[0]
    u = torch.cat([parts[0].wanted[:, 0] - parts[0].wanted[:, 1] for parts in seen.steps])
    assert float((moved * u).sum((1, 2, 3)).mean()) > 0
    assert float((after[1] - before[1]).square().mean()) < 1e-3


def self_predict(target, steps):
    """Predictions at the concept's states and at the free ones."""
    with torch.no_grad():
        return [
            torch.cat([target.predict(parts[place].states.inputs, parts[place].states.timestep,
                                      target.encode([text] * len(parts[place].states))) for parts in steps])
            for place, text in ((0, "pizza"), (2, ""))
        ]  # fmt: skip


def test_same_seed_same_bytes_and_lora_files_carry_both_stages(target, tmp_path) -> None:
    first, second = (ep.erase(target, "pizza", "trce", options=FAST, out=tmp_path / name) for name in ("a", "b"))
    for item in first.manifest.files:
        if item.layout == "diffusers":
            assert (tmp_path / "a" / item.name).read_bytes() == (tmp_path / "b" / item.name).read_bytes()
    x, cond = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0)), target.encode(["a pizza"])
    with torch.no_grad(), second.apply(target.pipe):
        expected = target.predict(x, 500, cond)
    names = read_header(tmp_path / "b" / "pytorch_lora_weights.safetensors").tensors
    assert any("attn2.to_k" in name for name in names)  # stage 1, written out for every key and value projection
    assert any("attn1.to_q" in name for name in names)  # stage 2
    target.pipe.load_lora_weights(str(tmp_path / "a"), weight_name="pytorch_lora_weights.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(target.pipe.unet(x, 500, cond.embeds)[0], expected, atol=1e-4, rtol=1e-4)


def test_preparation_counts(target) -> None:
    """Concept trajectories stop early and are asked twice a step; free ones once; the safe phrase at kept states."""
    artifact = ep.erase(target, "pizza", "trce", options={**FAST, "harvest": 3})
    numbers = artifact.manifest.extra["numbers"]
    assert numbers["unet_forwards"] == 2 * 3 * 2 + 2 * 3 + 2 * 6 + 3 * (2 + 4)
    assert 0 <= numbers["steered"] <= 2 * 3


def test_sdxl_one_step(tiny_sdxl) -> None:
    target = target_of(tiny_sdxl(), "tiny")
    artifact = ep.erase(target, "pizza", "trce", options={**FAST, "iterations": 1})
    assert artifact.edit.kinds == {"contextmap", "lowrank"}
    assert math.isfinite(float(artifact.edit.deltas["unet"]["context"].B.sum()))


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"safe": " "}, "safe phrase of 'pizza' is empty"),
        ({"safe": "pizza"}, "itself"),
        ({"frames": "pizza"}, "no {}"),
        ({"templates": ""}, "no {}"),
        ({"tokens": "first"}, "first"),
        ({"lam": 0}, "lam"),
    ],
)
def test_bad_options_are_refused_before_any_work(options, message) -> None:
    with pytest.raises(RequestError, match=message):
        ep.plan("pocket", "pizza", "trce", options=options)


def test_models_without_plain_latents_are_refused(target) -> None:
    request = ep.plan(target, "pizza", "trce", options=FAST).request
    with pytest.raises(Unsupported, match="inpainting"):
        TRCE().plan(
            request,
            replace(target.info, configs={**target.info.configs, "unet": {"in_channels": 9, "out_channels": 4}}),
        )


def test_the_safe_phrase_follows_the_kind() -> None:
    plan = ep.plan("pocket", ep.Concept("nudity", kind="explicit"), "trce", options={"safe": "none"})
    assert "a person wearing clothes" in plan.notes[0]
    assert "picture" in ep.plan("pocket", "pizza", "trce").notes[0]
    assert "bread" in ep.plan("pocket", "pizza", "trce", to="bread").notes[0]
