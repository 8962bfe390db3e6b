"""The generated parts of docs/plugins.md: hooks, required attributes, contract checks. A test compares them."""

from __future__ import annotations

import inspect
import re

from erase_plugins import hookspecs
from erase_plugins.plugin_checks import REQUIRED, hook_names

_BLOCK = r"(<!-- generated: {name} -->\n).*?(<!-- end: {name} -->)"


def hook_table() -> str:
    """One row per hook: signature and first line of its documentation."""
    rows = ["| hook | called with | gives |", "|---|---|---|"]
    for name in hook_names():
        function = getattr(hookspecs, name)
        signature = inspect.signature(function)
        gives = str(signature.return_annotation).replace(" | ", " or ")
        rows.append(f"| `{name}` | `({', '.join(signature.parameters)})` | `{gives}` |")
    return "\n".join(rows)


def hook_sections() -> str:
    """One paragraph per hook with its full signature."""
    parts = []
    for name in hook_names():
        function = getattr(hookspecs, name)
        signature = str(inspect.signature(function)).replace("'", "")
        parts.append(f"### {name}\n\n```python\ndef {name}{signature}: ...\n```\n\n{inspect.getdoc(function)}")
    return "\n\n".join(parts)


def attribute_table() -> str:
    """What each registered object must have."""
    rows = ["| returned by | every object has |", "|---|---|"]
    rows += [f"| `{hook}` | {', '.join(f'`{name}`' for name in names)} |" for hook, names in REQUIRED.items()]
    return "\n".join(rows)


def check_table() -> str:
    """The checks of the contract suite."""
    from erase_plugins.testing.checks import load_checks

    general, per_layout = load_checks()
    rows = ["| check | what it demands |", "|---|---|"]
    for table, mark in ((general, ""), (per_layout, " (per layout)")):
        rows += [f"| `{name}`{mark} | {(inspect.getdoc(item) or '').splitlines()[0]} |" for name, item in table.items()]
    return "\n".join(rows)


def measuring_table() -> str:
    """The checks of suites and attacks."""
    from erase_plugins.testing.measuring import ATTACK, CHECKS, GENERAL

    rows = ["| check | what it demands |", "|---|---|"]
    for item in CHECKS[ATTACK]:
        mark = "" if item in GENERAL else " (attacks)"
        rows.append(f"| `{item.__name__}`{mark} | {(inspect.getdoc(item) or '').splitlines()[0]} |")
    return "\n".join(rows)


BLOCKS = {
    "hook table": hook_table,
    "hooks": hook_sections,
    "attributes": attribute_table,
    "contract": check_table,
    "measuring": measuring_table,
}


def fill(text: str) -> str:
    """``text`` with every generated block renewed.

    Raises:
        ValueError: a block is missing.
    """
    for name, make in BLOCKS.items():
        pattern = re.compile(_BLOCK.format(name=re.escape(name)), re.DOTALL)
        if not pattern.search(text):
            raise ValueError(f"the page has no block '{name}'")
        text = pattern.sub(lambda found, make=make: f"{found[1]}\n{make()}\n\n{found[2]}", text)  # type: ignore[misc]
    return text
