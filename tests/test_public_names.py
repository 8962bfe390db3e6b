"""The public names: fixed, importable, typed, documented. Whoever changes this list changes the interface."""

from __future__ import annotations

import dataclasses
import inspect

import pytest

import erase_plugins

NAMES = [
    "Artifact", "AttackReport", "Concept", "DataRef", "Edit", "EraseRequest", "EvalReport", "ForgetItem", "LowRank", "__version__", "add", "applied", "apply", "attack", "auto", "clean_lora", "erase",
    "evaluate", "generate", "get_manager", "hookimpl", "load", "load_artifact", "merge", "plan", "pull", "push", "revoke", "search",
]  # fmt: skip
FUNCTIONS = [name for name in NAMES if name[0].islower() and name != "hookimpl"]
CLASSES = [name for name in NAMES if name[0].isupper()]


def test_the_list_is_fixed():
    assert sorted(erase_plugins.__all__) == NAMES
    assert len(set(erase_plugins.__all__)) == len(erase_plugins.__all__)
    assert dir(erase_plugins) == sorted(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_each_name_is_there(name):
    assert getattr(erase_plugins, name) is not None


@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_is_typed_and_documented(name):
    function = getattr(erase_plugins, name)
    assert inspect.isfunction(inspect.unwrap(function))
    text = inspect.getdoc(function)
    assert text is not None
    first = text.splitlines()[0]
    assert first.endswith("."), f"the first line of {name} is not a sentence"
    signature = inspect.signature(function)
    untyped = [item.name for item in signature.parameters.values() if item.annotation is item.empty]
    assert untyped == []
    assert signature.return_annotation is not signature.empty
    for item in signature.parameters.values():
        if len(signature.parameters) > 2 and item.kind is item.KEYWORD_ONLY:
            assert item.name in text or name in ("plan",), f"{name} does not document '{item.name}'"


@pytest.mark.parametrize("name", CLASSES)
def test_each_class_is_a_documented_frozen_record(name):
    cls = getattr(erase_plugins, name)
    assert dataclasses.is_dataclass(cls)
    assert cls.__dataclass_params__.frozen
    doc = inspect.getdoc(cls)
    assert doc
    assert not doc.startswith(f"{name}(")  # what dataclass writes when there is no text
    public = [item for key, item in vars(cls).items() if not key.startswith("_") and inspect.isfunction(item)]
    assert [item.__name__ for item in public if not inspect.getdoc(item)] == []


def test_unknown_name():
    with pytest.raises(AttributeError, match="'erase_plugins' has no attribute 'erase_all'"):
        erase_plugins.erase_all


def test_version_is_that_of_the_project():
    import tomllib
    from pathlib import Path

    project = tomllib.loads((Path(__file__).parent.parent / "pyproject.toml").read_text())["project"]
    version = project.get("version")
    assert version in (None, erase_plugins.__version__)


def test_methods_of_artifacts_are_bound_when_the_package_is_imported():
    """In a process that imports nothing but the class; without torch until one is called."""
    import subprocess
    import sys

    code = (
        "import sys, erase_plugins\nfrom erase_plugins import late\n"
        "print(sorted(late.FUNCTIONS), late.VERSION == erase_plugins.__version__, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (
        done.stdout.strip()
        == "['apply', 'attacks', 'card', 'erase', 'family', 'guard_stage', 'load', 'save', 'suites'] True False"
    ), done.stderr
