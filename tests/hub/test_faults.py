"""Every request of push and pull x every fault: success, or one clear error and the old or the new state."""

from __future__ import annotations

import re
import tempfile

import pytest

import hub_cards
from erase_plugins import load_artifact
from erase_plugins.artifacts.places import MARKER
from erase_plugins.errors import HubError
from erase_plugins.testing.models import fresh_pipeline
from erase_plugins.workflow.collection import Collection, build_collection
from hub_cards.bundle import Bundle, PushFile
from hub_cards.sending import send
from tests.hub.conftest import REPO, contents
from tests.hub.matrix import Rewind, leftovers, run

LIBRARY = "tester/library"


@pytest.fixture(scope="module")
def small(made, tmp_path_factory):
    """The two artifacts with two weight files each: fewer requests of the same kind."""
    place = tmp_path_factory.mktemp("small")
    return {name: item.save(place / name, ("patch", "context")) for name, item in made.items()}


@pytest.fixture(scope="module")
def libraries(small, tmp_path_factory):
    """A collection, and its next state: one artifact replaced, one new, one gone."""
    place = tmp_path_factory.mktemp("libraries")
    pizza, hamburger = small["pizza"], small["hamburger"]
    return (
        build_collection({"kept": pizza, "changed": pizza, "gone": hamburger}, place / "old"),
        build_collection({"kept": pizza, "changed": hamburger, "new": hamburger}, place / "new"),
    )


def tell(capsys, what, counted):
    with capsys.disabled():
        print(f" {what}: {sum(counted.values())} cases, {dict(counted)}", end="")


def settle(hub, action, repo):
    """The state that a good run leaves, and the one before."""
    before = hub.files(repo) if repo in hub.store.repositories else None
    rewind = Rewind(hub)
    action()
    return rewind, before, hub.files(repo)


def check_push(hub, repo, before, after, action):
    """What every case of a push must leave."""

    def check(case, error):
        found = hub.files(repo) if repo in hub.store.repositories else None
        if error is None:
            assert found == after, case
        else:
            assert found in (before, after) or (before is None and not found), case
            if found == {}:
                assert "empty: run the same command again" in str(error), case
            action()
            assert hub.files(repo) == after, f"{case}: the same command did not go on"

    return check


def test_push_over_an_earlier_one(hub, small, capsys):
    def action():
        return hub_cards.push(small["hamburger"], REPO, license="mit")

    hub_cards.push(small["pizza"], REPO, license="mit")
    rewind, before, after = settle(hub, action, REPO)
    counted = run(hub, action, check_push(hub, REPO, before, after, action), rewind)
    assert counted["success"] >= 60
    assert counted["error"] >= 35
    tell(capsys, "push", counted)


def test_push_to_a_new_repository(hub, small, capsys):
    def action():
        return hub_cards.push(small["pizza"], REPO, license="mit")

    rewind, before, after = settle(hub, action, REPO)
    counted = run(hub, action, check_push(hub, REPO, before, after, action), rewind)
    assert counted["success"] >= 45
    assert counted["error"] >= 20
    tell(capsys, "push to a new repository", counted)


def test_push_of_a_collection(hub, libraries, capsys):
    old, new = libraries

    def action():
        return hub_cards.push_collection(new, LIBRARY, license="mit", prune=True)

    hub_cards.push_collection(old, LIBRARY, license="mit")
    rewind, before, after = settle(hub, action, LIBRARY)
    assert not any(name.startswith("gone/") for name in after)
    counted = run(hub, action, check_push(hub, LIBRARY, before, after, action), rewind)
    assert counted["success"] >= 35
    assert counted["error"] >= 30
    tell(capsys, "push of a collection", counted)


def test_push_of_a_collection_in_parts(hub, libraries, monkeypatch, capsys, tmp_path):
    """Between the parts new files are there that nothing lists: whoever pulls gets the old or the new state."""
    old, new = libraries
    monkeypatch.setattr("hub_cards.sending.MOST_FILES", 3)

    def action():
        return hub_cards.push_collection(new, LIBRARY, license="mit", prune=True)

    hub_cards.push_collection(old, LIBRARY, license="mit")
    rewind, _, after = settle(hub, action, LIBRARY)
    states = {tuple(old.names()): old, tuple(new.names()): new}

    def check(case, error):
        index = Collection.open(hub_cards.pull_collection(LIBRARY).path)
        pulled = hub_cards.pull_collection(LIBRARY, index.names(), layouts=["all"])
        assert pulled.entries == states[index.names()].entries, case
        if error is None:
            assert hub.files(LIBRARY) == after, case

    counted = run(hub, action, check, rewind)
    assert counted["error"] >= 40
    tell(capsys, "push of a collection in parts", counted)


