"""Every code block of a card is run, in the order of the page, against the test Hub; so is every LoRA file name."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import hub_cards
from erase_plugins import erase as run_method
from erase_plugins import load_artifact
from erase_plugins.testing.models import shared_pipeline
from erase_plugins.testing.observe import predictions
from tests.cli.conftest import erase  # noqa: F401
from tests.hub.conftest import REPO

BASE = "tester/tiny"
BLOCK = re.compile(r"^```(\w+)\n(.*?)\n```$", flags=re.DOTALL | re.MULTILINE)
CONCEPTS = ["pizza", 'it\'s a "car" $HOME']


@pytest.fixture
def revision(hub, tmp_path, monkeypatch):
    """A base model on the test Hub; the working folder is empty. Gives its commit."""
    import diffusers.loaders.lora_base as lora_base
    from huggingface_hub import HfApi

    monkeypatch.setattr(lora_base, "HF_HUB_OFFLINE", False)
    shared_pipeline("tiny_sd1").save_pretrained(tmp_path / "model", safe_serialization=True)
    HfApi().create_repo(BASE)
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return HfApi().upload_folder(repo_id=BASE, folder_path=tmp_path / "model").oid


@pytest.fixture
def published(hub, tmp_path, revision):
    """An artifact of that base on the test Hub. Gives the card."""
    made = run_method(
        BASE, CONCEPTS, "uce", out=tmp_path / "made", keep=["a plate"], options={"vocabulary": "20", "aliases": "true"}
    )
    assert made.manifest.base["revision"] == revision, "the commit, although no revision was named"
    hub_cards.push(tmp_path / "made", REPO, license="mit")
    return hub.files(REPO)["README.md"].decode()


def shell(hub, home, lines):
    """Runs shell lines as a visitor of the page would, with the client's own command line program."""
    env = {**os.environ, **hub.environment(home), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-euc", lines], env=env, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_every_block_runs(hub, published, erase, tmp_path):  # noqa: F811
    made = load_artifact(tmp_path / "made")
    pipe = shared_pipeline("tiny_sd1")
    base = predictions(pipe)
    with made.apply(pipe):
        edited = predictions(pipe)
    scope: dict[str, object] = {}
    ran = []
    for language, lines in BLOCK.findall(published):
        if language == "bibtex":
            assert lines.startswith("@")
            continue
        if language == "python":
            space = scope if "pipe.load_lora_weights" in lines or "disable_lora" in lines else {}
            exec(compile(lines, "card", "exec"), space)
            if "pipe.load_lora_weights" in lines:
                found = predictions(space["pipe"])
                assert max((one - two).abs().max() for one, two in zip(found, edited, strict=True)) < 1e-5
                assert not all(torch.equal(one, two) for one, two in zip(found, base, strict=True))
            if "PeftModel" in lines:
                found = predictions(space["pipe"])
                assert max((one - two).abs().max() for one, two in zip(found, edited, strict=True)) < 1e-5
            if "disable_lora" in lines:
                assert all(torch.equal(one, two) for one, two in zip(predictions(space["pipe"]), base, strict=True))
            ran.append(language)
        elif lines.startswith("hf "):
            assert shutil.which("hf", path=str(Path(sys.executable).parent)), "the client's program is missing"
            shell(hub, tmp_path / "home", lines)
            ran.append("hf")
        else:
            name, *words = shlex.split(lines.replace("\\\n", ""))
            assert name == "erase-plugins"
            # the made-up concept has characters that the tiny tokenizer lacks, which `run` refuses unless told otherwise
            done = erase(*words, *(["--no-check"] if words[0] == "run" else []))
            assert done.code == 0, (lines, done.err)
            ran.append(words[0])
    assert ran == ["python", "hf", "hf", "python", "python", "generate", "add", "revoke", "python", "run"]
    kohya = next(item.name for item in made.manifest.files if item.layout == "kohya")
    for folder in ("ComfyUI/models/loras", "stable-diffusion-webui/models/Lora"):
        assert Path(folder, kohya).read_bytes() == (made.path / kohya).read_bytes()
    assert f"`<lora:{kohya.removesuffix('.safetensors')}:1>`" in published
    for picture in ("erased.png", "applied.png", "picture.png"):
        assert Path(picture).read_bytes().startswith(b"\x89PNG")
    assert set(load_artifact("one-more").manifest.erased) == {*CONCEPTS, "watermark"}
    assert load_artifact("one-less").manifest.erased == (CONCEPTS[1],)


def test_the_command_on_the_card_makes_the_same_artifact_again(published, erase, tmp_path):  # noqa: F811
    made = load_artifact(tmp_path / "made")
    (lines,) = [lines for _, lines in BLOCK.findall(published) if lines.startswith("erase-plugins run")]
    done = erase(*shlex.split(lines.replace("\\\n", ""))[1:], "--no-check")
    assert done.code == 0, done.err
    again = load_artifact(made.name)
    assert dict(again.manifest.options) == dict(made.manifest.options)
    assert again.manifest.concepts == made.manifest.concepts
    assert again.manifest.base == made.manifest.base
    left, right = made.edit.deltas, again.edit.deltas
    assert left.keys() == right.keys()
    for component, table in left.items():
        assert table.keys() == right[component].keys()
        for key, delta in table.items():
            for name, tensor in vars(delta).items():
                if isinstance(tensor, torch.Tensor):
                    assert torch.equal(tensor, getattr(right[component][key], name)), (component, key, name)


def test_every_file_by_its_name(hub, published, tmp_path):
    """Plain hf_hub_download, file by file: what any other tool would do."""
    from huggingface_hub import hf_hub_download

    made = load_artifact(tmp_path / "made")
    for item in made.manifest.files:
        assert Path(hf_hub_download(REPO, item.name)).read_bytes() == (made.path / item.name).read_bytes()


def test_push_fresh_process_pull_apply_equal_pictures(hub, published, preloaded_without_hub, tmp_path):
    """Another process with an empty cache pulls, applies and draws: the same bytes, the same picture."""
    from erase_plugins import generate

    code = (
        "import sys, torch, hub_cards, erase_plugins as ep\n"
        "from erase_plugins import get_manager\n"
        "manager = get_manager()\n"
        "manager.pluggy.is_registered(hub_cards) or manager._register(hub_cards, 'hub_cards')\n"
        "made = hub_cards.pull(sys.argv[1], 'pulled', layouts=['all'])\n"
        "torch.save(ep.generate(sys.argv[2], 'a pizza', [f'hub:{sys.argv[1]}'], seeds=3, steps=3), 'picture.pt')\n"
        "torch.save(ep.generate(sys.argv[2], 'a pizza', [made], seeds=3, steps=3), 'folder.pt')\n"
    )
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*preloaded_without_hub, "-c", code, REPO, BASE], env=env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    made = tmp_path / "made"
    for item in load_artifact(made).manifest.files:
        assert Path("pulled", item.name).read_bytes() == (made / item.name).read_bytes()
    expected = generate(BASE, "a pizza", [made], seeds=3, steps=3)
    assert torch.equal(torch.load("picture.pt", weights_only=True), expected)
    assert torch.equal(torch.load("folder.pt", weights_only=True), expected)


def test_the_blocks_of_a_collections_card_run(hub, revision, erase, tmp_path):  # noqa: F811
    from erase_plugins.workflow.collection import Collection, build_collection

    made = [run_method(BASE, name, "uce", out=tmp_path / name, options={"vocabulary": "20"}) for name in ("car", "dog")]
    hub_cards.push_collection(build_collection(made, tmp_path / "all"), REPO, license="mit")
    ran = []
    for _, lines in BLOCK.findall(hub.files(REPO)["README.md"].decode()):
        done = erase(*shlex.split(lines.replace("\\\n", ""))[1:])
        assert done.code == 0, (lines, done.err)
        ran.append(lines.split()[1])
    assert ran == ["collection", "generate"]
    assert sorted(Collection.open("mine").names()) == sorted(item.name for item in made)
    assert Path("picture.png").read_bytes().startswith(b"\x89PNG")
