"""RealEra: the closed form with neighbours, the training stage, refusals; numbers refer to nothing but this file."""

from __future__ import annotations

import threading

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.closed_form import solve_factors, solve_map
from erase_plugins.artifacts.solved import statistics_of
from erase_plugins.artifacts.store import lower_for
from erase_plugins.engine import pools
from erase_plugins.engine.collect import collect
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.solve import joint_edit
from erase_plugins.errors import RequestError, RunCancelled
from erase_plugins.methods.realera import RealEraOptions
from erase_plugins.methods.realera.mining import with_neighbours
from erase_plugins.methods.realera.neighbor_sampling import Shell
from erase_plugins.testing.case import StopAfter
from erase_plugins.workflow.models import target_of

CLOSED = {"stages": "closed", "aliases": False, "vocabulary": 40}
FAST = {
    "vocabulary": 40, "iterations": 4, "trajectories": 2, "harvest": 3, "steps": 5, "keep_words": 0, "batch": 2,
    "precision": "float32", "templates": "{}", "neighbours": 2, "outside": 2,
}  # fmt: skip


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def matrix(artifact) -> torch.Tensor:
    delta = artifact.edit.deltas["unet"]["context"]
    return delta.B.double() @ delta.A.double()


def rows(count: int, width: int = 24, seed: int = 0) -> torch.Tensor:
    return torch.randn((count, width), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# ---- closed form -------------------------------------------------------------------------------------------------


def test_neighbours_solve_the_weighted_least_squares_problem(target) -> None:
    """W (I + K) is the minimiser written out row by row: concept, neighbours with weight 1/n, outside rows, keeps."""
    request = ep.plan(target, "pizza", "realera", options=CLOSED).request
    options = RealEraOptions(aliases=False, vocabulary=40)
    solver = {"method": "realera", "lam": options.lam}
    plain = collect(request, options.recipe(), solver, target, RunContext("realera"), need_sigma=False)
    more = with_neighbours(plain, Shell(), options.recipe(), target, RunContext("realera").generator, 3, 2)
    C, S = (part.double() for part in more.members["pizza"].pair())
    count = len(plain.members["pizza"].pair()[0])
    assert len(C) == 4 * count + 2 * 31
    C, S, outside = C[: 4 * count], S[: 4 * count], C[4 * count :]
    weights = torch.tensor([1.0] * count + [1 / 3] * 3 * count, dtype=torch.float64)
    free, goals = C / weights.sqrt()[:, None], S / weights.sqrt()[:, None]  # as they lie around the concept
    torch.testing.assert_close(C[:count], plain.members["pizza"].pair()[0].double())
    system = options.lam * torch.eye(32, dtype=torch.float64) + plain.kept_gram() + outside.T @ outside
    system = system + free.T @ (weights[:, None] * free)
    A = (weights[:, None] * (goals - free)).T @ free @ torch.linalg.inv(system)
    found = joint_edit(more, target.family).deltas["unet"]["context"]
    found = found.B.double() @ found.A.double()
    assert float((found - A).abs().max() / A.abs().max()) < 1e-5  # stored in float32
    far = outside.unflatten(0, (2, 31)) / (options.keep_scale / 2) ** 0.5
    concept = target.encode(["pizza"]).embeds[0, 1:].double()
    assert float(torch.cosine_similarity(far.flatten(1), concept.flatten()[None]).max()) < 0.5


def test_push_through_identity() -> None:
    E = rows(5).T
    system = E @ E.T + 0.3 * torch.eye(24, dtype=torch.float64)
    left = E.T @ torch.linalg.inv(system)
    right = torch.linalg.inv(E.T @ E + 0.3 * torch.eye(5, dtype=torch.float64)) @ E.T
    A, _ = solve_factors(E.T, rows(5, seed=1), torch.ones(5), torch.zeros(24, 24), 0.3)
    torch.testing.assert_close(A, left, atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(A, right, atol=1e-12, rtol=1e-10)


def test_a_large_ridge_stops_the_edit_and_a_small_one_hits_the_guides() -> None:
    C, S = rows(5), rows(5, seed=1)
    G, X, none = C.T @ C, S.T @ C, torch.zeros(24, 24, dtype=torch.float64)
    assert float(solve_map(G, X, none, 1e9).norm()) < 1e-6
    K = solve_map(G, X, none, 1e-9)
    assert float((C + C @ K.T - S).abs().max()) < 1e-6


def test_one_more_kept_row_shrinks_its_change_by_the_known_factor() -> None:
    C, S, H = rows(5), rows(5, seed=1), rows(7, seed=2).T @ rows(7, seed=2)
    p, beta = rows(1, seed=3)[0], 0.7
    before, after = (
        solve_map(C.T @ C, S.T @ C, H + extra, 0.5) for extra in (torch.zeros_like(H), beta * torch.outer(p, p))
    )
    M = 0.5 * torch.eye(24, dtype=torch.float64) + C.T @ C + H
    factor = 1 + beta * float(p @ torch.linalg.inv(M) @ p)
    torch.testing.assert_close(after @ p, before @ p / factor, atol=1e-12, rtol=1e-9)


def test_without_neighbours_it_is_uce(target) -> None:
    ours = ep.erase(target, "pizza", "realera", options={**CLOSED, "closed_neighbours": 0, "closed_outside": 0})
    alone = {"vocabulary": 40, "near": RealEraOptions.near, "vocabulary_frames": ("{}",)}
    uce = ep.erase(target, "pizza", "uce", options=alone)
    assert torch.equal(matrix(ours), matrix(uce))
    other = ep.erase(target, "pizza", "realera", options=CLOSED)
    assert not torch.equal(matrix(other), matrix(uce))


def test_all_layers_share_the_down_factor_and_the_map_is_the_lora(target) -> None:
    artifact = ep.erase(target, "pizza", "realera", options=CLOSED)
    lowered = lower_for(artifact.edit, target)
    downs = [delta.A for _, _, delta in lowered.items()]
    assert len(downs) == len(target.modules("cross_kv"))
    assert all(torch.equal(item, downs[0]) for item in downs)
    x, cond = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0)), target.encode(["a pizza"])
    seen = []
    for mode in ("weights", "context"):
        with torch.no_grad(), artifact.apply(target.pipe, mode=mode):
            seen.append(target.predict(x, 500, cond))
    torch.testing.assert_close(seen[0], seen[1], atol=1e-5, rtol=1e-5)


