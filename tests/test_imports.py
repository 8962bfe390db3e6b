"""Architecture: which room may import which, what listing may cost, and patterns that do not belong in the library."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "erase_plugins"

BASE = {
    "errors",
    "plain_text",
    "extras",
    "presets",
    "types",
    "concept_text",
    "options",
    "protocols",
    "hookspecs",
    "api_range",
    "plugin_checks",
    "plugin_loading",
    "defaults",
    "manager",
}
#: room -> rooms it may import from (its own and BASE always); the order is the direction of the arrows
ALLOWED: dict[str, set[str]] = {
    "artifacts": set(),
    "families": {"artifacts"},
    "engine": {"families", "artifacts"},
    "methods": {"engine", "families", "artifacts"},
    "pocket": {"engine", "families", "artifacts"},
    "runtime": {"engine", "families", "artifacts"},
    "compose": {"runtime", "engine", "families", "artifacts"},
    "stack": {"compose", "artifacts"},
    "evaluation": {"runtime", "engine", "families", "artifacts"},
    "diagnose": {"evaluation", "runtime", "engine", "families", "artifacts"},
    "api": {"diagnose", "evaluation", "runtime", "engine", "families", "artifacts"},
    "comparison": {"api", "evaluation", "runtime", "engine", "families", "artifacts"},
    "testing": {"api", "evaluation", "runtime", "engine", "families", "artifacts", "pocket"},
    "cli": {
        "api",
        "compose",
        "diagnose",
        "evaluation",
        "comparison",
        "runtime",
        "engine",
        "families",
        "artifacts",
        "pocket",
        "testing",
    },
    "sharing": set(),
    "__init__": {"sharing", "api", "compose", "diagnose", "evaluation", "runtime", "engine", "families", "artifacts"},
    "docs": {"cli", "testing"},
    "__main__": {"cli"},
}
#: inside BASE: errors knows nobody, data and hooks know errors, the manager knows the rest
BASE_ORDER = [
    {"errors", "plain_text", "extras"}, {"presets"}, {"types", "options", "hookspecs", "protocols", "defaults"},
    {"api_range", "concept_text"}, {"plugin_checks"}, {"plugin_loading"}, {"manager"},
]  # fmt: skip
#: (file, imported module): arrows against the direction that are wanted, all inside functions, each with its reason
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("artifacts/artifact.py", "erase_plugins.runtime.apply"): "Artifact.apply, the method form of erase_plugins.apply",
    ("artifacts/artifact.py", "erase_plugins.sharing"): "Artifact.card, the method form of hub_cards.card",
}
#: arrows against the direction that should go; the list may only shrink
DEBT: dict[tuple[str, str], str] = {}
SOURCES = sorted(path for path in PACKAGE.rglob("*.py"))


def name_of(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def room_of(module: str) -> str:
    """Room of a dotted module name below the package."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


