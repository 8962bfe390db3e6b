"""Full checkpoints on the Hub: diffusers loads them by name, safetensors only, nothing else of the folder."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

import hub_cards
from erase_plugins.errors import BaseMismatch, HubError, PushRefused, RequestError
from erase_plugins.testing.models import fresh_pipeline, shared_pipeline
from erase_plugins.workflow.applying import fuse_checkpoint
from tests.cli.conftest import erase  # noqa: F401
from tests.hub.conftest import REPO

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """The base as a diffusers folder, with files in it that are nobody's business."""
    folder = tmp_path_factory.mktemp("base") / "model"
    fresh_pipeline("tiny_sd1").save_pretrained(folder)
    (folder / "notes.txt").write_text("private")
    (folder / "unet" / "optimizer.bin").write_bytes(b"x")
    (folder / "samples").mkdir()
    (folder / "samples" / "a.json").write_text("{}")
    return folder


def push(artifact, base, repo=REPO, **options):
    return hub_cards.push_merged(artifact, base, repo, **{"license": "mit", **options})


LOAD = """
import sys, torch
from diffusers import DiffusionPipeline
ours = DiffusionPipeline.from_pretrained(sys.argv[1], use_safetensors=True)
theirs = DiffusionPipeline.from_pretrained(sys.argv[2], use_safetensors=True)
for name in ("unet", "text_encoder", "vae"):
    one, two = getattr(ours, name).state_dict(), getattr(theirs, name).state_dict()
    assert one.keys() == two.keys() and all(torch.equal(one[key], two[key]) for key in one), name
print("EQUAL")
"""


def test_diffusers_loads_the_shards_by_name(hub, pizza, base, preloaded_without_hub, tmp_path):
    done = push(pizza, base, shard_bytes=200_000)
    files = hub.files(REPO)
    assert any("-of-0" in name for name in files)
    assert not {name for name in files if name.endswith((".bin", "notes.txt", "a.json"))}
    assert {name.rsplit(".", 1)[1] for name in files} <= {"json", "txt", "safetensors", "md"}
    assert set(done.sent) == set(files)
    fuse_checkpoint(pizza, base, tmp_path / "fused")
    env = {**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*preloaded_without_hub, "-c", LOAD, REPO, str(tmp_path / "fused")],
        env=env,
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert "EQUAL" in done.stdout, done.stderr[-2000:]
    assert not torch.equal(*(read(folder) for folder in (base, tmp_path / "fused")))


def read(folder):
    from safetensors.torch import load_file

    weights = load_file(folder / "unet" / "diffusion_pytorch_model.safetensors")
    return next(value for name, value in sorted(weights.items()) if "attn2.to_k" in name)


def test_card_and_record(hub, pizza, base):
    from huggingface_hub import ModelCard

    push(pizza.with_manifest(base={**pizza.manifest.base, "model": "some/base"}), base, strength=0.5)
    card = ModelCard(hub.files(REPO)["README.md"].decode())
    card.validate()
    data = card.data.to_dict()
    assert (data["base_model"], data["base_model_relation"], data["license"]) == ("some/base", "finetune", "mit")
    assert "lora" not in data["tags"]
    assert f'DiffusionPipeline.from_pretrained("{REPO}")' in card.text.replace("'", '"')
    record = json.loads(hub.files(REPO)["erase_merged.json"])
    assert (record["strength"], record["erased"]) == (0.5, ["pizza"])
    assert {*record["files"], "README.md", "erase_merged.json"} == set(hub.files(REPO))
    (found,) = hub_cards.search(concept="pizza")
    assert (found.full, found.base) == (True, "some/base")


def test_again_and_another_one(hub, pizza, hamburger, base):
    push(pizza, base)
    sent = hub.uploaded()
    assert push(pizza, base).sent == ()
    assert hub.uploaded() == sent
    push(hamburger, base, shard_bytes=200_000)
    assert "unet/diffusion_pytorch_model.safetensors" not in hub.files(REPO)
    with pytest.raises(PushRefused, match="holds a full checkpoint"):
        hub_cards.push(pizza, REPO, license="mit")
    with pytest.raises(HubError, match=f"use it as model='{REPO}'"):
        hub_cards.pull(REPO)


def test_refusals(hub, pizza, base, tmp_path):
    import shutil

    with pytest.raises(PushRefused, match="license='ID'"):
        hub_cards.push_merged(pizza, base, REPO)
    with pytest.raises(BaseMismatch):
        shared_pipeline("tiny_sd1", 1).save_pretrained(tmp_path / "other")
        push(pizza, tmp_path / "other")
    shutil.copytree(base, tmp_path / "pickled")
    vae = tmp_path / "pickled" / "vae"
    (vae / "diffusion_pytorch_model.safetensors").rename(vae / "diffusion_pytorch_model.bin")
    with pytest.raises(RequestError, match=r"'vae' has no diffusion_pytorch_model\.safetensors; pickled"):
        push(pizza, tmp_path / "pickled")
    assert {item.method for item in hub.log} == {"GET"}
    assert hub.store.repositories == {}


def test_the_command(hub, pizza, base, erase):  # noqa: F811
    dry = erase("push", pizza.path, REPO, "--merged", base, "--license", "mit", "--dry-run")
    assert dry.code == 0, dry.err
    assert "unet/diffusion_pytorch_model.safetensors" in dry.out
    assert hub.store.repositories == {}
    ran = erase("push", pizza.path, REPO, "--merged", base, "--license", "mit")
    assert ran.code == 0, ran.err
    assert f"--model {REPO}" in ran.out
    assert erase("push", pizza.path, REPO, "--merged", base, "--report", "x").code == 2
