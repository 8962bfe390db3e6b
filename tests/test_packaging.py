"""Wheel and sdist: complete, and the main job runs from the wheel alone."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

import erase_plugins
from erase_plugins.cli.comfy_install import COPIED

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return out


def test_wheel_holds_the_packages_and_the_embedded_model_only(built: Path) -> None:
    (wheel,) = built.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    names = archive.namelist()
    for needed in (
        "erase_plugins/pocket/model/unet/diffusion_pytorch_model.safetensors",
        "erase_plugins/pocket/flow/transformer/diffusion_pytorch_model.safetensors",
        "erase_plugins/pocket/judge.safetensors",
        "erase_plugins/pocket/NOTICE",
        "erase_plugins/presets/esd.toml",
        "erase_plugins/testing/contract.py",
        "hub_cards/cli/push.py",
        "erase_plugins/page/templates/app.py.j2",
        "comfy_nodes/nodes/closed_form.py",
    ):
        assert needed in names
    for folder in COPIED:
        files = {path.relative_to(ROOT).as_posix(): path for path in (ROOT / folder).rglob("*") if path.is_file()}
        assert files
        for name, path in files.items():
            assert archive.read(f"comfy_nodes/{name}") == path.read_bytes()
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"erase_plugins", "hub_cards", "comfy_nodes"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < 80_000_000  # package registries take 100 MB; pocket and pocket-flow are most of it


def test_wheel_and_sdist_have_the_version_of_the_code(built: Path) -> None:
    version = erase_plugins.__version__
    assert {path.name for path in built.iterdir()} == {
        f"erase_plugins-{version}-py3-none-any.whl", f"erase_plugins-{version}.tar.gz"
    }  # fmt: skip
    (wheel,) = built.glob("*.whl")
    metadata = zipfile.ZipFile(wheel).read(f"erase_plugins-{version}.dist-info/METADATA").decode()
    assert f"\nVersion: {version}\n" in metadata
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)]+)\)", metadata)
    assert len(links) > 50  # the README, which a registry shows without our folders
    assert all(link.startswith(("https://", "#")) for _, link in links)
    assert all(link.startswith("https://raw.") for picture, link in links if picture)


def test_sdist_holds_tests_and_docs(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {
        "README.md",
        "LICENSE",
        "tests/conftest.py",
        "docs/architecture.md",
        "benchmarks/esd.py",
        "eslint.config.mjs",
    } <= names
    assert sdist.stat().st_size < 95_000_000  # package registries take 100 MB


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel in a folder of its own."""
    (wheel,) = built.glob("*.whl")
    place = tmp_path_factory.mktemp("site")
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), str(wheel)], check=True
    )
    return place


def run_installed(
    python: list[str], place: Path, cwd: Path, *words: str, before: str = ""
) -> subprocess.CompletedProcess[str]:
    """The command line of the installed wheel, after other code; stderr begins with the file of the package that ran."""
    code = f"import erase_plugins, sys; print(erase_plugins.__file__, file=sys.stderr)\n{before}\nfrom erase_plugins.cli.main import main; main()"
    environment = {**os.environ, "PYTHONPATH": str(place), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [*python, "-c", code, *words], capture_output=True, text=True, cwd=cwd, env=environment, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr.startswith(str(place))
    return done


def test_comfy_install_works_from_the_wheel(installed: Path, tmp_path: Path) -> None:
    """Not from this checkout, whose root holds the same folders."""
    (tmp_path / "ComfyUI" / "custom_nodes").mkdir(parents=True)
    (tmp_path / "ComfyUI" / "nodes.py").write_text("")
    run_installed([sys.executable], installed, tmp_path, "comfy-install", "ComfyUI")
    pack = tmp_path / "ComfyUI" / "custom_nodes" / "erase-plugins"
    for folder in COPIED:
        for path in (item for item in (ROOT / folder).rglob("*") if item.is_file()):
            assert (pack / path.relative_to(ROOT)).read_bytes() == path.read_bytes()


def test_demo_runs_from_the_wheel(installed: Path, preloaded: list[str], tmp_path: Path) -> None:
    """With few pictures; what they show is asked of the checkout, in tests/cli/test_demo.py."""
    few = 'from erase_plugins.cli import demo; demo.COUNTS = {"target": 2, "neighbour": 2, "kept": 2}'
    done = run_installed(preloaded, installed, tmp_path, "demo", "--json", "--out", "demo", before=few)
    assert {row["n"] for row in json.loads(done.stdout)["rows"]} == {2}
    assert (tmp_path / "demo" / "contact_sheet.png").stat().st_size > 10_000


def test_the_client_of_the_hub_is_asked_for_as_what_we_stand_on_asks_for_it() -> None:
    """A lower bound that nobody can install says that we run with a version we were never tried with."""
    project = tomllib.loads((Path(erase_plugins.__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))
    (ours,) = [item for item in project["project"]["dependencies"] if item.startswith("huggingface_hub")]
    needed = next(item for item in requires("diffusers") or () if item.startswith("huggingface-hub"))
    lowest = next(part for part in Requirement(needed).specifier if part.operator == ">=")
    assert Version(ours.partition(">=")[2]) >= Version(lowest.version)
