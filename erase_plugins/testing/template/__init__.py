"""Writes the skeleton of a plugin package: pyproject, one file with a method, a suite or an attack, one test file."""

from __future__ import annotations

import keyword
import re
from importlib.util import find_spec
from pathlib import Path

from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.hints import ANOTHER_OUT
from erase_plugins.plain_text import an

_NAME = re.compile(r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")
_METHOD = {
    "readme": "README.md.in", "what": "method", "What": "An eraser",
    "room": "contract", "contract": "MethodContract", "names": "methods",
}  # fmt: skip
_MEASURING = {"readme": "README_measuring.md.in", "room": "measuring", "names": "names"}
#: kind of plugin -> template of its file, and what its other files say
KINDS: dict[str, dict[str, str]] = {
    "closed-form": {"file": "closed_form.py.in", **_METHOD},
    "trained": {"file": "trained.py.in", **_METHOD},
    "suite": {
        "file": "suite.py.in", **_MEASURING, "what": "suite", "What": "A suite", "contract": "SuiteContract",
        "use": "evaluate no-pizza --model pocket --suite",
    },
    "attack": {
        "file": "attack.py.in", **_MEASURING, "what": "attack", "What": "An attack", "contract": "AttackContract",
        "use": "attack no-pizza --model pocket --attack",
    },
}  # fmt: skip


def write_plugin_template(name: str, out: str | Path, kind: str = "closed-form") -> tuple[Path, ...]:
    """Writes a package that installs, appears in the list and passes the contract suite as it is.

    Args:
        name: of package and plugin: lower-case words joined by "-".
        out: folder to write into; must not exist or be empty.
        kind: what it holds, see `KINDS`.

    Returns:
        The written files.

    Raises:
        RequestError: a name that cannot be used, or a folder that holds files.
        UnknownName: no such kind.
    """
    from erase_plugins import __version__
    from erase_plugins.manager import get_manager

    if kind not in KINDS:
        raise UnknownName("kind of plugin", kind, KINDS)
    told = KINDS[kind]
    module = name.replace("-", "_")
    if not _NAME.match(name) or keyword.iskeyword(module):
        raise RequestError(f"'{name}' cannot be a plugin name; use lower-case words joined by '-', like my-eraser")
    manager = get_manager()
    what = told["what"]
    there_are = manager.methods() if what == "method" else manager.evaluators(what)
    if name in {entry.item.id for entry in there_are}:
        raise RequestError(f"{an(what)} named '{name}' is registered already; choose another name")
    there = find_spec(module)
    if there is not None and there.origin is not None:  # none: a folder that happens to lie here
        raise RequestError(f"Python has a module named '{module}' already; choose another name")
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(f"'{folder.name}' is not an empty folder; choose ", ANOTHER_OUT)
    words = name.split("-")
    values = {
        "name": name,
        "module": module,
        "class": "".join(word.capitalize() for word in words),
        "title": " ".join(words).capitalize(),
        "version": __version__,
        **told,
    }
    from erase_plugins.artifacts.atomic import atomic_folder

    names = {
        "pyproject.toml.in": "pyproject.toml",
        told["readme"]: "README.md",
        told["file"]: f"{module}.py",
        "test.py.in": f"test_{module}.py",
    }
    with atomic_folder(folder, folder.exists(), kind="") as work:
        for template, target in names.items():
            text = (Path(__file__).parent / template).read_text(encoding="utf-8")
            for key, value in values.items():
                text = text.replace("{{" + key + "}}", value)
            (work / target).write_text(text, encoding="utf-8")
    return tuple(folder / target for target in names.values())
