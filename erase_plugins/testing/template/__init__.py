"""Writes the skeleton of a plugin package: pyproject, one method file, one test file."""

from __future__ import annotations

import keyword
import re
from importlib.util import find_spec
from pathlib import Path

from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.hints import ANOTHER_OUT

_NAME = re.compile(r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")
#: kind of method -> template of its file
KINDS = {"closed-form": "closed_form.py.in", "trained": "trained.py.in"}


def write_plugin_template(name: str, out: str | Path, kind: str = "closed-form") -> tuple[Path, ...]:
    """Writes a package that installs, appears in the list and passes the contract suite as it is.

    Args:
        name: of package and method: lower-case words joined by "-".
        out: folder to write into; must not exist or be empty.
        kind: of the method, see `KINDS`.

    Returns:
        The written files.

    Raises:
        RequestError: a name that cannot be used, or a folder that holds files.
        UnknownName: no such kind.
    """
    from erase_plugins import __version__
    from erase_plugins.manager import get_manager

    if kind not in KINDS:
        raise UnknownName("kind of method", kind, KINDS)
    module = name.replace("-", "_")
    if not _NAME.match(name) or keyword.iskeyword(module):
        raise RequestError(f"'{name}' cannot be a plugin name; use lower-case words joined by '-', like my-eraser")
    manager = get_manager()
    if name in {entry.item.id for entry in manager.methods()}:
        raise RequestError(f"a method named '{name}' is registered already; choose another name")
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
    }
    from erase_plugins.artifacts.atomic import atomic_folder

    names = {
        "pyproject.toml.in": "pyproject.toml",
        "README.md.in": "README.md",
        KINDS[kind]: f"{module}.py",
        "test_method.py.in": f"test_{module}.py",
    }
    with atomic_folder(folder, folder.exists(), kind="") as work:
        for template, target in names.items():
            text = (Path(__file__).parent / template).read_text(encoding="utf-8")
            for key, value in values.items():
                text = text.replace("{{" + key + "}}", value)
            (work / target).write_text(text, encoding="utf-8")
    return tuple(folder / target for target in names.values())
