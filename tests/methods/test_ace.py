"""ACE: module set, targets, priors, the direction of the shift, refusals."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.api import build_request
from erase_plugins.engine import pools
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.trajectories import guided, harvest, start_noise
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.methods.ace import ACE, null_target
from erase_plugins.training.priors import own_priors
from erase_plugins.workflow.models import target_of
from tests.methods.runs import begun

FAST = {
    "iterations": 4, "trajectories": 2, "harvest": 3, "steps": 5, "keep_words": 0, "batch": 2, "precision": "float32",
    "templates": "{}", "priors": ("dog", "umbrella", "rose"), "eta_null": 3.0, "eta": 3.0, "eta_prior": 1.0,
    "null_weight": 0.19, "erase_weight": 0.01, "prior_weight": 0.8, "prior_batch": 2, "alpha": 1.0, "rank": 4,
}  # fmt: skip
#: configuration of Stable Diffusion 1.5's denoiser, as far as its module list depends on it
SD1 = {
    "_class_name": "UNet2DConditionModel", "sample_size": 64, "in_channels": 4, "out_channels": 4,
    "cross_attention_dim": 768, "attention_head_dim": 8, "block_out_channels": [320, 640, 1280, 1280],
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


class Seen:
    """Terms of every training step."""

    def __init__(self, monkeypatch) -> None:
        self.steps: list = []
        self.losses: list[float] = []
        real = pools.mean_squares

        def spy(target, parts, *more):
            self.steps.append([pools.Part(*part) for part in parts])
            return real(target, parts, *more)

        monkeypatch.setattr(pools, "mean_squares", spy)

    def listen(self, event) -> None:
        if "loss" in event.numbers:
            self.losses.append(event.numbers["loss"])


# ---- modules and files -------------------------------------------------------------------------------------------


def test_twelve_modules_in_every_transformer() -> None:
    text = {"hidden_size": 768, "max_position_embeddings": 77, "num_hidden_layers": 1, "vocab_size": 64,
            "intermediate_size": 64, "num_attention_heads": 4}  # fmt: skip
    info = ep.get_manager().family("sd1").info("sd", {"unet": SD1, "text_encoder": text})
    refs = info.modules("transformer")
    assert len(refs) == 192
    assert all(".attentions." in ref.path for ref in refs)
    plan = ACE().plan(build_request("sd", "ace", "pizza", options={"rank": 4}), info)
    assert plan.file_bytes == 4 * sum(4 * (ref.shape[0] + ref.shape[1]) for ref in refs)


def test_the_start_is_the_teacher_and_gradients_reach_the_up_factors_only(target) -> None:
    from erase_plugins.engine.adapters import Adapters

    x, cond = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(0)), target.encode(["pizza"])
    with torch.no_grad():
        base = target.predict(x, 500, cond)
    adapters = Adapters(target, target.modules("transformer"), 4, 0.25, generator=torch.Generator().manual_seed(0))
    with adapters:
        out = target.predict(x, 500, cond)
        grads = dict(zip(adapters.named_parameters(), torch.autograd.grad(out.square().sum(), adapters.parameters(),
                                                                          allow_unused=True), strict=True))  # fmt: skip
    assert torch.equal(out.detach(), base)
    down = [grad for name, grad in grads.items() if name.endswith(".A") and grad is not None]
    up = [grad for name, grad in grads.items() if name.endswith(".B") and grad is not None]
    assert all(float(grad.abs().max()) == 0 for grad in down)
    assert any(float(grad.abs().max()) > 0 for grad in up)
    assert all(part.grad is None for part in target.pipe.unet.parameters())


def test_alpha_scales_the_change_while_training_and_in_the_edit(target) -> None:
    """One SGD step from up = 0: its gradient grows with alpha and the change with its square."""
    common = {**FAST, "iterations": 1, "optimizer": "sgd", "lr": 0.1}
    one, two = (ep.erase(target, "pizza", "ace", options={**common, "alpha": alpha}) for alpha in (1, 2))
    for (_, _, first), (_, _, second) in zip(one.edit.items(), two.edit.items(), strict=True):
        torch.testing.assert_close(second.B, 4 * first.B, rtol=1e-3, atol=1e-9)


# ---- targets -----------------------------------------------------------------------------------------------------


def tensors(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn((2, 4, 8, 8), generator=generator, dtype=torch.float64) for _ in range(count)]


def settings(**changes):
    return SimpleNamespace(**({"eta_null": 3.0, "eta_prior": 0.0, "correction": "sum"} | changes))


def test_both_targets_mirror_each_other_and_an_equal_prior_cancels() -> None:
    null, c, p, q = tensors(4)
    one, both = torch.ones((2, 1), dtype=torch.float64), torch.ones((2, 2), dtype=torch.float64)
    y_u = null_target(null, c, [p], one, settings())
    y_c = null - 3.0 * (c - null)
    torch.testing.assert_close(y_u + y_c, 2 * null)
    torch.testing.assert_close(null_target(null, c, [c], one, settings(eta_prior=3.0)), null)
    summed = null_target(null, c, [p, q], both, settings(eta_prior=1.0))
    torch.testing.assert_close(summed, null + 3 * (c - null) - (p - null) - (q - null))
    averaged = null_target(null, c, [p, q], both, settings(eta_prior=1.0, correction="mean"))
    torch.testing.assert_close(averaged, null + 3 * (c - null) - ((p - null) + (q - null)) / 2)
    half = null_target(null, c, [p], one / 2, settings(eta_prior=1.0))
    torch.testing.assert_close(half, null + 3 * (c - null) - (p - null) / 2)


def test_published_weights_sum_to_one_for_every_kind(tiny_sd1) -> None:
    info = target_of(tiny_sd1(), "tiny").info
    from dataclasses import replace

    info = replace(info, profiles=("sd1",))
    for kind, iterations in (("person", 1500), ("explicit", 2000), ("style", 750)):
        request = build_request("tiny", "ace", ep.Concept("elsa", kind=kind))
        options = ACE().plan(request, info).options
        total = options["null_weight"] + options["erase_weight"] + options["prior_weight"]
        assert total == pytest.approx(1.0)
        assert options["iterations"] == iterations
        assert (options["steps"], options["lr"], options["rank"], options["alpha"]) == (30, 1e-3, 4, 1.0)


def test_a_step_is_one_pass_of_the_student_over_stored_targets(target, monkeypatch) -> None:
    """Targets equal predictions of the untouched model asked again at the stored states, one by one."""
    seen = Seen(monkeypatch)
    artifact = ep.erase(target, "pizza", "ace", options={**FAST, "iterations": 1, "batch": 1}, listeners=[seen.listen])
    (parts,) = seen.steps
    assert [part.weight for part in parts] == [0.19, 0.01, 0.4, 0.4]
    with torch.no_grad():
        found = [target.predict(part.states.inputs, part.states.timestep, part.cond) for part in parts]
    null, c, p, q = found
    assert parts[0].cond.prompts == ("",)
    assert parts[1].cond.prompts == ("pizza",)
    wanted = [null + 3 * (c - null) - (p - null) - (q - null), null - 3 * (c - null), p, q]
    for part, goal in zip(parts, wanted, strict=True):
        torch.testing.assert_close(part.wanted, goal, atol=1e-5, rtol=1e-4)
    separate = sum(
        part.weight * (out - goal).square().mean() for part, out, goal in zip(parts, found, wanted, strict=True)
    )
    assert seen.losses[0] == pytest.approx(float(separate), rel=1e-5)
    assert artifact.manifest.extra["numbers"]["unet_forwards"] == 2 * (2 * 5 + 2 * 3) - _unvisited(target) + 4


def _unvisited(target) -> int:
    """Passes saved because a trajectory ends at its last kept state."""
    from erase_plugins.engine.trajectories import draw_picks

    picks = draw_picks(2, 5, 3, RunContext("ace").generator("picks erase"))
    return sum(2 * (4 - max(row)) for row in picks)


def gradients(target, method: str, step: int, **options) -> dict[str, torch.Tensor]:
    """Gradient of a training step at the same, already moved, adapters of every method."""
    from erase_plugins.engine.adapters import Adapters

    run, chosen = (
        begun(target, build_request("tiny", method, "pizza", options=options)),
        ep.get_manager().method(method),
    )
    run.adapters = adapters = Adapters(
        target, target.modules("cross_attn"), 4, generator=torch.Generator().manual_seed(1)
    )
    with torch.no_grad():
        for slot in adapters.slots:
            slot.B.normal_(std=0.1, generator=torch.Generator().manual_seed(2))
    with adapters:
        run.state, run.retained = chosen.prepare(run), chosen.retain(run)
        found = torch.autograd.grad(chosen.loss(run, step), adapters.parameters())
    return dict(zip(adapters.named_parameters(), found, strict=True))


def test_without_null_and_prior_terms_its_gradient_is_that_of_esd(target) -> None:
    common = {name: FAST[name] for name in ("iterations", "trajectories", "harvest", "steps", "keep_words", "batch",
                                            "precision", "templates")} | {"eta": 2.0}  # fmt: skip
    esd_only = {**FAST, **common, "null_weight": 0.0, "prior_weight": 0.0, "erase_weight": 1.0}
    for step in range(2):
        ours, esd = gradients(target, "ace", step, **esd_only), gradients(target, "esd", step, **common)
        assert ours.keys() == esd.keys()
        for name, part in esd.items():
            assert float(part.abs().max()) > 0
            torch.testing.assert_close(ours[name], part, rtol=1e-4, atol=1e-7)
    other = gradients(target, "ace", 0, **{**esd_only, "null_weight": 0.1})
    esd = gradients(target, "esd", 0, **common)
    assert any(not torch.allclose(other[name], part, rtol=1e-3, atol=1e-6) for name, part in esd.items())


def test_states_stop_at_their_step(target) -> None:
    """A state picked at step k took exactly k sampler steps; step 0 is the initial noise."""
    calls = []
    scheduler = target.scheduler(6)
    noise = start_noise(target, scheduler, 1, torch.Generator().manual_seed(0))
    cond, null = target.encode(["pizza"]), target.encode([""])
    for k in (0, 3):
        ctx = RunContext("ace")
        state = harvest(target, scheduler, noise, cond, null, [[k]], guidance=3.0, ctx=ctx)
        calls.append(ctx.numbers["unet_forwards"])
        assert float(state.timestep[0]) == float(scheduler.timesteps[k])
    assert calls == [2, 2 * 4]
    first = harvest(target, scheduler, noise, cond, null, [[0]], guidance=3.0)
    assert torch.equal(first.x, noise)


def error(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> float:
    return sum(float((one - two).square().mean()) for one, two in zip(found, wanted, strict=True))


# ---- what training does ------------------------------------------------------------------------------------------


def test_guidance_repels_the_concept_for_prompts_that_never_name_it(target, monkeypatch) -> None:
    seen = Seen(monkeypatch)
    options = {**FAST, "iterations": 120, "trajectories": 6, "batch": 4, "lr": 5e-3, "alpha": 4.0, "eta_prior": 1.0,
               "correction": "mean"}  # fmt: skip
    artifact = ep.erase(target, "pizza", "ace", options=options, listeners=[seen.listen])
    scheduler = target.scheduler(5)
    noise = start_noise(target, scheduler, 6, torch.Generator().manual_seed(77))
    held = harvest(target, scheduler, noise, target.encode(["pizza"] * 6), target.encode([""]), [[0, 2, 4]] * 6,
                   guidance=3.0)  # fmt: skip
    direction = held.predictions["prompt"] - held.predictions["null"]

    def predict(text: str) -> torch.Tensor:
        with torch.no_grad():
            return target.predict(held.inputs, held.timestep, target.encode([text] * len(held)))

    def share(change: torch.Tensor) -> float:
        return float((change * direction).sum() / direction.square().sum())

    before = {text: predict(text) for text in ("", "dog", "rose", "pizza")}
    with artifact.apply(target.pipe):
        after = {text: predict(text) for text in before}
    moved = {text: after[text] - before[text] for text in before}
    assert share(moved[""]) > 0.2
    assert share(moved["pizza"]) < share(moved[""])
    cfg = guided(after[""], after["dog"], 7.5) - guided(before[""], before["dog"], 7.5)
    assert share(cfg) < 0
    assert share(cfg) == pytest.approx((1 - 7.5) * share(moved[""]) + 7.5 * share(moved["dog"]), abs=1e-4)
    assert torch.equal(guided(after[""], after["dog"], 1.0) - after["dog"], torch.zeros_like(cfg)) or float(
        (guided(after[""], after["dog"], 1.0) - after["dog"]).abs().max()) < 1e-5  # fmt: skip
    sizes = {text: float(moved[text].square().mean() / before[text].square().mean()) for text in moved}
    assert max(sizes["dog"], sizes["rose"]) < sizes[""]
    assert sum(seen.losses[-10:]) < 0.8 * sum(seen.losses[:10])
    nulls = [parts[0] for parts in seen.steps[:10]]
    start, goal = ([part.states.predictions["null"] for part in nulls], [part.wanted for part in nulls])
    with torch.no_grad(), artifact.apply(target.pipe):
        reached = [target.predict(part.states.inputs, part.states.timestep, part.cond) for part in nulls]
    assert error(reached, goal) < 0.8 * error(start, goal)


def test_priors_own_trajectories_are_held_with_and_without_prompt(target, monkeypatch) -> None:
    seen = Seen(monkeypatch)
    ep.erase(target, "pizza", "ace", options={**FAST, "iterations": 1, "keep_words": 2, "keep_batch": 2})
    with_prompt, without = seen.steps[0][-2:]
    assert torch.equal(with_prompt.states.x, without.states.x)
    assert without.cond.prompts == ("", "")
    assert torch.equal(without.wanted, without.states.predictions["null"])


def test_sdxl_one_step_with_every_transformer(tiny_sdxl) -> None:
    target = target_of(tiny_sdxl(), "tiny")
    artifact = ep.erase(target, "pizza", "ace", options={**FAST, "iterations": 1})
    assert set(artifact.edit.deltas["unet"]) == {ref.weight for ref in target.modules("transformer")}


# ---- priors and refusals -----------------------------------------------------------------------------------------


def test_priors_that_name_the_target_are_left_out_whatever_their_spelling() -> None:
    kept, dropped = own_priors(["Elsa (Frozen)", "elsa", "Olaf", "olaf ", "Anna", "princess ELSA", " "], ["Elsa"])
    assert kept == ["Olaf", "Anna"]
    assert dropped == ["Elsa (Frozen)", "elsa", "princess ELSA", " "]
    assert own_priors(["Elsa"], ["Elsa (Frozen)".replace("(", "").replace(")", "")]) == ([], ["Elsa"])


def test_scores_from_text_and_from_a_file(target, tmp_path, monkeypatch) -> None:
    seen = Seen(monkeypatch)
    table = tmp_path / "scores.json"
    table.write_text(json.dumps({"dog": 0.0, "umbrella": 0.0, "rose": 0.0}))
    ep.erase(target, "pizza", "ace", options={**FAST, "iterations": 1, "scores": str(table)})
    part = seen.steps[0][0]
    states = part.states.predictions
    torch.testing.assert_close(part.wanted, states["null"] + 3 * (states["prompt"] - states["null"]))
    ep.erase(target, "pizza", "ace", options={**FAST, "iterations": 1, "scores": "text"})
    assert not torch.equal(seen.steps[1][0].wanted, part.wanted)
    table.write_text(json.dumps({"dog": 1.0}))
    with pytest.raises(RequestError, match="no score for the prior 'umbrella'"):
        ep.erase(target, "pizza", "ace", options={**FAST, "scores": str(table)})
    with pytest.raises(RequestError, match="not a JSON file"):
        ep.erase(target, "pizza", "ace", options={**FAST, "scores": str(tmp_path / "none.json")})


def test_every_row_has_the_scores_of_its_own_priors(target, tmp_path, monkeypatch) -> None:
    """y_u = eps(x, "") + eta_u g_c - sum_p gamma_p g_p with the priors that stand beside each state."""
    gammas = {"dog": 0.25, "umbrella": 2.0, "rose": 0.0}
    table = tmp_path / "scores.json"
    table.write_text(json.dumps(gammas))
    seen = Seen(monkeypatch)
    options = {**FAST, "iterations": 1, "trajectories": 6, "batch": 18, "scores": str(table)}
    ep.erase(target, "pizza", "ace", options=options)
    part, _erased, first, second = seen.steps[0]
    pairs = list(zip(first.cond.prompts, second.cond.prompts, strict=True))
    assert len({tuple(gammas[name] for name in pair) for pair in pairs}) > 2

    def predict(*texts: str) -> torch.Tensor:
        with torch.no_grad():
            return target.predict(part.states.inputs, part.states.timestep, target.encode(texts))

    null, concept = predict(*[""] * 18), predict(*["pizza"] * 18)
    wanted = null + 3 * (concept - null)
    for place in (0, 1):
        names = [pair[place] for pair in pairs]
        scale = torch.tensor([gammas[name] for name in names])[:, None, None, None]
        wanted = wanted - scale * (predict(*names) - null)
    torch.testing.assert_close(part.wanted, wanted, atol=1e-4, rtol=1e-4)


def test_a_correction_that_cancels_the_shift_is_told(target) -> None:
    notes = []
    ep.erase(target, "pizza", "ace", options={**FAST, "iterations": 1, "eta_null": 0.01, "eta_prior": 50.0},
             listeners=[lambda event: notes.append(event.message)])  # fmt: skip
    quiet = []
    ep.erase(target, "pizza", "ace", options={**FAST, "iterations": 1, "eta_prior": 0.0},
             listeners=[lambda event: quiet.append(event.message)])  # fmt: skip
    assert not any("cancel" in text for text in quiet)
    assert any("cancel" in text for text in notes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"null_weight": 0, "erase_weight": 0, "prior_weight": 0}, "nothing would be trained"),
        ({"priors": "Pizza"}, "name the target"),
        ({"prior_words": 0}, "prior_words is 0"),
        ({"templates": "pizza"}, "no {}"),
        ({"correction": "median"}, "correction"),
        ({"rank": 0}, "rank"),
    ],
)
def test_bad_options_are_refused_before_any_work(options, message) -> None:
    with pytest.raises(RequestError, match=message):
        ep.plan("pocket", "pizza", "ace", options=options)


def test_anchors_and_distilled_models_are_refused(target) -> None:
    from dataclasses import replace

    with pytest.raises(RequestError, match="no to="):
        ep.plan("pocket", "pizza", "ace", to="bread")
    request = ep.plan(target, "pizza", "ace", options=FAST).request
    configs = {**target.info.configs, "unet": {**target.info.configs["unet"], "time_cond_proj_dim": 256}}
    with pytest.raises(Unsupported, match="guidance-distilled"):
        ACE().plan(request, replace(target.info, configs=configs))
