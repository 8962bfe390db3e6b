"""The save node replaces only what this program wrote, in models/erase_plugins and in models/loras."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from comfy_nodes import host
from comfy_nodes.nodes.artifacts import save_artifact
from comfy_nodes.wording import in_the_graph
from erase_plugins.errors import ArtifactError, RequestError
from erase_plugins.hints import sentence_of
from erase_plugins.workflow.artifacts import load_artifact
from tests.artifacts.keeping import tree
from tests.comfy_nodes.conftest import context_edit
from tests.layouts.making import artifact_of, random_edit


@pytest.fixture
def models(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "artifact_folders", lambda: [tmp_path / "erase_plugins"])
    monkeypatch.setattr(host, "lora_folder", lambda: tmp_path / "loras")
    monkeypatch.setattr(host, "computing", lambda **_: nullcontext())
    return tmp_path


@pytest.fixture
def edit(pocket_target):
    return artifact_of(pocket_target, random_edit(pocket_target, ("cross_kv",)))


def test_overwrite_keeps_a_folder_of_other_files(models, edit):
    place = models / "erase_plugins" / "mine"
    place.mkdir(parents=True)
    (place / "notes.txt").write_text("mine")
    before = tree(models)
    with pytest.raises(ArtifactError, match=r"did not write \(notes\.txt\)") as refused:
        save_artifact(edit, "mine", True, True)
    assert "even with overwrite on" in in_the_graph(sentence_of(refused.value))
    assert "--" not in in_the_graph(sentence_of(refused.value))
    assert tree(models) == before


def test_overwrite_replaces_its_own(models, edit):
    for overwrite in (False, True):
        assert save_artifact(edit, "again", overwrite, True).values[0] == "again"
    assert load_artifact(models / "erase_plugins" / "again").name == "again"
    assert len(list((models / "loras").iterdir())) == 1


def test_a_name_that_is_taken_gets_a_number(models, edit):
    names = [save_artifact(edit, "again", False, False).values[0] for _ in range(3)]
    assert names == ["again", "again_00002", "again_00003"]
    assert [load_artifact(models / "erase_plugins" / name).name for name in names] == names
    (models / "erase_plugins" / "again_00002").rename(models / "elsewhere")
    (models / "erase_plugins" / "again_00002").symlink_to(models / "nowhere")  # a dead link is somebody's, too
    assert save_artifact(edit, "again", False, False).values[0] == "again_00004"


def test_a_lora_of_somebody_else_with_the_same_name_is_kept(models, edit):
    name = next(item.name for item in edit.save(models / "other", ("kohya",)).manifest.files)
    (models / "loras").mkdir()
    taken = models / "loras" / name.replace(edit.name, "taken")
    taken.write_bytes(b"downloaded for hours")
    with pytest.raises(ArtifactError, match="not written by erase-plugins"):
        save_artifact(edit, "taken", True, True)
    assert taken.read_bytes() == b"downloaded for hours"


def test_a_lora_file_without_the_base_model_leaves_no_folders_behind(models, pocket_target):
    """The node of a first try: only the edit is connected. Every further run left one more folder."""
    edit = artifact_of(pocket_target, context_edit(16))
    for _ in range(2):
        with pytest.raises(
            RequestError, match=r"connect model and clip .* or switch kohya_copy off; nothing was saved"
        ):
            save_artifact(edit, "mine", False, True)
    assert tree(models) == {}
    assert save_artifact(edit, "mine", False, False).values[0] == "mine"
