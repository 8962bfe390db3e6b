"""ESD against replays of the official scripts: rollouts, targets, losses, gradients, updated weights.

Runs every case in --golden-dir whose JSON holds an ESD replay; unseen cases follow the same format (other train sets,
erase-from prompts, SDXL with a sigma-space sampler).
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from safetensors.torch import load_file

from erase_plugins.api import build_request
from erase_plugins.artifacts.edit import Edit
from erase_plugins.engine import pools
from erase_plugins.engine.adapters import Adapters
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.pools import mean_squares
from erase_plugins.engine.trajectories import States, ask, harvest, repeat
from erase_plugins.families.base import Conditioning
from erase_plugins.families.diffusers_target import DiffusersTarget
from erase_plugins.manager import get_manager
from erase_plugins.methods.esd import ESD, GROUPS, ESDOptions, esd_target

RELATIVE = 1e-4
ABSOLUTE = 1e-5
ROLLOUT = 1e-5  # as the case files state for latents


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--golden-dir"))
        files = [
            path for path in sorted(folder.glob("*.json")) if {"replay", "fixed"} <= json.loads(path.read_text()).keys()
        ]
        metafunc.parametrize("case", files, ids=[path.stem for path in files], indirect=True)


class GoldenTarget(DiffusersTarget):
    """A bare UNet with stored time ids."""

    def __init__(self, unet, scheduler, family, time_ids) -> None:
        super().__init__(SimpleNamespace(unet=unet, scheduler=scheduler), "golden", get_manager().family(family))
        self.time_ids = time_ids

    def _time_ids(self, latents):
        return self.time_ids.reshape(1, -1).expand(latents.shape[0], -1)


def make_scheduler(data: dict):
    """Scheduler from its description, with the case's timesteps."""
    text = data["scheduler"].lower()
    cls = diffusers.EulerDiscreteScheduler if "euler" in text else diffusers.DDIMScheduler
    numbers = re.search(r"(\d*\.\d+)\s*\.\.\s*(\d*\.\d+)", text)
    config = {"beta_schedule": "scaled_linear", "beta_start": float(numbers[1]), "beta_end": float(numbers[2])}
    for key, pattern, convert in (
        ("num_train_timesteps", r"(\d+) train steps", int),
        ("steps_offset", r"steps_offset\s*=?\s*(\d+)", int),
        ("timestep_spacing", r"(leading|trailing|linspace)", str),
        ("clip_sample", r"clip_sample\s*=?\s*(true|false)", lambda word: word == "true"),
        ("set_alpha_to_one", r"set_alpha_to_one\s*=?\s*(true|false)", lambda word: word == "true"),
        ("use_karras_sigmas", r"karras_sigmas\s*=?\s*(true|false)", lambda word: word == "true"),
        ("prediction_type", r"(v_prediction|epsilon)", str),
    ):
        found = re.search(pattern, text)
        if found:
            config[key] = convert(found[1])
    wanted = torch.tensor(data["timesteps"], dtype=torch.float64)
    for spacing in (config.get("timestep_spacing"), "leading", "linspace", "trailing"):
        scheduler = cls.from_config(config | ({"timestep_spacing": spacing} if spacing else {}))
        scheduler.set_timesteps(data["config"]["steps"])
        found = scheduler.timesteps.double()
        if found.shape == wanted.shape and torch.allclose(found, wanted, atol=1e-3, rtol=0):
            return scheduler
    raise AssertionError(f"no scheduler gives the timesteps of {data['scheduler']}")


