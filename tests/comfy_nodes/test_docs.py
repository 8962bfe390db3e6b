"""Written pages equal the node descriptions; every node has a page, a translation entry and a place in the table."""

from __future__ import annotations

import json
import re
import tomllib

import pytest

from comfy_nodes.spec import Input, NodeSpec, Output, Result
from erase_plugins.cli.comfy_install import COPIED
from tests.comfy_nodes.conftest import ROOT
from tools.docs import comfy as docs
from tools.docs.comfy import help as help_pages
from tools.docs.comfy import locales

SPECS = docs.own_specs()
PAGES = docs.pages(ROOT)
HELP = ROOT / "comfy_nodes" / "web" / "docs"


@pytest.mark.parametrize("path", list(PAGES), ids=lambda path: path.relative_to(ROOT).as_posix())
def test_written_pages_equal_the_descriptions(path):
    assert path.is_file(), "run: python -m tools.docs"
    assert path.read_text(encoding="utf-8") == PAGES[path](), "run: python -m tools.docs"


@pytest.mark.parametrize("name", COPIED)
def test_what_comfyui_reads_in_a_clone_is_written_once(name):
    written = {path for path in PAGES if (ROOT / name) in path.parents}
    assert written == set((ROOT / name).rglob("*.json"))
    assert not (ROOT / "comfy_nodes" / name).exists()


def test_no_page_of_a_node_that_is_gone():
    assert {path.stem for path in HELP.glob("*.md")} == {spec.id for spec in SPECS}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.id)
def test_a_page_says_everything(spec):
    text = (HELP / f"{spec.id}.md").read_text(encoding="utf-8")
    for part in (f"# {spec.title}", spec.description, spec.when, spec.cost, spec.paper):
        assert part in text
    assert spec.when, "say when to use another node"
    assert spec.cost, "say what it costs"
    for name, tooltip in [(item.name, item.tooltip) for item in (*spec.inputs, *spec.outputs)]:
        assert re.search(rf"^\| {name}( \(optional\))? \|.*{re.escape(tooltip)} \|$", text, flags=re.MULTILINE), name


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.instead], ids=lambda spec: spec.id)
def test_every_socket_has_its_translation_key(spec):
    entry = json.loads(locales.node_file(SPECS, "en"))[spec.id]
    assert entry.get("display_name") == (None if spec.short else spec.title)  # one with two is told by the server
    assert set(entry.get("inputs", {})) == {item.name for item in spec.inputs}
    assert set(entry["outputs"]) == {str(place) for place in range(len(spec.outputs))}


@pytest.mark.parametrize("spec", [spec for spec in SPECS if not spec.instead], ids=lambda spec: spec.id)
def test_every_page_of_a_node_in_the_menu_shows_it(spec):
    made = "run: python -m tests.comfy_nodes.browser.pictures " + spec.id
    assert (HELP / "images" / f"{spec.id}.png").is_file(), made
    assert f"](images/{spec.id}.png)" in (HELP / f"{spec.id}.md").read_text(encoding="utf-8")


def test_pictures_are_small():
    assert sum(path.stat().st_size for path in (HELP / "images").iterdir()) < 2_000_000
    assert {path.stem for path in (HELP / "images").iterdir()} <= {spec.id for spec in SPECS}


def test_nodes_of_closed_form_methods_name_the_paper_of_the_method():
    from erase_plugins.manager import get_manager

    papers = {entry.item.id: entry.item.paper for entry in get_manager().methods()}
    for spec in SPECS:
        method = spec.id.removeprefix("Erase").lower()
        if method in papers:
            assert spec.paper == papers[method]


def test_a_table_cell_cannot_be_left(tmp_path):
    spec = NodeSpec(
        id="EraseX", title="Erase: x", category="erase/make", description="d | e", aliases=(),
        inputs=(Input("a", "COMBO", "x | y", choices=("p|q",), options={"default": "p|q"}),),
        outputs=(Output("o", "INT", "tip"),), run=lambda a: Result((a,)),
    )  # fmt: skip
    row = next(line for line in help_pages.help_page(spec, tmp_path).splitlines() if line.startswith("| a "))
    assert row == r"| a | COMBO: p\|q | `p\|q` | x \| y |"
    assert r"| erase/make | [Erase: x](../comfy_nodes/web/docs/EraseX.md) | d \| e |" in help_pages.node_table([spec])


def test_nodes_of_other_packages_get_no_page(monkeypatch):
    other = type("Other", (), {"SPEC": NodeSpec("EraseO", "t", "c", "d", (), (), print, (), package="elsewhere")})
    monkeypatch.setattr(docs, "NODE_CLASS_MAPPINGS", {"EraseO": other})
    assert docs.own_specs() == []


@pytest.mark.parametrize("path", sorted((ROOT / "example_workflows").glob("*.json")), ids=lambda path: path.stem)
def test_an_editor_without_this_pack_can_name_it(path):
    """The editor reads the registry's name from the nodes' properties and shows it for nodes that it lacks."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"]
    for node in json.loads(path.read_text(encoding="utf-8"))["nodes"]:
        assert node["properties"]["cnr_id"] == (project if node["type"].startswith("Erase") else "comfy-core")
