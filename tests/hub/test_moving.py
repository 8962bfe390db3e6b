"""What others do to a repository while somebody pulls or pushes: branches move, private ones become public."""

from __future__ import annotations

import pytest
from huggingface_hub import HfApi

import hub_cards
from erase_plugins.errors import PushRefused
from erase_plugins.testing import hub_server as server
from tests.hub.conftest import REPO, contents


def push(artifact, **options):
    return hub_cards.push(artifact, REPO, license="mit", **options)


@pytest.fixture
def moving(hub, made, monkeypatch):
    """Commits of pizza and hamburger on a branch that goes to the second once anything but the record is asked for."""
    commits = [push(made[name]).commit for name in ("pizza", "hamburger")]
    branches = hub.store.repository(REPO).branches
    branches["main"] = commits[0]
    answer, moved = server.answer, []

    def move_then(store, call):
        if call.path.endswith(".safetensors"):
            branches["main"] = commits[1]
            moved.append(call.path)
        return answer(store, call)

    monkeypatch.setattr(server, "answer", move_then)
    return commits, moved


@pytest.mark.parametrize("layouts", [(), ("all",)])
def test_a_pull_is_of_one_commit_while_the_branch_moves(moving, made, tmp_path, layouts):
    _, moved = moving
    hub_cards.pull(REPO, tmp_path / "x", layouts=layouts)
    assert moved
    found, whole = contents(tmp_path / "x"), contents(made["pizza"].path)
    assert found == {name: whole[name] for name in found}
    assert {"erase.json", "edit.safetensors"} <= set(found)
    assert (set(found) == set(whole)) == bool(layouts)


@pytest.mark.parametrize("which", ["pizza", "hamburger"])
def test_a_pinned_pull_stays_at_its_commit_wherever_the_branch_goes(hub, moving, made, tmp_path, which):
    (first, second), _ = moving
    branches = hub.store.repository(REPO).branches
    branches["main"] = second if which == "pizza" else first  # the branch is elsewhere before as well
    commit = first if which == "pizza" else second
    hub_cards.pull(f"{REPO}@{commit}", tmp_path / "x", layouts=["all"])
    assert contents(tmp_path / "x") == contents(made[which].path)


def test_a_public_repository_that_somebody_made_meanwhile_gets_nothing_private(hub, pizza):
    def meanwhile(_bundle):
        HfApi().create_repo(REPO, private=False)

    with pytest.raises(PushRefused, match="is public"):
        push(pizza, private=True, show=meanwhile)
    assert set(hub.files(REPO)) <= {".gitattributes"}
    assert hub.uploaded() == 0


@pytest.mark.parametrize("asked", [True, False])
def test_a_private_repository_that_becomes_public_during_a_push_gets_nothing(hub, pizza, hamburger, asked):
    """Also without --private: what was shown before said that only the owner sees it."""
    push(pizza, private=True)
    sent, files = hub.uploaded(), hub.files(REPO)

    def meanwhile(bundle):
        assert bundle.private
        hub.store.repository(REPO).private = False

    with pytest.raises(PushRefused, match=f"{REPO} became public meanwhile and nothing was sent"):
        push(hamburger, private=asked, show=meanwhile)
    assert (hub.uploaded(), hub.files(REPO)) == (sent, files)
    hub.store.repository(REPO).private = True
    push(hamburger)
    assert hub.files(REPO) != files


def test_one_that_becomes_public_while_files_are_sent_is_told(hub, pizza, hamburger, monkeypatch):
    push(pizza, private=True)
    answer = server.answer

    def open_then(store, call):
        if "/commit/" in call.path and call.method == "POST":
            store.repository(REPO).private = False
        return answer(store, call)

    monkeypatch.setattr(server, "answer", open_then)
    with pytest.raises(PushRefused, match="became public while files were sent"):
        push(hamburger)
    assert "erase_hamburger_sd1_kohya.safetensors" in hub.files(REPO)