class Case:
    """One golden case behind the engine's own types."""

    def __init__(self, path: Path) -> None:
        self.data = json.loads(path.read_text())
        self.tensors = load_file(path.with_suffix(".safetensors"))
        with torch.random.fork_rng():
            unet = diffusers.UNet2DConditionModel.from_config(self.data["unet_config"])
        prefix = "unet."
        unet.load_state_dict(
            {name[len(prefix) :]: value for name, value in self.tensors.items() if name.startswith(prefix)}
        )
        self.scheduler = make_scheduler(self.data)
        sdxl = self.data["unet_config"].get("addition_embed_type") == "text_time"
        self.target = GoldenTarget(unet.eval(), self.scheduler, "sdxl" if sdxl else "sd1", self.tensors.get("time_ids"))
        self.config = self.data["config"]
        self.base = "from" if "emb.from" in self.tensors else "erase"

    def cond(self, name: str) -> Conditioning:
        return Conditioning(self.tensors[f"emb.{name}"], (1,), self.tensors.get(f"pooled.{name}"), (name,))

    @property
    def rollout_null(self) -> Conditioning:
        return self.cond("rollout_null" if "emb.rollout_null" in self.tensors else "null")

    def refs(self, names: list[str]):
        paths = {name.rsplit(".", 1)[0] for name in names}
        found = [ref for ref in self.target.info.refs if ref.component == "unet" and ref.path in paths]
        assert {ref.path for ref in found} == paths
        return found

    def adapters(self, method: str) -> Adapters:
        return Adapters(self.target, self.refs(self.data["selected_parameters"][method]), None)

    def rolled(self, n: int) -> States:
        """The engine's own state for iteration ``n``, with the predictions that the target needs."""
        item = self.data["replay"][n]
        return harvest(
            self.target, self.scheduler, self.tensors[f"replay.{n}.x_T"], self.cond(self.base), self.rollout_null,
            [[item["index"]]], guidance=self.config["cfg"],
        )  # fmt: skip

    def observe(self, inputs: torch.Tensor, timestep: float) -> dict[str, torch.Tensor]:
        time = torch.as_tensor([timestep]).to(self.scheduler.timesteps.dtype)
        names = {"null", "erase", self.base}
        with torch.no_grad():
            return {name: ask(self.target, inputs, time, self.cond(name), None) for name in names}

    def state(self, inputs: torch.Tensor, timestep: float) -> States:
        time = torch.as_tensor([timestep]).to(self.scheduler.timesteps.dtype)
        return States(inputs, inputs, time, torch.zeros(1), torch.zeros(1), {})

    def fixed(self) -> list[tuple[str, dict, torch.Tensor]]:
        """(tensor prefix, description, model input) of every formula check."""
        found = []
        for name in self.tensors:
            match = re.fullmatch(r"fixed\.(.*\.)?eps\.null", name)
            if match:
                tag = (match[1] or "").rstrip(".")
                found.append((f"fixed.{match[1] or ''}", self.block(tag), self.model_input(tag)))
        assert found
        return found

    def block(self, tag: str) -> dict:
        merged = dict(self.data["fixed"])
        if tag:
            merged |= {key: value[tag] for key, value in merged.items() if isinstance(value, dict) and tag in value}
            merged |= merged[tag] if isinstance(merged.get(tag), dict) else {}
        return merged

    def model_input(self, tag: str) -> torch.Tensor:
        raw = next(
            self.tensors[name] for name in ("fixed.x_t", "fixed.unscaled_official.x_t", f"fixed.{tag}.x_t")
            if name in self.tensors
        )  # fmt: skip
        if "unscaled" in tag:
            return raw
        index = self.data["fixed"]["index"]
        fresh = make_scheduler(self.data)
        return fresh.scale_model_input(raw, fresh.timesteps[index])


@pytest.fixture
def case(request) -> Case:
    return Case(request.param)


def context() -> RunContext:
    return RunContext("esd")


def test_rollouts_reach_the_stored_latents(case):
    for n, item in enumerate(case.data["replay"]):
        states = case.rolled(n)
        stored = case.tensors[f"replay.{n}.x_t"]
        assert float(states.timestep) == pytest.approx(item["timestep"], abs=1e-3)
        assert float((states.x - stored).abs().max()) <= ROLLOUT
        if item["index"] == 0:
            assert torch.equal(states.x, case.tensors[f"replay.{n}.x_T"])


def test_no_rollout_returns_the_noise_untouched(case):
    noise = case.tensors["replay.0.x_T"]
    states = harvest(
        case.target, case.scheduler, noise, case.cond(case.base), case.rollout_null, [[0]], guidance=case.config["cfg"]
    )
    assert torch.equal(states.x, noise)


def test_model_input_is_scaled_for_sigma_space(case):
    if not hasattr(case.scheduler, "sigmas"):
        states = case.rolled(0)
        assert torch.equal(states.x, states.inputs)
        return
    for n, item in enumerate(case.data["replay"]):
        states = case.rolled(n)
        sigma = case.scheduler.sigmas[item["index"]]
        torch.testing.assert_close(states.inputs, states.x / (sigma**2 + 1).sqrt(), rtol=1e-6, atol=1e-6)


