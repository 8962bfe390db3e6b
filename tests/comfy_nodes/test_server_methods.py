"""Methods of other packages as nodes of the real server: options, run, pictures, stop, resume; and refusals in our words."""

from __future__ import annotations

import pickle
import re
import shutil

import pytest
from safetensors.torch import save_file

from erase_plugins.artifacts.edit import Edit
from erase_plugins.artifacts.tensors import read_tensors
from tests.comfy_nodes import refusing
from tests.comfy_nodes.conftest import ROOT
from tests.layouts.making import artifact_of, random_edit

pytestmark = [pytest.mark.comfy, pytest.mark.slow]

BROKEN = """
import dataclasses, erase_plugins
from erase_nudge import Nudge

@dataclasses.dataclass(frozen=True)
class Strange:
    data: bytes = b""

class Broken(Nudge):
    id, Options = "broken", Strange

@erase_plugins.hookimpl
def erase_methods():
    return [Broken()]
"""


def install(site, module, version, text):
    """A package with one module and our entry point, as pip leaves it behind."""
    (site / f"{module}.py").write_text(text, encoding="utf-8")
    info = site / f"{module}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {module}\nVersion: {version}\n", encoding="utf-8")
    (info / "entry_points.txt").write_text(f"[erase_plugins]\n{module} = {module}\n", encoding="utf-8")


@pytest.fixture(scope="module")
def served(in_comfy, pocket_target, tmp_path_factory):
    """What serving_methods.py saw."""
    base, site = tmp_path_factory.mktemp("server"), tmp_path_factory.mktemp("site")
    for name in ("custom_nodes", "input", "output", "temp", "user", "models/erase_plugins"):
        (base / name).mkdir(parents=True)
    (base / "custom_nodes" / "erase_nodes").symlink_to(ROOT)
    outside = ROOT / "examples" / "outside_method" / "erase_null_value.py"
    install(site, "erase_nudge", "1.2", (ROOT / "tests" / "comfy_nodes" / "erase_nudge.py").read_text(encoding="utf-8"))
    install(site, "erase_null_value", "0.1", outside.read_text(encoding="utf-8"))
    install(site, "erase_broken", "3.0", BROKEN)
    place = base / "models" / "erase_plugins"
    (base / "custom_nodes" / "odd_models.py").symlink_to(ROOT / "tests" / "comfy_nodes" / "odd_models.py")
    (place / "old.ckpt").write_bytes(b"x")
    (place / "disguised.safetensors").write_bytes(pickle.dumps({"weight": [1.0] * 200}))
    (base / "models" / "secret.safetensors").write_bytes(b"x")
    edit = random_edit(pocket_target, ("cross_kv", "text"))
    artifact_of(pocket_target, edit, "with_text").save(place / "with_text", ("patch",))
    artifact_of(pocket_target, Edit(edit.family, {"unet": edit.deltas["unet"]}), "part").save(base / "part", ("kohya",))
    (file,) = (base / "part").glob("*.safetensors")
    tensors, _ = read_tensors(file)
    name = next(name for name in tensors if name.endswith("lora_down.weight"))
    for part in ("lora_down.weight", "lora_up.weight"):
        stem = name.removesuffix("lora_down.weight")
        tensors[f"lora_unet_down_blocks_9_attentions_0_transformer_blocks_0_attn2_to_k.{part}"] = tensors[
            stem + part
        ].clone()
    save_file(tensors, place / "partial.safetensors", metadata={"format": "pt"})
    only = {key: value for key, value in tensors.items() if "down_blocks_9" in key}
    save_file(only, place / "nothing_fits.safetensors", metadata={"format": "pt"})
    shutil.rmtree(base / "part")
    return in_comfy("serving_methods.py", str(base), str(site))


def text_of(answer):
    return answer["output"]["9"]["text"][0]


def test_a_method_of_another_package_is_a_node_with_its_options(served):
    node = served["nodes"]["EraseMethodSlowNudge"]
    optional = node["input"]["optional"]
    assert optional["iterations"][0] == "INT"
    assert (optional["iterations"][1]["min"], optional["iterations"][1]["max"]) == (1, 1000)
    assert optional["way"][0] == ["towards", "away"]
    assert node["experimental"] is True
    assert node["category"] == "erase/make"
    assert "erase_nudge" in node["description"].replace("-", "_")
    assert "EraseMethodNullValue" in served["nodes"]


def test_it_trains_on_the_connected_model_and_shows_pictures(served):
    answer = served["run"]
    assert answer["end"] == "execution_success"
    assert re.search(r"patched (\d+) of \1 modules", text_of(answer))
    assert [value for node, value, _ in answer["progress"] if node == "2"] == [1, 2, 3, 4]
    assert answer["pictures"] >= 2
    assert served["changed"]


