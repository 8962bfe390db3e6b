"""Downloads tell how far they are; a Hub that does not answer is told apart from one that refuses."""

from __future__ import annotations

import pytest

import hub_cards
from erase_plugins.errors import HubError, HubUnreachable
from hub_cards.fetching import Bar, telling
from hub_cards.pulling import commit_of, pull
from tests.hub.conftest import REPO


def test_every_file_tells_its_bytes(hub, pizza):
    hub_cards.push(pizza, REPO, license="mit")
    seen = []
    pull(REPO, progress=lambda done, total: seen.append((done, total)))
    sizes = {len(content) for content in hub.files(REPO).values()}
    assert {total for _, total in seen} <= sizes
    assert sum(done == total for done, total in seen) == 2  # the manifest and the weights
    seen.clear()
    pull(REPO, progress=lambda done, total: seen.append((done, total)))
    assert seen == []


def test_without_anybody_to_tell_the_client_shows_its_own_bars():
    with telling(None) as more:
        assert more == {}


def test_a_bar_counts_from_an_earlier_try_and_knows_no_total():
    seen = []
    with Bar(lambda *now: seen.append(now), total=10, initial=4, unit="B") as bar:
        bar.update(6)
        bar.set_description("x")
    Bar(lambda *now: seen.append(now)).update(3)
    assert seen == [(10, 10), (3, 3)]


def test_the_commit_of_a_reference(hub, pizza):
    done = hub_cards.push(pizza, REPO, license="mit")
    assert commit_of(REPO) == commit_of(f"hub:{REPO}@main") == done.commit
    with pytest.raises(HubError, match="no such revision") as refused:
        commit_of(f"{REPO}@gone")
    assert not isinstance(refused.value, HubUnreachable)


def test_no_answer_is_an_error_of_its_own(hub):
    hub.fault(REPO, "reset", times=0)
    for asking in (commit_of, pull):
        with pytest.raises(HubUnreachable, match=f"cannot pull from {REPO}"):
            asking(REPO)
