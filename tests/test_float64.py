"""Closed forms compute in float64, which Apple's accelerator has not: numbers go to the processor before they get wide."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parent.parent / "erase_plugins"


def names(node: ast.AST) -> list[str]:
    """Names of the methods that are called one after the other, the last one first."""
    found = []
    while isinstance(node, ast.Call | ast.Attribute | ast.Subscript):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            found.append(node.func.attr)
        node = node.func if isinstance(node, ast.Call) else node.value
    return found


def late(text: str) -> list[int]:
    """Lines on which numbers go to the processor after they were made wide."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "cpu":
            chain = names(node.func.value)
            if "double" in chain and "cpu" not in chain:
                found.append(node.lineno)
    return found


def test_the_order_is_seen():
    assert late("a.double().mean(0).cpu()\nb[1].cpu().double()\nc.cpu().double().cpu()") == [1]


def test_numbers_go_to_the_processor_before_they_get_wide():
    found = {path.relative_to(ROOT).as_posix(): late(path.read_text(encoding="utf-8")) for path in ROOT.rglob("*.py")}
    assert {name: lines for name, lines in found.items() if lines} == {}