def test_strength_0_is_the_base_and_trains_nothing(served):
    assert served["off"]["end"] == "execution_success"
    assert served["off_same"]
    assert [entry for entry in served["off"]["progress"] if entry[0] == "2"] == []


def test_a_stop_is_answered_within_a_few_steps_and_leaves_the_model_as_it_was(served):
    answer = served["stopped"]
    assert answer["end"] == "execution_interrupted"
    assert answer["steps_after_stop"] <= 4  # of the seven that were left, a fifth of a second each
    assert served["base_after"]


def test_the_same_request_goes_on_where_it_was_stopped(served):
    answer = served["resumed"]
    assert answer["end"] == "execution_success"
    step = int(re.search(r"resume: step (\d+)", text_of(answer))[1])
    assert 3 <= step < 10
    assert [value for node, value, _ in answer["progress"] if node == "2"] == list(range(step + 1, 11))


def test_the_example_package_runs(served):
    assert served["null"]["end"] == "execution_success"
    assert "patched 7 of 7 modules" in text_of(served["null"])


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("nothing named", "no concept to erase"),
        ("named twice", "'Pizza' is named twice"),
        ("own guide", "'pizza' would become itself"),
        ("pickle", "'old.ckpt' is no .safetensors file"),
        ("outside", "lies outside the model folder"),
    ],
)
def test_wrong_widgets_are_refused_before_anything_runs(served, case, text):
    answer = served["refused"][case]
    assert answer["status"] == 400
    assert text in answer["node_errors"]["2"]["errors"][0]["details"]


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("too long", "is longer than 30 tokens; shorten it"),
        ("no model", "nothing to erase from; connect MODEL and CLIP"),
        ("option", "option iterations=0 is below its minimum 1"),
        ("no checkpoint", "no model 'nowhere.safetensors' in models/checkpoints"),
        ("outside checkpoint", "lies outside models/checkpoints and models/diffusers"),
        ("partial", "not in this model; nothing was changed"),
        ("clip missing", "connect the CLIP of this model"),
    ],
)
def test_what_fails_while_it_runs_says_so_in_our_words(served, case, text):
    answer = served["refused"][case]
    assert answer["end"] == "execution_error"
    assert text in answer["error"]
    if case == "partial":
        assert re.search(r"patched \d+ of \d+ modules", answer["error"])


@pytest.mark.parametrize("case", refusing.architectures())
def test_models_of_other_architectures_are_refused_by_every_node(served, case):
    """Models of these families are erased (`test_flow`), but not with the CLIP and edits of another one."""
    answer = served["refused"][case]
    assert answer["end"] == "execution_error", answer
    name, node = case.split()
    title = {"flux": "FLUX.1", "sd3": "Stable Diffusion 3 / 3.5", "aura": "AuraFlow"}[name]
    if name == "aura":
        assert answer["error"].startswith(f"{title} has no UNet with text cross-attention; connect a Stable Diffusion")
    elif node == "EraseEmbeddingPatch":
        assert answer["error"].startswith(f"the map is for text rows of 256, {title} in ComfyUI takes ")
    else:
        wanted = (
            f"this CLIP belongs to another model: it has no .+ text encoder, which {re.escape(title)} in ComfyUI takes"
        )
        assert re.match(wanted, answer["error"])


@pytest.mark.parametrize("case", refusing.encoders())
def test_text_encoders_of_other_models_are_refused(served, case):
    answer = served["refused"][case]
    assert answer["end"] == "execution_error", answer
    wanted = {
        "OddClip": "this CLIP belongs to another model: it gives rows of 96, pocket takes ",
        "OddT5": "text encoder T5Tokenizer is no CLIP; connect that of a Stable Diffusion",
    }
    assert answer["error"].startswith(wanted[case.split()[0]])


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("pickle by reference", "'old.ckpt' is no .safetensors file; other kinds can run code when opened"),
        ("outside by reference", "'../secret.safetensors' lies outside the model folder"),
        ("nothing fits", "patched 0 of 1 modules"),
    ],
)
def test_wrong_files_are_refused_in_our_words(served, case, text):
    answer = served["refused"][case]
    assert answer["end"] == "execution_error", answer
    assert text in answer["error"]


def test_a_file_that_is_something_else_is_refused_before_anything_runs(served):
    answer = served["refused"]["disguised"]
    assert answer["status"] == 400, answer
    (error,) = {item["details"].partition(" - ")[2] for item in answer["node_errors"]["4"]["errors"]}
    assert "disguised.safetensors: a pickle or zip file" in error and "not opened" in error


def test_a_broken_package_costs_its_own_node_and_the_doctor_tells(served):
    assert "EraseMethodBroken" not in served["nodes"]
    text = served["doctor"]["output"]["1"]["text"][0]
    assert re.search(r"problem: .*(broken|erase_broken)", text)
    assert "slow-nudge" in text
