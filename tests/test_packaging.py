"""Wheel and sdist: complete, and the main job runs from the wheel alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

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
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "erase_plugins/pocket/model/unet/diffusion_pytorch_model.safetensors",
        "erase_plugins/pocket/judge.safetensors",
        "erase_plugins/pocket/NOTICE",
        "erase_plugins/testing/contract.py",
        "hub_cards/cli/push.py",
        "hub_cards/space_app/app.py.in",
        "comfy_nodes/nodes/closed_form.py",
        "comfy_nodes/example_workflows/erase_and_compare_pocket.json",
    ):
        assert needed in names
    tops = {name.split("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"erase_plugins", "hub_cards", "comfy_nodes"}
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert wheel.stat().st_size < 60_000_000


def test_sdist_holds_tests_and_docs(built: Path) -> None:
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    assert {"README.md", "LICENSE", "tests/conftest.py", "docs/architecture.md", "benchmarks/esd.py"} <= names


def test_demo_runs_from_the_wheel(built: Path, tmp_path: Path) -> None:
    (wheel,) = built.glob("*.whl")
    place = tmp_path / "site"
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(place), str(wheel)], check=True
    )
    code = "import erase_plugins, sys; from erase_plugins.cli.main import main; print(erase_plugins.__file__, file=sys.stderr); main()"
    environment = {**os.environ, "PYTHONPATH": str(place), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, "demo", "--json", "--out", str(tmp_path / "demo")],
        capture_output=True, text=True, cwd=tmp_path, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert str(place) in done.stderr
    json.loads(done.stdout)
    assert (tmp_path / "demo" / "contact_sheet.png").stat().st_size > 10_000
