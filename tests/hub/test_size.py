"""How much code hub_cards is: lines that are neither docstring, comment nor blank. It may shrink, and does not grow."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import hub_cards

#: reached; the aim was 1700
MOST = 1696
_NONE = {
    tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER,
    tokenize.ENCODING,
}  # fmt: skip


def lines_of_code(text: str) -> int:
    """Lines on which something of a program stands."""
    described: set[int] = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.body:
            first = node.body[0]
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                described |= set(range(first.lineno, (first.end_lineno or first.lineno) + 1))
    tokens = (item for item in tokenize.generate_tokens(io.StringIO(text).readline) if item.type not in _NONE)
    return len({line for item in tokens for line in range(item.start[0], item.end[0] + 1)} - described)


def test_what_counts():
    assert (
        lines_of_code(
            '"""Two\nlines."""\n\n# one\nx = (\n    1  # here\n)\n\n\ndef f():\n    "text"\n    return """a\nb"""\n'
        )
        == 6
    )


def test_hub_cards_does_not_grow():
    files = Path(hub_cards.__file__).parent.rglob("*.py")
    assert sum(lines_of_code(path.read_text(encoding="utf-8")) for path in files) <= MOST


def test_nothing_inside_the_client_is_changed():
    """No attribute of its modules is set, no environment of the process, no switch of its own."""
    for path in Path(hub_cards.__file__).parent.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            targets = (
                node.targets
                if isinstance(node, ast.Assign)
                else [node.target]
                if isinstance(node, ast.AugAssign)
                else []
            )
            for target in targets:
                root = target
                while isinstance(root, ast.Attribute | ast.Subscript):
                    root = root.value
                name = root.id if isinstance(root, ast.Name) else ""
                assert name not in ("constants", "lfs", "huggingface_hub", "os", "_http"), (
                    f"{path.name} sets {ast.unparse(target)}"
                )
