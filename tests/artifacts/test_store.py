"""Artifact folders: complete or absent, verified when read."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.difference import difference
from erase_plugins.artifacts.edit import CONTEXT, ContextMap, Edit
from erase_plugins.errors import ArtifactError, CorruptArtifact, Unsupported
from tests.artifacts.damage import reseal
from tests.layouts.making import artifact_of, dense_edit, random_edit


@pytest.fixture
def saved(pocket_target, tmp_path):
    return artifact_of(pocket_target, random_edit(pocket_target, ("cross_kv", "text"))).save(tmp_path / "art")


def test_folder_round_trip_in_all_layouts(pocket_target, tmp_path):
    edit = random_edit(pocket_target, ("cross_kv", "text"), mixed=False)
    for layout in ("patch", "diffusers", "kohya", "peft", "diff"):
        made = artifact_of(pocket_target, edit).save(tmp_path / layout, (layout,))
        back = ep.load_artifact(tmp_path / layout)
        assert not difference(back.edit, edit), layout
        assert back.manifest == made.manifest
        assert back.bytes == sum(path.stat().st_size for path in (tmp_path / layout).rglob("*.*")) - (
            (tmp_path / layout / "erase.json").stat().st_size
        )


def test_layouts_that_cannot_carry_the_edit_are_noted(pocket_target, tmp_path):
    made = artifact_of(pocket_target, dense_edit(pocket_target)).save(tmp_path / "a")
    assert [item.layout for item in made.manifest.files] == ["patch"]
    assert sum("no kohya file" in note or "no diffusers file" in note for note in made.manifest.notes) == 2
    with pytest.raises(Unsupported, match="can carry this edit"):
        artifact_of(pocket_target, dense_edit(pocket_target)).save(tmp_path / "b", ("kohya",))
    assert not (tmp_path / "b").exists()


def test_context_map_is_lowered_for_lora_files_when_the_base_is_there(pocket_target, tmp_path):
    width = pocket_target.info.width
    edit = Edit("sd1", {"unet": {CONTEXT: ContextMap(torch.randn(1, width), torch.randn(width, 1))}})
    without = artifact_of(pocket_target, edit).save(tmp_path / "a")
    assert [item.layout for item in without.manifest.files] == ["patch", "context"]
    with_base = artifact_of(pocket_target, edit).save(tmp_path / "b", target=pocket_target)
    assert [item.layout for item in with_base.manifest.files] == [
        "patch",
        "context",
        "diffusers",
        *["peft"] * 2,
        "kohya",
    ]
    assert not difference(ep.load_artifact(tmp_path / "b").edit, edit)


def test_existing_folder_is_kept_without_force(saved, pocket_target, tmp_path):
    before = {path: path.read_bytes() for path in (tmp_path / "art").rglob("*.*")}
    other = artifact_of(pocket_target, random_edit(pocket_target, ("cross_k",)))
    with pytest.raises(ArtifactError, match="force=True"):
        other.save(tmp_path / "art")
    assert {path: path.read_bytes() for path in (tmp_path / "art").rglob("*.*")} == before
    other.save(tmp_path / "art", force=True)
    assert len(ep.load_artifact(tmp_path / "art").edit) == len(other.edit)
    assert [path.name for path in tmp_path.iterdir()] == ["art"]


def test_a_failing_layout_leaves_nothing_behind(saved, pocket_target, tmp_path, monkeypatch):
    from erase_plugins.artifacts.layouts.kohya import KohyaLayout

    def broken(self, *args):
        raise OSError("disk full")

    monkeypatch.setattr(KohyaLayout, "write", broken)
    with pytest.raises(OSError, match="disk full"):
        artifact_of(pocket_target, random_edit(pocket_target, ("cross_k",))).save(tmp_path / "new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["art"]


def test_same_edit_gives_the_same_bytes(saved, pocket_target, tmp_path):
    edit = random_edit(pocket_target, ("cross_kv", "text"))
    artifact_of(pocket_target, edit).save(tmp_path / "again")
    for item in saved.manifest.files:
        assert (tmp_path / "art" / item.name).read_bytes() == (tmp_path / "again" / item.name).read_bytes()


def damage(folder: Path, name: str) -> None:
    path = folder / name
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(bytes(raw))


@pytest.mark.parametrize("layout", ["patch", "diffusers", "kohya"])
def test_every_file_is_verified(saved, layout, tmp_path):
    name = next(item.name for item in saved.manifest.files if item.layout == layout)
    damage(tmp_path / "art", name)
    with pytest.raises(CorruptArtifact, match="SHA-256"):
        ep.load_artifact(tmp_path / "art")


def test_link_that_leaves_the_folder_is_refused(saved, tmp_path):
    name = saved.manifest.files[0].name
    shutil.move(tmp_path / "art" / name, tmp_path / "outside.safetensors")
    (tmp_path / "art" / name).symlink_to(tmp_path / "outside.safetensors")
    with pytest.raises(CorruptArtifact, match="leaves the artifact folder"):
        ep.load_artifact(tmp_path / "art")


def test_linked_subfolder_that_leaves_is_refused(pocket_target, tmp_path):
    artifact_of(pocket_target, random_edit(pocket_target, ("text_attn",))).save(tmp_path / "art", ("peft",))
    shutil.move(tmp_path / "art" / "peft_text_encoder", tmp_path / "outside")
    (tmp_path / "art" / "peft_text_encoder").symlink_to(tmp_path / "outside")
    with pytest.raises(CorruptArtifact, match="leaves the artifact folder"):
        ep.load_artifact(tmp_path / "art")


def test_adapter_that_the_manifest_does_not_list_is_refused(pocket_target, tmp_path):
    edit = random_edit(pocket_target, ("cross_k", "text_attn"))
    artifact_of(pocket_target, edit).save(tmp_path / "both", ("peft",))
    unet = Edit("sd1", {"unet": edit.deltas["unet"]})
    artifact_of(pocket_target, unet).save(tmp_path / "art", ("peft",))
    shutil.copytree(tmp_path / "both" / "peft_text_encoder", tmp_path / "art" / "peft_text_encoder")
    with pytest.raises(CorruptArtifact, match="not in its manifest"):
        ep.load_artifact(tmp_path / "art")
    text = Edit("sd1", {"text_encoder": edit.deltas["text_encoder"]})
    artifact_of(pocket_target, text).save(tmp_path / "text", ("peft",))
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.copy(tmp_path / "both" / name, tmp_path / "text")
    with pytest.raises(CorruptArtifact, match="not in its manifest"):
        ep.load_artifact(tmp_path / "text")


def test_a_folder_of_an_older_version_with_the_adapter_of_its_denoiser_in_a_folder_is_read(pocket_target, tmp_path):
    edit = random_edit(pocket_target, ("cross_k", "text_attn"), mixed=False)
    made = artifact_of(pocket_target, edit).save(tmp_path / "art", ("peft",))
    (tmp_path / "art" / "peft_unet").mkdir()
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        shutil.move(tmp_path / "art" / name, tmp_path / "art" / "peft_unet")
    files = [item if "/" in item.name else replace(item, name=f"peft_unet/{item.name}") for item in made.manifest.files]
    (tmp_path / "art" / "erase.json").write_text(replace(made.manifest, files=tuple(files)).to_json())
    assert not difference(ep.load_artifact(tmp_path / "art").edit, edit)


def test_hub_cache_links_are_accepted(saved, tmp_path):
    """The Hub client stores contents under blobs and links them from snapshots/REVISION."""
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "abc", tmp_path / "models--a--b" / "blobs"
    blobs.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for index, path in enumerate(sorted((tmp_path / "art").glob("*.*"))):
        shutil.copy(path, blobs / str(index))
        (snapshot / path.name).symlink_to(blobs / str(index))
    assert not difference(ep.load_artifact(snapshot).edit, saved.edit)


def test_names_in_the_manifest_cannot_leave_on_a_later_save(saved, tmp_path):
    path = tmp_path / "art" / "erase.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["name"] = "../../evil"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(CorruptArtifact, match="unusable name"):
        ep.load_artifact(tmp_path / "art")


def test_nan_behind_a_true_hash_is_refused(pocket_target, tmp_path):
    artifact_of(pocket_target, random_edit(pocket_target, ("cross_k",))).save(tmp_path / "art", ("kohya",))
    file = next((tmp_path / "art").glob("*.safetensors"))
    raw = bytearray(file.read_bytes())
    raw[-4:] = b"\x00\x00\xc0\x7f"
    file.write_bytes(bytes(raw))
    reseal(tmp_path / "art")
    with pytest.raises(CorruptArtifact, match="NaN"):
        ep.load_artifact(tmp_path / "art")


def test_edit_of_another_family_than_the_manifest(saved, tmp_path):
    path = tmp_path / "art" / "erase.json"
    data = json.loads(path.read_text(encoding="utf-8"))
    data["base"]["family"] = "sdxl"
    path.write_text(json.dumps(data), encoding="utf-8")
    with pytest.raises(CorruptArtifact, match="the edit says sd1"):
        ep.load_artifact(tmp_path / "art")


def test_rewriting_a_file_does_not_reach_a_loaded_edit(saved, tmp_path):
    """A mapped file would change or kill the process."""
    loaded = ep.load_artifact(tmp_path / "art" / "edit.safetensors")
    before = [tensor.clone() for _, _, delta in loaded.edit.items() for tensor in delta.tensors().values()]
    (tmp_path / "art" / "edit.safetensors").write_bytes(b"short")
    after = [tensor for _, _, delta in loaded.edit.items() for tensor in delta.tensors().values()]
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_missing_things_are_named(tmp_path):
    with pytest.raises(ArtifactError, match="no artifact at 'nothing'"):
        ep.load_artifact(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ArtifactError, match=r"no erase\.json"):
        ep.load_artifact(tmp_path / "empty")


KILLED = """
import sys, time, torch
sys.path.insert(0, {root!r})
from pathlib import Path
from erase_plugins.artifacts.atomic import atomic_folder
with atomic_folder(Path({target!r}), force=True) as work:
    (work / "edit.safetensors").write_bytes(b"half")
    print("writing", flush=True)
    time.sleep(60)
"""


@pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX")
def test_kill_during_writing_keeps_the_old_artifact(saved, tmp_path):
    root = str(Path(__file__).resolve().parents[2])
    code = KILLED.format(root=root, target=str(tmp_path / "art"))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline().strip() == "writing"
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=30)
    assert not difference(ep.load_artifact(tmp_path / "art").edit, saved.edit)
    left = [path for path in tmp_path.iterdir() if path.name != "art"]
    assert all(path.name.startswith(".art.") for path in left)  # hidden, never taken for an artifact
