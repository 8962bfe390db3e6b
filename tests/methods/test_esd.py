"""ESD: conventions, refusals, direction of the erasure, determinism, resume after kill -9."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from safetensors.torch import load_file

import erase_plugins as ep
from erase_plugins.api import build_request
from erase_plugins.api import plan as make_plan
from erase_plugins.artifacts.edit import LowRank
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.trajectories import harvest, start_noise
from erase_plugins.errors import NotFiniteError, RequestError, RunCancelled, UnknownName, Unsupported
from erase_plugins.families.base import Conditioning
from erase_plugins.families.diffusers_target import DiffusersTarget
from erase_plugins.methods.esd import ESD, ESDOptions, esd_target
from erase_plugins.workflow.applying import apply
from erase_plugins.workflow.models import target_of

GOLDEN = Path(__file__).resolve().parents[1] / "golden" / "data"
FAST = {
    "iterations": 4,
    "trajectories": 2,
    "harvest": 3,
    "steps": 5,
    "keep_words": 0,
    "precision": "float32",
    "batch": 2,
}


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def first_loss(target, **options):
    losses = []
    ep.erase(
        target, "pizza", "esd", options={**FAST, "iterations": 1, **options},
        listeners=[lambda event: losses.append(event.numbers["loss"]) if "loss" in event.numbers else None],
    )  # fmt: skip
    return losses[0]


def same(a, b):
    one, other = list(a.items()), list(b.items())
    return [item[:2] for item in one] == [item[:2] for item in other] and all(
        torch.equal(x, other[n][2].tensors()[name])
        for n, (_, _, delta) in enumerate(one)
        for name, x in delta.tensors().items()
    )


def test_first_loss_is_eta_squared_times_the_guidance_direction(target):
    """Student = teacher: L = eta_c^2 mean (eps(c_e) - eps(c_0))^2."""
    unit = first_loss(target, eta=0.0)
    assert unit > 0
    assert first_loss(target, eta=1.0) == pytest.approx(4 * unit, rel=1e-4)
    assert first_loss(target, eta=2.0) == pytest.approx(9 * unit, rel=1e-4)
    assert first_loss(target, eta=3.0, convention="code2025") == pytest.approx(9 * unit, rel=1e-4)
    assert first_loss(target, eta=0.0, convention="code2025") == pytest.approx(0.0, abs=1e-9)


def test_both_conventions_are_the_same_target():
    generator = torch.Generator().manual_seed(0)
    null, erase, base = (torch.randn((2, 4, 8, 8), generator=generator) for _ in range(3))
    torch.testing.assert_close(esd_target(null, erase, erase, 2.5), esd_target(null, erase, null, 1.5))
    torch.testing.assert_close(
        esd_target(null, erase, base, 2.0) - esd_target(null, erase, null, 1.0), base - erase, rtol=1e-5, atol=1e-5
    )
    assert ESDOptions(eta=1.0).eta_code == ESDOptions(eta=2.0, convention="code2025").eta_code == 2.0


@pytest.mark.parametrize(
    ("spelled", "group", "kinds"),
    [("esd-x", "cross_attn", {"lowrank"}), ("strict", "cross_kv", {"lowrank"}), ("ESD-U", "non_cross", {"lowrank"}),
     ("selfattn", "self_attn", {"lowrank"}), ("noxattn", "non_cross", {"lowrank"})],
)  # fmt: skip
def test_train_sets_by_any_of_their_names(target, spelled, group, kinds):
    ready = make_plan(target, "pizza", "esd", options={"train": spelled})
    wanted = [f"{ref.component}.{ref.path}" for ref in target.modules(group) if ref.kind in ("linear", "conv")]
    assert list(ready.modules) == wanted
    assert not any(name.startswith(("unet.time_embedding", "unet.conv_in", "unet.conv_out")) for name in ready.modules)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"train": "xattn2"}, UnknownName, "train"),
        ({"eta": -0.5}, RequestError, "enhance=true"),
        ({"steps": 0}, RequestError, "steps"),
        ({"erase_from": " "}, RequestError, "erase_from is empty"),
        ({"templates": "a photo"}, RequestError, "no {}"),
        ({"parameters": "dora"}, UnknownName, "parameters"),
        ({"speed": 3}, UnknownName, "speed"),
    ],
)
def test_wrong_options_are_refused_at_plan_time(target, options, error, words):
    with pytest.raises(error, match=words):
        make_plan(target, "pizza", "esd", options=options)


def test_wrong_requests_and_models_are_refused_at_plan_time(target):
    with pytest.raises(RequestError, match="empty"):
        make_plan(target, "  ", "esd")
    with pytest.raises(RequestError, match="no to="):
        make_plan(target, "pizza", "esd", to="bread")
    request = make_plan(target, "pizza", "esd").request
    with pytest.raises(Unsupported, match="inpainting"):
        ESD().plan(
            request,
            replace(target.info, configs={**target.info.configs, "unet": {"in_channels": 9, "out_channels": 4}}),
        )
    blind = tuple(ref for ref in target.info.refs if "attn2" not in ref.path)
    with pytest.raises(Unsupported, match="cross_attn"):
        ESD().plan(request, replace(target.info, refs=blind))


def test_a_concept_of_special_tokens_only_is_refused_before_any_work(target):
    with pytest.raises(RequestError, match="no content tokens"):
        ep.erase(target, "<|endoftext|>", "esd", options={**FAST, "templates": "{}"})


def test_plan_needs_no_weights_and_knows_the_profile():
    ready = make_plan("pocket", "pizza", "esd")
    assert ready.options["train"] == "u"
    assert ready.options["lr"] == 2e-3
    assert ready.steps == ready.options["iterations"] == 120
    assert 10 < ready.seconds < 300
    assert ready.notes == ("eta 2.5 (paper) is eta_c 3.5",)
    assert make_plan("pocket", "pizza", "esd", options={"parameters": "full"}).options["lr"] == 1e-4


def test_same_seed_same_edit_and_another_seed_another(target):
    def run(seed):
        return ep.erase(target, "pizza", "esd", options=FAST, seed=seed).edit

    one = run(0)
    assert same(one, run(0))
    assert not same(one, run(1))


def test_the_model_is_untouched_and_the_teacher_exact(target):
    unet = target.pipe.unet
    unet.requires_grad_(True)
    before = {name: part.detach().clone() for name, part in unet.named_parameters()}
    x, cond = torch.ones((1, *target.info.latent_shape)), target.encode(["pizza"])
    with torch.no_grad():
        teacher = target.predict(x, 500, cond)
    ep.erase(target, "pizza", "esd", options={**FAST, "parameters": "full", "train": "all"})
    with torch.no_grad():
        assert torch.equal(target.predict(x, 500, cond), teacher)
    for name, part in unet.named_parameters():
        assert torch.equal(part, before[name])
        assert part.requires_grad
        assert part.grad is None


class StoredPrompts(DiffusersTarget):
    """The UNet and the embeddings of the golden case, where the direction of the erasure was measured."""

    def __init__(self) -> None:
        data = json.loads((GOLDEN / "esd_case1.json").read_text())
        self.stored = load_file(GOLDEN / "esd_case1.safetensors")
        unet = UNet2DConditionModel.from_config(data["unet_config"])
        unet.load_state_dict({k.removeprefix("unet."): v for k, v in self.stored.items() if k.startswith("unet.")})
        scheduler = DDIMScheduler(
            beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", steps_offset=1, clip_sample=False,
            set_alpha_to_one=False,
        )  # fmt: skip
        pipe = SimpleNamespace(unet=unet.eval(), scheduler=scheduler)
        super().__init__(pipe, "golden", ep.get_manager().family("sd1"))

    def encode(self, prompts):
        rows = [self.stored["emb.erase" if prompt else "emb.null"][0] for prompt in prompts]
        return Conditioning(torch.stack(rows), tuple(2 if prompt else 0 for prompt in prompts), None, tuple(prompts))


@pytest.mark.parametrize("options", [{"parameters": "full", "lr": 1e-3}, {"rank": 4, "lr": 1e-2}])
def test_training_moves_the_concept_towards_the_empty_prompt(options):
    """Held-out states: cosine of the change with the direction away from the concept, drift at the empty prompt."""
    target = StoredPrompts()
    given = {**FAST, "train": "x", "iterations": 150, "trajectories": 12, "steps": 20, "harvest": 10, "cooldown": 0.0}
    ready = ESD().plan(build_request("golden", "esd", "van gogh", options={**given, **options}), target.info)
    edit = ESD().run(ready, target, RunContext("esd"))
    scheduler = target.scheduler(20)
    noise = start_noise(target, scheduler, 6, torch.Generator().manual_seed(99))
    cond, null = target.encode(["van gogh"] * 6), target.encode([""])
    held = harvest(target, scheduler, noise, cond, null, [[2, 7, 12, 17]] * 6, guidance=3.0)
    n, e = held.predictions["null"], held.predictions["prompt"]
    parameters = dict(target.pipe.unet.named_parameters())
    with torch.no_grad():
        for key, delta in edit.deltas["unet"].items():
            parameters[key].add_(delta.dense())
        after = target.predict(held.inputs, held.timestep, cond[[0] * len(held)])
        drift = target.predict(held.inputs, held.timestep, null[[0] * len(held)])
    moved, away = (after - e).flatten(1), (n - e).flatten(1)
    assert float(torch.cosine_similarity(moved, away).mean()) >= 0.8
    wanted = esd_target(n, e, e, 2.0)
    assert float((after - wanted).square().mean() / (e - wanted).square().mean()) <= 0.4
    assert float((drift - n).square().mean() / (after - e).square().mean()) < 0.7


def test_strict_with_sgd_stays_in_the_span_of_the_prompt(target):
    """Every gradient is a sum of outer products with embedding rows: rank(dW) <= rank(C)."""
    artifact = ep.erase(
        target, "pizza", "esd",
        options={**FAST, "train": "x-strict", "parameters": "full", "optimizer": "sgd", "lr": 0.5, "templates": "{}"},
    )  # fmt: skip
    rows = target.encode(["pizza"]).embeds[0].double()
    values = torch.linalg.svdvals(rows)
    rank = int((values > 1e-5 * values[0]).sum())
    assert rank < 32
    for _, _, delta in artifact.edit.items():
        found = torch.linalg.svdvals(delta.dense().double())
        assert float(found[0]) > 0
        assert int((found > 1e-5 * found[0]).sum()) <= rank


def test_keeping_holds_what_is_kept(target):
    """The preservation term lowers the change at a kept prompt."""

    def change(**options):
        artifact = ep.erase(
            target,
            "pizza",
            "esd",
            keep=["dog"],
            options={**FAST, "train": "x", "iterations": 60, "lr": 1e-2, **options},
        )
        x, cond = torch.randn((4, *target.info.latent_shape), generator=torch.Generator().manual_seed(5)), "dog"
        cond = target.encode(["a dog"] * 4)
        with torch.no_grad():
            before = target.predict(x, 500, cond)
            with apply(target.pipe, artifact):
                return float((target.predict(x, 500, cond) - before).square().mean())

    assert change(keep_weight=4.0, keep_batch=4) < 0.6 * change(keep_weight=0.0)


def test_erase_from_trains_on_the_other_prompt(target):
    losses = []
    listen = lambda event: losses.append(event.numbers["loss"]) if "loss" in event.numbers else None  # noqa: E731
    artifact = ep.erase(
        target,
        "hat",
        "esd",
        options={**FAST, "erase_from": "cowboy", "templates": "{}", "eta": 1.0},
        listeners=[listen],
    )
    scheduler = target.scheduler(FAST["steps"])
    assert len(artifact.edit) > 0
    # student = teacher at the first step: the loss is eta_c^2 mean (eps(c_e) - eps(c_0))^2 at cowboy's states
    ctx = RunContext("esd")
    noise = start_noise(target, scheduler, 2, ctx.generator("noise erase"))
    watch = {"hat": target.encode(["hat"] * 2)}
    every = [list(range(FAST["steps"]))] * 2
    seen = harvest(
        target, scheduler, noise, target.encode(["cowboy"] * 2), target.encode([""]), every, guidance=3.0, watch=watch
    ).predictions
    spread = (seen["hat"] - seen["null"]).square().mean((1, 2, 3))
    assert 4 * float(spread.min()) * 0.99 <= losses[0] <= 4 * float(spread.max()) * 1.01


def test_student_rollouts_cost_more_and_start_the_same(target):
    def run(**options):
        return ep.erase(target, "pizza", "esd", options={**FAST, "iterations": 12, **options})

    harvested, faithful = run(), run(rollout="student")
    counts = [item.manifest.extra["numbers"]["unet_forwards"] for item in (harvested, faithful)]
    assert counts[1] > 2 * counts[0]
    assert not same(harvested.edit, faithful.edit)


def test_counts_every_forward_pass(target):
    options = {**FAST, "harvest": 5, "keep_words": 3, "keep_batch": 3}
    artifact = ep.erase(target, "pizza", "esd", options=options)
    rolled = 3 + 1 + 3  # one trajectory per template, the empty prompt, kept words
    assert artifact.manifest.extra["numbers"]["unet_forwards"] == 2 * 5 * rolled + 4 * (2 + 3)


def test_sdxl_one_step_with_scaled_latents_and_pooled_prompts(tiny_sdxl):
    model = target_of(tiny_sdxl(), "tiny")
    seen = []
    predict = model.predict
    model.predict = lambda x, t, cond: seen.append((float(x.std()), cond)) or predict(x, t, cond)
    artifact = ep.erase(model, "pizza", "esd", options={**FAST, "iterations": 1, "train": "x"})
    assert 0.7 < seen[0][0] < 1.3  # unscaled Euler latents start at a standard deviation of 5
    assert float(model.scheduler(5, "euler").init_noise_sigma) > 5
    assert all(cond.pooled is not None and len(cond.pooled) == len(cond.last) for _, cond in seen)
    assert artifact.edit.kinds == {"lowrank"}
    assert all(isinstance(delta, LowRank) and "attn2" in key for _, key, delta in artifact.edit.items())


def test_v_prediction_model(tiny_sd1):
    model = target_of(tiny_sd1(prediction="v_prediction"), "tiny")
    assert first_loss(model, eta=1.0) == pytest.approx(4 * first_loss(model, eta=0.0), rel=1e-4)


def test_divergence_is_an_error_and_writes_nothing(target, tmp_path):
    predict, calls = target.predict, []
    target.predict = lambda *given: predict(*given) * (1.0 if calls.append(1) or len(calls) < 8 else float("nan"))
    with pytest.raises(NotFiniteError, match="step 2 of 4"):
        ep.erase(target, "pizza", "esd", out=tmp_path / "art", options=FAST)
    assert not (tmp_path / "art").exists()


def test_cancel_leaves_nothing_half_written_and_resume_equals_uninterrupted(target, tmp_path):
    whole = ep.erase(target, "pizza", "esd", options=FAST, out=tmp_path / "whole")
    cancel = threading.Event()
    with pytest.raises(RunCancelled, match="step 2 of 4"):
        ep.erase(
            target, "pizza", "esd", options=FAST, out=tmp_path / "again", cancel=cancel,
            listeners=[lambda event: event.done == 2 and cancel.set()],
        )  # fmt: skip
    assert not (tmp_path / "again").exists()
    steps = []
    again = ep.erase(
        target, "pizza", "esd", options=FAST, out=tmp_path / "again", resume=True,
        listeners=[lambda event: steps.append(event.done) if "loss" in event.numbers else None],
    )  # fmt: skip
    assert steps == [3, 4]
    assert same(whole.edit, again.edit)
    assert whole.manifest.extra["numbers"] == again.manifest.extra["numbers"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again", "whole"]


_SCRIPT = """
import os, signal, sys
import erase_plugins as ep
from erase_plugins.workflow.models import target_of
from erase_plugins.testing.tiny import tiny_sd1
import torch
torch.set_num_threads(1)
def listen(event):
    if "loss" in event.numbers:
        if event.done == 7:
            os.kill(os.getpid(), signal.SIGKILL)
