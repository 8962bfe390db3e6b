"""The list of changes that the tests must notice fits the code; `python tests/mutations.py` makes them."""

from __future__ import annotations

import ast

import pytest

from tests.mutations import ROOT, read_changes

CHANGES = read_changes()


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.name)
def test_a_change_can_be_made_and_its_tests_are_there(change):
    assert (ROOT / change.file).read_text(encoding="utf-8").count(change.old) == 1
    assert change.new != change.old
    assert change.tests
    for test in change.tests:
        file, *_, name = test.split("::")
        tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
        named = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
        assert name.partition("[")[0] in named


def test_every_change_has_a_name_of_its_own():
    assert len({change.name for change in CHANGES}) == len(CHANGES)
