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
from erase_plugins.errors import RequestError
from tests.comfy_nodes.conftest import ROOT

FLAG = re.compile(r"(?<![\w-])--[a-z]")
#: not reached from a node
ELSEWHERE = {"cli", "pocket", "comparison", "testing", "diagnose", "space_app"}


def sentences():
    """Every text inside a raise statement of the package; what is filled in is "X"."""
    for top in ("erase_plugins", "hub_cards", "comfy_nodes"):
        for path in sorted((ROOT / top).rglob("*.py")):
            if ELSEWHERE & set(path.parts):
                continue
            for raising in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(raising, ast.Raise):
                    for node in ast.walk(raising):
                        if isinstance(node, ast.JoinedStr):
                            yield "".join(str(getattr(part, "value", "X")) for part in node.values)
                        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                            yield node.value


def test_no_sentence_of_the_package_names_an_option_of_the_command_line():
    found = [text for text in sentences() if FLAG.search(text)]
    assert len(found) > 20
    assert [text for text in map(in_the_graph, found) if FLAG.search(text)] == []


@pytest.mark.parametrize(
    ("sentence", "wanted"),
    [
        ("esd takes no --to (dog); use uce", "esd takes no replacement behind '->' (dog); use uce"),
        ("'dog' would become itself; give another --to", "'dog' would become itself; give another replacement behind '->'"),
        ("nothing fits; name some with --set priors=...", "nothing fits; name some in 'priors'"),
        ("; pass --any-base to use it on a fine-tune", "; switch any_base on to use it on a fine-tune"),
        ("choose another --out or pass --force to replace it", "choose another name or switch overwrite on to replace it"),
        ("use --something-new", "use 'something-new'"),
        ("a private one and you are not logged in", "a private one and you are not logged in; make a token on the Hub under "
         "Settings, Access Tokens, and set it as HF_TOKEN where ComfyUI starts"),
        ("a concept -- as it were -- of me/a--b stays", "a concept -- as it were -- of me/a--b stays"),
    ],
)  # fmt: skip
def test_options_become_widgets(sentence, wanted):
    assert in_the_graph(sentence) == wanted


def test_errors_pass_the_border_with_their_class_and_cause():
    def run():
        try:
            raise KeyError("x")
        except KeyError as error:
            raise RequestError("give another --to") from error

    node = node_class(NodeSpec("EraseX", "t", "c", "d", (), (), run, ()))
    with pytest.raises(RequestError, match=r"^give another replacement behind '->'$") as caught:
        node().execute()
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("entry", drawing_methods(), ids=lambda entry: entry.item.id)
def test_tooltips_of_options_name_no_option_of_the_command_line(entry):
    assert [item.tooltip for item in option_inputs(entry.item.Options, ()) if FLAG.search(item.tooltip)] == []