def test_kept_prompts_move_less_the_more_they_weigh(target) -> None:
    kept = target.encode(["a dog on a hill"]).embeds[0].double()

    def drift(**options) -> float:
        keep = ["a dog on a hill"] if options else []
        artifact = ep.erase(target, "pizza", "realera", keep=keep, options={**CLOSED, "closed_outside": 0, **options})
        return float((kept @ matrix(artifact).T).norm())

    found = [drift(), drift(keep_scale=0.01), drift(keep_scale=0.1), drift(keep_scale=1.0)]
    assert found == sorted(found, reverse=True)
    assert found[-1] < 0.5 * found[0]


def test_the_closed_form_can_be_merged_and_revoked(target) -> None:
    one, two, both = (
        ep.erase(target, names, "realera", options=CLOSED) for names in ("pizza", "dog", ["dog", "pizza"])
    )
    merged = ep.merge([one, two])
    assert torch.equal(matrix(merged), matrix(both))
    assert torch.equal(matrix(ep.revoke(merged, "dog", forget=True)), matrix(one))
    assert statistics_of(one.edit).members["pizza"].facts["drawn"] > 0


# ---- training ----------------------------------------------------------------------------------------------------


class Seen:
    """Terms of every training step, with the teacher's state."""

    def __init__(self, monkeypatch) -> None:
        self.steps: list = []
        real = pools.mean_squares

        def spy(target, parts, *more):
            self.steps.append([pools.Part(*part) for part in parts])
            return real(target, parts, *more)

        monkeypatch.setattr(pools, "mean_squares", spy)