def test_predictions_and_targets(case):
    for prefix, block, inputs in case.fixed():
        seen = case.observe(inputs, block["timestep"])
        for name, value in seen.items():
            stored = case.tensors.get(f"{prefix}eps.{name}")
            assert stored is None or float((value - stored).abs().max()) <= ABSOLUTE, (prefix, name)
        eps = {name: case.tensors.get(f"{prefix}eps.{name}", value) for name, value in seen.items()}
        checked = 0
        for name, stored in case.tensors.items():
            match = re.fullmatch(re.escape(prefix) + r"target_(code|paper)\.(.+)", name)
            if match:
                base = eps[case.base] if match[1] == "code" else eps["null"]
                found = esd_target(eps["null"], eps["erase"], base, float(match[2]))
                assert float((found - stored).abs().max()) <= ABSOLUTE, name
                checked += 1
                if case.base == "erase":  # what the method itself computes from its options
                    convention = {"code": "code2025", "paper": "paper"}[match[1]]
                    eta = ESDOptions(eta=float(match[2]), convention=convention).eta_code
                    own = esd_target(eps["null"], eps["erase"], eps["erase"], eta)
                    assert float((own - stored).abs().max()) <= ABSOLUTE, name
        assert checked


def test_identities(case):
    for _prefix, block, inputs in case.fixed():
        eps = case.observe(inputs, block["timestep"])
        for eta in (1.0, 2.0, 3.0):
            code = esd_target(eps["null"], eps["erase"], eps[case.base], eta)
            paper = esd_target(eps["null"], eps["erase"], eps["null"], eta - 1)
            assert float((code - paper - (eps[case.base] - eps["erase"])).abs().max()) <= ABSOLUTE
        spread = float((eps["erase"] - eps["null"]).square().mean())
        if "mse_cond_minus_uncond" in block:
            assert spread == pytest.approx(block["mse_cond_minus_uncond"], rel=RELATIVE)
        if case.base == "erase":
            for label, numbers in block["at_teacher_weights"].items():
                kind, eta = label.split(":")
                factor = float(eta) ** 2 if kind == "code" else (1 + float(eta)) ** 2
                assert numbers["loss"] == pytest.approx(factor * spread, rel=RELATIVE)


def test_losses_and_gradients_at_the_teacher(case):
    for prefix, block, inputs in case.fixed():
        eps = case.observe(inputs, block["timestep"])
        for label, numbers in block["at_teacher_weights"].items():
            kind, eta = label.split(":")
            wanted = esd_target(eps["null"], eps["erase"], eps[case.base if kind == "code" else "null"], float(eta))
            part = [(case.state(inputs, block["timestep"]), case.cond(case.base), wanted, 1.0)]
            everything = sorted({name for names in case.data["selected_parameters"].values() for name in names})
            adapters = Adapters(case.target, case.refs(everything), None)
            with adapters:
                loss = mean_squares(case.target, part, context())
                grads = torch.autograd.grad(loss, adapters.parameters())
            own = {official(name): grad for name, grad in zip(adapters.named_parameters(), grads, strict=True)}
            assert float(loss.detach()) == pytest.approx(numbers["loss"], rel=RELATIVE)
            for method, norm in numbers["grad_norm"].items():
                squares = [own[name].square().sum() for name in case.data["selected_parameters"][method]]
                total = float(torch.stack(squares).sum().sqrt())
                assert total == pytest.approx(norm, rel=RELATIVE), (prefix, label, method)
            if label == block["grad_stored_for"]:
                stored = {key: case.tensors.get(f"{prefix}grad.{key}") for key in own}
                stored = {key: value for key, value in stored.items() if value is not None}
                assert stored
                for key, value in stored.items():
                    assert float((own[key] - value).norm()) <= RELATIVE * float(value.norm()), key


def official(name: str) -> str:
    """Parameter name of an adapter tensor."""
    path, part = name.removeprefix("unet:").rsplit(".", 1)
    return f"{path}.{'weight' if part == 'dW' else 'bias'}"


