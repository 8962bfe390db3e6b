"""The generated parts of docs/plugins.md: hooks, attributes, contract checks, examples. A test compares them."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from functools import partial
from typing import Any

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
    from erase_plugins.testing.checks import GUARD_CHECKS, load_checks

    general, per_layout = load_checks()
    rows = ["| check | what it demands |", "|---|---|"]
    for table, mark in ((general, ""), (per_layout, " (per layout)"), (GUARD_CHECKS, " (guards)")):
        rows += [_row(name, mark, item) for name, item in table.items()]
    return "\n".join(rows)


def _row(name: str, mark: str, item: Any) -> str:
    return f"| `{name}`{mark} | {(inspect.getdoc(item) or '').splitlines()[0]} |"


def measuring_table() -> str:
    """The checks of suites and attacks."""
    from erase_plugins.testing.measuring import ATTACK, CHECKS, GENERAL

    rows = ["| check | what it demands |", "|---|---|"]
    for item in CHECKS[ATTACK]:
        mark = "" if item in GENERAL else " (attacks)"
        rows.append(_row(item.__name__, mark, item))
    return "\n".join(rows)


def item_table() -> str:
    """The checks of judges, layouts and families."""
    from erase_plugins.testing import families, judges, layouts

    rows = ["| of a | check | what it demands |", "|---|---|---|"]
    for what, room in (("judge", judges), ("file format", layouts), ("model family", families)):
        rows += [f"| {what} {_row(item.__name__, '', item)}" for item in room.CHECKS]
    return "\n".join(rows)


#: names of plugins that are not called after their kind
_NAMES = {"closed-form": "my-eraser", "trained": "my-trainer"}


def example(kind: str) -> str:
    """The file that ``new-plugin`` writes for a kind, under a name of the page's."""
    from erase_plugins.testing.template import rendered

    name = _NAMES.get(kind, f"my-{kind}")
    return f"```python\n# {name.replace('-', '_')}.py\n{rendered(name, kind).rstrip()}\n```"


def examples() -> dict[str, Callable[[], str]]:
    """A block for each kind that ``new-plugin`` can write."""
    from erase_plugins.testing.template import KINDS

    return {f"example {kind}": partial(example, kind) for kind in KINDS}


BLOCKS = {
    "hook table": hook_table,
    "hooks": hook_sections,
    "attributes": attribute_table,
    "contract": check_table,
    "measuring": measuring_table,
    "items": item_table,
    **examples(),
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
