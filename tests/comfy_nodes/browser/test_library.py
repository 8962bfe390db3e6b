"""The library beside the canvas, and the command that erases selected words of a prompt."""

from __future__ import annotations

import json

import pytest

from tests.comfy_nodes.browser.test_editor import overlaps
from tests.comfy_nodes.conftest import ROOT
from tests.comfy_nodes.workflow import quickly
from tools.docs.comfy.examples import FIRST, SHELF
from tools.docs.comfy.library import COLLECTION, ERASED, LORA

pytestmark = [
    pytest.mark.comfy,
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.usefixtures("no_error_from_our_files"),
]
CARD = ".erase-library .card"
_DROP = """([name]) => {
  const data = new DataTransfer(), card = document.querySelector(`.erase-library .card[data-name="${name}"]`);
  card.dispatchEvent(new DragEvent("dragstart", { dataTransfer: data, bubbles: true }));
  app.canvas.canvas.dispatchEvent(
    new DragEvent("drop", { dataTransfer: data, bubbles: true, cancelable: true, clientX: 900, clientY: 500 }));
}"""


def read(title):
    return json.loads((ROOT / "example_workflows" / f"{title}.json").read_text(encoding="utf-8"))


def rows(editor):
    """Lines of the Erase node."""
    return editor.page.evaluate(
        "() => app.graph._nodes.find((n) => n.type === 'EraseNegative').widgets.find((w) => w.name === 'erase').value"
    ).split("\n")


@pytest.fixture
def library(editor):
    """The open tab, with the first template behind it."""
    editor.load(read(FIRST))
    if editor.page.locator(CARD).count() == 0:
        editor.page.evaluate("() => app.extensionManager.sidebarTab.toggleSidebarTab('erase-library')")
    editor.page.locator(CARD).first.wait_for()
    yield editor
    editor.page.evaluate("() => app.extensionManager.sidebarTab.toggleSidebarTab('erase-library')")


@pytest.mark.smoke
def test_a_card_with_its_picture_goes_into_the_erase_node(library, shoot):
    page = library.page
    assert page.locator(CARD).count() >= len(ERASED) + 1
    page.wait_for_function(
        "() => [...document.querySelectorAll('.erase-library img')].slice(0, 2).every((image) => image.naturalWidth > 100)"
    )
    shoot("library")
    page.get_by_label("Search").fill("gun")
    assert page.locator(CARD).count() == 1
    page.locator(CARD).click()
    assert rows(library)[-1] == "gun -> umbrella"
    page.locator(CARD).click()
    assert rows(library).count("gun -> umbrella") == 1
    page.get_by_label("Search").fill("no such thing")
    assert page.locator(CARD).count() == 0
    assert "Nothing found" in page.inner_text(".erase-library")


def test_cards_are_chosen_by_base_and_by_place(library):
    page = library.page
    page.get_by_label("Search").fill("")
    page.get_by_label("Base model").select_option("sd1")
    assert page.locator(CARD).count() >= len(ERASED)
    page.get_by_label("Where").select_option("shipped")
    page.wait_for_function(f"document.querySelectorAll('{CARD}').length === {len(ERASED) + 1}")
    page.get_by_label("Where").select_option(
        "hub"
    )  # a Hub of our own with nothing on it, or what other tests published
    page.wait_for_function("!document.querySelector('.erase-library .said[role]').textContent.includes('Looking')")
    assert "built in" not in page.inner_text(".erase-library .cards")
    page.get_by_label("Where").select_option("")
    page.locator(CARD).first.wait_for()


@pytest.mark.parametrize("name", [LORA, f"{COLLECTION}/erase_gun"])
def test_a_card_dropped_on_the_canvas_loads_it(library, name):
    page = library.page
    page.get_by_label("Search").fill("")
    page.locator(f'{CARD}[data-name="{name}"]').wait_for()
    page.evaluate(_DROP, [name])
    page.wait_for_function("app.graph._nodes.some((n) => n.type === 'EraseLoadArtifact')")
    value = page.evaluate("() => app.graph._nodes.find((n) => n.type === 'EraseLoadArtifact').widgets[0].value")
    assert value == name


def select(editor, kind, title, words):
    """Selects words in the text box of a node, as a person does with the mouse, and leaves the cursor there."""
    node = editor.page.evaluate(
        "([kind, title]) => String(app.graph._nodes.find((n) => n.type === kind && n.title === title).id)",
        [kind, title],
    )
    editor.show(node, scale=1.0, top=300)
    editor.page.evaluate(
        """([id, words]) => {
          const node = app.graph._nodes.find((n) => String(n.id) === id);
          const box = document.querySelector(`[data-node-id="${id}"] textarea`) ?? node.widgets[0].element;
          const start = box.value.indexOf(words);
          box.focus();
          box.setSelectionRange(start, start + words.length);
        }""",
        [node, words],
    )
    return node


@pytest.mark.smoke
def test_selected_words_become_a_line_of_the_erase_node_in_front(editor, shoot):
    editor.load(read(FIRST))
    select(editor, "CLIPTextEncode", "Prompt", "blue background")
    editor.page.keyboard.press("Alt+Shift+KeyE")
    editor.page.wait_for_function(
        "app.graph._nodes.find((n) => n.type === 'EraseNegative').widgets.find((w) => w.name === 'erase')"
        ".value.includes('blue background')"
    )
    shoot("erase_selection")
    assert rows(editor)[-1] == "blue background"


_WITHOUT = """() => {
  const node = app.graph._nodes.find((n) => n.type === "EraseLibrary");
  const model = app.graph._nodes.find((n) => n.type === "ErasePocketLoader");
  for (const sampler of app.graph._nodes.filter((n) => n.type === "KSampler")) model.connect(0, sampler, 0);
  app.graph.remove(node);
}"""


@pytest.mark.smoke
def test_where_there_is_no_erase_node_one_is_made_and_connected(editor, shoot):
    editor.load(quickly(read(SHELF)))
    editor.page.evaluate(_WITHOUT)
    node = select(editor, "CLIPTextEncode", "Prompt", "gun")
    editor.page.keyboard.press("Alt+Shift+KeyE")
    editor.page.wait_for_function("app.graph._nodes.some((n) => n.type === 'EraseNegative')")
    editor.show()
    shoot("erase_inserted")
    graph = editor.page.evaluate("async () => (await app.graphToPrompt()).output")
    erasers = {key for key, item in graph.items() if item["class_type"] == "EraseNegative"}
    (eraser,) = erasers
    (model,) = [key for key, item in graph.items() if item["class_type"] == "ErasePocketLoader"]
    inputs = graph[eraser]["inputs"]
    assert (inputs["erase"], inputs["model"], inputs["clip"]) == ("gun", [model, 0], [model, 1])
    samplers = [item for item in graph.values() if item["class_type"] == "KSampler"]
    assert [item["inputs"]["model"] for item in samplers] == [[eraser, 0], [eraser, 0]]
    assert graph[node]["inputs"]["clip"] == [eraser, 1]
    assert overlaps(editor) == []
    kind, detail = editor.run()
    assert kind == "execution_success", detail


def test_the_menu_and_the_toolbox_offer_it(editor, shoot):
    editor.load(read(FIRST))
    node = select(editor, "CLIPTextEncode", "Prompt", "pizza")
    editor.select(node)
    editor.page.locator("button:has(.pi-eraser)").last.wait_for()
    shoot("erase_toolbox")
    if editor.label != "1.32.9_vue":  # whose menu takes no entries of others
        editor.select(node, button="right")
        editor.page.get_by_text("Erase this from the model").first.wait_for()
