"""The command line in this process, on the session's pipeline, so that torch is imported and loaded once."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest
from click.testing import CliRunner

from erase_plugins.cli.main import cli


@dataclass
class Ran:
    code: int
    out: str
    err: str

    @property
    def data(self) -> dict[str, Any]:
        """The one JSON object on stdout."""
        return json.loads(self.out)


def invoke(*words: Any) -> Ran:
    result = CliRunner().invoke(cli, [str(word) for word in words], prog_name="erase-plugins")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Ran(result.exit_code, result.stdout, result.stderr)


@pytest.fixture
def erase():
    """Runs a command line; returns code, stdout and stderr."""
    return invoke


@pytest.fixture
def loaded(monkeypatch, pocket_target):
    """'pocket' is the session's pipeline wherever a command would load it."""
    from erase_plugins.workflow.found import FoundModel

    real = FoundModel.load

    def load(self: FoundModel, *arguments: Any, **options: Any) -> Any:
        return pocket_target if self.name == "pocket" else real(self, *arguments, **options)

    monkeypatch.setattr(FoundModel, "load", load)
    return pocket_target


def _erased(once, target, concept):
    from erase_plugins.api import erase as run

    name = f"no-{concept}"
    return once(name, lambda to: run(target, concept, "uce", out=to / name, options={"vocabulary": "200"})) / name


@pytest.fixture(scope="session")
def pizza_folder(once, pocket_target):
    """Artifact folder that erases pizza from pocket."""
    return _erased(once, pocket_target, "pizza")


@pytest.fixture(scope="session")
def burger_folder(once, pocket_target):
    """Artifact folder that erases hamburger from pocket."""
    return _erased(once, pocket_target, "hamburger")
