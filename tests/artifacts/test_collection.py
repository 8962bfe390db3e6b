"""Collections: one index and one folder per artifact; never listed before it is complete, verified when read."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest

import erase_plugins as ep
from erase_plugins.artifacts.difference import difference
from erase_plugins.errors import ArtifactError, BaseMismatch, CorruptArtifact, UnknownName
from erase_plugins.types import Concept
from erase_plugins.workflow.collection import INDEX, Collection, build_collection
from tests.layouts.making import artifact_of, random_edit

NAMES = ("erase_van_gogh", "erase_monet", "erase_dali")
TEXTS = ("Van Gogh", "Monet", "Dalí")


@pytest.fixture(scope="module")
def made(pocket_target, tmp_path_factory):
    """Three saved artifacts with different edits."""
    place = tmp_path_factory.mktemp("made")
    edit = random_edit(pocket_target, ("cross_k",))
    return [
        artifact_of(pocket_target, edit.scaled(number + 1.0), name)
        .with_manifest(concepts=(Concept(text, "style"),))
        .save(place / f"from_{number}")
        for number, (name, text) in enumerate(zip(NAMES, TEXTS, strict=True))
    ]


@pytest.fixture
def library(made, tmp_path):
    return build_collection(made, tmp_path / "lib")


def test_round_trip(library, made, tmp_path):
    again = Collection.open(tmp_path / "lib")
    assert again == library == Collection.open(tmp_path / "lib" / INDEX)
    assert again.names() == again.present() == tuple(sorted(NAMES))
    assert again.family == "sd1"
    assert again.base == made[0].manifest.base
    for artifact, loaded in zip(made, again.load(NAMES), strict=True):
        assert not difference(artifact.edit, loaded.edit)
        assert loaded.manifest == ep.load_artifact(artifact.path).manifest
        entry = again.entries[loaded.name]
        folder = tmp_path / "lib" / loaded.name
        assert entry.bytes == sum(item.stat().st_size for item in folder.iterdir())
        assert entry.erased == loaded.manifest.erased
    assert len(again.load()) == 3
    assert sorted(item.name for item in (tmp_path / "lib").iterdir()) == sorted([INDEX, *NAMES])


def test_equal_artifacts_give_an_equal_index(library, made, tmp_path):
    other = build_collection(reversed(made), tmp_path / "other")
    assert (other.path / INDEX).read_bytes() == (library.path / INDEX).read_bytes()


def test_artifacts_are_found_by_name_and_by_concept(library):
    assert library.find("erase_monet") == library.find(["monet"]) == library.find(" MONET ") == ("erase_monet",)
    assert library.find(["Monet", "erase_monet", "dalí"]) == ("erase_monet", "erase_dali")
    with pytest.raises(UnknownName, match="did you mean 'monet'"):
        library.load(["Monett"])
    with pytest.raises(UnknownName, match="did you mean 'erase_van_gogh'"):
        library.load("erase_van_gog")


def test_an_unknown_name_among_thousands_stays_readable(library):
    entries = {f"erase_artist_{number:04}": library.entries["erase_monet"] for number in range(2000)}
    with pytest.raises(UnknownName, match="did you mean 'erase_artist_1234'") as caught:
        replace(library, entries=entries).find(["erase_artist_1234x"])
    assert len(str(caught.value)) < 1200


def test_the_index_is_small(library):
    entry = library.entries["erase_monet"]
    entries = {f"erase_artist_{number:04}": entry for number in range(500)}
    library._write(entries)
    assert (library.path / INDEX).stat().st_size < 0.01 * 500 * entry.bytes + 30_000
    assert len(Collection.open(library.path).entries) == 500


def test_append_and_replace(library, made, pocket_target, tmp_path):
    new = artifact_of(pocket_target, random_edit(pocket_target, ("cross_v",)), "erase_klee")
    grown = library.append([new, made[0]])  # what is there already and equal is no clash
    assert grown.names() == tuple(sorted([*NAMES, "erase_klee"]))
    assert not difference(Collection.open(tmp_path / "lib").load("erase_klee")[0].edit, new.edit)
    other = artifact_of(pocket_target, random_edit(pocket_target, ("cross_v",)), "erase_monet")
    with pytest.raises(ArtifactError, match="is taken"):
        grown.append([other])
    grown.append([other], force=True)
    assert not difference(Collection.open(tmp_path / "lib").load("erase_monet")[0].edit, other.edit)


def test_a_mapping_names_the_members(made, tmp_path):
    found = build_collection({f"style_{number}": item.path for number, item in enumerate(made)}, tmp_path / "lib")
    assert found.names() == ("style_0", "style_1", "style_2")
    assert found.load("Monet")[0].name == "erase_monet"


def test_nothing_is_left_of_a_failed_build(made, tmp_path):
    with pytest.raises(ArtifactError, match="is taken"):
        build_collection([made[0], made[0]], tmp_path / "lib")
    with pytest.raises(ArtifactError, match="at least one"):
        build_collection([], tmp_path / "lib")
    assert list(tmp_path.iterdir()) == []
    build_collection(made[:1], tmp_path / "lib")
    with pytest.raises(ArtifactError, match="force=True"):
        build_collection(made, tmp_path / "lib")
    assert len(build_collection(made, tmp_path / "lib", force=True).entries) == 3


@pytest.mark.parametrize("name", ["../out", "a/b", ".hidden", "", INDEX, "README.md", "images", "con\\x"])
def test_names_that_are_no_folders_are_refused(made, name, tmp_path):
    with pytest.raises(ArtifactError):
        build_collection({name: made[0]}, tmp_path / "lib")
    assert list(tmp_path.iterdir()) == []


def test_another_base_is_refused(library, pocket_target, tmp_path):
    other = artifact_of(pocket_target, random_edit(pocket_target, ("cross_v",)), "erase_klee")
    base = {**other.manifest.base, "family": "sdxl"}
    with pytest.raises(BaseMismatch, match="one base"):
        library.append([other.with_manifest(base=base)])
    assert Collection.open(tmp_path / "lib") == library


def test_an_interrupted_append_keeps_the_index_true(library, made, pocket_target, monkeypatch, tmp_path):
    import erase_plugins.workflow.collection as module

    def broken(artifact, folder):
        raise OSError("disk full")

    other = artifact_of(pocket_target, random_edit(pocket_target, ("cross_v",)), "erase_monet")
    monkeypatch.setattr(module, "_store", broken)
    with pytest.raises(OSError, match="disk full"):
        library.append([other], force=True)
    left = Collection.open(tmp_path / "lib")
    assert left.names() == ("erase_dali", "erase_van_gogh")
    left.load()


def test_damage_is_found(library, tmp_path):
    place = tmp_path / "lib" / "erase_monet"
    manifest = json.loads((place / "erase.json").read_text())
    (place / "erase.json").write_text(json.dumps(manifest))  # same content, other bytes
    with pytest.raises(CorruptArtifact, match="not the one that the index lists"):
        library.load(["erase_monet"])
    shutil.rmtree(place)
    with pytest.raises(ArtifactError, match="was not fetched"):
        library.load(["erase_monet"])
    assert [item.name for item in library.load()] == ["erase_dali", "erase_van_gogh"]


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2], lambda text: text.replace('"schema":1', '"schema":"1"'),
        lambda text: text.replace('"schema":1', '"schema":2'), lambda text: "[]", lambda text: text.replace("sha256", "x"),
        lambda text: text.replace('"erase_monet"', '"../monet"'), lambda text: text.replace('"erase_monet"', '"a/b"'),
        lambda text: text.replace('"erase_monet"', '"erase_dali"'), lambda text: text.replace('"bytes":', '"bytes":-'),
        lambda text: text.replace('"family":"sd1"', '"family":7'), lambda text: text.replace("Monet", "\\ud800"),
    ],
)  # fmt: skip
def test_a_damaged_index_is_refused(library, tmp_path, change):
    file = tmp_path / "lib" / INDEX
    text = file.read_text(encoding="utf-8")
    assert change(text) != text
    file.write_text(change(text), encoding="utf-8")
    with pytest.raises(CorruptArtifact):
        Collection.open(tmp_path / "lib")


def test_not_a_collection(tmp_path):
    with pytest.raises(ArtifactError, match=r"no collection\.json"):
        Collection.open(tmp_path)


def test_an_artifact_with_the_files_for_others_left_out_is_read(library, tmp_path):
    place = tmp_path / "lib" / "erase_monet"
    for file in place.iterdir():
        if file.name not in ("erase.json", "edit.safetensors"):
            file.unlink()
    assert len(library.load("Monet")[0].edit)
    (place / "edit.safetensors").unlink()
    with pytest.raises(CorruptArtifact, match="is missing"):
        library.load("Monet")
