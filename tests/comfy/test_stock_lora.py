"""Stock ComfyUI reads our Kohya and .diff files: every module patched, weights as ours. Needs an unpacked ComfyUI."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
import torch

from erase_plugins.artifacts.tensors import read_tensors
from erase_plugins.families.naming import sgm_path
from erase_plugins.families.source import pocket_folder
from erase_plugins.runtime.patcher import delta_tensor
from tests.comfy_nodes.conftest import environment, preloaded_comfy  # noqa: F401  (fixtures)
from tests.families.test_naming import info_of
from tests.layouts.making import artifact_of, dense_edit, random_edit

pytestmark = pytest.mark.comfy
STRENGTH = 0.8
#: original UNet configurations of the published models, as far as the name map depends on them
MAPS = {
    "sd15": {
        "num_res_blocks": [2, 2, 2, 2], "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0],
        "transformer_depth_output": [1] * 9 + [0] * 3, "transformer_depth_middle": 1,
    },
    "sdxl": {
        "num_res_blocks": [2, 2, 2], "channel_mult": [1, 2, 4], "transformer_depth": [0, 0, 2, 2, 10, 10],
        "transformer_depth_output": [0, 0, 0, 2, 2, 2, 10, 10, 10], "transformer_depth_middle": 10,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def result(environment, preloaded_comfy, pocket_target, tmp_path_factory):  # noqa: F811
    """Edits, counts and patched weights of one run of the ComfyUI process."""
    folder = environment[1]
    work = tmp_path_factory.mktemp("comfy")
    edits = {
        "kohya": random_edit(pocket_target, ("denoiser", "text")),
        "kohya text": random_edit(pocket_target, ("text_mlp",)),
        "diff": dense_edit(pocket_target, "denoiser"),
    }
    files = []
    for name, edit in edits.items():
        layout = name.split()[0]
        saved = artifact_of(pocket_target, edit, f"erase_{layout}").save(work / name, (layout,))
        files.append(str(work / name / saved.manifest.files[0].name))
    job = {
        "model": str(pocket_folder()),
        "files": files,
        "strength": STRENGTH,
        "out": str(work / "o.safetensors"),
        "maps": MAPS,
    }
    (work / "job.json").write_text(json.dumps(job), encoding="utf-8")
    script = Path(__file__).parent / "stock_lora.py"
    done = subprocess.run(
        [*preloaded_comfy, str(script), str(folder), str(work / "job.json")],
        capture_output=True, text=True, timeout=500, cwd=folder, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answer = next(line for line in done.stdout.splitlines() if line.startswith("RESULT "))
    tensors, _ = read_tensors(work / "o.safetensors")
    return list(edits.values()), json.loads(answer.removeprefix("RESULT ")), tensors, done.stderr


@pytest.mark.parametrize("index", [0, 1, 2], ids=["kohya", "kohya text", "diff"])
def test_every_module_is_patched_and_equals_ours(index, result, pocket_target):
    from erase_plugins.artifacts.weights import base_tensors

    edits, answer, tensors, _ = result
    edit = edits[index]
    mine = {name: value for name, value in tensors.items() if name.startswith(f"{index}|")}
    for component in edit.deltas:
        padding = 1 if index == 1 else 0  # the zero projection for diffusers
        assert answer["counts"][index][component] == len(edit.deltas[component]) + padding
    for component, key, delta in edit.items():
        base = base_tensors(pocket_target, component)[key].float()
        ours = base + STRENGTH * delta_tensor(delta, base.shape)
        theirs = mine[f"{index}|{component}|{key}"]
        assert (theirs - ours).norm() <= 1e-6 * ours.norm(), key
        assert not torch.equal(theirs, base)


def test_no_key_is_left_over(result):
    """Only text encoder keys are unknown to the loader that was given no text encoder."""
    skipped = [line for line in result[3].splitlines() if "lora key not loaded" in line]
    assert skipped
    assert all("lora_te_" in line for line in skipped)


@pytest.mark.parametrize("model", ["sd15", "sdxl"])
def test_original_names_of_published_models(model, result):
    theirs = result[1]["maps"][model]
    info = info_of(model)
    refs = [ref for ref in info.refs if ref.component == "unet"]
    assert len(refs) > 250
    for ref in refs:
        assert sgm_path(ref.path, info.configs["unet"]) == theirs[ref.weight].removesuffix(".weight")
