"""An outside package: built, installed, listed, put through the contract, and run; and the skeleton of a new one."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.testing import write_plugin_template

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "outside_method"

RUN = """
import sys, erase_plugins as ep
artifact = ep.erase("pocket", ["pizza"], "null-value", keep=["hamburger"], out=sys.argv[1], options={"words": 100})
pipe = ep.load("pocket")
with ep.apply(pipe, sys.argv[1]) as handle:
    print(handle.report())
"""


def install(package: Path, place: Path) -> Path:
    """Builds and installs a package into a folder of its own, without network and without its dependencies."""
    source = place / "source"
    shutil.copytree(package, source, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
               "--disable-pip-version-check", "--target", str(place / "site"), str(source)]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    return place / "site"


def run(site: Path, *command: str, cwd: Path = ROOT) -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(site), str(ROOT)]), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, env=env, cwd=cwd, timeout=300)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def example_site(tmp_path_factory):
    return install(EXAMPLE, tmp_path_factory.mktemp("example"))


def test_the_method_is_one_short_file():
    lines = (EXAMPLE / "erase_null_value.py").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 200


def test_the_example_is_listed_with_its_package(example_site):
    found = json.loads(run(example_site, "-m", "erase_plugins.cli.main", "list", "methods", "--json"))
    text = json.dumps(found)
    assert '"null-value"' in text
    assert '"erase-null-value"' in text
    assert str(example_site) not in text


def test_the_example_keeps_the_contract_by_its_own_tests(example_site, tmp_path):
    shutil.copy(EXAMPLE / "test_erase_null_value.py", tmp_path)
    out = run(
        example_site,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-k",
        "tiny_sd1 or values",
        str(tmp_path),
        cwd=tmp_path,
    )
    assert " passed" in out
    assert "failed" not in out
    assert "skipped" not in out


def test_the_example_runs_on_pocket(example_site, tmp_path):
    out = run(example_site, "-c", RUN, str(tmp_path / "out"))
    manifest = json.loads((tmp_path / "out" / "erase.json").read_text())
    assert manifest["modules"] > 0
    assert f"patched {manifest['modules']} of {manifest['modules']} modules" in out
    method = manifest["method"]
    assert (method["id"], method["package"], method["version"]) == ("null-value", "erase-null-value", "0.1.0")


@pytest.mark.parametrize("kind", ["closed-form", "trained"])
def test_the_template_passes_its_own_tests(kind, tmp_path):
    files = write_plugin_template("my-first-eraser", tmp_path / "new", kind)
    assert [path.name for path in files] == [
        "pyproject.toml", "README.md", "my_first_eraser.py", "test_my_first_eraser.py",
    ]  # fmt: skip
    assert not any("{{" in path.read_text() for path in files)
    assert len(files[2].read_text().splitlines()) <= 80
    site = install(tmp_path / "new", tmp_path / "installed")
    out = run(
        site, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "tiny_sd1", str(files[-1]), cwd=tmp_path / "new"
    )
    assert " passed" in out
    assert "failed" not in out


def test_the_suite_fails_for_a_spoiled_template(tmp_path):
    *_, method, test = write_plugin_template("my-bad-eraser", tmp_path / "new")
    method.write_text(method.read_text().replace("up = -plan", "target.weight(ref).mul_(1.5)\n            up = -plan"))
    site = install(tmp_path / "new", tmp_path / "installed")
    with pytest.raises(AssertionError, match="changed the base model"):
        run(site, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "tiny_sd1 and leaves", str(test), cwd=tmp_path)


@pytest.mark.parametrize("name", ["My Eraser", "1st", "uce", "a--b", "class", "torch", "../x", ""])
def test_the_template_refuses_unusable_names(tmp_path, name):
    with pytest.raises(RequestError):
        write_plugin_template(name, tmp_path / "new")
    assert not (tmp_path / "new").exists()


def test_the_template_refuses_an_unknown_kind(tmp_path):
    with pytest.raises(UnknownName, match="no kind of method named 'training'; did you mean 'trained'"):
        write_plugin_template("my-eraser", tmp_path / "new", "training")
    assert not (tmp_path / "new").exists()


def test_the_template_overwrites_nothing(tmp_path):
    (tmp_path / "mine.txt").write_text("x")
    with pytest.raises(RequestError, match="not an empty folder"):
        write_plugin_template("my-eraser", tmp_path)
    assert [item.name for item in tmp_path.iterdir()] == ["mine.txt"]
