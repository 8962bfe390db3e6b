"""The version stands in one place, `erase_plugins/__init__.py`; everything else reads it there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import erase_plugins
from erase_plugins import late
from erase_plugins.artifacts.manifest import package_versions

ROOT = Path(__file__).parent.parent
PLACE = "erase_plugins/__init__.py"
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_package_and_node_registry_read_it_from_the_code():
    """ComfyUI's registry reads a dynamic version with a regular expression, from a path of its own."""
    assert "version" not in PYPROJECT["project"]
    assert "version" in PYPROJECT["project"]["dynamic"]
    assert PYPROJECT["tool"]["hatch"]["version"]["path"] == PLACE
    assert PYPROJECT["tool"]["comfy"]["version"]["path"] == PLACE
    found = re.findall(r'^__version__ = "([^"\\\n]+)"$', (ROOT / PLACE).read_text(encoding="utf-8"), re.MULTILINE)
    assert found == [erase_plugins.__version__]


def test_manifests_say_it_and_with_them_cards_and_bundles(monkeypatch):
    assert erase_plugins.__version__ == late.VERSION
    monkeypatch.setattr(late, "VERSION", "9.9.9")
    assert package_versions()["erase-plugins"] == "9.9.9"
