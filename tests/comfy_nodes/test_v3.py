"""Today's form of a node beside the classic one: the same sockets, pictures and sentences; workflows of 0.1 with both."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from comfy_nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, v3
from tests.comfy_nodes import comfy_server
from tests.comfy_nodes.conftest import ROOT

#: a pack with both forms; those of today's form end in V3
BOTH = """
from comfy_nodes import WEB_DIRECTORY, classic, registry, v3

NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS = registry.collect(make=classic.node_class)
_today, _titles = registry.collect(make=v3.node_class)
NODE_CLASS_MAPPINGS |= {f"{name}V3": item for name, item in _today.items()}
"""
FROZEN = Path(__file__).parent / "frozen_workflows"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    few = ROOT / "tests" / "comfy_nodes" / "few_steps.py"
    base = comfy_server.prepare(tmp_path_factory.mktemp("v3"), few, few.name)
    (base / "custom_nodes" / "both").mkdir()
    (base / "custom_nodes" / "both" / "__init__.py").write_text(BOTH, encoding="utf-8")
    return base


@pytest.fixture(scope="module")
def served(in_comfy, base):
    """What v3.py saw."""
    return in_comfy("v3.py", str(base), str(ROOT))


def sockets(node):
    """Inputs as the editor takes them, whichever way a combo is written; what ComfyUI adds by itself is left out."""
    found = {}
    for group in ("required", "optional"):
        for name, (kind, options) in node["input"].get(group, {}).items():
            entries = kind if isinstance(kind, list) else options.get("options")
            rest = {key: value for key, value in options.items() if key not in ("options", "multiselect")}
            found[name] = (group, "COMBO" if entries else kind, entries, rest)
    return found


def drawn(path):
    return np.asarray(Image.open(path).convert("RGB"))


@pytest.mark.comfy
@pytest.mark.slow
def test_both_forms_have_the_same_sockets_and_words(served):
    nodes = served["nodes"]
    today = {name.removesuffix("V3"): node for name, node in nodes.items() if name.endswith("V3")}
    assert len(today) > 15
    for name, node in today.items():
        classic = nodes[name]
        assert sockets(node) == sockets(classic), name
        assert node["input_order"].get("required", []) == classic["input_order"].get("required", []), name
        assert node["input_order"].get("optional", []) == classic["input_order"].get("optional", []), name
        for part in (
            "output", "output_name", "output_tooltips", "category", "description", "output_node", "deprecated",
            "experimental",
        ):  # fmt: skip
            assert (
                list(node.get(part) or []) == list(classic.get(part) or [])
                if isinstance(classic.get(part), list)
                else bool(node.get(part)) == bool(classic.get(part)) or node.get(part) == classic.get(part)
            ), (name, part)


@pytest.mark.comfy
@pytest.mark.slow
def test_both_forms_draw_the_same_and_nothing_runs_again(served, base):
    for name in ("classic", "today"):
        assert (served[name]["status"], served[name]["end"]) == (200, "execution_success"), served[name]
    assert (drawn(base / "classic.png") == drawn(base / "today.png")).all()
    shown = served["today"]["output"]["2"]
    assert shown["erase_left"][0]["concept"] == "pizza"
    assert len(shown["erase_pictures"][0]["images"]) == 2
    assert served["again"]["executed"] == []


@pytest.mark.comfy
@pytest.mark.slow
@pytest.mark.parametrize("form", ["classic", "today"])
@pytest.mark.parametrize("name", ["one_node", "two_nodes"])
def test_workflows_of_0_1_draw_the_pictures_that_they_drew(served, base, name, form):
    """The pictures beside the frozen files were drawn by the code of that time."""
    assert served[f"{name}_{form}"]["end"] == "execution_success"
    was, found = drawn(FROZEN / f"{name}.png").astype(int), drawn(base / f"{name}_{form}.png").astype(int)
    assert was.shape == found.shape
    assert abs(was - found).max() <= 2  # of 255: processors round differently
    before, after = was[:, : was.shape[1] // 3], was[:, was.shape[1] // 3 : 2 * was.shape[1] // 3]
    assert abs(before - after).mean() > 5


@pytest.mark.comfy
@pytest.mark.slow
def test_checks_refusals_and_a_stop_work_as_in_the_classic_form(served):
    assert served["bad"]["status"] == 400
    assert "'pizza' would become itself" in str(served["bad"]["node_errors"])
    assert "missing" in str(served["missing"]["node_errors"])
    assert served["stopped"]["end"] == "execution_interrupted", str(served["stopped"])[-1500:]


def test_the_form_is_chosen_by_what_the_core_has(monkeypatch):
    monkeypatch.delitem(sys.modules, v3.API, raising=False)
    assert not v3.available()
    for io, wanted in ((SimpleNamespace(ComfyNode=object), False), (SimpleNamespace(DynamicCombo=object), True)):
        monkeypatch.setitem(sys.modules, v3.API, SimpleNamespace(io=io))
        assert v3.available() is wanted


@pytest.mark.parametrize(
    ("aliases", "title"), [(True, "Erase"), (False, "Erase: remove concepts (ban, unlearn, negative)")]
)
def test_the_short_title_is_shown_where_aliases_are_sent(monkeypatch, aliases, title):
    """Without them the title holds what people type; with them "erase" finds the node first, see `browser/test_search.py`."""

    def with_aliases(search_aliases=(), **fields):
        return SimpleNamespace(search_aliases=search_aliases, **fields)

    def socket(kind):
        return SimpleNamespace(Input=lambda *_, **__: None, Output=lambda *_, **__: None)

    old = lambda **fields: SimpleNamespace(**fields)  # noqa: E731
    io = SimpleNamespace(ComfyNode=object, Hidden=str, Custom=socket, Schema=with_aliases if aliases else old)
    monkeypatch.setitem(sys.modules, "comfy_api", SimpleNamespace(latest=SimpleNamespace(io=io)))
    monkeypatch.setitem(sys.modules, v3.API, SimpleNamespace(io=io))
    made = v3.node_class(NODE_CLASS_MAPPINGS["EraseNegative"].SPEC)
    assert made.define_schema().display_name == title
    assert NODE_DISPLAY_NAME_MAPPINGS["EraseNegative"].startswith("Erase: remove concepts")
