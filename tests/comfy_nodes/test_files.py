"""The list of artifacts, and the refusal of what is not in it."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from comfy_nodes import files, host
from erase_plugins.errors import ArtifactError, RequestError


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
    assert files.find("style/no_van_gogh") == folder / "style" / "no_van_gogh"


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


@pytest.mark.parametrize(
    "entry",
    [
        "../../secret.safetensors", "style/../../../secret.safetensors", "style/../single.safetensors",
        "..\\..\\secret.safetensors", "/etc/passwd", "c:\\secret.safetensors", "c:secret.safetensors",
        "linked/../../secret.safetensors",
    ],
)  # fmt: skip
def test_paths_that_leave_the_folder_are_refused(folder, entry):
    assert "lies outside the model folder" in files.entry_problem(entry)


def test_links_that_their_owner_made_are_listed_and_found(folder):
    """As other model folders of ComfyUI: weights often lie on another disk."""
    other = folder.parent.parent / "disk"
    (other / "deep" / "no_dog").mkdir(parents=True)
    (other / "deep" / "no_dog" / "erase.json").write_text("{}")
    (other / "deep" / "no_dog" / "edit.safetensors").write_text("")
    (other / "deep" / "back").symlink_to(other)  # a circle
    (folder / "link.safetensors").symlink_to(folder.parent.parent / "secret.safetensors")
    (folder / "linked").symlink_to(other)
    (folder / "no_dog").symlink_to(other / "deep" / "no_dog")
    (folder / "dead.safetensors").symlink_to(other / "nothing.safetensors")
    listed = files.listing()
    assert listed == [
        "link.safetensors", "linked/deep/no_dog", "no_dog", "single.safetensors", "style/no_van_gogh",
    ]  # fmt: skip
    assert [files.entry_problem(name) for name in listed] == [None] * 5
    assert "no artifact" in files.entry_problem("dead.safetensors")
    before = files.state("linked/deep/no_dog")
    (other / "deep" / "no_dog" / "edit.safetensors").write_text("longer")
    assert files.state("linked/deep/no_dog") != before


def test_a_linked_model_folder_is_a_model_folder(folder, monkeypatch, tmp_path):
    (tmp_path / "way").symlink_to(folder)
    monkeypatch.setattr(host, "artifact_folders", lambda: [tmp_path / "way"])
    assert files.listing() == ["single.safetensors", "style/no_van_gogh"]
    assert files.entry_problem("style/no_van_gogh") is None


@pytest.mark.parametrize("entry", ["a\x00b", "x" * 5000, "x/" * 3000, "\x00"])
def test_names_that_no_file_can_have_are_refused_in_one_line(folder, entry):
    problem = files.entry_problem(entry)
    assert "no artifact '" in problem
    assert problem.isprintable()
    assert len(problem) < 250
    assert files.state(entry) == "missing"


def test_checkpoints_behind_links_are_found_and_names_that_leave_are_not(tmp_path, monkeypatch):
    (tmp_path / "disk").mkdir()
    (tmp_path / "disk" / "a.safetensors").touch()
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "a.safetensors").symlink_to(tmp_path / "disk" / "a.safetensors")
    (tmp_path / "checkpoints" / "more").symlink_to(tmp_path / "disk")
    places = SimpleNamespace(
        folder_names_and_paths={"checkpoints": ()}, get_folder_paths=lambda name: [str(tmp_path / name)]
    )
    monkeypatch.setitem(sys.modules, "folder_paths", places)
    for name in ("a.safetensors", "more/a.safetensors"):
        assert files.find_model(name) == tmp_path / "checkpoints" / name
    for name in ("../disk/a.safetensors", "more/../a.safetensors", str(tmp_path / "disk" / "a.safetensors")):
        with pytest.raises(RequestError, match="lies outside models/checkpoints"):
            files.find_model(name)
    for name in ("", "b.safetensors", "a\x00b", "x" * 5000):
        with pytest.raises(RequestError, match="no model '") as caught:
            files.find_model(name)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 300


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