def test_guidance_without_strength_wants_the_prediction_without_a_prompt(target, monkeypatch) -> None:
    seen = Seen(monkeypatch)
    ep.erase(target, "pizza", "realera", options={**FAST, "towards": "guidance", "eta": 0.0})
    for first, *_ in seen.steps:
        assert torch.equal(first.wanted, first.states.predictions["null"])


def test_terms_in_turn_touch_the_concept_in_odd_steps_only(target, monkeypatch) -> None:
    seen = Seen(monkeypatch)
    ep.erase(target, "pizza", "realera", options={**FAST, "terms": "alternate"})
    assert [len(parts) for parts in seen.steps] == [1, 4, 1, 4]
    seen.steps.clear()
    ep.erase(target, "pizza", "realera", options=FAST)
    assert [[part.weight for part in parts] for parts in seen.steps] == [[1.0, 0.5, 0.5, 0.5, 0.5]] * 4


def test_outside_points_are_held_at_the_untouched_model(target, monkeypatch) -> None:
    """Their target is what the base predicts for the same rows, bit for bit, although the student is mapped."""
    seen = Seen(monkeypatch)
    plain = target_of(target.pipe, "tiny")
    drawn: list = []
    far = Shell.far
    monkeypatch.setattr(Shell, "far", lambda self, cond, draw: drawn.append(far(self, cond, draw)) or drawn[-1])
    ep.erase(target, "pizza", "realera", options={**FAST, "iterations": 2, "outside": 1})
    assert all(part.grad is None for part in target.pipe.unet.parameters())
    for parts, cond in zip(seen.steps, drawn[-2:], strict=True):
        last = parts[-1]
        with torch.no_grad():
            expected = plain.predict(last.states.inputs, last.states.timestep, cond)
        assert torch.equal(last.wanted, expected)


def test_training_erases_the_concept_and_its_neighbourhood_and_holds_the_outside(tiny_sd1) -> None:
    """Distances to the guide's prediction on held-out noise, trained against the closed form alone."""
    pipe = tiny_sd1()
    for name, part in pipe.unet.named_parameters():
        if "attn2.to_v" in name or "attn2.to_out.0.weight" in name:
            part.data *= 8  # a random network hardly reads its prompt
    target = target_of(pipe, "tiny")
    options = {**FAST, "iterations": 60, "trajectories": 6, "batch": 4, "lr": 1e-2, "closed_neighbours": 0,
               "erase_scale": 1e-3, "rank": 8}  # fmt: skip
    x = torch.randn((8, 4, 8, 8), generator=torch.Generator().manual_seed(9))
    e, a = target.encode(["pizza"] * 8), target.encode([" "] * 8)
    near = Shell().near(e, torch.Generator().manual_seed(10))
    far = Shell().far(e, torch.Generator().manual_seed(11))

    def ask(cond) -> torch.Tensor:
        with torch.no_grad():
            return target.predict(x, 500, cond)

    goal, outside, start = ask(a), ask(far), ask(e)

    def measure(**more) -> tuple[float, ...]:
        with ep.erase(target, "pizza", "realera", options={**options, **more}).apply(pipe):
            return tuple(float((ask(cond) - wanted).square().mean()) for cond, wanted in
                         ((e, goal), (near, goal), (far, outside), (e, start)))  # fmt: skip

    before = [float((value - goal).square().mean()) for value in (start, ask(near))]
    concept, around, held, moved = measure()
    loose = measure(outside=0)[2]
    assert concept < 0.5 * before[0]
    assert around < before[1]
    assert held < 0.5 * moved
    assert held < loose


