"""``--erase`` reads one concept: arrows name its replacement, a list in one option is refused before any work."""

from __future__ import annotations

import pytest

FILE = "concepts.txt"


@pytest.mark.parametrize(
    "words",
    [
        ("run", "uce", "--model", "pocket", "--erase", "pizza, dog, car"),
        ("run", "uce", "--model", "pocket", "--erase-file", FILE),
        ("sweep", "uce", "--model", "pocket", "--erase", "pizza; dog"),
        ("compare", "--model", "pocket", "--methods", "uce", "--erase", "pizza, dog"),
        ("compare", "--model", "pocket", "--methods", "uce", "--style", "van gogh, monet"),
        ("add", "nowhere", "--erase", "pizza, dog"),
    ],
)
def test_a_list_in_one_option_is_refused_and_nothing_is_written(erase, tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / FILE).write_text("cat\npizza, dog\n", encoding="utf-8")
    ran = erase(*words, "--out", "out", "--dry-run")
    assert ran.code == 2
    assert "looks like several concepts" in ran.err
    assert "each with its own --erase" in ran.err
    assert [item.name for item in tmp_path.iterdir()] == [FILE]


@pytest.mark.parametrize(("arrow", "to"), [("=>", ()), ("->", ()), ("→", ("--to", "hamburger"))])
def test_an_arrow_names_the_replacement(erase, tmp_path, arrow, to):
    ran = erase("run", "uce", "--model", "pocket", "--erase", f"pizza {arrow} hamburger", *to, "--out", tmp_path / "a",
                "--dry-run", "--json")  # fmt: skip
    (concept,) = ran.data["plan"]["request"]["forget"]
    assert (concept["text"], concept["anchor"]) == ("pizza", "hamburger")


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_a_file_that_names_nothing_is_said_to_do_so(erase, tmp_path, command):
    (tmp_path / FILE).write_text("# wanted\n\n", encoding="utf-8")
    ran = erase(command, "uce", "--model", "pocket", "--erase-file", tmp_path / FILE, "--out", tmp_path / "a")
    assert ran.code == 2
    assert ran.err == f"error: --erase-file {FILE} names nothing; write one concept a line\n"


def test_quotes_keep_a_phrase_together(erase, tmp_path):
    ran = erase("run", "uce", "--model", "pocket", "--erase", '"pizza, dog"', "--out", tmp_path / "a", "--dry-run",
                "--json")  # fmt: skip
    assert [item["text"] for item in ran.data["plan"]["request"]["forget"]] == ["pizza, dog"]


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("run", "uce", "--erase", "pizza -> dog", "--to", "cat"), "names a replacement and --to another one"),
        (("run", "uce", "--erase", "pizza -> dog", "--erase", "pizza"), "named twice with different replacements"),
        (("compare", "--methods", "uce", "--erase", "pizza -> dog"), "no replacement can be named here"),
    ],
)
def test_what_contradicts_itself_is_refused(erase, tmp_path, words, problem):
    ran = erase(*words, "--model", "pocket", "--out", tmp_path / "a", "--dry-run")
    assert ran.code == 2
    assert problem in ran.err
