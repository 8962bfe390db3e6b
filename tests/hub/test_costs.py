"""What a push and a pull cost beside the bare client, and that nothing is left unverified to save it."""

from __future__ import annotations

import hashlib
import os
import shutil

import pytest

import hub_cards
from benchmarks.hub import memory
from erase_plugins import load_artifact
from erase_plugins.errors import CorruptArtifact, HubError
from tests.hub.conftest import REPO


@pytest.fixture
def hashed(monkeypatch):
    """Collects the sizes of what is hashed in this process."""
    sizes, plain, of_file = [], hashlib.sha256, hashlib.file_digest

    class Counting:
        def __init__(self, data=b"", **more):
            self.inner = plain(data, **more)
            sizes.append(len(data))

        def update(self, data):
            sizes.append(len(data))
            self.inner.update(data)

        def __getattr__(self, name):
            return getattr(self.inner, name)

    def digest(file, kind):
        if kind == "sha256":  # otherwise a hash of its own counts, or it is the git id of a small file
            sizes.append(os.fstat(file.fileno()).st_size)
        return of_file(file, kind)

    monkeypatch.setattr(hashlib, "sha256", Counting)
    monkeypatch.setattr(hashlib, "file_digest", digest)
    return sizes


def large(artifact):
    """Sizes of the files that go by LFS; the rest is in the commit itself."""
    return {item.name: item.bytes for item in artifact.manifest.files if item.name.endswith(".safetensors")}


def test_a_push_sends_every_file_once_and_asks_little_more_than_the_bare_client(hub, pizza, hashed):
    """Work is counted; `benchmarks/hub.py` measures what it takes."""
    sizes = large(pizza)
    hub_cards.push(pizza.path, REPO, license="mit")
    assert hub.uploaded() == sum(sizes.values())
    # when the artifact is read, before it is sent (it may have changed), and by the server, which runs in this process
    assert [hashed.count(size) for size in sizes.values()] == [3] * len(sizes)
    kinds = ("PUT /lfs/", "POST .*/verify", "POST .*/batch", "POST .*/preupload/", "POST .*/commit/", "POST .*/create")
    assert [hub.count(kind) for kind in kinds] == [len(sizes), len(sizes), 1, 1, 1, 1]
    assert (
        len(hub.log) <= sum(hub.count(kind) for kind in kinds) + 4
    )  # whether it is there, and whether the card is right


def test_a_pull_fetches_and_hashes_what_it_needs_once(hub, pizza, hashed):
    hub_cards.push(pizza.path, REPO, license="mit")
    hub.log.clear()
    hashed.clear()
    pulled = hub_cards.pull(REPO)
    needed = [item.bytes for item in pulled.manifest.files if (pulled.path / item.name).exists()]
    assert hub.count("GET ") == 1 + len(needed)
    assert len(hub.log) <= 2 * hub.count("GET ") + 2
    assert hub.downloaded("GET .*safetensors") == sum(needed)
    assert hashed == needed


@pytest.mark.slow
def test_memory_rises_by_less_than_two_files():
    assert {action: 0 < rise < 2 for action, rise in memory(megabytes=50).items()} == {"push": True, "pull": True}


def test_the_hash_of_the_verification_is_handed_to_the_client(hub, pizza, monkeypatch):
    """Otherwise the client reads every weight file once more."""
    from huggingface_hub import lfs

    read, original = [], lfs.sha_fileobj
    monkeypatch.setattr(lfs, "sha_fileobj", lambda file: read.append(file.name) or original(file))
    hub_cards.push(pizza.path, REPO, license="mit")
    assert hub.uploaded() == sum(large(pizza).values())
    assert read == []


def test_an_artifact_whose_files_changed_since_it_was_read_is_not_sent(hub, pizza, tmp_path):
    loaded = _copy(pizza, tmp_path)
    file = loaded.path / loaded.manifest.files[-1].name
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(CorruptArtifact, match="SHA-256"):
        hub_cards.push(loaded, REPO, license="mit")
    assert REPO not in hub.store.repositories


def test_a_file_that_changes_during_the_push_is_not_published(hub, pizza, hamburger, tmp_path):
    hub_cards.push(hamburger, REPO, license="mit")
    before = hub.files(REPO)
    loaded = _copy(pizza, tmp_path)

    def change(bundle):
        file = loaded.path / loaded.manifest.essential[0].name
        file.write_bytes(file.read_bytes()[:-1] + b"?")

    with pytest.raises(HubError):
        hub_cards.push(loaded.path, REPO, license="mit", show=change)
    assert hub.files(REPO) == before


def _copy(artifact, tmp_path):
    return load_artifact(shutil.copytree(artifact.path, tmp_path / "copy"))