def test_resume_and_cancel(target, tmp_path) -> None:
    options = {**FAST, "checkpoint_every": 1}
    whole = ep.erase(target, "pizza", "realera", options=options, out=tmp_path / "whole")
    cancel = threading.Event()
    with pytest.raises(RunCancelled):
        ep.erase(target, "pizza", "realera", options=options, out=tmp_path / "again", cancel=cancel,
                 listeners=[lambda event: "loss" in event.numbers and event.done == 2 and cancel.set()])  # fmt: skip
    assert not (tmp_path / "again").exists()
    again = ep.erase(target, "pizza", "realera", options=options, out=tmp_path / "again", resume=True,
                     listeners=[StopAfter("never")])  # fmt: skip
    for (_, key, one), (_, other, two) in zip(whole.edit.items(), again.edit.items(), strict=True):
        assert key == other
        assert all(torch.equal(part, two.tensors()[name]) for name, part in one.tensors().items())


def test_sdxl_keeps_the_pooled_prompt(tiny_sdxl, monkeypatch) -> None:
    target = target_of(tiny_sdxl(), "tiny")
    seen = Seen(monkeypatch)
    artifact = ep.erase(target, "pizza", "realera", options={**FAST, "iterations": 1})
    first, near, *_ = seen.steps[0]
    assert torch.equal(first.cond.pooled, near.cond.pooled)
    assert not torch.equal(first.cond.embeds, near.cond.embeds)
    assert artifact.edit.kinds == {"contextmap", "lowrank"}


def test_gated_it_acts_on_the_concept_and_leaves_other_prompts_alone(pocket_target) -> None:
    """A random text encoder gives a gate nothing to learn from, hence the embedded model; closed form only."""
    target, options = pocket_target, {"stages": "closed"}
    gated, plain = (ep.erase(target, "pizza", "realera", options={**options, "gated": gate}) for gate in (True, False))
    assert gated.edit.kinds == {"addon"}
    x = torch.randn((1, *target.info.latent_shape), generator=torch.Generator().manual_seed(0))

    def moved(artifact, text: str) -> torch.Tensor:
        cond = target.encode([text])
        with torch.no_grad():
            before = target.predict(x, 500, cond)
            with artifact.apply(target.pipe):
                return target.predict(x, 500, cond) - before

    torch.testing.assert_close(moved(gated, "a pizza"), moved(plain, "a pizza"), atol=1e-4, rtol=1e-3)
    others = ["a dog", "an umbrella", "a rose on a blue background", "the rocket", "a guitar", "an owl"]
    assert sum(float(moved(gated, text).norm()) for text in others) < 0.2 * sum(
        float(moved(plain, text).norm()) for text in others
    )


# ---- refusals ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"similar_low": 0.9, "similar_high": 0.5}, "similar_low"),
        ({"distance": 0.1}, "raise distance to"),
        ({"lam": 0}, "lam"),
        ({"templates": "pizza"}, "no {}"),
        ({"terms": "alternate", "neighbours": 0, "outside": 0}, "second step"),
        ({"stages": "third"}, "stages"),
    ],
)
def test_bad_options_are_refused_before_any_work(options, message) -> None:
    with pytest.raises(RequestError, match=message):
        ep.plan("pocket", "pizza", "realera", options=options)


def test_a_gate_is_for_one_concept() -> None:
    with pytest.raises(RequestError, match="one concept"):
        ep.plan("pocket", ["pizza", "dog"], "realera", options={"gated": True})


def test_a_concept_cannot_be_its_own_anchor() -> None:
    with pytest.raises(RequestError, match="itself"):
        ep.plan("pocket", "pizza", "realera", to="Pizza")


def test_plan_adds_up_both_stages() -> None:
    closed, both = (ep.plan("pocket", "pizza", "realera", options={"stages": stage}) for stage in ("closed", "both"))
    assert both.seconds > closed.seconds > 0
    assert both.file_bytes > closed.file_bytes
    assert both.steps == both.options["iterations"]
    assert any("reconstruction" in note for note in both.notes)
