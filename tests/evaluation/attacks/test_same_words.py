"""Attacks by several authors say the same things in the same words: options, and the page about all of them."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest

from erase_plugins.manager import get_manager

PAGE = Path(__file__).parents[3] / "docs" / "attacks.md"


@pytest.fixture(scope="module")
def attacks():
    return [entry.item for entry in get_manager().evaluators("attack")]


def test_one_option_has_one_help(attacks):
    told: dict[str, set[str]] = {}
    for attack in attacks:
        for field in fields(attack.Options) if hasattr(attack, "Options") else ():
            text = field.metadata["help"]
            assert text[:1].islower() or text.startswith("JSON"), (attack.id, text)
            assert not text.endswith("."), (attack.id, text)
            told.setdefault(field.name, set()).add(text)
    assert len(told["concept"]) == len(told["reference"]) == len(told["forbid"]) == 1
    assert "lr" in told and "rate" not in told, "a step size is called lr, as in the methods"


def test_the_page_tells_how_many_pictures_are_asked_for(attacks):
    text = PAGE.read_text(encoding="utf-8")
    for attack in attacks:
        row = re.search(rf"^\| \[`{attack.id}`\](.*)$", text, re.MULTILINE)
        assert row.group(1).split("|")[3].split()[0] == str(attack.budgets["quick"]), attack.id


def test_the_page_has_every_attack_in_its_table_and_in_a_section(attacks):
    text = PAGE.read_text(encoding="utf-8")
    before, *sections = re.split(r"^## ", text, flags=re.MULTILINE)
    for attack in attacks:
        assert re.search(rf"^\| \[`{attack.id}`\]\(#{attack.id}\) \|", before, re.MULTILINE), attack.id
        assert any(section.startswith(attack.id + "\n") for section in sections), attack.id
