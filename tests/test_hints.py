"""Sentences whose advice is data: what Python says, what the command line prints, and that no step on the way loses it."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
from pathlib import Path

import pytest

import erase_plugins
from erase_plugins import errors
from erase_plugins.errors import ArtifactError, EraseError, MissingPlugin, RequestError
from erase_plugins.hints import (
    AGAIN,
    ANOTHER_OUT,
    ANOTHER_TO,
    Command,
    Hint,
    Sentence,
    Setting,
    in_terminal,
    in_words,
    joined,
    said_as,
    sentence_of,
    stored,
)  # fmt: skip


@pytest.mark.parametrize(
    ("hint", "terminal", "python"),
    [
        (Hint("judge", before="give"), "give --judge", "give judge="),
        (Hint("license", "ID", before="name it with"), "name it with --license ID", "name it with license='ID'"),
        (Hint("private", before="leave", after="out"), "leave --private out", "leave private=True out"),
        (Hint("force", before="pass"), "pass --force", "pass force=True"),
        (Hint("all-files"), "--all-files", "layouts=['all']"),
        (Hint("base-model"), "--base-model", "base_model="),
        (Hint("group", "2"), "--group 2", "group=2"),
        (Hint("retain", "rows.jsonl"), "--retain rows.jsonl", "keep=[DataRef(...)]"),
        (Setting("priors", "...", before="with"), "with --set priors=...", "with options={'priors': '...'}"),
        (Command("card --pairs", "'erase-plugins card --pairs 3'"), *["'erase-plugins card --pairs 3'"] * 2),
    ],
)  # fmt: skip
def test_each_surface_has_its_own_words(hint, terminal, python):
    sentence = Sentence("first; ", hint, "!")
    assert sentence == f"first; {python}!"
    assert in_terminal(sentence) == f"first; {terminal}!"


def test_a_place_is_called_what_it_is_called_where_it_was_given():
    """Checks of a place do not know which option named it."""
    with pytest.raises(ArtifactError) as raised, said_as("into"):
        raise ArtifactError("'out' exists already; choose ", ANOTHER_OUT, " or ", Hint("force", before="pass"))
    assert in_terminal(raised.value) == "'out' exists already; choose another --into or pass --force"
    assert str(raised.value) == "'out' exists already; choose another into= or pass force=True"
    with pytest.raises(KeyError, match="out"), said_as("into"):
        raise KeyError("out")


def test_text_that_looks_like_an_option_is_not_touched():
    """A concept may be called anything; only what the sentence itself advises is said differently."""
    sentence = Sentence("'--to' would become itself; give ", ANOTHER_TO)
    assert sentence == "'--to' would become itself; give another to="
    assert in_terminal(Sentence("'to=' would become itself; give ", ANOTHER_TO)).endswith(
        "'to=' would become itself; give another --to"
    )
    assert in_terminal("plain to=") == "plain to="


def test_sentences_inside_sentences_keep_their_hints():
    inner = Sentence("choose ", ANOTHER_OUT)
    outer = Sentence("no; ", inner, " or ", AGAIN)
    assert outer == "no; choose another out= or run the same command again"
    assert outer.parts == ("no; ", "choose ", ANOTHER_OUT, " or ", AGAIN)
    filled = Sentence("{status}: {way}, then ", AGAIN).filled(status=412, way=inner, unused=0)
    assert filled == "412: choose another out=, then run the same command again"
    assert [part for part in filled.parts if not isinstance(part, str)] == [ANOTHER_OUT, AGAIN]


def test_an_error_carries_its_hints_through_a_process_and_a_change_of_words():
    error = RequestError("'pizza' would become itself; give ", ANOTHER_TO)
    assert str(error) == "'pizza' would become itself; give another to="
    assert in_terminal(error) == "'pizza' would become itself; give another --to"
    for twin in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(twin) is RequestError
        assert str(twin) == str(error)
        assert in_terminal(sentence_of(twin)) == "'pizza' would become itself; give another --to"
    wrapped = ArtifactError(sentence_of(error), "; ", AGAIN)
    assert in_words(sentence_of(wrapped), lambda hint: "?") == "'pizza' would become itself; give ?; ?"


def test_an_error_of_one_text_or_of_other_arguments_is_what_it_was():
    assert RequestError("plain").args == ("plain",)
    assert sentence_of(KeyError("x")) == "'x'"
    assert str(EraseError(Hint("out"), " ends in '..'")) == "out= ends in '..'"
    assert str(MissingPlugin("erase_plugins.push", "hub_cards")).endswith(
        "'erase-plugins list plugins' says why it was left out"
    )


def test_what_is_kept_names_an_option_by_its_bare_name():
    error = RequestError("raise anchors or name some to ", Hint("keep"), ", ", Setting("priors", "..."), ", ", AGAIN)
    assert stored(error) == "raise anchors or name some to 'keep', priors=..., run the same command again"
    assert stored(Sentence(Hint("dtype", "float32", before="with"))) == "with 'dtype' float32"
    assert stored("plain") == "plain"


def test_what_is_passed_on_keeps_its_hints():
    error = RequestError("'x' would become itself; give ", ANOTHER_TO)
    outer = ArtifactError("table a: ", error, "; ", joined(" or ", [sentence_of(error), "stop"]))
    assert in_terminal(outer).count("another --to") == 2
    assert str(outer) == f"table a: {error}; {error} or stop"


def swallowed():
    """Places where an error of ours becomes text by itself, which speaks Python on every surface."""
    ours = {name for name, item in vars(errors).items() if inspect.isclass(item) and issubclass(item, EraseError)}
    root = Path(erase_plugins.__file__).parent.parent
    for path in (path for top in ("erase_plugins", "hub_cards", "comfy_nodes") for path in (root / top).rglob("*.py")):
        if "testing" in path.parts:
            continue
        for place in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            caught = {getattr(item, "id", "") for item in ast.walk(getattr(place, "type", None) or ast.Pass())}
            if not isinstance(place, ast.ExceptHandler) or not place.name or not caught & ours:
                continue
            for node in (node for line in place.body for node in ast.walk(line)):
                text = isinstance(node, ast.Call) and getattr(node.func, "id", "") == "str"
                given = [node.value] if isinstance(node, ast.FormattedValue) else node.args if text else []
                if place.name in {getattr(item, "id", "") for item in given}:
                    yield f"{path.relative_to(root).as_posix()}: {ast.unparse(node)}"


def test_no_error_of_ours_becomes_text_without_its_hints():
    """Only comparisons look at the bare text."""
    assert sorted(swallowed()) == [
        "erase_plugins/diagnose/model.py: str(error)",
        "erase_plugins/evaluation/saved.py: str(error)",
    ]
