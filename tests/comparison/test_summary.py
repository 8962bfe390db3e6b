"""Means, intervals and the table; what cannot be averaged is refused."""

from __future__ import annotations

import pytest

from erase_plugins.comparison.cells import Cell
from erase_plugins.comparison.executors import failure
from erase_plugins.comparison.summary import markdown, summarise
from erase_plugins.errors import RequestError

from .fakes import MEASURED, result


def make(method, concept, *numbers, **changes):
    return result(Cell(method, concept, images=4), *numbers, **changes)


def test_means_over_concepts():
    found = summarise([
        make("uce", "pizza", 0.0, 1.0), make("uce", "dog", 0.5, 0.75), make("esd", "pizza", 0.25, 1.0, seconds=60.0),
        failure(Cell("esd", "dog"), "loss became nan"),
    ])  # fmt: skip
    assert found["concepts"] == ["pizza", "dog"]
    assert found["kinds"]["object"]["rows"]["uce"]["rates"]["target_rate"] == [0.25, 0.0, 0.5]
    assert found["kinds"]["object"]["rows"]["uce"]["kept_change_points"][0] == -12.5
    assert (
        found["kinds"]["object"]["rows"]["esd"]["concepts"],
        found["kinds"]["object"]["rows"]["esd"]["seconds"],
    ) == (1, 60.0)
    assert found["failed"] == {"esd, dog": "loss became nan"}
    assert found["controls"]["destroyed_kept_rate"] == 0.0


def test_all_zero_has_the_interval_of_all_its_pictures():
    rows = summarise([make("uce", name) for name in ("pizza", "dog", "car")])["kinds"]["object"]["rows"]
    assert rows["uce"]["rates"]["target_rate"] == [0.0, 0.0, 0.25]  # 3 / 12
    assert rows["uce"]["kept_change_points"] == [0.0, 0.0, 0.0]


def test_one_concept_keeps_the_interval_over_its_pictures():
    """It has no spread over concepts, and no interval is no certainty."""
    cell = make("uce", "pizza", 0.5, 0.75)
    cell["rates"]["target_rate"]["edited"] = [0.5, 0.25, 0.75, 4]
    cell["change"]["kept_rate"] = [-0.25, -0.5, 0.0]
    row = summarise([cell])["kinds"]["object"]["rows"]["uce"]
    assert row["rates"]["target_rate"] == [0.5, 0.25, 0.75]
    assert row["kept_change_points"] == [-25.0, -50.0, 0.0]


def test_other_judges_or_seeds_are_not_averaged():
    other = {**MEASURED, "seed": 1, "judge_hash": "2"}
    with pytest.raises(RequestError, match="differ in judge_hash, seed"):
        summarise([make("uce", "pizza"), make("esd", "pizza", measured_by=other)])


def test_table_is_whole():
    skipped = {**failure(Cell("spm", "pizza"), "does not claim it"), "status": "skipped"}
    text = markdown(summarise([make("uce", "pizza"), skipped]), "erase-plugins compare", "2026-01-01")
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines[:4]}) == 1
    assert "| uce | 1 | 0.0% (0.0%..100.0%) |" in text
    assert "| pizza | 0% / 0% / 100% | skipped |" in text
    assert "- spm, pizza: does not claim it" in text
    assert "Made by `erase-plugins compare` on 2026-01-01" in text


def test_kinds_have_tables_of_their_own():
    style = result(Cell("uce", "noto", kind="style", images=4), 0.25)
    found = summarise([make("uce", "pizza", 0.0), style])
    assert found["kinds"]["object"]["rows"]["uce"]["rates"]["target_rate"][0] == 0.0
    assert found["kinds"]["style"]["rows"]["uce"]["rates"]["target_rate"][0] == 0.25
    text = markdown(found, "erase-plugins compare", "2026-01-01")
    assert text.index("## Kind: object") < text.index("## Kind: style") < text.index("## Per concept")
