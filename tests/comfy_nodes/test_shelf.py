"""Cards of the picker: what lies on the disk in every form, its pictures, and the library that comes with the nodes."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
from types import SimpleNamespace

import pytest
from PIL import Image
from safetensors.numpy import save_file

from comfy_nodes import files, host, routes, shelf
from erase_plugins.errors import ArtifactError
from erase_plugins.workflow.artifacts import load_artifact
from tests.layouts.making import artifact_of, random_edit
from tools.docs.comfy.library import COLLECTION, ERASED, LORA

numpy = pytest.importorskip("numpy")


def cover(kind="PNG"):
    file = io.BytesIO()
    Image.new("RGB", (4, 4), "red").save(file, kind)
    return file.getvalue()


@pytest.fixture
def models(tmp_path, monkeypatch):
    """Our model folder and an empty folder of LoRAs, then the library."""
    place, loras = tmp_path / "models", tmp_path / "loras"
    place.mkdir()
    loras.mkdir()
    monkeypatch.setattr(host, "artifact_folders", lambda: [place, host.LIBRARY])
    monkeypatch.setattr(host, "lora_names", lambda: sorted(item.name for item in loras.iterdir()))
    monkeypatch.setattr(host, "lora_path", lambda name: loras / name if os.path.isfile(loras / name) else None)
    return SimpleNamespace(place=place, loras=loras)


def by_name(**options):
    return {card["name"]: card for card in shelf.cards(**options)}


def test_the_library_has_a_picture_and_says_what_becomes_what(models):
    found = by_name()
    assert set(found) == {LORA, *(f"{COLLECTION}/erase_{name}" for name in ERASED)}
    for name, other in ERASED.items():
        card = found[f"{COLLECTION}/erase_{name}"]
        assert card["rows"] == [f"{name} -> {other}"]
        assert (card["title"], card["place"], card["collection"]) == (f"erase_{name}", "shipped", COLLECTION)
        data, kind = shelf.picture(card["name"])
        assert kind == "image/jpeg"
        assert Image.open(io.BytesIO(data)).size == (384, 192)
    assert found[LORA]["rows"] == ["blue -> red"]
    assert found[LORA]["picture"]


def test_what_comes_with_the_nodes_is_whole_and_for_pocket():
    """Loading verifies every hash."""
    for name in ERASED:
        artifact = load_artifact(host.LIBRARY / COLLECTION / f"erase_{name}")
        assert artifact.manifest.erased == (name,)
        assert artifact.manifest.base["model"] == "pocket"
    assert load_artifact(host.LIBRARY / LORA).manifest.erased == ("blue",)


def test_every_form_on_the_disk_is_a_card(models, pocket_target, tmp_path):
    artifact = artifact_of(pocket_target, random_edit(pocket_target, ("denoiser",)), "no_pizza")
    artifact.save(models.place / "no_pizza.erase", ("patch",))
    (models.place / "no_pizza.preview.png").write_bytes(cover())
    outside = tmp_path / "elsewhere"
    artifact.save(outside, ("patch",))
    (outside / "preview.webp").write_bytes(cover("WEBP"))
    (models.place / "linked").symlink_to(outside, target_is_directory=True)
    single = next(outside.glob("*.safetensors"))
    (models.place / "single.safetensors").write_bytes(single.read_bytes())
    metadata = {"ssmd_cover_images": json.dumps([base64.b64encode(cover()).decode()])}
    save_file({"x": numpy.zeros(2, "float32")}, models.loras / "foreign.safetensors", metadata)
    (models.loras / "old.pt").write_bytes(b"")
    found = by_name()
    assert {"no_pizza.erase", "linked", "single.safetensors"} <= set(found)
    assert found["no_pizza.erase"]["title"] == "no_pizza"
    assert found["no_pizza.erase"]["place"] == "disk"
    assert [shelf.picture(name)[1] for name in ("no_pizza.erase", "linked")] == ["image/png", "image/webp"]
    assert not found["single.safetensors"]["picture"]
    assert "foreign.safetensors" not in found
    card = by_name(loras=True)["foreign.safetensors"]
    assert card["foreign"]
    assert card["rows"] == []
    assert shelf.picture("foreign.safetensors") == (cover(), "image/png")
    assert not [name for name in by_name(loras=True) if name.endswith(".pt")]


@pytest.mark.parametrize("covers", ["", "[]", '["no base64!"]', '["aGVsbG8="]', "{}", "[1]"])
def test_a_header_without_a_usable_picture_has_none(models, covers):
    save_file({"x": numpy.zeros(2, "float32")}, models.loras / "odd.safetensors", {"ssmd_cover_images": covers})
    assert not by_name(loras=True)["odd.safetensors"]["picture"]
    with pytest.raises(ArtifactError, match=r"'odd\.safetensors' has no picture"):
        shelf.picture("odd.safetensors")


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a\0b", "x" * 5000, ""])
def test_no_name_leads_outside(models, name):
    (models.place.parent / "secret.png").write_bytes(cover())
    with pytest.raises(ArtifactError):
        shelf.picture(name)


def test_a_damaged_file_or_index_costs_its_own_card_only(models):
    (models.place / "cut.safetensors").write_bytes(b"1234")
    (models.place / "torn").mkdir()
    (models.place / "torn" / "collection.json").write_text("{")
    assert LORA in by_name()
    assert "cut.safetensors" not in by_name()


def test_the_routes_answer(models, monkeypatch):
    monkeypatch.setattr(routes, "_answer", lambda content, status=200: (status, content))
    monkeypatch.setattr(routes, "_bytes", lambda data, kind: (200, kind))
    status, answer = asyncio.run(routes._library(SimpleNamespace(query={})))
    assert status == 200
    assert len(answer["cards"]) == len(ERASED) + 1
    assert asyncio.run(routes._picture(SimpleNamespace(query={"name": LORA}))) == (200, "image/jpeg")
    status, answer = asyncio.run(routes._picture(SimpleNamespace(query={"name": "../x"})))
    assert status == 404
    assert "lies outside" in answer["error"]


def test_cards_of_the_hub_name_a_commit_and_are_asked_for_only_there(models, monkeypatch):
    from comfy_nodes import hub_package

    item = SimpleNamespace(id="me/no-pizza", revision="a" * 40, concepts=("pizza",), base="x/y", family="sd1",
                           downloads=3, collection=False)  # fmt: skip
    asked = []
    part = SimpleNamespace(search=lambda query, limit: asked.append(query) or [item])
    monkeypatch.setattr(hub_package, "part", lambda name: part)
    monkeypatch.setattr(routes, "_answer", lambda content, status=200: (status, content))
    asyncio.run(routes._library(SimpleNamespace(query={"loras": "1"})))
    assert asked == []
    _status, answer = asyncio.run(routes._library(SimpleNamespace(query={"hub": "1", "query": " pizza "})))
    (card,) = answer["cards"]
    assert (card["name"], card["place"], card["rows"]) == (f"hub:me/no-pizza@{'a' * 40}", "hub", ["pizza"])
    assert asked == ["pizza"]


def test_the_folder_is_looked_through_as_often_for_many_as_for_one(models, monkeypatch):
    """It was walked for every card: 300 erasures of a collection took nine seconds at each opening."""
    for number in range(20):
        save_file({"a": numpy.zeros(2)}, models.loras / f"l{number}.safetensors")
    asked, walk = [], files.walk
    monkeypatch.setattr(files, "walk", lambda folder: asked.append(folder) or walk(folder))
    found = shelf.cards(loras=True)
    assert len(found) > 25
    for card in found:
        if card["picture"]:
            shelf.picture(card["name"])
    assert len(asked) == 4  # two folders, for artifacts and for collections
