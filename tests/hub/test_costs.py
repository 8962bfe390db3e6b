"""What a push and a pull cost beside the bare client, and that nothing is left unverified to save it."""

from __future__ import annotations

import shutil

import pytest

import hub_cards
from benchmarks.hub import measure
from erase_plugins import load_artifact
from erase_plugins.errors import CorruptArtifact, HubError
from tests.hub.conftest import REPO


@pytest.mark.slow
def test_push_and_pull_beside_the_bare_client():
    """The bounds leave room for a busy machine; the benchmark says what a quiet one gives."""
    found = measure(megabytes=50, repeats=6)
    assert found["push_ratio"] < 3, found
    assert found["pull_ratio"] < 3, found
    assert 0 < found["push_memory"] < 2, found
    assert 0 < found["pull_memory"] < 2, found


def test_the_hash_of_the_verification_is_handed_to_the_client(hub, pizza, monkeypatch):
    """Otherwise the client reads every weight file once more."""
    from huggingface_hub import lfs

    read, original = [], lfs.sha_fileobj
    monkeypatch.setattr(lfs, "sha_fileobj", lambda file: read.append(file.name) or original(file))
    hub_cards.push(pizza.path, REPO, license="mit")
    assert hub.uploaded() == sum(item.bytes for item in pizza.manifest.files)
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
