"""Nothing in a graph can publish: an offer goes to one client, holds once, for a while, and for exactly what was shown."""

from __future__ import annotations

import sys
from types import SimpleNamespace

import pytest

from comfy_nodes import publishing
from erase_plugins.errors import NotAllowed, PushRefused, RequestError
from hub_cards.bundle import Bundle, PushFile


def bundle(data=b"abc", **more):
    return Bundle(SimpleNamespace(name="no_pizza"), "me/x", (PushFile("a", data), PushFile("b", b"", "same")), **more)


@pytest.fixture
def told(monkeypatch):
    """What clients were told: (event, data, client)."""
    said = []
    instance = SimpleNamespace(send_sync=lambda *words: said.append(words))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=instance)))
    monkeypatch.setattr(publishing, "_OFFERS", type(publishing._OFFERS)())
    monkeypatch.setattr(publishing, "_account", lambda: "me")
    return said


def sender(now, sent):
    def send(same):
        same(now)
        sent.append(now)
        return SimpleNamespace(bundle=now, commit="c" * 40, sent=("a",), pull_request=None)

    return send


def test_an_offer_is_sent_once_to_the_one_who_queued(told):
    sent = []
    said = publishing.offer(bundle(), sender(bundle(), sent), "tab")
    ((event, data, client),) = told
    assert (event, client, data["repo"], data["account"]) == ("erase_plugins.publish", "tab", "me/x", "me")
    assert [item["name"] for item in data["files"]] == ["a"]
    assert data["key"] not in said
    assert sent == []
    assert publishing.settle(data["key"], True)["commit"] == "c" * 40
    with pytest.raises(RequestError, match="nothing waits"):
        publishing.settle(data["key"], True)
    assert len(sent) == 1


def test_without_a_client_nobody_is_asked(told):
    assert "nobody to ask" in publishing.offer(bundle(), sender(bundle(), []), None)
    assert told == []
    assert not publishing._OFFERS


@pytest.mark.parametrize(
    "now",
    [
        bundle(b"abd"), bundle(parent="1" * 40), bundle(exists=True), bundle(private=True), bundle(message="x"),
        bundle(removed=("c",)), bundle(create_pr=True),
    ],
)  # fmt: skip
def test_what_changed_since_the_question_is_not_sent(told, now):
    sent = []
    publishing.offer(bundle(), sender(now, sent), "tab")
    with pytest.raises(PushRefused, match="changed since you were asked"):
        publishing.settle(told[0][1]["key"], True)
    assert sent == []


def test_an_offer_ends_and_too_many_drop_the_oldest(told, monkeypatch):
    sent = []
    for _ in range(publishing.MOST + 1):
        publishing.offer(bundle(), sender(bundle(), sent), "tab")
    keys = [data["key"] for _, data, _ in told]
    with pytest.raises(RequestError, match="nothing waits"):
        publishing.settle(keys[0], True)
    monkeypatch.setattr(publishing.time, "monotonic", lambda: 1e12)
    with pytest.raises(RequestError, match="nothing waits"):
        publishing.settle(keys[1], True)
    assert sent == []


@pytest.mark.parametrize("key", ["", "x", None, 3, ["x"], {}])
def test_what_is_no_key_opens_nothing(told, key):
    publishing.offer(bundle(), sender(bundle(), []), "tab")
    with pytest.raises(RequestError, match="nothing waits"):
        publishing.settle(key, True)


JSON = {"Content-Type": "application/json", "Host": "127.0.0.1:8188"}


@pytest.mark.parametrize(
    "headers",
    [
        {**JSON, "Origin": "http://evil.example"},
        {**JSON, "Origin": "null"},
        {**JSON, "Origin": "http://127.0.0.1:9999"},
        {**JSON, "Sec-Fetch-Site": "cross-site"},
        {"Host": "127.0.0.1:8188", "Content-Type": "text/plain"},
        {"Host": "127.0.0.1:8188"},
    ],
)
def test_other_pages_are_refused(headers):
    with pytest.raises(NotAllowed):
        publishing.refuse_strangers(headers)


@pytest.mark.parametrize("more", [{}, {"Origin": "http://127.0.0.1:8188", "Sec-Fetch-Site": "same-origin"}])
def test_the_editor_and_programs_pass(more):
    publishing.refuse_strangers({**JSON, **more})