def test_a_run_of_the_method_gives_the_official_losses_and_weights(case, monkeypatch):
    """`ESD.run` with the stored noise, sampler steps and order of states in place of drawn ones, all else its own."""
    replay = case.data["replay"]
    found, edit = run_of_the_method(case, monkeypatch, raw=False)
    if found[0] != pytest.approx(replay[0]["loss"], rel=RELATIVE) and hasattr(case.scheduler, "sigmas"):
        found, edit = run_of_the_method(case, monkeypatch, raw=True)  # the official SDXL script feeds unscaled latents
    for loss, item in zip(found, replay, strict=True):
        assert loss == pytest.approx(item["loss"], rel=RELATIVE)
    deltas, checked = edit.deltas["unet"], 0
    before = dict(case.target.pipe.unet.named_parameters())
    for name, stored in case.tensors.items():
        if name.startswith("after."):
            key = name.removeprefix("after.")
            now = before[key].detach() + (deltas[key].dense() if key in deltas else 0.0)
            assert float((now - stored).abs().max()) <= ABSOLUTE, name
            checked += 1
    assert checked
    for name, parameter in before.items():
        assert torch.equal(parameter, case.tensors[f"unet.{name}"]), name


def run_of_the_method(case: Case, monkeypatch, raw: bool) -> tuple[list[float], Edit]:
    """Losses and edit of `ESD.run`.

    Args:
        case: settings, embeddings and noise.
        monkeypatch: replaces what is drawn at random.
        raw: the denoiser is given latents that are not scaled for the sampler.
    """
    config, replay = case.config, case.data["replay"]
    texts = {"": "null", config["erase"]: "erase", case.data["erase_from"] or config["erase"]: case.base}

    def encode(prompts):
        found = [case.cond(texts[prompt]) for prompt in prompts]
        pooled = [item.pooled for item in found if item.pooled is not None]
        last = tuple(0 if prompt == "" else 1 for prompt in prompts)
        return Conditioning(
            torch.cat([item.embeds for item in found]), last, torch.cat(pooled) if pooled else None, tuple(prompts)
        )

    def roll(target, scheduler, noise, cond, null, picks, **more):
        states = harvest(target, scheduler, noise, cond, case.rollout_null, picks, **more)
        if not raw and case.rollout_null.prompts == ("null",):
            return states
        inputs = states.x if raw else states.inputs
        asked = {"null": repeat(null, len(noise)), "prompt": cond, **more["watch"]}
        with torch.no_grad():
            seen = {name: ask(target, inputs, states.timestep, given, None) for name, given in asked.items()}
        return replace(states, inputs=inputs, predictions=seen)

    count = len(replay)
    monkeypatch.setattr(case.target, "encode", encode)
    monkeypatch.setattr(pools, "harvest", roll)
    noises = torch.cat([case.tensors[f"replay.{n}.x_T"] for n in range(count)])
    monkeypatch.setattr(pools, "start_noise", lambda *_: noises)
    monkeypatch.setattr(pools, "draw_picks", lambda *_: [[item["index"]] for item in replay])
    monkeypatch.setattr(pools, "shuffled", lambda _ctx, _name, _count, _size, step: torch.tensor([step]))
    options = {
        "train": config["method"], "iterations": count, "lr": config["lr"], "eta": config["eta"], "steps": config["steps"],
        "guidance": config["cfg"], "convention": "code2025", "parameters": "full", "trajectories": count, "harvest": 1,
        "batch": 1, "keep_words": 0, "cooldown": 0.0, "precision": "float32", "templates": "{}", "optimizer": "adam",
        "sampler": "euler" if hasattr(case.scheduler, "sigmas") else "ddim", "erase_from": case.data["erase_from"],
    }  # fmt: skip
    options = {name: value for name, value in options.items() if value is not None}
    plan = ESD().plan(build_request("golden", "esd", config["erase"], options=options), case.target.info)
    assert set(plan.modules) == {
        f"unet.{ref.path}" for ref in case.refs(case.data["selected_parameters"][config["method"]])
    }
    losses: list[float] = []
    listen = lambda event: losses.append(event.numbers["loss"]) if "loss" in event.numbers else None  # noqa: E731
    return losses, ESD().run(plan, case.target, RunContext("esd", listeners=(listen,)))


def test_train_sets_are_the_official_ones_less_what_stays_frozen(case):
    frozen = re.compile(r"^(time_embedding|add_embedding|conv_in|conv_out)\b|time_emb_proj")
    official = case.data["selected_parameters"]
    for theirs, ours in (("esd-x", "x"), ("esd-x-strict", "x-strict"), ("esd-u", "u"), ("esd-all", "all")):
        if theirs not in official:
            continue
        own = {ref.path for ref in case.target.modules(GROUPS[ours])}
        listed = {name.rsplit(".", 1)[0] for name in official[theirs]}
        if ours in ("x", "x-strict"):
            assert own == listed
        else:
            assert all(frozen.search(path) for path in own ^ listed)
