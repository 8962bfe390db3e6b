"""What the Hub keeps by xet: pulled, named, collected and loaded like everything else, and verified all the same."""

from __future__ import annotations

import json
import shutil

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants

import hub_cards
from erase_plugins import apply, load_artifact
from erase_plugins.errors import CorruptArtifact, HubError
from erase_plugins.testing.models import shared_pipeline
from erase_plugins.workflow.collection import build_collection
from tests.hub.conftest import REPO, contents, shared_blobs, spoil

OTHER, LIBRARY, PLAIN = "tester/other", "tester/library", "tester/plain"
LORA = "pytorch_lora_weights.safetensors"


def push(artifact, repo=REPO):
    return hub_cards.push(artifact, repo, license="mit")


def by_xet(artifact, repo=REPO):
    """Published by the client alone, through its xet library."""
    HfApi().create_repo(repo)
    operations = [CommitOperationAdd(name, data) for name, data in contents(artifact.path).items()]
    HfApi().create_commit(repo, operations, commit_message="x")


@pytest.fixture(params=["xet on", "xet off"])
def client(request, xet_hub, monkeypatch):
    """The Hub keeps files by xet; the client uses that or not."""
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", request.param == "xet off")
    return xet_hub


# ---- round trip ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("publish", [push, by_xet])
def test_push_and_pull(client, pizza, tmp_path, publish):
    publish(pizza)
    pulled = hub_cards.pull(REPO, tmp_path / "here", layouts=["all"])
    assert contents(tmp_path / "here") == contents(pizza.path)
    assert pulled.manifest == load_artifact(pizza.path).manifest
    assert all(row.xet_hash for row in HfApi().list_repo_tree(REPO) if row.path.endswith(".safetensors"))
    by_library = not constants.HF_HUB_DISABLE_XET
    assert bool(client.count("xet-read-token")) is by_library
    assert bool(shared_blobs()) is by_library
    assert hub_cards.pull(REPO).name == hub_cards.pull(REPO, offline=True).name == "erase_pizza"


def test_the_real_library_sent_and_fetched_it(xet_hub, pizza):
    by_xet(pizza)
    assert xet_hub.count("PUT /lfs/") == 0
    hub_cards.pull(REPO)
    assert xet_hub.count("GET .*/resolve/.*safetensors") == 0


def test_a_reference_is_applied(client, pizza, monkeypatch):
    import torch

    from erase_plugins.testing.observe import predictions

    push(pizza)
    pipe = shared_pipeline("tiny_sd1")
    with apply(pipe, pizza.path):
        local = predictions(pipe)
    with apply(pipe, f"hub:{REPO}"):
        remote = predictions(pipe)
    assert all(torch.equal(one, two) for one, two in zip(local, remote, strict=True))
    asked = len(client.log)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert load_artifact(f"hub:{REPO}").name == "erase_pizza"
    assert len(client.log) == asked


def test_a_repository_without_manifest(client, pizza):
    HfApi().create_repo(PLAIN)
    HfApi().create_commit(PLAIN, [CommitOperationAdd(LORA, (pizza.path / LORA).read_bytes())], commit_message="x")
    assert len(load_artifact(f"hub:{PLAIN}").edit)
    assert hub_cards.pull(PLAIN, offline=True).path.name == LORA


def test_a_collection(client, made, tmp_path):
    library = build_collection([made["pizza"], made["hamburger"]], tmp_path / "library")
    hub_cards.push_collection(library, LIBRARY, license="mit")
    hub_cards.pull_collection(LIBRARY, ["pizza", "hamburger"], tmp_path / "mine", layouts=["all"])
    assert contents(tmp_path / "mine") == contents(library.path)
    assert load_artifact(f"hub:{LIBRARY}#pizza").name == "erase_pizza"
    assert set(load_artifact(f"hub:{LIBRARY}#pizza,hamburger").manifest.erased) == {"pizza", "hamburger"}
    assert set(hub_cards.merged(LIBRARY, ["pizza", "hamburger"]).manifest.erased) == {"pizza", "hamburger"}


