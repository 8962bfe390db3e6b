"""Where ComfyUI is, and a stand-in for its ModelPatcher for tests without it."""

from __future__ import annotations

import copy
import json
import os
import subprocess
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from comfy_nodes.naming import DENOISER
from comfy_nodes.pocket import original_config
from tests import preloaded
from tests.comfy.unpack import comfy_environment
from tests.comfy_nodes import comfy_server
from tests.layouts.making import artifact_of, dense_edit, random_edit

ROOT = Path(__file__).parent.parent.parent


def pytest_collection_modifyitems(items):
    """A clone runs everything, the other way to install what is marked smoke: the same files in other places."""
    for item in items:
        way = getattr(item, "callspec", None) and item.callspec.params.get("client")
        if getattr(way, "__name__", "") == "pip_installed" and not item.get_closest_marker("smoke"):
            item.add_marker(pytest.mark.full)


@pytest.fixture(scope="session")
def environment():
    """(interpreter, ComfyUI folder); skips with the reason where there is none."""
    found = comfy_environment()
    if isinstance(found, str):
        if os.environ.get("ERASE_REQUIRE_COMFY"):
            pytest.fail(found)
        pytest.skip(found)
    return found


@pytest.fixture(scope="session")
def preloaded_comfy(environment, once):
    """What runs a script in the ComfyUI interpreter with the libraries imported."""
    return preloaded.command(environment[0], once("preloaded", lambda folder: None), "comfy", preloaded.COMFY)


@pytest.fixture(scope="session")
def in_comfy(environment, preloaded_comfy):
    """Function that runs a script of this folder in the ComfyUI interpreter and gives what it printed as RESULT.

    A ``fresh`` one finds no library imported.
    """
    python, folder = environment

    def run(script: str, *arguments: str, env: dict[str, str] | None = None, fresh: bool = False) -> dict[str, Any]:
        interpreter = [str(python)] if fresh else preloaded_comfy
        child = {"ERASE_PRELOADED": json.dumps(interpreter)}
        done = subprocess.run(
            [*interpreter, str(Path(__file__).parent / script), str(folder), *arguments],
            capture_output=True, text=True, timeout=580, cwd=folder, check=False,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **child,
                 **(env or {})},
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-3000:]
        answer = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
        return json.loads(answer.removeprefix("RESULT "))

    return run


@pytest.fixture(scope="session")
def small_checkpoint(in_comfy, once):
    """What small_checkpoint.py writes; tests put a hard link to it where they need it, and nobody may change it."""
    name = "small.safetensors"
    return once("small_checkpoint", lambda folder: in_comfy("small_checkpoint.py", str(folder / name))) / name


@pytest.fixture(scope="session")
def answered(in_comfy, pocket_target, tmp_path_factory):
    """(base folder, what server.py printed); an artifact of another model is among the files of the server."""
    base = comfy_server.prepare(tmp_path_factory.mktemp("server"), ROOT, "erase_nodes")
    other = artifact_of(pocket_target, dense_edit(pocket_target), "wrong_base")
    fingerprint = json.loads(json.dumps(other.manifest.base["fingerprint"]))
    fingerprint["unet"] = {**fingerprint["unet"], "structure": "0" * 64, "keys": ""}
    changed = replace(other.manifest, base={**other.manifest.base, "model": "a larger one", "fingerprint": fingerprint})
    replace(other, manifest=changed).save(base / "models" / "erase_plugins" / "wrong_base", ("patch",))
    return base, in_comfy("server.py", str(base), str(ROOT))


class FakePatcher:
    """As much of a ModelPatcher as the nodes touch: weights of a tiny UNet, patches, clones."""

    def __init__(self, weights: dict[str, torch.Tensor], config: dict[str, Any]) -> None:
        kind = type("SD15", (), {"unet_config": config})
        self.model = SimpleNamespace(model_config=kind(), model_type=SimpleNamespace(name="EPS"))
        self.weights, self.patches, self.model_options = weights, {}, {"transformer_options": {}}
        self.weight_wrapper_patches: dict[str, list[Any]] = {}
        self.patches_uuid = "first"
        self.attachments: dict[str, Any] = {}

    def get_key_patches(self, prefix: str | None = None) -> dict[str, list[Any]]:
        plain = {key: (value, lambda item, **_: item) for key, value in self.weights.items()}
        return {key: [found, *self.patches.get(key, ())] for key, found in plain.items()}

    def clone(self) -> FakePatcher:
        other = copy.copy(self)
        other.model_options = copy.deepcopy(self.model_options)
        other.weight_wrapper_patches = {key: list(value) for key, value in self.weight_wrapper_patches.items()}
        other.attachments = dict(self.attachments)
        other.patches = {key: value[:] for key, value in self.patches.items()}
        return other

    def add_patches(self, patches: dict[str, Any], strength_patch: float = 1.0, strength_model: float = 1.0) -> Any:
        found = [key for key in patches if key in self.weights]
        for key in found:
            self.patches.setdefault(key, []).append((strength_patch, patches[key], strength_model, None, None))
        self.patches_uuid = object()
        return found

    def set_attachments(self, key: str, value: Any) -> None:
        self.attachments[key] = value

    def get_attachment(self, key: str) -> Any:
        return self.attachments.get(key)

    def set_model_patch(self, patch: Any, name: str) -> None:
        patches = self.model_options["transformer_options"].setdefault("patches", {})
        patches.setdefault(name, []).append(patch)

    def set_model_attn2_patch(self, patch: Any) -> None:
        self.set_model_patch(patch, "attn2_patch")

    def add_weight_wrapper(self, key: str, wrapper: Any) -> None:
        self.weight_wrapper_patches.setdefault(key, []).append(wrapper)


@pytest.fixture
def fake_model(tiny_sd1, monkeypatch):
    """(FakePatcher in ComfyUI's names, the diffusers pipeline with the same weights)."""
    from comfy_nodes import row_maps
    from erase_plugins.families.naming import sgm_path

    monkeypatch.setattr(row_maps, "_kind", lambda: row_maps.RowMap)
    pipe = tiny_sd1()
    config = dict(pipe.unet.config)
    weights = {}
    for name, value in pipe.unet.state_dict().items():
        path, _, leaf = name.rpartition(".")
        weights[f"{DENOISER}{sgm_path(path, config)}.{leaf}"] = value.clone()
    return FakePatcher(weights, original_config(config)), pipe


def context_edit(width: int, seed: int = 0) -> Any:
    """A random context map of rank 2."""
    from erase_plugins.artifacts.edit import ContextMap, Edit

    draw = torch.Generator().manual_seed(seed)
    A, B = (0.1 * torch.randn(shape, generator=draw) for shape in ((2, width), (width, 2)))
    return Edit("sd1", {"unet": {"context": ContextMap(A, B)}})


def plain_edits(target: Any) -> dict[str, Any]:
    """An edit of every kind that changes nothing but weights."""
    return {
        "lowrank": random_edit(target, ("denoiser",)),
        "dense": dense_edit(target),
        "contextmap": context_edit(target.info.width),
    }


def save_edits(target: Any, edits: Mapping[str, Any], work: Path) -> None:
    """Each edit as an artifact of its name, where ComfyUI looks for them below its folder ``work``."""
    for name, edit in edits.items():
        artifact_of(target, edit, name).save(work / "models" / "erase_plugins" / name, ("patch",))
