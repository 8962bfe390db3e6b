"""Concept inversion against stored runs: losses, gradients and rows after every step, by the attack's own loop."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from erase_plugins.engine.context import RunContext
from erase_plugins.engine.inversion import LearnedRows, Slots, denoising_loss
from erase_plugins.engine.loop import Schedule, train
from erase_plugins.families.diffusers_target import DiffusersTarget
from erase_plugins.families.target import Tokens
from erase_plugins.manager import get_manager

RELATIVE = 1e-6  # as the case files state


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "stored" in metafunc.fixturenames:
        found = []
        for path in sorted(Path(metafunc.config.getoption("--golden-dir")).glob("*.json")):
            data = json.loads(path.read_text())
            found += [(path, run["tag"]) for run in data.get("concept_inversion", {}).get("runs", ())]
        metafunc.parametrize("stored", found, ids=[f"{path.stem}-{tag}" for path, tag in found])


def model(data: dict, tensors: dict, prediction: str) -> DiffusersTarget:
    """The case's erased model in float64."""
    parts = {
        kind: {name.removeprefix(f"{kind}."): part for name, part in tensors.items() if name.startswith(f"{kind}.")}
        for kind in ("te", "unet", "erased")
    }
    with torch.random.fork_rng():
        unet = diffusers.UNet2DConditionModel.from_config(data["model"]["unet_config"])
        text = CLIPTextModel(CLIPTextConfig(**data["model"]["text_config"]))
    unet.load_state_dict(parts["unet"] | parts["erased"])
    text.load_state_dict(parts["te"], strict=False)
    scheduler = diffusers.DDIMScheduler(prediction_type=prediction)
    pipe = SimpleNamespace(unet=unet.double().eval(), text_encoder=text.double().eval(), scheduler=scheduler)
    return DiffusersTarget(pipe, "golden", get_manager().family("sd1"))


def test_every_step_is_the_stored_one(stored):
    path, tag = stored
    data, tensors = json.loads(path.read_text()), load_file(path.with_suffix(".safetensors"))
    run = next(item for item in data["concept_inversion"]["runs"] if item["tag"] == tag)
    target = model(data, tensors, run["prediction_type"])
    ids, size = tensors[f"ci.{tag}.input_ids"], data["model"]["text_config"]["vocab_size"]
    starts = tuple(int(row.tolist().index(size)) for row in ids)
    plain = torch.where(ids >= size, torch.zeros_like(ids), ids)
    where = Slots(Tokens({"text_encoder": plain}, tuple(0 for _ in starts)), starts, run["rows"])
    start = target.token_table("text_encoder")[data["concept_inversion"]["init_id"]].repeat(run["rows"], 1)
    learned, alphas = LearnedRows(target, start), tensors["alphas_cumprod"].double()
    grads, before = [], []

    def loss_of(step: int) -> torch.Tensor:
        latents, noise, times = (tensors[f"ci.{tag}.{name}"][step] for name in ("latents", "noise", "timesteps"))
        loss = denoising_loss(target, latents.double(), noise.double(), times, alphas, learned.encode(where))
        grads.append(torch.autograd.grad(loss, learned.rows, retain_graph=True)[0])
        before.append(learned.rows.detach().clone())
        return loss

    optimizer = "adamw" if run["weight_decay"] == 0.01 else "adam"
    with learned:
        losses = train(RunContext("golden"), learned, loss_of, Schedule(run["steps"], run["lr"], optimizer), "1")
    assert losses == pytest.approx(run["loss"], rel=RELATIVE)
    after = [*before[1:], learned.rows.detach()]
    for step in range(run["steps"]):
        for found, name in ((grads[step], "grad"), (after[step], "v_after")):
            wanted = tensors[f"ci.{tag}.{name}"][step].double()
            assert float((found - wanted).norm()) <= RELATIVE * float(wanted.norm()), (name, step)
        assert float(grads[step].norm()) == pytest.approx(run["grad_norm"][step], rel=RELATIVE)