def test_what_comfyuis_nodes_pull(client, made, tmp_path, monkeypatch):
    from contextlib import nullcontext

    from comfy_nodes import host
    from comfy_nodes.hub import pulled

    monkeypatch.setattr(host, "downloading", lambda: nullcontext(lambda done, total: None))
    push(made["pizza"])
    library = build_collection([made["pizza"], made["hamburger"]], tmp_path / "library")
    hub_cards.push_collection(library, LIBRARY, license="mit")
    for spec in (REPO, f"hub:{LIBRARY}#pizza"):
        found = pulled(spec)
        commit = client.store.repository(spec.removeprefix("hub:").partition("#")[0]).commit().oid
        assert (found.artifact.name, found.note) == ("erase_pizza", "")
        assert f"@{commit}" in found.reference
        assert pulled(found.reference, offline=True).artifact.name == "erase_pizza"


def test_stock_diffusers_and_we_share_one_cache(xet_hub, pizza, monkeypatch):
    import diffusers.loaders.lora_base as lora_base

    from erase_plugins.testing.models import fresh_pipeline

    push(pizza)
    monkeypatch.setattr(lora_base, "HF_HUB_OFFLINE", False)
    fresh_pipeline("tiny_sd1").load_lora_weights(REPO)
    hub_cards.pull(REPO, layouts=["diffusers"])
    assert len(shared_blobs()) == 2


@pytest.mark.parametrize("setting", ["HF_HUB_DISABLE_SHARED_BLOBS", "HF_HUB_DISABLE_SYMLINKS"])
def test_other_forms_of_the_cache(xet_hub, pizza, setting, monkeypatch, tmp_path):
    monkeypatch.setattr(constants, setting, True)
    push(pizza)
    hub_cards.pull(REPO, tmp_path / "here", layouts=["all"])
    assert contents(tmp_path / "here") == contents(pizza.path)
    assert hub_cards.pull(REPO, offline=True).name == "erase_pizza"
    assert shared_blobs() == []


@pytest.mark.parametrize("way", ["xet on", "xet off"])
def test_who_is_told_of_a_download_can_stop_it(xet_hub, monkeypatch, way):
    """ComfyUI's stop button. The xet library ignores what is raised in it."""
    import random

    class Stop(BaseException):
        pass

    def tell(done, total):
        heard.append((done, total))
        raise Stop

    heard, size = [], 60_000_000
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", way == "xet off")
    HfApi().create_repo(PLAIN)
    data = random.Random(0).randbytes(size)
    HfApi().create_commit(PLAIN, [CommitOperationAdd(LORA, data)], commit_message="x")
    with pytest.raises(Stop):
        hub_cards.pull(PLAIN, progress=tell)
    assert len(heard) == 1
    with pytest.raises(HubError, match="the header claims"):  # the next download goes on as if nothing had been
        hub_cards.pull(PLAIN, progress=lambda done, total: heard.append((done, total)))
    assert max(done for done, _ in heard) >= size  # the library also counts what it sends for, which may be more


# ---- damage -------------------------------------------------------------------------------------------------------


def damaged(name):
    """The shared blob behind a file of the cached repository, spoiled; its size stays."""
    from pathlib import Path

    place = next(Path(constants.HF_HUB_CACHE).glob(f"models--tester--no-pizza/snapshots/*/{name}"))
    assert place.resolve() in shared_blobs()
    spoil(place.resolve())
    return place.resolve()


def test_a_damaged_shared_blob_is_found_and_fetched_afresh(xet_hub, pizza, tmp_path):
    push(pizza)
    hub_cards.pull(REPO)
    blob = damaged("edit.safetensors")
    bad = blob.read_bytes()
    hub_cards.pull(REPO, tmp_path / "here")
    assert (tmp_path / "here" / "edit.safetensors").read_bytes() == (pizza.path / "edit.safetensors").read_bytes()
    assert blob.read_bytes() != bad


@pytest.mark.parametrize("first", [REPO, OTHER])
def test_a_damaged_shared_blob_is_not_linked_into_another_repository(xet_hub, pizza, first, tmp_path):
    """The client itself compares only sizes, and links it."""
    push(pizza)
    push(pizza, OTHER)
    hub_cards.pull(REPO)
    damaged("edit.safetensors")
    second = OTHER if first == REPO else REPO
    for number, repo in enumerate((first, second)):
        hub_cards.pull(repo, tmp_path / str(number))
        found = (tmp_path / str(number) / "edit.safetensors").read_bytes()
        assert found == (pizza.path / "edit.safetensors").read_bytes(), repo
    assert len(shared_blobs()) == 1


def test_a_damaged_shared_blob_of_a_file_without_manifest(xet_hub, pizza):
    HfApi().create_repo(PLAIN)
    data = (pizza.path / LORA).read_bytes()
    HfApi().create_commit(PLAIN, [CommitOperationAdd(LORA, data)], commit_message="x")
    place = hub_cards.pull(PLAIN).path
    spoil(place.resolve())
    assert hub_cards.pull(PLAIN).path.read_bytes() == data


