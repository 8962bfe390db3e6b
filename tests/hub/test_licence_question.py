"""Where nobody knows the licence of the base, somebody at a terminal is asked; a script gets the error."""

from __future__ import annotations

import sys

import click
import pytest

from hub_cards.cli.push import asked_licence

UNKNOWN, KNOWN = {"model": "me/own-model"}, {"model": "pocket"}


@pytest.fixture
def terminal(monkeypatch):
    questions = []
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(click, "prompt", lambda text: questions.append(text) or " mit ")
    return questions


def test_a_person_is_asked_once_and_only_where_it_is_needed(terminal):
    assert asked_licence(UNKNOWN, None) == "mit"
    assert (asked_licence(UNKNOWN, "apache-2.0"), asked_licence(KNOWN, None)) == ("apache-2.0", None)
    assert len(terminal) == 1
    assert "me/own-model" in terminal[0]


def test_a_script_is_not_asked(terminal, monkeypatch):
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    assert asked_licence(UNKNOWN, None) is None
    assert terminal == []
