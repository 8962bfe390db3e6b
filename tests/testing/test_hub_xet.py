"""The test Hub with a xet storage: the client's own xet library sends and fetches, other clients get the same bytes."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, constants, hf_hub_download, snapshot_download

from erase_plugins.testing import HubServer
from erase_plugins.testing.fixtures import xet_hub_server  # noqa: F401
from erase_plugins.testing.hub_xet import XetStorage

REPO = "tester/a"
WEIGHTS = b"".join(hashlib.sha256(bytes([number])).digest() for number in range(256)) * 20


@pytest.fixture
def hub(xet_hub_server):  # noqa: F811
    HfApi().create_repo(REPO)
    return xet_hub_server


def commit(files, repo=REPO):
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    return HfApi().create_commit(repo, operations, commit_message="x")


def plain(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)


def test_the_library_sends_and_fetches_without_lfs(hub):
    commit({"w.safetensors": WEIGHTS, "README.md": b"# hello\n"})
    assert hub.count("PUT /lfs/") == hub.count("objects/batch") == 0
    assert hub.count("xet-write-token") >= 1
    assert hub.files(REPO)["w.safetensors"] == WEIGHTS
    place = Path(hf_hub_download(REPO, "w.safetensors"))
    assert place.read_bytes() == WEIGHTS
    assert hub.count("xet-read-token") == 1
    assert hub.count("GET .*/resolve/") == 0
    blob = place.parent / place.readlink()
    assert blob.name == hashlib.sha256(WEIGHTS).hexdigest()
    shared = (blob.parent / blob.readlink()).resolve()
    row = next(item for item in HfApi().list_repo_tree(REPO) if item.path == "w.safetensors")
    assert shared == (Path(constants.HF_HUB_CACHE) / "blobs" / row.xet_hash[:2] / row.xet_hash).resolve()
    assert Path(snapshot_download(REPO)).joinpath("README.md").read_bytes() == b"# hello\n"


def test_what_came_by_lfs_is_moved_to_xet(hub, monkeypatch):
    with monkeypatch.context() as patch:
        plain(patch)
        commit({"w.safetensors": WEIGHTS})
    assert hub.count("PUT /lfs/") == 1
    place = Path(hf_hub_download(REPO, "w.safetensors"))
    assert place.read_bytes() == WEIGHTS
    assert hub.count("GET .*/resolve/") == 0


def test_a_client_without_xet_gets_the_same_bytes(hub, monkeypatch):
    commit({"w.safetensors": WEIGHTS})
    plain(monkeypatch)
    assert Path(hf_hub_download(REPO, "w.safetensors")).read_bytes() == WEIGHTS
    assert hub.count("xet-read-token") == 0
    assert hub.count("GET .*/resolve/") == 1


def test_equal_bytes_have_one_hash_whichever_way_they_came(tmp_path):
    one, two = XetStorage(tmp_path / "one"), XetStorage(tmp_path / "two")
    found = one.put(WEIGHTS)
    assert one.find(hashlib.sha256(WEIGHTS).hexdigest()) == (found, len(WEIGHTS))
    assert two.put(WEIGHTS) == found
    assert one.get(found, len(WEIGHTS)) == WEIGHTS
    assert one.find("0" * 64) is None
    assert one.chunks


def test_large_files_from_another_host_without_the_token(tmp_path):
    with HubServer(redirects=True) as hub, hub.as_default(tmp_path / "cache"):
        HfApi().create_repo(REPO, private=True)
        commit({"w.safetensors": WEIGHTS, "README.md": b"# hello\n"})
        assert Path(hf_hub_download(REPO, "w.safetensors")).read_bytes() == WEIGHTS
        assert Path(hf_hub_download(REPO, "README.md")).read_bytes() == b"# hello\n"
        assert [item.status for item in hub.log if item.path.startswith("/cdn/")] == [200]


def test_a_former_name_leads_to_the_new_one(hub):
    commit({"w.safetensors": WEIGHTS})
    hub.rename(REPO, "tester/b")
    assert HfApi().model_info(REPO).id == "tester/b"
    assert Path(hf_hub_download(REPO, "w.safetensors")).read_bytes() == WEIGHTS


def test_too_many_requests_say_until_when(hub):
    commit({"README.md": b"# hello\n"})
    hub.fault("GET /api/models/", 429, times=0)
    with pytest.raises(Exception, match="429") as caught:
        HfApi().model_info(REPO)
    headers = caught.value.response.headers
    assert headers["RateLimit"] == '"api";r=0;t=55'
    assert headers["Retry-After"] == "55"


def test_every_question_can_be_asked_for_its_head(hub):
    """Relays do so; and they write a slash after the revision of a tree."""
    import httpx2

    commit({"README.md": b"# hello\n"})
    head = httpx2.head(f"{hub.url}/api/models/{REPO}", headers={"Authorization": f"Bearer {hub.token}"})
    assert (head.status_code, head.content) == (200, b"")
    sha = hub.store.repository(REPO).commit().oid
    rows = httpx2.get(f"{hub.url}/api/models/{REPO}/tree/{sha}/").json()
    assert [row["path"] for row in rows] == ["README.md"]
