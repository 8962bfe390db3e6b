"""Every registered method has a node; a plugin that cannot be described costs its own node only."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from comfy_nodes import NODE_CLASS_MAPPINGS, registry
from comfy_nodes.classic import node_class
from comfy_nodes.nodes import methods
from erase_plugins.manager import get_manager
from erase_plugins.options import describe, option
from erase_plugins.types import Registered

ENTRIES = methods.drawing_methods()
#: inputs of every generated node; entries may be added at the end, never renamed or removed
FROZEN = [
    "erase", "kind", "strength", "keep", "seed", "checkpoint", "any_base", "preview_every", "model", "clip", "vae",
]  # fmt: skip


@dataclass(frozen=True)
class Options:
    rank: int = option(4, "rank of the change", low=1)


def entry(name: str, options: type = Options) -> Registered:
    method = SimpleNamespace(
        id=name, title="A method", paper="", summary="does it", kinds=frozenset({"style", "object"}), Options=options
    )
    return Registered(method, "plugin", "some-package", "1.0", "")


@pytest.mark.parametrize("item", ENTRIES, ids=lambda item: item.item.id)
def test_a_registered_method_has_a_node_with_its_options(item):
    cls = NODE_CLASS_MAPPINGS[methods.node_id(item.item.id)]
    names = [one.name for one in cls.SPEC.inputs]
    assert names[: len(FROZEN)] == FROZEN
    options = [one.name for one in describe(item.item.Options)]
    assert [name.removeprefix("option_") for name in names[len(FROZEN) :]] == options
    assert cls.EXPERIMENTAL
    assert cls.CATEGORY == "erase/make"
    assert set(cls.INPUT_TYPES()["required"]) == set(FROZEN[:8])


def test_ids_are_words_without_signs():
    assert methods.node_id("null-value") == "EraseMethodNullValue"
    assert methods.node_id("a_b.c2") == "EraseMethodABC2"


def test_kinds_are_those_of_the_method():
    spec = methods.method_spec(entry("x"))
    (kind,) = (item for item in spec.inputs if item.name == "kind")
    assert kind.entries() == ["object", "style"]
    assert spec.package == "some-package"
    node_class(spec).INPUT_TYPES()


def test_a_broken_method_costs_its_own_node(monkeypatch):
    @dataclass(frozen=True)
    class Broken:
        data: bytes = option(b"", "raw bytes")

    entries = (entry("fine"), entry("broken", Broken), entry("two-one"), entry("two_one"))
    monkeypatch.setattr(
        methods, "get_manager", lambda: SimpleNamespace(methods=lambda: entries, families=get_manager().families)
    )
    monkeypatch.setattr(registry, "FAILURES", {})
    assert [spec.id for spec in methods.method_specs()] == ["EraseMethodFine", "EraseMethodTwoOne"]
    assert registry.FAILURES["EraseMethodbroken"].startswith("some-package: TypeError: option data is of type bytes")
    assert "share the node EraseMethodTwoOne" in registry.FAILURES["EraseMethodtwo_one"]


def test_listing_methods_loads_nothing_heavy():
    code = (
        "import sys; from erase_plugins.manager import get_manager; get_manager().methods(); "
        "sys.exit(bool({'torch', 'numpy', 'diffusers'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