ep.erase(target_of(tiny_sd1(), "tiny"), "pizza", "esd", options=OPTIONS, out=sys.argv[1], listeners=[listen])
"""


def test_kill_minus_nine_then_resume(preloaded, tmp_path, tiny_sd1):
    """What another process began is gone on with in this one."""
    options = {
        "iterations": 12, "trajectories": 2, "harvest": 3, "steps": 5, "keep_words": 0, "precision": "float32",
        "checkpoint_every": 3,
    }  # fmt: skip
    out = tmp_path / "killed"
    done = subprocess.run(
        [*preloaded, "-c", _SCRIPT.replace("OPTIONS", repr(options)), str(out)], stderr=subprocess.PIPE, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=Path(__file__).resolve().parents[2], timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), done.stderr[-2000:]
    assert not out.exists()
    work = tmp_path / ".killed.work"
    assert {path.name for path in work.iterdir() if not path.name.startswith(".")} >= {
        "checkpoint.safetensors", "states-erase.safetensors",
    }  # fmt: skip

    steps = []
    for place in (out, tmp_path / "whole"):
        ep.erase(
            target_of(tiny_sd1(), "tiny"), "pizza", "esd", options=options, out=place, resume=place == out,
            listeners=[lambda event: steps.append(event.done) if "loss" in event.numbers else None],
        )  # fmt: skip
    assert steps == [*range(7, 13), *range(1, 13)]
    killed, whole = ep.load_artifact(out), ep.load_artifact(tmp_path / "whole")
    assert same(killed.edit, whole.edit)
    assert killed.manifest.extra["numbers"] == whole.manifest.extra["numbers"]
    assert not work.exists()
