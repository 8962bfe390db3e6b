"""Every request of push and of pull x every fault: success, or one clear error and the old or the new state."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

import hub_cards
from erase_plugins.errors import HubError
from erase_plugins.testing.hub_server import TOKEN
from tests.hub.conftest import REPO, contents

FAULTS = [429, 500, 503, "reset", "slow", "truncated", "wrong bytes"]
PUSH = {
    "create": "POST /api/repos/create", "info": r"GET /api/models/tester/[\w-]+$", "tree": "GET .*/tree/",
    "card check": "POST /api/validate-yaml", "mode": "POST .*/preupload/", "batch": "POST .*/objects/batch",
    "upload": "PUT /lfs/", "verify": "POST /lfs/.*/verify", "commit": "POST .*/commit/",
    "old files, head": "HEAD .*/resolve/", "old files": "GET .*/resolve/",
}  # fmt: skip
PULL = {
    "manifest, head": "HEAD .*/erase.json", "manifest": "GET .*/erase.json",
    "weights, head": "HEAD .*/edit.safetensors", "weights": "GET .*/edit.safetensors",
    "last file": "GET .*_kohya.safetensors",
}  # fmt: skip


@pytest.fixture
def states(hub, pizza, hamburger):
    """The Hub before (pizza published) and what it holds after a good push of hamburger."""
    hub_cards.push(pizza, REPO, license="mit")
    before = hub.files(REPO)
    hub_cards.push(hamburger, "tester/fresh", license="mit")
    after = hub.files("tester/fresh")
    after["README.md"] = after["README.md"].replace(b"tester/fresh", REPO.encode())
    del hub.store.repositories["tester/fresh"]
    return before, after


class Rewind:
    """Puts the Hub and the client's cache back."""

    def __init__(self, hub):
        self.hub = hub
        repository = hub.store.repositories[REPO]
        self.commits, self.branches = dict(repository.commits), dict(repository.branches)

    def __call__(self, *blobs):
        repository = self.hub.store.repositories[REPO]
        repository.commits, repository.branches = dict(self.commits), dict(self.branches)
        self.hub.store.repositories = {REPO: repository}
        for oid in blobs:
            self.hub.store.blobs.pop(oid, None)
        shutil.rmtree(constants.HF_HUB_CACHE, ignore_errors=True)
        self.hub.faults.clear()


def attempt(action):
    """What happened: None for success, else the error; it must be ours, on one line, without the token."""
    try:
        action()
    except HubError as error:
        found = error
    else:
        return None
    assert "\n" not in str(found)
    assert TOKEN not in str(found)
    assert "://" not in str(found)
    return found


def cases(patterns):
    """Every fault once at every request, and a server that fails there for good."""
    return [(place, fault, 1) for place in patterns for fault in FAULTS] + [(place, 500, 0) for place in patterns]


def test_push_ends_in_the_old_or_the_new_state(hub, states, hamburger, capsys):
    before, after = states
    rewind, counted = Rewind(hub), {"success": 0, "error": 0}
    new = {entry.sha256 for entry in hamburger.manifest.files}
    hit = set()
    for place, fault, times in cases(PUSH):
        repo = "tester/fresh" if place == "create" else REPO
        rewind(*new)
        hub.fault(PUSH[place], fault, times, seconds=0.01)
        error = attempt(lambda: hub_cards.push(hamburger, repo, license="mit"))
        found = hub.files(repo) if repo in hub.store.repositories else {}
        old = {} if place == "create" else before
        new_state = {**after, "README.md": after["README.md"].replace(REPO.encode(), repo.encode())}
        assert found in (old, new_state), (place, fault, times)
        if error is None:
            assert found == new_state, (place, fault, times)
        counted["success" if error is None else "error"] += 1
        hit |= {place for item in hub.log if item.fault == fault}
    assert hit == set(PUSH)
    assert counted["success"] >= 40
    assert counted["error"] >= 30
    with capsys.disabled():
        print(f" push: {sum(counted.values())} cases, {counted}", end="")


@pytest.mark.parametrize("fault", [500, "reset"])
def test_a_lost_answer_to_the_commit_is_a_success(hub, states, hamburger, fault):
    hub.fault(PUSH["commit"], fault, after_work=True)
    done = hub_cards.push(hamburger, REPO, license="mit")
    assert hub.files(REPO) == states[1]
    assert done.commit == hub.store.repository(REPO).commit().oid


def test_pull_ends_with_the_whole_artifact_or_nothing(hub, pizza, tmp_path, capsys):
    hub_cards.push(pizza, REPO, license="mit")
    rewind, counted = Rewind(hub), {"success": 0, "error": 0}
    for number, (place, fault, times) in enumerate(cases(PULL)):
        rewind()
        hub.fault(PULL[place], fault, times, seconds=0.01)
        folder = tmp_path / "pulled" / str(number)
        error = attempt(lambda: hub_cards.pull(REPO, folder, layouts=["all"]))
        assert any(item.fault == fault for item in hub.log), (place, fault)
        if error is None:
            assert contents(folder) == contents(pizza.path), (place, fault, times)
        else:
            assert not folder.exists()
            hub.faults.clear()
            assert contents(hub_cards.pull(REPO, folder, layouts=["all"]).path) == contents(pizza.path), (
                "the cache was left spoiled"
            )
        counted["success" if error is None else "error"] += 1
        if fault == "wrong bytes" and "head" not in place:
            assert error is not None
    leftover = [item for item in (tmp_path / "pulled").iterdir() if item.name.startswith(".")]
    assert leftover == []
    assert list(Path(constants.HF_HUB_CACHE).rglob("*.incomplete")) == []
    assert counted["success"] >= 15
    assert counted["error"] >= 10
    with capsys.disabled():
        print(f" pull: {sum(counted.values())} cases, {counted}", end="")
