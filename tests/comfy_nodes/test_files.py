"""The list of artifacts, and the refusal of what is not in it."""

from __future__ import annotations

import pytest

from comfy_nodes import files, host
from erase_plugins.errors import ArtifactError


@pytest.fixture
def folder(tmp_path, monkeypatch):
    place = tmp_path / "models" / "erase_plugins"
    (place / "style" / "no_van_gogh").mkdir(parents=True)
    (place / "style" / "no_van_gogh" / "erase.json").write_text("{}")
    (place / "style" / "no_van_gogh" / "edit.safetensors").write_text("")
    (place / "single.safetensors").write_text("")
    (tmp_path / "secret.safetensors").write_text("")
    monkeypatch.setattr(host, "artifact_folders", lambda: [place])
    return place


def test_folders_and_single_files_are_listed(folder):
    assert files.listing() == ["single.safetensors", "style/no_van_gogh"]
    assert files.find("style/no_van_gogh") == (folder / "style" / "no_van_gogh").resolve()


def test_an_empty_folder_explains_itself(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "artifact_folders", lambda: [tmp_path / "none"])
    assert files.listing() == [files.NOTHING]
    assert "there is no artifact yet" in files.entry_problem(files.NOTHING)


def test_outside_of_comfyui_the_list_does_not_fail():
    assert files.listing() == [files.NOTHING]


def test_the_nearest_name_is_offered(folder):
    with pytest.raises(ArtifactError, match="the nearest is 'style/no_van_gogh'"):
        files.find("style/no_van_gog")


def test_other_kinds_of_files_are_not_opened(folder):
    (folder / "old.ckpt").write_text("")
    assert "'old.ckpt' is no .safetensors file" in files.entry_problem("old.ckpt")


@pytest.mark.parametrize("entry", ["../../secret.safetensors", "style/../../../secret.safetensors"])
def test_paths_that_leave_the_folder_are_refused(folder, entry):
    assert "lies outside the model folder" in files.entry_problem(entry)


def test_links_that_leave_the_folder_are_refused(folder):
    (folder / "link.safetensors").symlink_to(folder.parent.parent / "secret.safetensors")
    assert "lies outside the model folder" in files.entry_problem("link.safetensors")


def test_the_state_follows_the_content(folder):
    before = files.state("style/no_van_gogh")
    assert files.state("style/no_van_gogh") == before
    (folder / "style" / "no_van_gogh" / "edit.safetensors").write_text("longer")
    assert files.state("style/no_van_gogh") != before
    assert files.state("nothing") == "missing"


def test_collections_are_listed_by_themselves(monkeypatch, tmp_path):
    for name in ("shelf/erase_pizza", "erase_dog"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "erase.json").touch()
    (tmp_path / "shelf" / "collection.json").touch()
    monkeypatch.setattr(host, "artifact_folders", lambda: [tmp_path])
    assert files.listing() == ["erase_dog"]
    assert files.collections() == ["shelf"]
    assert files.find("shelf") == tmp_path / "shelf"
    with pytest.raises(ArtifactError, match="the nearest is 'shelf'"):
        files.find("shelv")
    monkeypatch.setattr(host, "artifact_folders", lambda: [tmp_path / "erase_dog"])
    assert files.collections() == [files.NO_COLLECTION]
    assert "there is no collection yet" in str(files.entry_problem(files.NO_COLLECTION))