def test_push_of_a_full_checkpoint(hub, small, monkeypatch, tmp_path, capsys):
    """Every kind of request once: fails once, fails for good, and an answer that is lost."""
    base, work = tmp_path / "base", tmp_path / "work"
    work.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(work))
    fresh_pipeline("tiny_sd1").save_pretrained(base)
    seen = set()

    def action(name="hamburger"):
        return hub_cards.push_merged(small[name], base, REPO, license="mit", shard_bytes=400_000)

    def chosen(case):
        kind = (re.sub(r"[0-9a-f]{40,}", "*", case.request), case.kind, case.times, case.after_work)
        new = case.kind in (500, "reset") and kind not in seen
        seen.add(kind)
        return new

    action("pizza")
    rewind, before, after = settle(hub, action, REPO)
    assert before != after
    counted = run(hub, action, check_push(hub, REPO, before, after, action), rewind, chosen)
    assert counted["success"] >= 10
    assert counted["error"] >= 5
    assert list(work.iterdir()) == []
    tell(capsys, "push of a full checkpoint", counted)


@pytest.mark.parametrize("fault", [500, "reset"])
def test_a_lost_answer_to_the_commit_is_a_success(hub, small, fault):
    hub_cards.push(small["pizza"], REPO, license="mit")
    hub.fault("POST .*/commit/", fault, after_work=True)
    done = hub_cards.push(small["hamburger"], REPO, license="mit")
    assert done.commit == hub.store.repository(REPO).commit().oid
    assert load_artifact(f"hub:{REPO}").name == "erase_hamburger"


def check_pull(hub, action, place, expected):
    """What every case of a pull must leave: everything or nothing, and a cache that the next try can use."""

    def check(case, error):
        if error is not None:
            assert not place.exists(), case
            action()
        assert contents(place) == expected, case
        assert leftovers(place.parent) == [], case

    return check


def fresh(action, place):
    """The action with its target folder taken away before."""
    import shutil

    def run_fresh():
        shutil.rmtree(place, ignore_errors=True)
        return action()

    return run_fresh


def test_pull(hub, small, tmp_path, capsys):
    place = tmp_path / "pulled" / "here"
    hub_cards.push(small["pizza"], REPO, license="mit")
    action = fresh(lambda: hub_cards.pull(REPO, place, layouts=["all"]), place)
    counted = run(hub, action, check_pull(hub, action, place, contents(small["pizza"].path)), Rewind(hub))
    assert counted["success"] >= 15
    assert counted["error"] >= 15
    tell(capsys, "pull", counted)


def test_pull_of_a_repository_without_manifest(hub, small, tmp_path, capsys):
    from huggingface_hub import CommitOperationAdd, HfApi

    place = tmp_path / "pulled" / "here"
    data = (small["pizza"].path / "edit.safetensors").read_bytes()
    HfApi().create_repo(REPO)
    HfApi().create_commit(REPO, [CommitOperationAdd("some_lora.safetensors", data)], commit_message="x")
    action = fresh(lambda: hub_cards.pull(REPO, place), place)
    action()
    found = contents(place)
    assert {**found, MARKER: b""} == {"some_lora.safetensors": data, MARKER: b""}  # the marker says that pull made it
    counted = run(hub, action, check_pull(hub, action, place, found), Rewind(hub))
    assert counted["error"] >= 15
    tell(capsys, "pull without manifest", counted)


def test_pull_of_a_collection(hub, libraries, tmp_path, capsys):
    place = tmp_path / "pulled" / "here"
    hub_cards.push_collection(libraries[0], LIBRARY, license="mit")
    action = fresh(lambda: hub_cards.pull_collection(LIBRARY, ["kept", "gone"], place), place)
    action()
    counted = run(hub, action, check_pull(hub, action, place, contents(place)), Rewind(hub))
    assert counted["success"] >= 25
    assert counted["error"] >= 20
    tell(capsys, "pull of a collection", counted)


def test_an_upload_that_always_fails_ends_soon(hub, small, monkeypatch):
    """Once one of forty files failed as often as the client tries, the others are not tried any more."""
    from types import SimpleNamespace

    import huggingface_hub.utils._http as client_http

    monkeypatch.setattr(client_http, "time", SimpleNamespace(sleep=lambda _: None))
    hub.fault("PUT /lfs/", 503, times=0)
    files = {f"{turn}.safetensors": b"%d" % turn * 100 for turn in range(40)}
    bundle = Bundle(small["pizza"], REPO, tuple(PushFile(name, data) for name, data in files.items()), message="x")
    with pytest.raises(HubError, match="the Hub answered 503; try again later"):
        send(bundle)
    tries, threads = 6, 5
    assert hub.count("PUT /lfs/") <= 2 * tries * threads, "of 240: those that are under way end by themselves"
