"""What a contributor's tools are told agrees with the package, and the tools accept it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
COMMANDS = {"quick", "full", "lint", "types", "docs"}
#: (part of a line in a workflow or a hook, a command of noxfile.py)
NOX = re.compile(r"\bnox -s ([a-z]+)")
WORKFLOW = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8"))
HOOKS = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))


def tool(name: str, *words: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    pytest.importorskip(name, reason=f"{name} comes with the extra dev")
    return subprocess.run(
        [sys.executable, "-m", name, *words], capture_output=True, text=True, cwd=cwd, timeout=120, check=False
    )


def test_the_five_commands_are_the_sessions_of_nox():
    listed = tool("nox", "--list", "--no-color")
    assert listed.returncode == 0, listed.stderr
    assert {name for name, _ in re.findall(r"^[*-] (\S+) -> (\S.*)$", listed.stdout, re.MULTILINE)} == COMMANDS


def test_the_matrix_covers_what_the_package_promises():
    matrix = WORKFLOW["jobs"]["quick"]["strategy"]["matrix"]
    promised = [item.rpartition(" :: ")[2] for item in PROJECT["classifiers"] if " Python :: " in item]
    assert matrix["python"] == promised
    assert PROJECT["requires-python"] == f">={promised[0]}"
    assert matrix["pair"] == ["newest"]
    assert matrix["include"] == [{"python": promised[0], "pair": "oldest"}]


def test_the_oldest_pair_is_the_lower_bound_of_the_package():
    bounds = dict(line.split(">=") for line in PROJECT["dependencies"])
    text = (ROOT / ".github" / "oldest.txt").read_text(encoding="utf-8")
    oldest = dict(line.split("==") for line in text.splitlines() if not line.startswith("#"))
    assert set(oldest) == {"diffusers", "transformers"}
    for name, version in oldest.items():
        assert version == bounds[name] + ".0" * (2 - bounds[name].count("."))


def test_the_workflow_runs_commands_that_exist():
    steps = [step.get("run", "") for job in WORKFLOW["jobs"].values() for step in job["steps"]]
    assert set(NOX.findall("\n".join(steps))) == COMMANDS - {"full"}
    scripts = [line for line in steps if line.startswith(".ci/")]
    assert scripts == [".ci/run"]
    assert (ROOT / ".ci" / "run").stat().st_mode & 0o111


def test_hooks_before_a_commit_download_nothing():
    hooks = [hook for repo in HOOKS["repos"] for hook in repo["hooks"]]
    assert [repo["repo"] for repo in HOOKS["repos"]] == ["local"]
    assert {hook["language"] for hook in hooks} == {"system"}
    assert {hook["entry"].split()[0] for hook in hooks} == {"ruff", "nox"}
    assert set(NOX.findall(" ".join(hook["entry"] for hook in hooks))) == {"types", "docs"}


def test_pre_commit_accepts_its_file():
    pytest.importorskip("pre_commit", reason="pre-commit comes with the extra dev")
    done = tool("pre_commit", "validate-config", ".pre-commit-config.yaml")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", sorted((ROOT / "changes").iterdir()), ids=lambda path: path.name)
def test_a_fragment_has_a_name_that_is_collected(path):
    if path.name != "README.md":
        assert re.fullmatch(r"(\+[a-z0-9-]+|\d+)\.(added|changed|fixed|removed)\.md", path.name)
        assert path.read_text(encoding="utf-8").strip()
        assert not path.read_text(encoding="utf-8").startswith("-"), "the bullet comes by itself"


def test_a_release_moves_the_fragments_above_what_is_there(tmp_path):
    for name in ("pyproject.toml", "CHANGELOG.md"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "changes").mkdir()
    (tmp_path / "changes" / "README.md").write_text("stays")
    (tmp_path / "changes" / "+one.added.md").write_text("A new thing.\n")
    (tmp_path / "changes" / "12.fixed.md").write_text("An old fault.\n")
    before = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    done = tool("towncrier", "build", "--yes", "--version", "7.8.9", "--date", "2030-01-02", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    marker = "<!-- towncrier release notes start -->\n"
    head, old = before.split(marker)
    added = "## 7.8.9 - 2030-01-02\n\n### Added\n\n- A new thing.\n\n### Fixed\n\n- An old fault. (#12)\n"
    text = (tmp_path / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.sub(r"\n{3,}", "\n\n", text) == head + marker + "\n" + added + old
    assert [path.name for path in (tmp_path / "changes").iterdir()] == ["README.md"]


def test_the_strict_modules_exist_and_are_the_same_for_types_and_style():
    """A pattern that fits nothing would ask nothing of anybody."""
    (strict,) = [item["module"] for item in PYPROJECT["tool"]["mypy"]["overrides"] if "warn_return_any" in item]
    (pattern,) = [item for item in PYPROJECT["tool"]["ruff"]["lint"]["per-file-ignores"] if item.startswith("!")]
    styled = pattern.removeprefix("!erase_plugins/{").removesuffix("}*").replace("/**", ".*").split(",")
    assert sorted(strict) == sorted(f"erase_plugins.{name}" for name in styled)
    for name in styled:
        place = ROOT / "erase_plugins" / name.removesuffix(".*")
        assert place.is_dir() if name.endswith(".*") else place.with_suffix(".py").is_file(), name


@pytest.mark.parametrize(("file", "asked"), [("types.py", True), ("artifacts/x.py", True), ("api.py", False)])
def test_style_asks_the_base_for_texts_and_types(file, asked):
    ruff = shutil.which("ruff", path=str(Path(sys.executable).parent)) or shutil.which("ruff")
    if ruff is None:
        pytest.skip("ruff comes with the extra dev")
    done = subprocess.run(
        [ruff, "check", "--output-format", "concise", "--stdin-filename", f"erase_plugins/{file}", "-"],
        input="def public(x):\n    return x\n", capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert [rule in done.stdout for rule in ("D103", "ANN001", "ANN201")] == [asked] * 3, done.stdout + done.stderr
