"""A command recognises its model once, and loads it as the family that it was told."""

from __future__ import annotations

from typing import Any

import pytest

import erase_plugins as ep
from erase_plugins.cli import sweep
from erase_plugins.families.sd1 import StableDiffusion1
from erase_plugins.manager import get_manager
from tests.cli.test_attack import Planted

FAST = ("--set", "vocabulary=8", "--no-check")


@pytest.fixture
def detected(monkeypatch):
    """One entry for every time that a family was looked for."""
    found: list[Any] = []
    real = StableDiffusion1.detect

    def detect(self: Any, configs: Any) -> bool:
        found.append(self)
        return real(self, configs)

    monkeypatch.setattr(StableDiffusion1, "detect", detect)
    return found


@pytest.fixture
def twin(monkeypatch):
    """A second family for the models of sd1, with loading of its own; detection alone would never choose it."""

    class Twin(StableDiffusion1):
        id, title = "sd1-twin", "Stable Diffusion 1, by its other family"

        def load(self, request: Any) -> Any:
            opened.append(request.model)
            return super().load(request)

    class Plugin:
        @ep.hookimpl
        def erase_families(self):
            return [Twin()]

    opened: list[str] = []
    manager = get_manager()
    both = frozenset({"sd1", "sd1-twin"})
    monkeypatch.setattr(type(manager.method("uce")), "families", both, raising=False)
    with manager.temporary(Plugin(), "twin"):
        yield opened


def test_run(erase, detected, tmp_path):
    ran = erase("run", "uce", "--erase", "pizza", *FAST, "--out", tmp_path / "a")
    assert ran.code == 0, ran.err
    assert len(detected) == 1


def test_python(detected, tmp_path):
    ep.erase("pocket", "pizza", options={"vocabulary": 8}, out=tmp_path / "a", layouts=("patch",))
    assert len(detected) == 1


def test_evaluate(erase, loaded, detected, pizza_folder, tmp_path):
    ran = erase("evaluate", pizza_folder, "--images", "1", "--out", tmp_path / "report")
    assert ran.code == 0, ran.err
    assert len(detected) == 1


def test_generate(erase, loaded, detected, pizza_folder, tmp_path):
    ran = erase("generate", pizza_folder, "--prompt", "a pizza", "--steps", "1", "--out", tmp_path / "a.png")
    assert ran.code == 0, ran.err
    assert len(detected) == 1


def test_diagnose(erase, loaded, detected, pizza_folder):
    ran = erase("diagnose", pizza_folder, "--prompt", "a pizza", "--pictures", "1")
    assert ran.code == 0, ran.err
    assert len(detected) == 1


def test_attack(erase, loaded, detected, pizza_folder, tmp_path):
    with get_manager().temporary(Planted(), "planted"):
        ran = erase("attack", pizza_folder, "--attack", "tiny-attack", "--out", tmp_path / "a")
    assert ran.code == 0, ran.err
    assert len(detected) == 1


def test_sweep(erase, loaded, detected, tmp_path, monkeypatch):
    monkeypatch.setattr(sweep, "_work", lambda *_: {})
    ran = erase("sweep", "uce", "--erase", "pizza", "--erase", "cat", "--out", tmp_path / "many")
    assert ran.code == 0, ran.err
    assert len(detected) == 1


def test_apply(erase, detected, pizza_folder, tmp_path):
    ran = erase("apply", pizza_folder, "--model", "pocket", "--out", tmp_path / "fused", "--dry-run")
    assert ran.code == 0, ran.err
    assert len(detected) == 1


def test_the_named_family_loads_the_weights(erase, twin, tmp_path):
    ran = erase("run", "uce", "--erase", "pizza", "--family", "sd1-twin", *FAST, "--out", tmp_path / "a")
    assert ran.code == 0, ran.err
    assert ran.out.startswith("model pocket: family sd1-twin")
    assert twin == ["pocket"]
    assert ep.load_artifact(tmp_path / "a").manifest.family == "sd1-twin"


def test_the_named_family_loads_the_weights_in_python(twin):
    artifact = ep.erase("pocket", "pizza", options={"vocabulary": 8}, family="sd1-twin")
    assert twin == ["pocket"]
    assert artifact.manifest.family == artifact.edit.family == "sd1-twin"
