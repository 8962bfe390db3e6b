"""A reference without a commit makes a graph run again when the commit behind it changed, and only then."""

from __future__ import annotations

import threading
from types import SimpleNamespace

import pytest

from comfy_nodes import hub, moving, opening
from comfy_nodes.nodes.hub import SPECS
from comfy_nodes.nodes.stack import _rows_state
from erase_plugins.errors import HubError, HubUnreachable

COMMITS = ("a" * 40, "b" * 40)
PULL = next(spec for spec in SPECS if spec.id == "EraseHubPull").state
SEARCH = next(spec for spec in SPECS if spec.id == "EraseHubSearch").state


@pytest.fixture
def online(monkeypatch, tmp_path):
    """Lets the Hub name a commit, refuse, keep silent or never answer; no cache, no memory of earlier answers."""
    from huggingface_hub import constants

    said = SimpleNamespace(commit=COMMITS[0], error=None, silent=None, asked=0, answered=0)

    def commit(repo, revision):
        said.asked += 1
        if said.silent:
            said.silent.wait()
        said.answered += 1
        if said.error:
            raise said.error
        return said.commit

    monkeypatch.setattr(moving, "_commit", commit)
    monkeypatch.setattr(moving, "_ANSWERS", {})
    monkeypatch.setattr(moving, "_LINKED", {})
    monkeypatch.setattr(moving, "FRESH", 0.0)
    monkeypatch.setattr(moving, "SILENT", 0.0)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    return said


def cached(tmp_path, commit, revision="main"):
    place = tmp_path / "models--me--x" / "refs" / revision
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(commit)


STATES = {
    "pull": lambda: PULL(repo="me/x", keep=False, offline=False, unique_id="2", prompt={}, extra_pnginfo=None),
    "load": lambda: opening.state("hub:me/x"),
    "stack": lambda: _rows_state(rows="hub:me/x : 0.5\nhub:me/x@v1 : 1"),
}


@pytest.mark.parametrize("way", STATES)
def test_the_same_commit_is_the_same_state_and_another_one_is_not(online, way):
    before = STATES[way]()
    assert before == STATES[way]()
    online.commit = COMMITS[1]
    assert before != STATES[way]()


@pytest.mark.parametrize("way", STATES)
def test_a_hub_that_is_away_does_not_change_anything(online, way, tmp_path):
    before = STATES[way]()
    cached(tmp_path, COMMITS[0])  # as pulling left it
    cached(tmp_path, COMMITS[0], "v1")
    online.error = HubUnreachable("away")
    assert before == STATES[way]()


def test_nobody_waits_for_a_hub_that_never_answers(online, monkeypatch):
    monkeypatch.setattr(moving, "SECONDS", -0.8)
    monkeypatch.setattr(moving, "SILENT", 60.0)
    online.silent = threading.Event()
    assert moving.state("me/x") == "me/x at nothing"
    assert moving.state("me/x") == "me/x at nothing"  # and it is not asked again at once
    assert (online.asked, online.answered) == (1, 0)
    online.silent.set()


def test_a_refusal_makes_the_node_run_and_tell(online):
    before = moving.state("me/x")
    online.error = HubError("no such repository")
    assert moving.state("me/x") not in (before, "me/x at nothing")


def test_commits_and_what_cannot_be_read_are_not_asked_about(online):
    for spec in (f"hub:me/x@{COMMITS[0]}", f"me/x@{COMMITS[0]}#dog", "me x", ""):
        assert moving.state(spec) == spec
    assert online.asked == 0


def test_offline_takes_the_cache(online, tmp_path):
    cached(tmp_path, COMMITS[1])
    assert PULL(repo="me/x", offline=True) == f"me/x at {COMMITS[1]}"
    assert online.asked == 0


def test_a_reference_from_a_wire_is_looked_up_by_what_it_was(online):
    def state():
        return PULL(repo=None, offline=False, unique_id="2", prompt={}, extra_pnginfo=None)

    assert state() != state()  # nothing is known yet
    moving.came_over_a_wire("2", "me/x")
    before = state()
    assert before == state()
    online.commit = COMMITS[1]
    assert before != state()
    after = state()
    moving.came_over_a_wire("2", "me/y")
    moving.came_over_a_wire("2", "me/x")  # another graph used the same number
    assert state() != after


def test_a_search_is_the_same_until_it_finds_something_else(online, monkeypatch):
    found = [SimpleNamespace(id="me/x", revision=COMMITS[0], downloads=1)]

    def search(*_, **__):
        if online.error:
            raise online.error
        return list(found)

    monkeypatch.setattr(hub, "part", lambda name: SimpleNamespace(search=search))
    values = {"query": "x", "concept": "", "base_model": "", "limit": 5}
    before = SEARCH(**values)
    found[0].downloads = 2
    assert before == SEARCH(**values)
    online.error = HubUnreachable("away")
    assert before == SEARCH(**values)
    online.error = None
    found[0].revision = COMMITS[1]
    assert before != SEARCH(**values)
    assert SEARCH(**{**values, "query": None}) != SEARCH(**{**values, "query": None})


@pytest.mark.parametrize("revision", ["../../secret", "a\x00b", "x" * 5000])
def test_odd_revisions_find_nothing(online, revision):
    assert moving.cached_commit("me/x", revision) is None
