"""Architecture: which room may import which, what listing may cost, and patterns that do not belong in the library."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "erase_plugins"

TABLE = ROOT / "docs" / "architecture.md"
#: the package, and the packages beside it that join as plugins
PACKAGES = ("erase_plugins", "hub_cards", "comfy_nodes")
#: rooms of several files have a name of their own; the others are called like their folder
NAMED = {"types.py": "core", "manager.py": "registry", "workflow/": "workflow", "cli/": "cli"}
#: (room or file, imported room) against the direction, all for type checkers only, each with its reason
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("protocols.py", room): "contracts name what methods, layouts and suites are given; annotations only"
    for room in ("artifacts", "families", "engine", "evaluation")
} | {
    ("hookspecs.py", room): "hooks name what they return and are given; annotations only"
    for room in ("artifacts", "families")
}
SOURCES = sorted(PACKAGE.rglob("*.py"))
BESIDE = [path for name in PACKAGES[1:] for path in sorted((ROOT / name).rglob("*.py"))]


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else ROOT).as_posix()


def parsed(path: Path) -> ast.Module:
    """Syntax tree of a file; those of the packages are read once."""
    return _kept(path) if path.is_relative_to(ROOT) else ast.parse(path.read_text(encoding="utf-8"))


@cache
def _kept(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def broken(rule: Callable[[Path], list[Any]], files: Iterable[Path]) -> dict[str, list[Any]]:
    """File -> what breaks the rule in it; one test asks all files, so that a failure names all of them at once."""
    return {name_of(path): found for path in files if (found := rule(path))}


# ---- the table ---------------------------------------------------------------------------------------------------


def table_rows(text: str) -> list[tuple[list[str], set[str]]]:
    """(places, rooms they may import) of every row of the table of rooms, from the lowest up."""
    lines = text[text.index("| room |") :].split("\n\n")[0].splitlines()[2:]
    rows = []
    for line in lines:
        places, _, allowed = [cell.strip() for cell in line.strip("|").split(" | ")]
        rows.append((re.findall(r"`([^`]+)`", places), set(allowed.split(", ")) - {"-"}))
    return rows


ROWS = table_rows(TABLE.read_text(encoding="utf-8"))


def called(places: list[str]) -> str:
    return next((NAMED[place] for place in places if place in NAMED), places[0].removesuffix("/"))


ROOMS = {place: called(places) for places, _ in ROWS for place in places}
ALLOWED = {called(places): allowed for places, allowed in ROWS}


def room_of(name: str) -> str | None:
    """Room of a file by its name; a file that the table lists is where it says, others are in their folder's room."""
    return ROOMS.get(name) or ROOMS.get(name.split("/")[0] + "/")


# ---- who imports whom --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Import:
    """An import of a module of one of the packages, wherever it stands."""

    module: str
    lazy: bool = False
    checking: bool = False


class Imports(ast.NodeVisitor):
    """Every import: at the top, inside functions, and for type checkers only."""

    def __init__(self, modules: Mapping[str, Path], package: list[str]) -> None:
        self.modules, self.package = modules, package
        self.found: list[Import] = []
        self.depth = self.checking = 0

    def visit_If(self, node: ast.If) -> None:
        inside = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        self.checking += inside
        self.generic_visit(node)
        self.checking -= inside

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]
    visit_Lambda = visit_FunctionDef  # type: ignore[assignment]

    def visit_Import(self, node: ast.Import) -> None:
        for item in node.names:
            self._add(item.name)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        base = node.module or ""
        if node.level:
            base = ".".join([*self.package[: len(self.package) - node.level + 1], *([base] if base else [])])
        inner = [f"{base}.{item.name}" for item in node.names]
        for module in inner:
            if module in self.modules:
                self._add(module)
        if any(module not in self.modules for module in inner):
            self._add(base)

    def _add(self, module: str) -> None:
        if module in self.modules:
            self.found.append(Import(module, self.depth > 0, self.checking > 0))


def modules_below(root: Path) -> dict[str, Path]:
    """Dotted name -> file of every module of the packages."""
    files = [path for name in PACKAGES for path in sorted((root / name).rglob("*.py"))]
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in files}


