"""A small artifact on a tiny random model, and pocket artifacts where pictures count."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def tiny_target():
    from erase_plugins.testing.tiny import tiny_sd1
    from erase_plugins.workflow.models import target_of

    return target_of(tiny_sd1(), "tiny")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory, tiny_target):
    from erase_plugins.api import erase

    folder = tmp_path_factory.mktemp("tiny") / "no-pizza"
    erase(tiny_target, "pizza", "uce", out=folder, options={"vocabulary": "50"})
    return folder


@pytest.fixture
def tiny_copy(tiny_folder, tmp_path):
    """A copy of the artifact folder to damage."""
    import shutil

    return shutil.copytree(tiny_folder, tmp_path / "artifact")


@pytest.fixture
def kohya(tiny_copy):
    """Its Kohya file alone."""
    return next(tiny_copy.glob("*kohya*"))
