"""The test Hub, driven only through the real client."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, hf_hub_download, snapshot_download
from huggingface_hub.errors import (
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from erase_plugins.errors import RequestError
from erase_plugins.testing.fixtures import hub_server  # noqa: F401
from erase_plugins.testing.hub_faults import Fault

REPO = "tester/a"
WEIGHTS = bytes(range(256)) * 8
CARD = b"---\nlicense: mit\n---\n# hello\n"


@pytest.fixture
def hub(hub_server):  # noqa: F811
    return hub_server


@pytest.fixture
def api(hub):
    api = HfApi()
    api.create_repo(REPO)
    return api


def commit(api, files, **options):
    operations = [CommitOperationAdd(path, data) for path, data in files.items()]
    return api.create_commit(REPO, operations, commit_message=options.pop("title", "x"), **options)


@pytest.fixture
def filled(api):
    commit(api, {"README.md": CARD, "w.safetensors": WEIGHTS, "images/a.txt": b"a"})
    return api


def test_who_and_create(hub, api):
    assert api.whoami()["name"] == "tester"
    assert str(api.create_repo(REPO, exist_ok=True)) == f"{hub.url}/{REPO}"
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(REPO)
    api.create_repo("tester/secret", private=True)
    assert api.model_info("tester/secret").private
    with pytest.raises(RepositoryNotFoundError):
        HfApi(token=False).model_info("tester/secret")
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(token="hf_wrong").whoami()
    with pytest.raises(HfHubHTTPError, match="403"):
        api.create_repo("somebody/else")


def test_both_upload_modes_and_the_download_give_the_bytes_back(hub, filled):
    assert Path(hf_hub_download(REPO, "w.safetensors")).read_bytes() == WEIGHTS
    assert Path(hf_hub_download(REPO, "README.md")).read_bytes() == CARD
    assert hub.uploaded() == len(WEIGHTS)
    assert hub.files(REPO) == {"README.md": CARD, "w.safetensors": WEIGHTS, "images/a.txt": b"a"}
    folder = Path(snapshot_download(REPO))
    assert sorted(item.relative_to(folder).as_posix() for item in folder.rglob("*") if item.is_file()) == [
        "README.md", "images/a.txt", "w.safetensors",
    ]  # fmt: skip


def test_equal_files_are_not_sent_again(hub, filled):
    before = filled.model_info(REPO).sha
    assert commit(filled, {"w.safetensors": WEIGHTS, "README.md": CARD}).oid == before
    assert hub.count("PUT /lfs/") == 1
    assert len(filled.list_repo_commits(REPO)) == 2


def test_tree_paths_and_hashes(filled):
    table = {item.path: item for item in filled.list_repo_tree(REPO, recursive=True)}
    assert set(table) == {"README.md", "images", "images/a.txt", "w.safetensors"}
    assert table["w.safetensors"].lfs.sha256 == hashlib.sha256(WEIGHTS).hexdigest()
    assert table["README.md"].blob_id == hashlib.sha1(b"blob %d\x00%b" % (len(CARD), CARD)).hexdigest()
    assert [item.path for item in filled.list_repo_tree(REPO)] == ["README.md", "images", "w.safetensors"]
    assert [item.size for item in filled.get_paths_info(REPO, ["README.md", "nothing"])] == [len(CARD)]


def test_ranges(filled):
    header = filled.parse_safetensors_file_metadata
    import json
    import struct

    text = json.dumps({"a": {"dtype": "U8", "shape": [2], "data_offsets": [0, 2]}}).encode()
    commit(filled, {"real.safetensors": struct.pack("<Q", len(text)) + text + b"ab"})
    assert list(header(REPO, "real.safetensors").tensors) == ["a"]


def test_tags_branches_and_history(filled):
    first = filled.model_info(REPO).sha
    filled.create_tag(REPO, tag="v1")
    filled.create_branch(REPO, branch="old")
    second = commit(filled, {"x.txt": b"1"}, title="second", commit_description="why").oid
    refs = filled.list_repo_refs(REPO)
    assert {item.name: item.target_commit for item in refs.branches} == {"main": second, "old": first}
    assert [(item.name, item.target_commit) for item in refs.tags] == [("v1", first)]
    assert [(item.title, item.message) for item in filled.list_repo_commits(REPO)][:1] == [("second", "why")]
    assert "x.txt" not in filled.list_repo_files(REPO, revision="v1")
    assert filled.model_info(REPO, revision=first[:8]).sha == first
    with pytest.raises(HfHubHTTPError, match="409"):
        filled.create_tag(REPO, tag="v1")


def test_deletions_and_pull_requests(hub, filled):
    made = commit(filled, {"x.txt": b"1"}, create_pr=True)
    assert made.pr_revision == "refs/pr/1"
    assert "x.txt" in filled.list_repo_files(REPO, revision="refs/pr/1")
    assert "x.txt" not in hub.files(REPO)
    removed = [CommitOperationDelete("images/", is_folder=True), CommitOperationDelete("README.md")]
    filled.create_commit(REPO, removed, commit_message="tidy")
    assert set(hub.files(REPO)) == {"w.safetensors"}


def test_a_stale_parent_is_refused_and_changes_nothing(hub, filled):
    old = filled.model_info(REPO).sha
    commit(filled, {"x.txt": b"1"}, parent_commit=old)
    before = hub.files(REPO)
    with pytest.raises(HfHubHTTPError, match="412"):
        commit(filled, {"x.txt": b"2"}, parent_commit=old)
    assert hub.files(REPO) == before


def test_errors_have_the_types_of_the_client(filled):
    with pytest.raises(RepositoryNotFoundError):
        filled.model_info("tester/nothing")
    with pytest.raises(RevisionNotFoundError):
        filled.model_info(REPO, revision="nothing")
    with pytest.raises(RemoteEntryNotFoundError):
        hf_hub_download(REPO, "nothing.txt")
    with pytest.raises(ValueError, match="license"):
        commit(filled, {"README.md": b"---\nlicense: [1]\n---\n"})


def test_an_upload_with_other_bytes_is_refused(hub, api):
    operation = CommitOperationAdd("w.safetensors", WEIGHTS)
    operation.upload_info.sha256 = bytes(32)
    with pytest.raises(RuntimeError, match="Error while uploading"):
        api.create_commit(REPO, [operation], commit_message="x")
    assert hub.files(REPO) == {}


def test_delete(hub, filled):
    filled.delete_repo(REPO)
    assert hub.store.repositories == {}


def test_the_listing_follows_its_filters(hub, api):
    for name, base, tags in (("tester/one", "a/b", ["lora"]), ("tester/two", "a/c", ["lora", "x"])):
        card = (
            f"---\nlicense: mit\nbase_model: {base}\nbase_model_relation: adapter\ntags: {tags}\nerased: [pizza]\n---\n"
        )
        api.create_repo(name)
        api.create_commit(name, [CommitOperationAdd("README.md", card.encode())], commit_message="x")
    api.create_repo("tester/hidden", private=True)
    api.create_repo("tester/space", repo_type="space", space_sdk="gradio")

    def names(**query):
        return sorted(item.id for item in api.list_models(**query))

    assert names() == ["tester/a", "tester/hidden", "tester/one", "tester/two"]
    assert names(token=False) == ["tester/a", "tester/one", "tester/two"]
    assert names(search="TWO") == names(filter=["lora", "x"]) == names(filter="base_model:a/c") == ["tester/two"]
    assert names(filter="base_model:adapter:a/b") == ["tester/one"]
    assert names(filter="lora", author="tester") == ["tester/one", "tester/two"]
    assert names(author="other") == names(filter="license:apache-2.0") == []
    (row,) = api.list_models(search="one", full=True, cardData=True)
    assert row.card_data["erased"] == ["pizza"]
    assert row.sha == api.model_info("tester/one").sha
    assert [item.rfilename for item in row.siblings] == ["README.md"]
    assert {"license:mit", "base_model:a/b", "lora"} <= set(api.model_info("tester/one").tags)


def test_downloads_are_counted_and_sort_the_listing(hub, filled):
    filled.create_repo("tester/other")
    hf_hub_download(REPO, "w.safetensors")
    assert [(item.id, item.downloads) for item in filled.list_models(sort="downloads")] == [
        (REPO, 1),
        ("tester/other", 0),
    ]
    assert hub.downloaded("GET .*/resolve/") == len(WEIGHTS)


def test_long_lists_come_in_pages(hub, api, monkeypatch):
    import erase_plugins.testing.hub_calls as hub_calls

    monkeypatch.setattr(hub_calls, "MOST_ROWS", 10)
    commit(api, {f"{number:02}.txt": b"x" for number in range(25)})
    assert len(list(api.list_repo_tree(REPO))) == 25
    assert hub.count("/tree/main") == 3
    for number in range(12):
        api.create_repo(f"tester/n{number}")
    assert len(list(api.list_models(search="tester/n"))) == 12
    assert len(list(api.list_models(search="tester/n", limit=3))) == 3


def test_faults_follow_their_pattern_and_count(hub, api):
    hub.fault("PUT /lfs/", 503, times=2)
    commit(api, {"w.safetensors": WEIGHTS})
    assert [item.status for item in hub.log if item.method == "PUT"] == [503, 503, 200]
    hub.fault("HEAD .*resolve", 500, times=0, after=1)
    hf_hub_download(REPO, "w.safetensors")
    with pytest.raises(Exception, match="Force download failed"):
        hf_hub_download(REPO, "w.safetensors", force_download=True)
    hub.faults.clear()
    hf_hub_download(REPO, "w.safetensors", force_download=True)


def test_a_lost_answer_leaves_the_work_done(hub, api):
    hub.fault("POST .*/commit/", "reset", after_work=True)
    with pytest.raises(Exception, match=r"[Cc]onnection|reset"):
        commit(api, {"x.txt": b"1"})
    assert hub.files(REPO) == {"x.txt": b"1"}
    hub.fault("POST .*/commit/", "reset")
    with pytest.raises(Exception, match=r"[Cc]onnection|reset"):
        commit(api, {"x.txt": b"2"})
    assert hub.files(REPO) == {"x.txt": b"1"}


@pytest.mark.parametrize(("kind", "same"), [("slow", True), ("truncated", True), ("wrong bytes", False)])
def test_spoiled_bodies(hub, filled, kind, same):
    hub.fault("GET .*resolve", kind, seconds=0.05)
    found = Path(hf_hub_download(REPO, "w.safetensors")).read_bytes()
    assert (found == WEIGHTS) is same
    assert len(found) == len(WEIGHTS)
    assert [item.fault for item in hub.log if item.fault] == [kind]


def test_unknown_faults_are_refused():
    with pytest.raises(RequestError, match="unknown fault 'melt'"):
        Fault("x", "melt")


def test_the_client_is_as_before_afterwards(tmp_path, monkeypatch):
    import os

    from huggingface_hub import constants

    from erase_plugins.testing import HubServer

    monkeypatch.setenv("HF_TOKEN", "mine")
    before = (constants.ENDPOINT, constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE)
    with HubServer() as hub, hub.as_default(tmp_path):
        assert hub.url == constants.ENDPOINT
        assert os.environ["HF_TOKEN"] == hub.token
    assert before == (constants.ENDPOINT, constants.HF_HUB_CACHE, constants.HF_HUB_OFFLINE)
    assert os.environ["HF_TOKEN"] == "mine"


def test_a_space_has_its_own_name_space(hub, api):
    with pytest.raises(RepositoryNotFoundError):
        HfApi().create_commit("tester/a", [], commit_message="x", repo_type="space")
    assert str(api.create_repo(REPO, repo_type="space", space_sdk="gradio")) == f"{hub.url}/spaces/{REPO}"
    operations = [CommitOperationAdd("app.py", b"print(1)"), CommitOperationAdd("w.safetensors", WEIGHTS)]
    done = api.create_commit(REPO, operations, commit_message="x", repo_type="space")
    info = api.repo_info(REPO, repo_type="space")
    assert (info.id, info.sha) == (REPO, done.oid)
    assert hub.files(f"space:{REPO}") == {"app.py": b"print(1)", "w.safetensors": WEIGHTS}
    assert hub.files(REPO) == {}
    assert Path(hf_hub_download(REPO, "w.safetensors", repo_type="space")).read_bytes() == WEIGHTS
    assert [item.path for item in api.list_repo_tree(REPO, repo_type="space")] == ["app.py", "w.safetensors"]
    api.delete_repo(REPO, repo_type="space")
    assert api.repo_exists(REPO)
    assert not api.repo_exists(REPO, repo_type="space")
