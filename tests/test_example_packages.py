"""The example packages: built as wheels, installed into a fresh environment, tested there, and gone without a trace."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import sysconfig
import venv
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: folder -> (distribution, entry point, a registered name that shows that it is in use, command that lists it)
PACKAGES = {
    "assoc_memory_plugin": ("erase-plugins-assoc-memory", "assoc-memory", '"id": "anti-hebbian"', ("list", "methods")),
    "digits_family": ("erase-plugins-digits", "digits", '"id": "forget-digit"', ("list", "methods")),
    "fbqc_plugin": ("erase-plugins-fbqc", "fbqc", '"id": "fbqc"', ("list", "suites")),
    "nudenet_judge": ("erase-plugins-nudenet", "nudenet", '"id": "nudenet"', ("list", "judges")),
    "pixart_family": ("erase-plugins-pixart", "pixart", '"id": "pixart"', ("list", "families")),
}
#: what outside packages may import; docs/plugins.md has the same list
PUBLIC = {
    "erase_plugins", "erase_plugins.cli.command", "erase_plugins.cli.console", "erase_plugins.cli.main",
    "erase_plugins.errors", "erase_plugins.hints", "erase_plugins.families.base", "erase_plugins.options", "erase_plugins.protocols", "erase_plugins.testing",
    "erase_plugins.testing.contract", "erase_plugins.testing.judges", "erase_plugins.testing.measuring",
    "erase_plugins.types",
}  # fmt: skip


class Environment:
    """A virtual environment that borrows the libraries of this one, but none of its editable packages."""

    def __init__(self, place: Path) -> None:
        venv.create(place)  # pip is borrowed too
        self.python = str(place / "bin" / "python")
        site = subprocess.run([self.python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
                              capture_output=True, text=True, check=True).stdout.strip()  # fmt: skip
        borrowed = [sysconfig.get_path("purelib"), *(path for path in sys.path if path.endswith("site-packages"))]
        Path(site, "borrowed.pth").write_text("\n".join([str(ROOT), *dict.fromkeys(borrowed)]) + "\n")
        self.trace = Path(site)

    def run(self, *command: str, cwd: Path, code: int = 0, **more: str) -> str:
        env = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        done = subprocess.run([self.python, *command], capture_output=True, text=True, cwd=cwd, timeout=540,
                              env={**env, "OMP_NUM_THREADS": "1", **more})  # fmt: skip
        assert done.returncode == code, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    def pip(self, *words: str, cwd: Path) -> None:
        self.run("-m", "pip", "--quiet", "--disable-pip-version-check", *words, cwd=cwd)


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    """Each package is gone from it without a trace before the next one comes."""
    return Environment(tmp_path_factory.mktemp("venv") / "venv")


@pytest.fixture(scope="module")
def before(environment, tmp_path_factory):
    """Function that gives what a command lists without any of the packages."""
    return cache(lambda listing: environment.run(*listing, cwd=tmp_path_factory.mktemp("before")))


@pytest.mark.slow
@pytest.mark.parametrize("folder", PACKAGES)
def test_wheel_in_a_fresh_environment(folder, environment, before, tmp_path):
    distribution, plugin, shown, listing = PACKAGES[folder]
    command = ("-m", "erase_plugins.cli.main", *listing, "--json")
    assert shown not in before(command)
    files = set(environment.trace.iterdir())

    # pip builds the wheel and installs it
    source = str(ROOT / "examples" / folder)
    environment.pip("install", "--no-deps", "--no-index", "--no-build-isolation", source, cwd=tmp_path)
    found = environment.run(*command, cwd=tmp_path)
    assert shown in found
    assert f'"{distribution}"' in found
    assert shown in environment.run(*command, cwd=tmp_path, ERASE_PLUGINS_ONLY=plugin)
    assert shown not in environment.run(*command, cwd=tmp_path, ERASE_PLUGINS_DISABLE=plugin)
    tests = ROOT / "examples" / folder / "tests"
    out = environment.run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(tests), str(tests), cwd=tmp_path
    )
    assert " passed" in out
    assert "skipped" not in out

    environment.pip("uninstall", "--yes", distribution, cwd=tmp_path)
    assert environment.run(*command, cwd=tmp_path) == before(command)
    assert set(environment.trace.iterdir()) == files


@pytest.mark.parametrize("folder", PACKAGES)
def test_only_the_public_door_is_used(folder):
    for path in sorted((ROOT / "examples" / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [str(node.module)]
                if str(node.module).split(".")[0] in ("erase_plugins", "hub_cards", "comfy_nodes"):
                    assert not [alias.name for alias in node.names if alias.name.startswith("_")], path
            inside = [name for name in names if name.split(".")[0] in ("erase_plugins", "hub_cards", "comfy_nodes")]
            assert set(inside) <= PUBLIC, f"{path.name} imports {set(inside) - PUBLIC}"


def test_the_list_of_public_modules_is_documented():
    text = (ROOT / "docs" / "plugins.md").read_text(encoding="utf-8")
    assert not [name for name in PUBLIC if f"`{name}`" not in text]


@pytest.mark.parametrize("file", ["digits_family/erase_digits.py", "pixart_family/erase_pixart.py"])
def test_a_family_of_ones_own_is_less_than_100_lines(file):
    text = (ROOT / "examples" / file).read_text(encoding="utf-8")
    assert len(text.splitlines()) < 100