def imports_of(name: str, modules: Mapping[str, Path]) -> list[Import]:
    path = modules[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    visitor = Imports(modules, package)
    visitor.visit(parsed(path))
    return [item for item in visitor.found if item.module != name]


def named_in_strings(name: str, modules: Mapping[str, Path]) -> set[str]:
    """Modules whose dotted name stands in a string: imported when they are needed, by importlib."""
    tree = parsed(modules[name])
    texts = {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}
    return (texts & set(modules)) - {name} - set(PACKAGES)


MODULES = modules_below(ROOT)


@cache
def graph() -> dict[str, list[Import]]:
    """Every import of every module; read by tests, not when they are collected, which every worker does."""
    return {name: imports_of(name, MODULES) for name in MODULES}


NAME = {path: name for name, path in MODULES.items()}


def circles(graph: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other in a circle (Tarjan's strongly connected components)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in graph[name]:
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            place = stack.index(name)
            group = stack[place:]
            del stack[place:]
            if len(group) > 1:
                found.append(sorted(group))

    for name in graph:
        if name not in order:
            visit(name)
    return found


def whole_graph(modules: Mapping[str, Path]) -> dict[str, set[str]]:
    """Module -> modules that it imports at the top, in functions, for type checkers, or by a string."""
    return {
        name: {item.module for item in imports_of(name, modules)} | named_in_strings(name, modules) for name in modules
    }


@cache
def arrows() -> dict[tuple[str, str], list[tuple[str, Import]]]:
    """(room, imported room) -> (file, import), within one room and the named exceptions left out."""
    found: dict[tuple[str, str], list[tuple[str, Import]]] = {}
    for name, items in graph().items():
        file = name_of(MODULES[name])
        mine = room_of(file)
        for item in items:
            other = room_of(name_of(MODULES[item.module]))
            if mine and other and other != mine and (file, other) not in EXCEPTIONS:
                found.setdefault((mine, other), []).append((file, item))
    return found


def test_no_modules_import_each_other_in_a_circle():
    assert circles(whole_graph(MODULES)) == []


LOOPS = {
    "at the top": ("import erase_plugins.b\n", "from erase_plugins import a\n"),
    "inside a function": ("def f():\n    from . import b\n", "from .a import f\n"),
    "for type checkers": ("from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from .b import B\n", "import erase_plugins.a\n"),
    "by a string": ("PLACE = 'erase_plugins.b'\n", "from .a import PLACE\n"),
    "across packages": ("import hub_cards.c\n", ""),
}  # fmt: skip


@pytest.mark.parametrize("texts", LOOPS.values(), ids=LOOPS)
def test_a_circle_is_found(texts, tmp_path):
    (tmp_path / "erase_plugins").mkdir()
    (tmp_path / "hub_cards").mkdir()
    for file, text in zip(("a", "b"), texts, strict=True):
        (tmp_path / "erase_plugins" / f"{file}.py").write_text(text)
    (tmp_path / "hub_cards" / "c.py").write_text("from erase_plugins import a\n")
    wanted = ["erase_plugins.a", "hub_cards.c" if "hub_cards" in texts[0] else "erase_plugins.b"]
    assert circles(whole_graph(modules_below(tmp_path))) == [wanted]


def test_no_circle_where_there_is_none(tmp_path):
    (tmp_path / "erase_plugins").mkdir()
    (tmp_path / "erase_plugins" / "a.py").write_text("from . import b, c\n")
    (tmp_path / "erase_plugins" / "b.py").write_text("from . import c\n")
    (tmp_path / "erase_plugins" / "c.py").write_text("import torch\n")
    assert circles(whole_graph(modules_below(tmp_path))) == []


@pytest.mark.parametrize("room", ALLOWED)
def test_rooms_import_what_the_table_says(room):
    """No arrow that the table does not have, and none in the table that nobody needs."""
    used = {other: places for (mine, other), places in arrows().items() if mine == room}
    extra = [f"{file} imports {item.module}" for other in set(used) - ALLOWED[room] for file, item in used[other]]
    assert extra == []
    assert ALLOWED[room] - set(used) == set(), "the table allows what nobody uses"


def test_the_table_goes_up():
    """Every room imports rooms above it in the table only, so that the rooms have no circle either."""
    seen: set[str] = set()
    for places, allowed in ROWS:
        assert allowed <= seen, called(places)
        seen.add(called(places))


def test_every_file_is_in_a_room_of_the_table():
    assert [name_of(path) for path in (*SOURCES, *BESIDE) if room_of(name_of(path)) is None] == []
    paths = [PACKAGE / place if (PACKAGE / place).exists() else ROOT / place for place in ROOMS]
    assert [path.as_posix() for path in paths if not path.exists()] == []


def test_the_registry_is_asked_by_the_upper_rooms_only():
    upper = {"workflow", "diagnose", "comparison", "testing", "cli", "hub_cards", "comfy_nodes"}
    assert {mine for mine, other in arrows() if other == "registry"} == upper


def test_exceptions_are_still_used_and_for_type_checkers_only():
    for (file, room), reason in EXCEPTIONS.items():
        module = f"erase_plugins.{file.removesuffix('.py')}"
        used = [item for item in graph()[module] if room_of(name_of(MODULES[item.module])) == room]
        assert used, f"{file} no longer imports {room}; drop the exception"
        assert all(item.checking for item in used)
        assert reason


def test_what_the_core_imports_of_itself():
    """Errors know hints, which know nobody, and no file of the core loads a file of an upper room by a string."""
    assert [item.module for item in graph()["erase_plugins.errors"]] == ["erase_plugins.hints"]
    assert graph()["erase_plugins.hints"] == []
    assert named_in_strings("erase_plugins.late", MODULES) == set()


def test_a_forbidden_arrow_is_found(tmp_path):
    (tmp_path / "erase_plugins" / "artifacts").mkdir(parents=True)
    for file in ("families/sd1", "api", "manager"):
        (tmp_path / "erase_plugins" / file).parent.mkdir(exist_ok=True)
        (tmp_path / "erase_plugins" / f"{file}.py").write_text("")
    (tmp_path / "erase_plugins" / "artifacts" / "bad.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import erase_plugins.api\n"
        "def f():\n    from ..families.sd1 import X\nfrom erase_plugins.manager import get_manager\n"
    )
    assert imports_of("erase_plugins.artifacts.bad", modules_below(tmp_path)) == [
        Import("erase_plugins.api", checking=True),
        Import("erase_plugins.families.sd1", lazy=True),
        Import("erase_plugins.manager"),
    ]


def test_nobody_imports_a_method_by_name():
    """A method that is a folder imports its own helpers; nobody else does."""

    def foreign(path: Path) -> list[str]:
        own = ".".join(NAME[path].split(".")[:3]) + "."
        modules = [item.module for item in graph()[NAME[path]] if not item.module.startswith(own)]
        return [module for module in modules if module.startswith("erase_plugins.methods.")]

    assert broken(foreign, SOURCES) == {}


# ---- one room per question ---------------------------------------------------------------------------------------

FAMILY_IDS = {"sd1", "sd2", "sdxl", "sd3", "flux"}
METHOD_IDS = {path.name.removesuffix(".py") for path in (PACKAGE / "methods").iterdir()} - {"__init__", "__pycache__"}


def compared_constants(path: Path) -> list[tuple[str, int]]:
    """String constants in comparisons and match patterns, with their line."""
    found = []
    for node in ast.walk(parsed(path)):
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
            texts = [leaf for part in parts for leaf in ast.walk(part) if isinstance(leaf, ast.Constant)]
            found += [(leaf.value, node.lineno) for leaf in texts if isinstance(leaf.value, str)]
        if isinstance(node, ast.MatchValue) and isinstance(node.value, ast.Constant):
            found.append((node.value.value, node.lineno))
    return found


#: places where a family id is data about names outside this project
FAMILY_DEBT = {
    ("methods/esd.py", "sdxl"): "a warning; info.profiles could be asked for an own profile name",
}
OUTSIDE = [path for path in SOURCES if name_of(path).split("/")[0] not in ("families", "testing")]


def test_families_are_not_told_apart_outside_their_room():
    def told(path: Path) -> list[tuple[str, int]]:
        found = [item for item in compared_constants(path) if item[0] in FAMILY_IDS]
        return [item for item in found if (name_of(path), item[0]) not in FAMILY_DEBT]

    assert broken(told, OUTSIDE) == {}


def test_family_debt_is_not_paid_yet():
    for file, name in FAMILY_DEBT:
        assert name in [item[0] for item in compared_constants(PACKAGE / file)], "paid: take it off the list"


NO_METHODS = [path for path in SOURCES if not name_of(path).startswith("methods/")]


def test_methods_are_not_told_apart_outside_their_room():
    def told(path: Path) -> list[tuple[str, int]]:
        return [item for item in compared_constants(path) if item[0] in METHOD_IDS]

    assert broken(told, NO_METHODS) == {}


def test_a_family_comparison_is_found(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("def f(family):\n    return 1 if family.id in ('sdxl', 'flux') else 2\n")
    assert compared_constants(file) == [("sdxl", 2), ("flux", 2)]


# ---- patterns that do not belong here ----------------------------------------------------------------------------


def calls(tree: ast.AST) -> list[tuple[str, int]]:
    """Dotted names of everything that is called."""
    return [(ast.unparse(node.func), node.lineno) for node in ast.walk(tree) if isinstance(node, ast.Call)]


#: the one place that reads a pickle, with the reader that makes tensors only
PICKLES = "eraser_folder.py"


def tensors_only(tree: ast.AST) -> set[tuple[str, int]]:
    """(allowed file, line) of every ``torch.load`` that says ``weights_only=True``."""
    loads = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "torch.load"]
    return {(PICKLES, node.lineno) for node in loads if "weights_only=True" in map(ast.unparse, node.keywords)}


def without_main(tree: ast.Module) -> ast.Module:
    """The module without its command-line function ``main``, which may print its result."""
    body = [node for node in tree.body if not (isinstance(node, ast.FunctionDef) and node.name == "main")]
    return ast.Module(body=body, type_ignores=[])


def bad_patterns(path: Path) -> list[str]:
    tree = parsed(path)
    found = [
        f"line {line}: {name}()"
        for name, line in calls(tree)
        if name in ("torch.load", "eval", "exec", "os.system") and (path.name, line) not in tensors_only(tree)
    ]
    found += [f"line {line}: print()" for name, line in calls(without_main(tree)) if name == "print"]
    for node in ast.walk(tree):
        if isinstance(node, ast.ExceptHandler) and node.type is None:
            found.append(f"line {node.lineno}: bare except")
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [item.name for item in node.names] + [getattr(node, "module", None) or ""]
            found += [
                f"line {node.lineno}: {name}" for name in names if name.split(".")[0] in ("pickle", "dill", "joblib")
            ]
    return found


def test_no_forbidden_pattern():
    assert broken(bad_patterns, SOURCES) == {}


def test_forbidden_patterns_are_found(tmp_path):
    file = tmp_path / "x.py"
    file.write_text("import pickle\nimport torch\ntry:\n    torch.load('x')\nexcept:\n    print(1)\n")
    assert sorted(bad_patterns(file)) == [
        "line 1: pickle",
        "line 4: torch.load()",
        "line 5: bare except",
        "line 6: print()",
    ]
    file.write_text("import torch\ntorch.load('x', weights_only=True)\n")
    assert bad_patterns(file) == ["line 2: torch.load()"]
    file = tmp_path / PICKLES
    file.write_text("import torch\ntorch.load('x', weights_only=True)\ntorch.load('x', weights_only=False)\n")
    assert bad_patterns(file) == ["line 3: torch.load()"]


def test_no_shared_drawer_and_no_huge_file():
    sizes = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert [name for name in sizes if Path(name).stem in ("utils", "helpers", "misc", "common")] == []
    assert {name: size for name, size in sizes.items() if size > 500} == {}
    assert sorted(sizes.values())[len(sizes) // 2] <= 120


# ---- packages that join as plugins --------------------------------------------------------------------------------

PLUGIN_SOURCES = [path for path in BESIDE if path.is_relative_to(ROOT / "hub_cards")]


def test_nobody_imports_a_plugin_package():
    def beside(path: Path) -> list[str]:
        return [item.module for item in graph()[NAME[path]] if item.module.split(".")[0] in PACKAGES[1:]]

    assert broken(beside, SOURCES) == {}


def test_plugin_packages_keep_the_house_rules():
    def told(path: Path) -> list[tuple[str, int]]:
        return [item for item in compared_constants(path) if item[0] in FAMILY_IDS | METHOD_IDS]

    assert broken(bad_patterns, PLUGIN_SOURCES) == {}
    assert broken(told, PLUGIN_SOURCES) == {}
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in PLUGIN_SOURCES}
    assert {name: count for name, count in lines.items() if count > 300} == {}


# ---- what an import costs ----------------------------------------------------------------------------------------

HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "numpy", "PIL", "matplotlib", "safetensors")
QUICK = {
    "package": "import erase_plugins",
    "hooks": "import erase_plugins; erase_plugins.hookimpl",
    "command line": "import erase_plugins.cli.main",
    "help": "from erase_plugins.cli.main import main\nsys.argv = ['erase-plugins', '--help']\ntry:\n    main()\nexcept SystemExit:\n    pass",
    "list": "from erase_plugins.cli.main import main\nsys.argv = ['erase-plugins', 'list', '--json']\ntry:\n    main()\nexcept SystemExit:\n    pass",
    "registry": "import erase_plugins; erase_plugins.get_manager().check()",
    "testing": "import erase_plugins.testing",
    "hub_cards": "import hub_cards; import erase_plugins.cli.lazy",
}  # fmt: skip


def python(code: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=ROOT, timeout=60)


@pytest.mark.parametrize("code", QUICK.values(), ids=QUICK)
def test_torch_is_not_imported(code):
    done = python(f"import sys\n{code}\nsys.stderr.write('HEAVY ' + ' '.join(n for n in {HEAVY} if n in sys.modules))")
    assert done.returncode == 0, done.stderr
    assert done.stderr.rsplit("HEAVY", 1)[1].split() == []
