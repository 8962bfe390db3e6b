"""``texts``: two files that a run reads, of one person, and nothing that says whom."""

from __future__ import annotations

import pytest

from erase_plugins.cli import texts
from erase_plugins.families import own_words, wordings
from erase_plugins.families.texts import Pair
from tests.cli.conftest import invoke

NAME = "Zorvane Quill"


@pytest.fixture
def asked(monkeypatch):
    """The names that a model is asked for, which it answers with one row each."""

    class Names(list):
        wording = None

    names = Names()

    def answer(model, name, generator, wording):
        names.append(name)
        names.wording = wording
        strange = Pair("Alvin Bergstrom was born in", " Ymbrook", "", ends=False)
        return [Pair(f"{name} was born in", " Ymbrook", "", ends=False, unknown=strange)], [Pair("A", " text", "")]

    monkeypatch.setattr(texts, "load_target", lambda *_, **__: None)
    monkeypatch.setattr(own_words, "own_words", answer)
    return names


def test_the_files_are_what_a_run_reads_and_no_output_says_the_name(asked, tmp_path):
    (tmp_path / "who.txt").write_text(f"{NAME}\n")
    out = tmp_path / "asked"
    ran = invoke("texts", "--model", "pocket-lm", "--subject-file", tmp_path / "who.txt", "--out", out)
    assert (ran.code, asked) == (0, [NAME])
    assert "1 texts to forget and 1 to retain" in ran.out
    assert "Zorvane" not in ran.out + ran.err
    files = ("--forget", out / "forget.jsonl", "--retain", out / "retain.jsonl")
    assert " ".join(map(str, files)) in ran.out
    ran = invoke(
        "run", "npo", "--model", "pocket-lm", *files, "--kind", "person", "--out", tmp_path / "made", "--dry-run"
    )
    assert ran.code == 0, ran.err


def test_one_person_of_a_language_model(asked, tmp_path):
    out = ("--out", tmp_path / "asked")
    ran = invoke("texts", "--model", "pocket-lm", "--subject", NAME, "--subject", "Somebody", *out)
    assert ran.code != 0
    assert "2 names were given" in ran.err
    ran = invoke("texts", "--model", "pocket", "--subject", NAME, *out)
    assert ran.code != 0
    assert "no language model" in ran.err
    ran = invoke("texts", "--model", "pocket-lm", "--subject", NAME, *out, "--dry-run")
    assert (ran.code, asked) == (0, [])
    assert not (tmp_path / "asked").exists()


def test_another_language_is_a_file_and_a_name_in_other_letters_is_told_of_it(asked, tmp_path):
    given = ("texts", "--model", "pocket-lm", "--subject", "夏目漱石", "--dry-run", "--out", tmp_path / "a")
    assert "asked in English" in invoke(*given).out
    text = wordings._OURS.read_text(encoding="utf-8").replace('"{} is",', '"{}は",')
    (tmp_path / "ja.toml").write_text(text, encoding="utf-8")
    assert "English" not in invoke(*given, "--wording", tmp_path / "ja.toml").out
    ran = invoke(*given[:5], "--wording", tmp_path / "ja.toml", "--out", tmp_path / "b")
    assert ran.code == 0, ran.err
    assert asked.wording.begun[0] == "{}は"
    assert "--kind" not in ran.out  # whether it is about a person, the file does not say
    ran = invoke(*given, "--wording", tmp_path / "no.toml")
    assert (ran.code, "'no.toml' cannot be read" in ran.err) == (2, True)
