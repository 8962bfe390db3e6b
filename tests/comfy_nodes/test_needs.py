"""What ComfyUI does not bring is named before any work, with the command that brings it."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from comfy_nodes import NODE_CLASS_MAPPINGS, needs
from comfy_nodes.nodes import doctor
from comfy_nodes.nodes.methods import drawing_methods, node_id
from erase_plugins import extras
from erase_plugins.needs import packages_of

METHODS = {entry.item.id: entry.item for entry in drawing_methods() if entry.package == "erase-plugins"}
CLOSED = ("null-space", "oce", "rece", "uce")


@pytest.fixture
def bare(monkeypatch):
    """ComfyUI as it is after either documented installation."""
    for name in ("diffusers", "peft", "accelerate"):
        monkeypatch.setitem(sys.modules, name, None)


@pytest.mark.parametrize("name", sorted(METHODS))
def test_every_method_runs_on_a_connected_model_and_a_checkpoint_needs_its_loader(bare, name):
    """`test_fresh.py` runs them on a server that lacks these packages."""
    validate = NODE_CLASS_MAPPINGS[node_id(name)].VALIDATE_INPUTS
    assert not packages_of(METHODS[name])
    assert validate(erase="pizza", checkpoint="") is True
    said = validate(erase="pizza", checkpoint="pocket")
    assert "needs diffusers, which ComfyUI does not bring; run: python -m pip install diffusers  (" in said


def test_a_node_says_it_at_its_start_where_the_checkpoint_came_over_a_wire(bare):
    node = NODE_CLASS_MAPPINGS["EraseMethodUce"]
    assert node.VALIDATE_INPUTS(erase="pizza", checkpoint=None) is True
    with pytest.raises(needs.PackageMissing, match="a model named in 'checkpoint' needs diffusers"):
        node.SPEC.run(erase="pizza", kind="object", strength=1.0, keep="", seed=0, checkpoint="pocket", any_base=False,
                      preview_every=0)  # fmt: skip


def test_everything_is_there_where_everything_is_installed():
    assert all(needs.problem(method, "pocket") is None for method in METHODS.values())


def test_the_doctor_names_what_is_missing_and_who_needs_it(bare):
    text = doctor.examine().text
    (line,) = [line for line in text.splitlines() if line.startswith("problem: diffusers is not installed")]
    assert "every node with something in 'checkpoint'" in line
    assert "EraseMethod" not in line
    assert line.endswith("python -m pip install diffusers")
    assert "everything is in order" not in text


def test_the_doctor_is_content_where_nothing_is_missing():
    assert "diffusers is not installed" not in doctor.examine().text


def test_the_portable_installation_gets_its_own_command(monkeypatch):
    monkeypatch.setattr(sys, "executable", str(Path("/home/somebody/python_embeded/python.exe")))
    assert needs.install(["diffusers"]) == ".\\python_embeded\\python.exe -s -m pip install diffusers"


def test_values_of_an_older_workflow_in_the_wrong_place_are_named():
    said = NODE_CLASS_MAPPINGS["EraseMethodUce"].VALIDATE_INPUTS(erase="pizza", checkpoint="randomize")
    assert "its values are one place too far" in said


def test_extras_and_packages_of_other_methods_are_named(monkeypatch):
    monkeypatch.setattr(extras, "extras", lambda: {"plots": ("matplotlib", "no-such-package")})
    method = SimpleNamespace(id="x", packages={"plots", "nor-this"})
    assert needs.lacking(method.packages) == ["no-such-package", "nor-this"]
    assert "the method 'x' needs no-such-package and nor-this" in needs.problem(method)