def test_without_a_network_damage_is_told_and_the_blob_is_gone(xet_hub, pizza):
    push(pizza)
    hub_cards.pull(REPO)
    blob = damaged("edit.safetensors")
    with pytest.raises(HubError, match=r"edit\.safetensors does not match its SHA-256"):
        hub_cards.pull(REPO, offline=True)
    assert not blob.exists()
    assert hub_cards.pull(REPO).name == "erase_pizza"


def test_a_sound_shared_blob_that_a_wrong_announcement_leads_to_is_kept(xet_hub, made):
    """The Hub names another file's xet hash: that file is right for its own repository."""
    from dataclasses import replace

    push(made["pizza"])
    hub_cards.pull(REPO)
    (kept,) = shared_blobs()
    push(made["pizza"], OTHER)
    commit = xet_hub.store.repository(OTHER).commit()
    wrong = dict(made["pizza"].edit.statistics)
    assert wrong
    data = bytearray((made["pizza"].path / "edit.safetensors").read_bytes())
    data[-1] ^= 1
    sha256 = xet_hub.store.put(bytes(data))
    manifest = json.loads(xet_hub.files(OTHER)["erase.json"])
    for row in manifest["files"]:
        row["sha256"] = sha256 if row["name"] == "edit.safetensors" else row["sha256"]
    commit.files["erase.json"] = xet_hub.store.entry(xet_hub.store.put(json.dumps(manifest).encode()), False)
    commit.files["edit.safetensors"] = replace(commit.files["edit.safetensors"], sha256=sha256)
    with pytest.raises(HubError, match="damaged"):
        hub_cards.pull(OTHER)
    assert shared_blobs() == [kept]
    asked = len(xet_hub.log)
    assert hub_cards.pull(REPO, offline=True).name == "erase_pizza"
    assert len(xet_hub.log) == asked


def test_damage_in_the_storage_of_the_hub_is_found(xet_hub, pizza):
    """The xet library looks at sizes, not at bytes."""
    push(pizza)
    for chunk in xet_hub.store.xet.chunks:
        spoil(chunk, 2000)
    with pytest.raises(HubError, match="damaged") as caught:
        hub_cards.pull(REPO)
    assert "\n" not in str(caught.value)
    assert shared_blobs() == []


def test_a_storage_that_lost_the_bytes(xet_hub, pizza):
    push(pizza)
    for chunk in xet_hub.store.xet.chunks:
        chunk.unlink()
    with pytest.raises(HubError, match="cannot pull from tester/no-pizza") as caught:
        hub_cards.pull(REPO)
    assert "\n" not in str(caught.value)
    assert "xet did not bring its large files" in str(caught.value)
    assert "HF_HUB_DISABLE_XET=1" in str(caught.value)


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500, 503])
def test_no_token_for_the_storage(xet_hub, pizza, status):
    push(pizza)
    xet_hub.fault("xet-read-token", status, times=0)
    words = {401: "may not", 403: "may not", 404: "no xet route", 429: "in 55 seconds"}.get(status, f"{status}")
    with pytest.raises(HubError, match=f"cannot pull from tester/no-pizza: .*{words}") as caught:
        hub_cards.pull(REPO)
    assert "\n" not in str(caught.value)
    xet_hub.faults.clear()
    assert hub_cards.pull(REPO).name == "erase_pizza"


def test_a_link_out_of_the_cache_is_still_refused(xet_hub, pizza, tmp_path):
    """Only what the client itself keeps in the same cache may be linked to."""
    push(pizza)
    place = hub_cards.pull(REPO).path
    copy = tmp_path / "elsewhere.safetensors"
    shutil.copy(place / "edit.safetensors", copy)
    for target in (copy, shared_blobs()[0]):
        folder = tmp_path / target.name[:8] / "art"
        folder.mkdir(parents=True)
        shutil.copy(place / "erase.json", folder)
        (folder / "edit.safetensors").symlink_to(target)
        with pytest.raises(CorruptArtifact, match="a link that leaves the artifact folder"):
            load_artifact(folder)
    (place / "edit.safetensors").unlink()
    (place / "edit.safetensors").symlink_to(copy)
    with pytest.raises(CorruptArtifact, match="a link that leaves the artifact folder"):
        load_artifact(place)
