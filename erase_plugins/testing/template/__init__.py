"""Writes the skeleton of a plugin package: pyproject, one file with a hook, and one with the test of its contract."""

from __future__ import annotations

import keyword
import re
from importlib.util import find_spec
from pathlib import Path

from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.hints import ANOTHER_OUT
from erase_plugins.plain_text import an

_NAME = re.compile(r"^[a-z][a-z0-9]*(-[a-z0-9]+)*$")
_RUN = "erase-plugins run uce --model pocket --erase pizza --out no-pizza"
_METHOD = {
    "readme": "README.md.in", "hook": "erase_methods", "what": "method", "What": "An eraser", "room": "contract",
    "contract": "MethodContract", "imports": "", "given": 'methods = ("{{name}}",)', "and": "",
}  # fmt: skip
_ITEM = {**_METHOD, "readme": "README_item.md.in", "given": 'names = ("{{name}}",)'}
#: kind of plugin -> template of its file, and what its other files say
KINDS: dict[str, dict[str, str]] = {
    "closed-form": {"file": "closed_form.py.in", **_METHOD},
    "trained": {"file": "trained.py.in", **_METHOD},
    "language": {
        **_METHOD, "file": "language.py.in", "readme": "README_item.md.in", "What": "A method for language models",
        "given": 'methods = ("{{name}}",)\n    models = ("tiny_lm",)', "and": ", and which paper it comes from",
        "use": "erase-plugins run {{name}} --model pocket-lm --erase withheld --kind dataset --out forgotten",
    },
    "guard": {
        **_METHOD, "file": "guard.py.in", "readme": "README_item.md.in", "What": "A guard",
        "and": ", and which paper it comes from",
        "use": "erase-plugins run {{name}} --model pocket --erase pizza --out no-pizza",
    },
    "suite": {
        **_ITEM, "file": "suite.py.in", "hook": "erase_suites", "what": "suite", "What": "A suite",
        "room": "measuring", "contract": "SuiteContract", "and": " and what its numbers mean",
        "use": f"{_RUN}\nerase-plugins evaluate no-pizza --model pocket --suite {{{{name}}}} --out {{{{name}}}}-report",
    },
    "attack": {
        **_ITEM, "file": "attack.py.in", "hook": "erase_attacks", "what": "attack", "What": "An attack",
        "room": "measuring", "contract": "AttackContract", "and": " and what its numbers mean",
        "use": f"{_RUN}\nerase-plugins attack no-pizza --model pocket --attack {{{{name}}}} --out {{{{name}}}}-report",
    },
    "judge": {
        **_ITEM, "file": "judge.py.in", "hook": "erase_judges", "what": "judge", "What": "A judge",
        "room": "judges", "contract": "JudgeContract", "and": ", and how often it errs",
        "use": "erase-plugins run uce --model pocket --erase red --no-check --out no-red\n"
        "erase-plugins evaluate no-red --model pocket --judge {{name}} --out {{name}}-report",
    },
    "layout": {
        **_ITEM, "file": "layout.py.in", "hook": "erase_layouts", "what": "file format", "What": "A file format",
        "room": "layouts", "contract": "LayoutContract", "and": ", and which program reads it",
        "use": "erase-plugins run uce --model pocket --erase pizza --layout patch,{{name}} --out no-pizza\n"
        "erase-plugins inspect no-pizza",
    },
    "family": {
        **_ITEM, "file": "family.py.in", "hook": "erase_families", "what": "model family", "What": "A model family",
        "room": "families", "contract": "FamilyContract", "imports": "from {{module}} import build\n",
        "given": 'models = {"{{name}}": build}', "and": ", and where such models are found",
        "use": "erase-plugins info {{name}}\n"
        "python -c \"import {{module}} as m, erase_plugins as ep; m.build().save_pretrained('tiny'); ep.load('tiny')\"",
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
    from erase_plugins.manager import get_manager

    if kind not in KINDS:
        raise UnknownName("kind of plugin", kind, KINDS)
    told = KINDS[kind]
    module = name.replace("-", "_")
    if not _NAME.match(name) or keyword.iskeyword(module):
        raise RequestError(f"'{name}' cannot be a plugin name; use lower-case words joined by '-', like my-eraser")
    manager = get_manager()
    if name in {entry.item.id for entry in manager.registered(told["hook"])}:
        raise RequestError(f"{an(told['what'])} named '{name}' is registered already; choose another name")
    there = find_spec(module)
    if there is not None and there.origin is not None:  # none: a folder that happens to lie here
        raise RequestError(f"Python has a module named '{module}' already; choose another name")
    folder = Path(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RequestError(f"'{folder.name}' is not an empty folder; choose ", ANOTHER_OUT)
    from erase_plugins.artifacts.atomic import atomic_folder

    names = {
        "pyproject.toml.in": "pyproject.toml",
        told["readme"]: "README.md",
        told["file"]: f"{module}.py",
        "test.py.in": f"test_{module}.py",
    }
    with atomic_folder(folder, folder.exists(), kind="") as work:
        for template, target in names.items():
            (work / target).write_text(rendered(name, kind, template), encoding="utf-8")
    return tuple(folder / target for target in names.values())


def rendered(name: str, kind: str, template: str = "") -> str:
    """A file of a plugin package.

    Args:
        name: of package and plugin.
        kind: what it holds, see `KINDS`.
        template: which file; the one with the hook if empty.
    """
    from erase_plugins import __version__

    told = KINDS[kind]
    words = name.split("-")
    values = {  # what is told of a kind names the others in turn
        **told,
        "list": told["hook"].removeprefix("erase_"),
        "name": name,
        "module": name.replace("-", "_"),
        "class": "".join(word.capitalize() for word in words),
        "title": " ".join(words).capitalize(),
        "version": __version__,
    }
    text = (Path(__file__).parent / (template or told["file"])).read_text(encoding="utf-8")
    for key, value in values.items():
        text = text.replace("{{" + key + "}}", value)
    return text