class Imports(ast.NodeVisitor):
    """(module, inside a function) of every run-time import; imports for type checkers only are left out."""

    def __init__(self, path: Path) -> None:
        self.found: list[tuple[str, bool]] = []
        self.depth = 0
        self.package = ["erase_plugins", *path.relative_to(PACKAGE).parts[:-1]]

    def visit_If(self, node: ast.If) -> None:
        if not (isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"):
            self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self.depth += 1
        self.generic_visit(node)
        self.depth -= 1

    visit_AsyncFunctionDef = visit_FunctionDef  # type: ignore[assignment]

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [(item.name, self.depth > 0) for item in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = node.module or ""
        if node.level:
            module = ".".join([*self.package[: len(self.package) - node.level + 1], *([module] if module else [])])
        if module in ("erase_plugins", "erase_plugins.families", "erase_plugins.artifacts", "erase_plugins.methods"):
            self.found += [
                (f"{module}.{item.name}", self.depth > 0) for item in node.names if _is_module(module, item.name)
            ]
        self.found.append((module, self.depth > 0))


def _is_module(module: str, name: str) -> bool:
    folder = PACKAGE.joinpath(*module.split(".")[1:])
    return (folder / f"{name}.py").is_file() or (folder / name).is_dir()


def imports(path: Path) -> list[tuple[str, bool]]:
    visitor = Imports(path)
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    return visitor.found


def rank(room: str) -> int:
    return next(index for index, group in enumerate(BASE_ORDER) if room in group)


def violations(path: Path) -> list[str]:
    mine = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    found = []
    for module, lazy in imports(path):
        if not module.startswith("erase_plugins"):
            continue
        room = room_of(module)
        if room == mine or module == "erase_plugins" or (name_of(path), module) in {**EXCEPTIONS, **DEBT}:
            continue
        if mine in BASE:
            fine = room in BASE and (rank(room) < rank(mine) or (rank(room) == rank(mine) and lazy))
        else:
            fine = room in BASE or room in ALLOWED[mine]
        if not fine:
            found.append(f"{name_of(path)} imports {module}{' inside a function' if lazy else ''}")
    return found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_imports_follow_the_arrows(path):
    assert violations(path) == []


def test_every_room_is_in_the_table():
    rooms = {path.relative_to(PACKAGE).parts[0].removesuffix(".py") for path in SOURCES}
    assert rooms - set(ALLOWED) - BASE == set()


def test_exceptions_are_still_used_and_lazy():
    for (file, module), reason in EXCEPTIONS.items():
        assert (module, True) in imports(PACKAGE / file), f"{file} no longer imports {module}; drop the exception"
        assert reason
    stale = [key for key in DEBT if key[1] not in {module for module, _ in imports(PACKAGE / key[0])}]
    assert stale == [], "paid: take it off the list"


def test_a_forbidden_arrow_is_found(tmp_path, monkeypatch):
    monkeypatch.setitem(globals(), "PACKAGE", tmp_path)
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts" / "bad.py").write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import erase_plugins.api\n"
        "def f():\n    from ..families.sd1 import X\nfrom erase_plugins.manager import get_manager\n"
    )
    assert violations(tmp_path / "artifacts" / "bad.py") == [
        "artifacts/bad.py imports erase_plugins.families.sd1 inside a function"
    ]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nobody_imports_a_method_by_name(path):
    named = [module for module, _ in imports(path) if module.startswith("erase_plugins.methods.")]
    named = [module for module in named if (name_of(path), module) not in DEBT]
    assert named == []


# ---- one room per question ---------------------------------------------------------------------------------------

FAMILY_IDS = {"sd1", "sd2", "sdxl", "sd3", "flux"}
METHOD_IDS = {path.stem for path in (PACKAGE / "methods").glob("*.py")} - {"__init__"}


def compared_constants(path: Path) -> list[tuple[str, int]]:
    """String constants in comparisons and match patterns, with their line."""
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
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


@pytest.mark.parametrize("path", OUTSIDE, ids=name_of)
def test_families_are_not_told_apart_outside_their_room(path):
    found = [item for item in compared_constants(path) if item[0] in FAMILY_IDS]
    assert [item for item in found if (name_of(path), item[0]) not in FAMILY_DEBT] == []


def test_family_debt_is_not_paid_yet():
    for file, name in FAMILY_DEBT:
        assert name in [item[0] for item in compared_constants(PACKAGE / file)], "paid: take it off the list"


NO_METHODS = [path for path in SOURCES if not name_of(path).startswith("methods/")]


@pytest.mark.parametrize("path", NO_METHODS, ids=name_of)
def test_methods_are_not_told_apart_outside_their_room(path):
    assert [item for item in compared_constants(path) if item[0] in METHOD_IDS] == []


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
    tree = ast.parse(path.read_text(encoding="utf-8"))
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


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_no_forbidden_pattern(path):
    assert bad_patterns(path) == []


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

PLUGINS = ("hub_cards",)
#: plugin package -> rooms of erase_plugins it may use, inside functions or not
PLUGIN_ROOMS = {"hub_cards": {"artifacts", "families", "runtime", "evaluation", "compose", "api", "cli"}}
PLUGIN_SOURCES = [path for name in PLUGINS for path in sorted((ROOT / name).rglob("*.py"))]


def plugin_imports(path: Path) -> list[tuple[str, bool]]:
    visitor = Imports(PACKAGE / "x.py")  # only absolute imports are used there
    visitor.visit(ast.parse(path.read_text(encoding="utf-8")))
    return visitor.found


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_nobody_imports_a_plugin_package(path):
    assert [module for module, _ in imports(path) if module.split(".")[0] in PLUGINS] == []


@pytest.mark.parametrize("path", PLUGIN_SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_plugin_packages_use_the_rooms_they_may(path):
    allowed = PLUGIN_ROOMS[path.relative_to(ROOT).parts[0]] | BASE
    used = {room_of(module) for module, _ in plugin_imports(path) if module.startswith("erase_plugins.")}
    assert used - allowed == set()
    assert bad_patterns(path) == []
    assert [item for item in compared_constants(path) if item[0] in FAMILY_IDS | METHOD_IDS] == []
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 300


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
    "hub_cards": "import hub_cards; import hub_cards.lazy",
}  # fmt: skip


def python(code: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=ROOT, timeout=60)


@pytest.mark.parametrize("code", QUICK.values(), ids=QUICK)
def test_torch_is_not_imported(code):
    done = python(f"import sys\n{code}\nsys.stderr.write('HEAVY ' + ' '.join(n for n in {HEAVY} if n in sys.modules))")
    assert done.returncode == 0, done.stderr
    assert done.stderr.rsplit("HEAVY", 1)[1].split() == []


def test_importing_the_package_takes_less_than_300_ms():
    def seconds(code: str) -> float:
        started = time.perf_counter()
        assert python(code).returncode == 0
        return time.perf_counter() - started

    bare = min(seconds("pass") for _ in range(3))
    spent = min(seconds("import erase_plugins") for _ in range(5)) - bare
    assert spent < 0.3
