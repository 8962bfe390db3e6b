"""``auto`` on the command line: what it shows before, after, and where it says no."""

from __future__ import annotations

import json

import pytest


def test_dry_run_loads_and_writes_nothing(erase, tmp_path):
    ran = erase("auto", "pizza", "--methods", "uce,rece,npo", "--out", tmp_path / "a", "--dry-run", "--json")
    assert ran.code == 0
    assert [item["method"] for item in ran.data["starts"]] == ["uce", "rece"]
    assert "lam" in ran.data["starts"][0]["searched"]
    assert "needs language" in ran.data["left_out"]["npo"]
    told = erase("auto", "pizza", "--methods", "uce,npo,simnpo", "--out", tmp_path / "a", "--dry-run")
    assert "takes no part (needs language): npo, simnpo" in told.err
    assert list(tmp_path.iterdir()) == []


def test_a_concept_may_say_what_it_becomes(erase, loaded, tmp_path):
    pytest.importorskip("optuna")
    words = ("auto", "pizza -> cake", "--methods", "uce", "--images", "1", "--trials", "1", "--out", tmp_path / "a")
    ran = erase(*words)
    assert ran.code == 0 and "1 trial was done in " in ran.out and "because 1 trial was asked for" in ran.out
    (concept,) = json.loads((tmp_path / "a" / "erase.json").read_text())["concepts"]
    assert (concept["text"], concept["anchor"]) == ("pizza", "cake")
    ran = erase("auto", "pizza, dog", "--out", tmp_path / "b")
    assert ran.code == 2 and "looks like several concepts (pizza, dog); write one in a command" in ran.err


def test_one_line_errors(erase, tmp_path):
    ran = erase("auto", "pizza", "--methods", "ucee", "--out", tmp_path / "a")
    assert (ran.code, ran.err.count("\n")) == (2, 1)
    assert "did you mean 'uce'" in ran.err
    assert erase("auto", "pizza", "--minutes", "0", "--out", tmp_path / "a").code == 2
    assert erase("auto", "pizza", "--pick", "3", "--out", tmp_path / "a").code == 2
    assert list(tmp_path.iterdir()) == []


def test_search_shows_front_and_writes_the_artifact(erase, loaded, tmp_path):
    pytest.importorskip("optuna")
    words = ("auto", "pizza", "--methods", "uce", "--images", "1", "--trials", "2", "--out", tmp_path / "a")
    ran = erase(*words)
    assert ran.code == 0, ran.err
    assert "base model" in ran.out
    assert "took trial" in ran.out
    assert "trial 1: uce" in ran.err
    assert "100 %" in ran.out
    again = erase(*words, "--pick", "1", "--force", "--json")
    assert (again.data["taken"], again.data["trials"]) == (1, 2)
    assert set(again.data["base"]) == {"name", "synonyms"}  # pocket draws no pizza from its descriptions
    assert "not measured: descriptions" in ran.err + ran.out
