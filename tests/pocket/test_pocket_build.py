"""All stages end to end on three shapes, with a kill in every stage; the result is a loadable model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from erase_plugins.errors import RequestError
from tools.pocket.build import WORK, Build
from tools.pocket.drawing import load_flow_pipeline, load_judge, load_pipeline
from tools.pocket.recipe import STAGES

LOOPS = ("vae", "decoder", "denoiser", "refine", "judge", "flow")


class Killed(BaseException):
    pass


@pytest.fixture(scope="module")
def whole(tmp_path_factory, small_world, small_sprites, small_recipe):
    """An uninterrupted run: folder and numbers by stage."""
    out = tmp_path_factory.mktemp("build") / "whole"
    build = Build(out, small_world, small_sprites, small_recipe)
    return out, {stage: build.run(stage) for stage in STAGES}


def test_folder_has_the_package_structure(whole, small_world):
    out, numbers = whole
    assert {path.name for path in out.iterdir()} == {
        WORK,
        "model",
        "flow",
        "judge.safetensors",
        "concepts.json",
        "quality.json",
    }
    package = Path(__file__).parents[2] / "erase_plugins" / "pocket"
    relative = {str(path.relative_to(package / "model")) for path in (package / "model").rglob("*") if path.is_file()}
    made = {str(path.relative_to(out / "model")) for path in (out / "model").rglob("*") if path.is_file()}
    assert made - {".erase-plugins"} == relative  # the marker of folders that we wrote
    assert all(tensor.dtype == torch.float16 for tensor in load_file(out / "judge.safetensors").values())
    assert load_judge(out / "judge.safetensors")[1]["concept"] == ["disc", "box", "bar", "nothing"]
    assert json.loads((out / "concepts.json").read_text())["concepts"][0]["name"] == small_world.concepts[0].name
    assert set(numbers) == set(STAGES)


def test_model_is_the_average_and_draws(whole, small_recipe):
    out, numbers = whole
    pipe = load_pipeline(out / "model")
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    trained = load_file(out / WORK / "refine.safetensors")
    name = "conv_in.weight"
    assert torch.equal(pipe.unet.state_dict()[name], trained[f"ema.unet.{name}"].half().float())
    assert not torch.equal(trained[f"ema.unet.{name}"], trained[f"unet.{name}"])
    latents = load_file(out / WORK / "latents.safetensors")["latents"]
    assert latents.shape == (12, 2, 4, 8, 8)
    scaled = latents.float() * pipe.vae.config.scaling_factor
    assert float(scaled.std()) == pytest.approx(1, abs=1e-3)
    assert pipe.tokenizer.model_max_length == 16
    picture = pipe("a disc", num_inference_steps=2, generator=torch.Generator().manual_seed(0)).images[0]
    assert picture.size == (16, 16)
    assert numbers["denoiser"]["scaling_factor"] == pipe.vae.config.scaling_factor


def test_flow_folder_is_put_together_and_draws(whole, tmp_path):
    out, _ = whole
    pipe = load_flow_pipeline(out / "flow", tmp_path)
    assert type(pipe).__name__ == "StableDiffusion3Pipeline"
    trained = load_file(out / WORK / "flow.safetensors")
    name = "context_embedder.weight"
    assert torch.equal(pipe.transformer.state_dict()[name], trained[f"ema.transformer.{name}"].half().float())
    base = load_pipeline(out / "model")
    with torch.no_grad():
        ids = torch.zeros(1, 16, dtype=torch.long)
        theirs, mine = base.text_encoder(ids)[0], pipe.text_encoder_2(ids).last_hidden_state
    assert torch.equal(theirs, mine)
    assert float(pipe.text_encoder.text_projection.weight.std()) > 0
    assert torch.equal(pipe.vae.decoder.conv_out.weight, base.vae.decoder.conv_out.weight)
    noise = torch.Generator().manual_seed(0)
    assert pipe("a disc", num_inference_steps=2, height=16, width=16, generator=noise).images[0].size == (16, 16)
    stored = {path.name for path in (out / "flow" / "text_encoder").iterdir()}
    assert stored == {"config.json"}  # the weights are those beside it


def test_decoder_stage_leaves_the_encoder(whole):
    out, _ = whole
    first, second = (load_file(out / WORK / f"{name}.safetensors") for name in ("vae", "decoder"))
    same = {name for name in first if torch.equal(first[name], second[name])}
    assert {name for name in first if name.startswith(("vae.encoder", "vae.quant_conv"))} <= same
    assert "vae.decoder.conv_out.weight" not in same


def test_measured_numbers(whole):
    quality = json.loads((whole[0] / "quality.json").read_text())
    assert quality["drawn"]["concept"]["n"] == 3
    assert quality["synonym"]["concept"]["n"] == 3
    assert quality["judge_on_training_pictures"]["background"]["n"] == 1024
    assert 3 < quality["vae_psnr_pooled_db"] <= quality["vae_psnr_db"] < 40


def test_killed_in_every_loop_and_resumed_is_the_same(whole, tmp_path, small_world, small_sprites, small_recipe):
    done: dict[str, int] = {}

    def kill_once(stage: str, step: int, *_: object) -> None:
        if stage != "measure" and step == 3 and stage not in done:
            done[stage] = step
            raise Killed

    for stage in STAGES[:-1]:
        while True:
            try:
                Build(tmp_path / "part", small_world, small_sprites, small_recipe, on_step=kill_once).run(stage)
                break
            except Killed:
                continue
    assert tuple(done) == LOOPS
    for path in ("judge.safetensors", "flow/transformer/diffusion_pytorch_model.safetensors",
                 "model/unet/diffusion_pytorch_model.safetensors",
                 "model/text_encoder/model.safetensors", "model/vae/diffusion_pytorch_model.safetensors"):  # fmt: skip
        a, b = load_file(whole[0] / path), load_file(tmp_path / "part" / path)
        assert a.keys() == b.keys()
        assert all(torch.equal(a[name], b[name]) for name in a), path


def test_stages_out_of_order_say_what_is_missing(tmp_path, small_world, small_sprites, small_recipe):
    build = Build(tmp_path, small_world, small_sprites, small_recipe)
    with pytest.raises(RequestError, match=r"stage 'vae' has no checkpoint .*--stage vae"):
        build.run("decoder")
    with pytest.raises(RequestError, match=r"stage 'decoder' has no checkpoint"):
        build.run("denoiser")
    with pytest.raises(RequestError, match=r"no model/model_index\.json to measure"):
        build.run("measure")


CHILD = """
import sys
import torch
from pathlib import Path
from tools.pocket.loop import run_stage
sys.path.insert(0, {tests!r})
from pocket_toy import RECIPE, toy
import time
torch.set_num_threads(1)
run_stage(toy(150), Path({folder!r}), RECIPE, lambda *_: time.sleep(0.002))
"""


def test_kill_signal_during_checkpoints(tmp_path):
    """A process that saves every three steps is killed at an arbitrary moment; what it left is whole and goes on."""
    from pocket_toy import RECIPE, toy

    from tools.pocket.loop import finished, run_stage

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    for folder in (killed, whole):
        folder.mkdir()
    root = str(Path(__file__).parents[2])
    code = CHILD.format(tests=str(Path(__file__).parent), folder=str(killed))
    child = subprocess.Popen([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": root}, cwd=tmp_path)
    path = killed / "toy.safetensors"
    limit = time.monotonic() + 60
    while finished(path) < 30 and time.monotonic() < limit and child.poll() is None:
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert 30 <= finished(path) < 150
    run_stage(toy(150), killed, RECIPE)
    run_stage(toy(150), whole, RECIPE)
    a, b = load_file(path), load_file(whole / "toy.safetensors")
    assert all(torch.equal(a[name], b[name]) for name in b)
