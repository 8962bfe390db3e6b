"""Shared fixtures: the embedded pipeline and tiny random ones, built once per session."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest

# one thread, here and in child processes: several tests compare results of two processes to the last bit
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_HUB_DISABLE_XET", "1")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# child processes share it; the user's own stays as it is
os.environ["ERASE_PLUGINS_CACHE"] = tempfile.mkdtemp(prefix="erase-plugins-cache-")
atexit.register(shutil.rmtree, os.environ["ERASE_PLUGINS_CACHE"], ignore_errors=True)

GOLDEN = Path(__file__).parent / "golden" / "data"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--golden-dir", default=str(GOLDEN), help="folder with golden cases (JSON + safetensors)")


@pytest.fixture(scope="session")
def pocket_pipe():
    """The embedded pipeline. Tests restore whatever they change."""
    from erase_plugins import load

    return load("pocket")


@pytest.fixture(scope="session")
def pocket_target(pocket_pipe):
    """The embedded pipeline as a target."""
    from erase_plugins.workflow.models import target_of

    return target_of(pocket_pipe, "pocket")


@pytest.fixture
def tiny_sd1():
    """Factory of tiny random Stable Diffusion 1 pipelines."""
    from erase_plugins.testing.tiny import tiny_sd1

    return tiny_sd1


@pytest.fixture
def tiny_sdxl():
    """Factory of tiny random SDXL pipelines."""
    from erase_plugins.testing.tiny import tiny_sdxl

    return tiny_sdxl
