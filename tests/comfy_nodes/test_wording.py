"""Nodes speak of widgets and nodes, not of options of the command line."""

from __future__ import annotations

import ast
import re

import pytest

from comfy_nodes.classic import node_class
from comfy_nodes.nodes.methods import drawing_methods
from comfy_nodes.option_inputs import option_inputs
from comfy_nodes.spec import NodeSpec
from comfy_nodes.wording import in_the_graph
from erase_plugins import hints
from erase_plugins.engine.erasing import check_no_anchor
from erase_plugins.errors import RequestError
from erase_plugins.hints import ANOTHER_OUT, ANOTHER_TO, ANY_BASE, Command, Hint, Sentence, Setting, sentence_of
from erase_plugins.types import Concept, EraseRequest
from tests.comfy_nodes.conftest import ROOT

FLAG = re.compile(r"(?<![\w-])--[a-z]")
#: not reached from a node
ELSEWHERE = {"cli", "pocket", "comparison", "testing", "space_app"}
#: commands themselves, what prints or says hints, style sheets, and another program's option
NAMED = (
    "cli/",
    "testing/__main__.py",
    "testing/template/",
    "pocket/",
    "hints.py",
    "provenance.py",
    "nodes/wording.py",
    "page.py",
    "executors.py",
)
HINTS = {item.__name__: item for item in (Hint, Setting, Command)}


def everywhere():
    for top in ("erase_plugins", "hub_cards", "comfy_nodes"):
        for path in sorted((ROOT / top).rglob("*.py")):
            yield path, ast.parse(path.read_text(encoding="utf-8"))


def modules():
    yield from (item for item in everywhere() if not ELSEWHERE & set(item[0].parts) and item[0].name != "hints.py")


def is_hint(node):
    return isinstance(node, ast.Call) and getattr(node.func, "id", "") in HINTS


def texts(node):
    """Every text of a file outside of its hints and docstrings; what is filled in is "X"."""
    if isinstance(node, ast.JoinedStr):
        yield "".join(str(getattr(part, "value", "X")) for part in node.values)
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        yield node.value
    elif not is_hint(node) and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        for child in ast.iter_child_nodes(node):
            yield from texts(child)


def test_nothing_names_an_option_of_the_command_line_but_as_a_hint():
    """Errors, and what is stored and read on every surface: warnings, notes, titles and help of options."""
    found = [
        (path.name, text) for path, tree in everywhere() if not any(name in path.as_posix() for name in NAMED)
        for text in texts(tree)
    ]  # fmt: skip
    assert len(found) > 10_000
    assert [item for item in found if FLAG.search(item[1])] == []


def written_hints():
    """Every hint of the package as it is written there, with "X" for what is filled in."""
    yield from (value for value in vars(hints).values() if isinstance(value, Hint | Setting | Command))
    for _, tree in modules():
        for node in ast.walk(tree):
            if is_hint(node):
                given = [*((None, item) for item in node.args), *((item.arg, item.value) for item in node.keywords)]
                known = [
                    (name, getattr(item, "value", "X") if isinstance(item, ast.Constant) else "X")
                    for name, item in given
                ]
                yield HINTS[node.func.id](*(v for k, v in known if k is None), **{k: v for k, v in known if k})


def test_every_hint_has_words_of_the_graph():
    found = set(written_hints())
    assert len(found) > 60
    assert [hint for hint in found if FLAG.search(in_the_graph(Sentence(hint)))] == []
    lost = [hint.name for hint in found if isinstance(hint, Command) and in_the_graph(Sentence(hint)) == hint.words]
    assert lost == []


@pytest.mark.parametrize(
    ("sentence", "wanted"),
    [
        (("esd takes ", Hint("to", before="no"), " (dog); use uce"), "esd takes no replacement behind '->' (dog); use uce"),
        (("give ", ANOTHER_TO), "give another replacement behind '->'"),
        (("name some ", Setting("priors", "...", before="with")), "name some in 'priors'"),
        ((Setting("attributes", "first,second"),), "write first,second into 'attributes'"),
        (("; ", ANY_BASE, " to use it on a fine-tune"), "; switch any_base on to use it on a fine-tune"),
        (("choose ", ANOTHER_OUT, " or ", Hint("force", before="pass"), " to replace it"),
         "choose another name or switch overwrite on to replace it"),
        (("use ", Hint("something-new", "ID")), "use 'something-new' ID"),
        (("a concept --to of me/a--b stays",), "a concept --to of me/a--b stays"),
    ],
)  # fmt: skip
def test_options_become_widgets(sentence, wanted):
    assert in_the_graph(Sentence(*sentence)) == wanted


def test_who_is_not_logged_in_is_told_how_without_a_terminal():
    from hub_cards.errors import translate

    missing = type("RepositoryNotFoundError", (Exception,), {})()
    assert in_the_graph(sentence_of(translate(missing, "pull"))).endswith(
        "a private one and you are not logged in; make a token on the Hub under Settings, Access Tokens, and set it as "
        "HF_TOKEN where ComfyUI starts"
    )


def test_errors_pass_the_border_with_their_class_and_cause():
    def run():
        try:
            raise KeyError("x")
        except KeyError as error:
            raise RequestError("give ", ANOTHER_TO) from error

    node = node_class(NodeSpec("EraseX", "t", "c", "d", (), (), run, ()))
    with pytest.raises(RequestError, match=r"^give another replacement behind '->'$") as caught:
        node().execute()
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("entry", drawing_methods(), ids=lambda entry: entry.item.id)
def test_tooltips_of_options_name_no_option_of_the_command_line(entry):
    assert [item.tooltip for item in option_inputs(entry.item.Options, ()) if FLAG.search(item.tooltip)] == []


def test_a_method_without_replacements_says_what_to_do_with_the_one_that_is_written():
    with pytest.raises(RequestError) as refused:
        check_no_anchor(EraseRequest("pocket", (Concept("pizza", anchor="cake"),), "esd"))
    assert in_the_graph(refused.value) == (
        "esd erases towards the empty prompt and takes no replacement behind '->' (pizza); leave it out, or use uce"
    )
