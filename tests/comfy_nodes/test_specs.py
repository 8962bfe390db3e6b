"""Every node is described for people and for ComfyUI; ids and inputs are frozen; a broken module costs its nodes only."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys

import pytest

from comfy_nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, registry
from comfy_nodes.classic import node_class
from comfy_nodes.spec import Input, NodeSpec, Output, Result
from tests.comfy_nodes.conftest import ROOT

#: workflows in the world name these; entries may be added, never renamed or removed
FROZEN = {
    "ErasePocketLoader": [],
    "ErasePocketLatent": ["batch_size"],
    "EraseUCE": ["model", "clip", "erase", "strength", "kind", "keep"],
    "EraseRECE": ["model", "clip", "erase", "strength", "kind", "keep"],
    "EraseLoadArtifact": ["artifact", "model", "strength", "strength_clip", "any_base", "clip"],
    "EraseSaveArtifact": ["edit", "name", "overwrite", "kohya_copy", "model", "clip"],
    "EraseEmbeddingPatch": ["model", "edit", "strength"],
    "EraseConditioning": ["conditioning", "edit", "strength"],
    "EraseCompare": ["base", "erased", "scale"],
    "EraseDoctor": [],
}
NODES = sorted(NODE_CLASS_MAPPINGS.items())


def test_ids_and_inputs_are_frozen():
    assert {name: [item.name for item in cls.SPEC.inputs] for name, cls in NODES} == FROZEN
    assert registry.FAILURES == {}


@pytest.mark.parametrize(("name", "cls"), NODES)
def test_a_node_explains_itself(name, cls):
    assert re.fullmatch(r"Erase[A-Z][A-Za-z]+", name)
    assert NODE_DISPLAY_NAME_MAPPINGS[name].startswith("Erase: ")
    assert cls.CATEGORY in ("erase/load", "erase/make", "erase/apply", "erase/check")
    assert len(cls.DESCRIPTION) > 60
    assert "erase plugins" in cls.SEARCH_ALIASES
    for group in cls.INPUT_TYPES().values():
        for kind, options in group.values():
            assert len(options["tooltip"]) > 15
            if "min" in options:
                assert options["min"] <= options["default"] <= options["max"]
            if isinstance(kind, list):
                assert kind
                assert options.get("default", kind[0]) in kind
    assert len(cls.OUTPUT_TOOLTIPS) == len(cls.RETURN_TYPES) == len(cls.RETURN_NAMES) > 0
    assert all(len(text) > 15 for text in cls.OUTPUT_TOOLTIPS)
    json.dumps(cls.INPUT_TYPES())


@pytest.mark.parametrize(("name", "cls"), NODES)
def test_inputs_are_the_arguments_of_the_run_function(name, cls):
    arguments = inspect.signature(cls.SPEC.run).parameters
    wanted = {item.name for item in cls.SPEC.inputs}
    assert wanted <= set(arguments)
    optional = {item.name for item in cls.SPEC.inputs if not item.required}
    for item, parameter in arguments.items():
        if item in wanted:
            assert (parameter.default is not inspect.Parameter.empty) == (item in optional), item
        else:
            assert parameter.default is not inspect.Parameter.empty or item == "method"


def test_checks_are_named_for_comfyui_and_skip_linked_inputs():
    validate = NODE_CLASS_MAPPINGS["EraseUCE"].VALIDATE_INPUTS
    assert inspect.getfullargspec(validate).args == ["erase"]
    assert validate(erase=None) is True
    assert validate(erase="pizza") is True
    assert "'Pizza' is named twice" in validate(erase="pizza\nPizza")


def test_results_become_what_comfyui_expects():
    spec = NodeSpec(
        id="EraseX", title="t", category="c", description="d", aliases=(),
        inputs=(Input("a", "INT", "tip", options={"default": 1}), Input("b", "COMBO", "tip", False, choices=("x", "y"))),
        outputs=(Output("o", "INT", "tip"),), run=lambda a, b="x": Result((a,), f"{a}{b}" if a else ""),
    )  # fmt: skip
    cls = node_class(spec)
    assert cls.INPUT_TYPES() == {
        "required": {"a": ("INT", {"default": 1, "tooltip": "tip"})},
        "optional": {"b": (["x", "y"], {"tooltip": "tip"})},
    }
    assert getattr(cls(), cls.FUNCTION)(a=2, b="y") == {"ui": {"text": ["2y"]}, "result": (2,)}
    assert getattr(cls(), cls.FUNCTION)(a=0) == (0,)


def test_a_broken_module_costs_its_own_nodes(monkeypatch):
    monkeypatch.setattr(registry, "FAILURES", {})
    classes, titles = registry.collect(["doctor", "does_not_exist"])
    assert list(classes) == list(titles) == ["EraseDoctor"]
    assert registry.FAILURES["does_not_exist"].startswith("ModuleNotFoundError")


def python(code: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, cwd=ROOT, timeout=60)


def test_importing_the_pack_is_silent_and_loads_nothing_heavy():
    heavy = ("torch", "diffusers", "transformers", "peft", "numpy", "comfy")
    done = python(f"import sys, comfy_nodes\nassert not [n for n in {heavy} if n in sys.modules], sys.modules")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_importing_the_pack_takes_less_than_300_ms():
    """Processor time, so that a busy machine does not decide."""

    def seconds(code: str) -> float:
        before = os.times()
        assert python(code).returncode == 0
        after = os.times()
        return after.children_user + after.children_system - before.children_user - before.children_system

    bare = min(seconds("pass") for _ in range(3))
    assert min(seconds("import comfy_nodes") for _ in range(5)) - bare < 0.3
