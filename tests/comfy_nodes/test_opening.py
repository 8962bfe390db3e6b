"""Artifacts are opened by name from both model folders and from references."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

import erase_plugins as ep
from comfy_nodes import files, host, hub, moving, opening, running
from erase_plugins.errors import ArtifactError
from tests.layouts.making import artifact_of, random_edit

FROZEN = Path(__file__).parent.parent / "artifacts" / "frozen"


@pytest.fixture
def opened(monkeypatch, tmp_path):
    (tmp_path / "erase_dog").mkdir()
    (tmp_path / "erase_dog" / "erase.json").touch()
    monkeypatch.setattr(host, "artifact_folders", lambda: [tmp_path])
    monkeypatch.setattr(host, "lora_names", lambda: ["x/style.safetensors"])
    monkeypatch.setattr(host, "lora_path", lambda name: Path(name) if name == "x/style.safetensors" else None)
    monkeypatch.setattr(ep, "load_artifact", lambda place: place)
    return tmp_path


def test_every_place_is_looked_at(opened, monkeypatch):
    monkeypatch.setattr(hub, "pulled", lambda spec: hub.Pulled(spec, "me/no-dog@c", "the Hub did not answer"))
    assert opening.open_artifact("erase_dog").artifact == opened / "erase_dog"
    assert opening.open_artifact("x/style.safetensors").artifact == Path("x/style.safetensors")
    assert opening.open_artifact("other:no-dog") == opening.Opened("other:no-dog", "other:no-dog")
    assert opening.open_artifact("hub:me/no-dog") == opening.Opened(
        "hub:me/no-dog", "hub:me/no-dog@c", "the Hub did not answer"
    )


def test_the_state_of_a_name_follows_its_place(opened, monkeypatch):
    monkeypatch.setattr(moving, "state", lambda name: name if "@" in name else f"{name} at c")
    assert opening.state(f"hub:me/no-dog@{'a' * 40}") == f"hub:me/no-dog@{'a' * 40}"
    assert opening.state("hub:me/no-dog") == "hub:me/no-dog at c"
    assert opening.state("erase_dog").startswith("erase.json:")


def test_the_nearest_name_of_either_folder_is_told(opened):
    with pytest.raises(ArtifactError, match="the nearest is 'erase_dog'"):
        opening.open_artifact("erase_dig")
    with pytest.raises(ArtifactError, match=r"the nearest is 'x/style\.safetensors'"):
        opening.open_artifact("x/stile.safetensors")
    with pytest.raises(ArtifactError, match="refresh the list"):
        opening.open_artifact("zzz")


def test_the_nearest_is_looked_for_in_both_folders_at_once_before_the_queue_takes_the_graph(opened, monkeypatch):
    """It was said that models/loras has nothing: 'erase_dog' was offered in place of a file that is nearly called so."""
    monkeypatch.setattr(host, "lora_names", lambda: ["erase_dogs.safetensors"])
    said = opening.problem("erase_dogz.safetensors")
    assert said.startswith(
        "no artifact 'erase_dogz.safetensors' in models/erase_plugins or models/loras; the nearest is "
    )
    assert "'erase_dogs.safetensors'; take another one, or put it there and refresh the list with R" in said


def test_what_is_damaged_or_gone_is_refused_before_the_queue_takes_the_graph(opened, monkeypatch):
    """An error in a running node stops the whole graph, and pictures of its other branches were lost."""
    from comfy_nodes.nodes.artifacts import SPECS as LOADING
    from comfy_nodes.nodes.stack import SPECS as STACKING

    load, stack = (running.validator(spec) for spec in (LOADING[0], STACKING[0]))
    shutil.copytree(FROZEN / "low-rank", opened / "sound")
    assert load(artifact="sound") is stack(rows="sound : 0.5\nhub:me/no-dog\n# gone") is True
    for said in (load(artifact="erase_dog"), stack(rows="sound : 0.5\nerase_dog : 0.3")):  # its manifest is empty
        assert said.startswith("'erase_dog': the manifest is damaged")
    assert stack(rows="sound\ngone : 2").startswith("no artifact 'gone' in models/erase_plugins or models/loras")
    assert stack(rows="gone : 2", edit_2=None) is True  # what is connected there may be called so
    assert "damaged" in stack(rows="erase_dog", edit_2=None)
    assert "is named twice" in stack(rows="sound\nsound", edit_2=None)


def test_a_damaged_folder_is_not_looked_for_on_the_hub(opened):
    (opened / "style" / "dog").mkdir(parents=True)
    (opened / "style" / "dog" / "erase.json").touch()
    assert opening.referred("style/dog") == "style/dog"


def test_a_linked_artifact_and_a_linked_file_are_loaded(tmp_path, monkeypatch, pocket_target):
    made = artifact_of(pocket_target, random_edit(pocket_target, ("denoiser",)), "no_pizza").save(
        tmp_path / "disk" / "no_pizza", ("patch",)
    )
    models = tmp_path / "models"
    models.mkdir()
    (models / "linked").symlink_to(made.path)
    (models / "one.safetensors").symlink_to(next(made.path.glob("*.safetensors")))
    monkeypatch.setattr(host, "artifact_folders", lambda: [models])
    monkeypatch.setattr(host, "lora_path", lambda name: None)
    for name in files.listing():
        assert opening.open_artifact(name).artifact.manifest.erased == made.manifest.erased
    assert len(files.listing()) == 2


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (" hub:me/no-dog@v1 ", "hub:me/no-dog@v1"), ("me/no-dog", "hub:me/no-dog"), ("", ""), ("other:no-dog", "other:no-dog"),
        ("https://huggingface.co/me/no-dog", "hub:https://huggingface.co/me/no-dog"), ("erase_dog", "erase_dog"),
        ("x/style.safetensors", "x/style.safetensors"), ("../secret.safetensors", "../secret.safetensors"),
    ],
)  # fmt: skip
def test_a_page_or_owner_and_name_alone_are_on_the_hub(opened, typed, meant):
    assert opening.referred(typed) == meant
