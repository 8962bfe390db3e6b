"""The editor in every language that we translate: it reads each text as it is in our files, and draws every node."""

from __future__ import annotations

import json

import pytest

from tests.comfy_nodes.browser.conftest import NAME
from tests.comfy_nodes.browser.editor import Editor
from tests.comfy_nodes.conftest import ROOT
from tools.docs.comfy import own_specs, translations

pytestmark = [pytest.mark.comfy, pytest.mark.browser, pytest.mark.slow]

#: frontends that load their own texts of a language over those of all packs, and so show English ones for the packs
ENGLISH_ONLY = ("1.32.9",)
#: texts of our nodes as the editor's own translator gives them
_SHOWN = """(keys) => {
  const translate = document.querySelector('#vue-app').__vue_app__.config.globalProperties.$t;
  return Object.fromEntries(keys.map((key) => [key, translate(key)]));
}"""


def texts(content, path):
    """Key of the editor's translator -> text."""
    if isinstance(content, str):
        return {path: content}
    found = {}
    for name, item in content.items():
        found |= texts(item, f"{path}.{name}")
    return found


def of(language):
    """All texts of our nodes in a language."""
    place = ROOT / "locales" / language / "nodeDefs.json"
    return texts(json.loads(place.read_text(encoding="utf-8")), "nodeDefs")


#: read by the editor in every run of the tests; the files of all are compared with the English ones in test_translations.py
SHOWN = ("es", "ja")


@pytest.fixture(params=[
    pytest.param(name, marks=[] if name in SHOWN else pytest.mark.full) for name in translations.translated_languages()
])  # fmt: skip
def translated(request, running, chromium, frontend):
    """(editor in a language, the texts to be seen, the language); nodes are drawn by Vue, which shows tooltips itself."""
    page = chromium.new_page(viewport={"width": 1600, "height": 900})
    page.set_default_timeout(60_000)
    written = of("en" if frontend[0] in ENGLISH_ONLY else request.param)
    yield Editor(page, running, frontend[0], vue=True, locale=request.param), written, request.param
    page.close()


def test_every_text_is_read_and_every_node_drawn(translated):
    editor, written, language = translated
    shown = editor.page.evaluate(_SHOWN, list(written))
    assert {key: text for key, text in shown.items() if text != written[key]} == {}
    ids = [spec.id for spec in own_specs()]
    titles = editor.page.evaluate(
        """(ids) => { app.graph.clear(); return ids.map((id, i) => { const node = LiteGraph.createNode(id);
             node.pos = [(i % 8) * 420, Math.floor(i / 8) * 900]; app.graph.add(node); return node.title; }); }""",
        ids,
    )
    editor.show()
    editor.page.wait_for_timeout(1500)
    # texts of our own scripts are read by themselves, whatever the editor does with those of packs
    labels = editor.page.locator(".erase-option label").all_text_contents()
    assert translations.translate("also erase synonyms", language) in labels
    tabs = editor.page.evaluate("() => app.extensionManager.getSidebarTabs().map((tab) => tab.title)")
    assert translations.translate("Erase library", language) in tabs
    assert titles == [written.get(f"nodeDefs.{spec.id}.display_name", spec.title) for spec in own_specs()]
    assert editor.page.get_by_text("Node Render Error").count() == 0
    assert editor.errors_of(f"/extensions/{NAME}/") == []


@pytest.mark.smoke
def test_the_help_page_is_french_in_a_french_editor_with_its_picture(running, chromium, frontend):
    page = chromium.new_page(viewport={"width": 1600, "height": 900})
    page.set_default_timeout(60_000)
    editor = Editor(page, running, frontend[0], vue=True, locale="fr")
    node = page.evaluate(
        """() => { app.graph.clear(); const node = LiteGraph.createNode("EraseStack"); node.pos = [300, 200];
             app.graph.add(node); return String(node.id); }"""
    )
    text = editor.help(node)
    assert "Quand prendre un autre nœud" in text
    page.wait_for_function("document.querySelector('.node-help-content img')?.naturalWidth > 0")
    page.close()
