"""What our script adds in the browser: chips, the menu entry, dropped artifacts; and the editor without it."""

from __future__ import annotations

import json
from base64 import b64encode

import pytest

from comfy_nodes import NODE_CLASS_MAPPINGS
from tests.comfy_nodes.browser.conftest import FIRST
from tests.layouts.making import artifact_of, random_edit

pytestmark = [
    pytest.mark.comfy,
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.usefixtures("no_error_from_our_files"),
]
DROP = """([data, name]) => {
  const items = new DataTransfer();
  items.items.add(new File([Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0))], name));
  app.canvas.canvas.dispatchEvent(
    new DragEvent("drop", { dataTransfer: items, bubbles: true, cancelable: true, clientX: 900, clientY: 760 }),
  );
}"""


@pytest.fixture
def file(pocket_target, tmp_path):
    """An artifact in one file."""
    folder = tmp_path / "no_pizza"
    artifact_of(pocket_target, random_edit(pocket_target, ("denoiser",)), "no_pizza").save(folder, ("patch",))
    return next(folder.glob("*.safetensors"))


def test_chips_switch_concepts_off_and_are_not_saved(editor, shoot):
    editor.page.evaluate("() => { app.graph.clear(); app.graph.add(LiteGraph.createNode('EraseProbe')); }")
    node = editor.node("EraseProbe")
    editor.set_widget(node, "erase", "pizza -> hamburger\n# dog\ncar")
    chips = editor.page.locator(".erase-chips button")
    editor.page.wait_for_function("document.querySelectorAll('.erase-chips button').length === 3")
    assert [chip.get_attribute("aria-pressed") for chip in chips.all()] == ["true", "false", "true"]
    editor.show(node, scale=1.0)
    chips.nth(1).click()
    chips.nth(2).click()
    shoot("chips")
    saved = editor.page.evaluate("() => app.graph.serialize().nodes[0].widgets_values")
    assert saved[0] == "pizza -> hamburger\ndog\n# car"
    assert len(saved) == len(NODE_CLASS_MAPPINGS["EraseProbe"].SPEC.widgets)


def test_a_saved_workflow_names_the_pack_for_editors_that_lack_it(editor):
    saved = editor.page.evaluate(
        """() => {
          app.graph.clear();
          for (const kind of ["EraseUCE", "KSampler"]) app.graph.add(LiteGraph.createNode(kind));
          return app.graph.serialize().nodes.map((node) => [node.type, node.properties.cnr_id ?? ""]);
        }"""
    )
    assert dict(saved)["EraseUCE"] == "erase-plugins"
    assert dict(saved)["KSampler"] != "erase-plugins"


def test_a_dropped_artifact_becomes_a_node_that_tells_what_it_erases(editor, shoot, file):
    editor.load(json.loads(FIRST.read_text(encoding="utf-8")))
    editor.page.evaluate(DROP, [b64encode(file.read_bytes()).decode(), "no_pizza.safetensors"])
    editor.page.wait_for_function("app.graph._nodes.some((n) => n.type === 'EraseLoadArtifact')")
    node = editor.node("EraseLoadArtifact")
    value = editor.page.evaluate("(id) => app.graph._nodes.find((n) => String(n.id) === id).widgets[0].value", node)
    assert value == "no_pizza.safetensors"
    editor.show(node, scale=1.0, top=300)
    editor.select(node)
    editor.page.locator("button:has(.pi-eraser)").first.click()
    editor.page.get_by_text("made for: pocket").first.wait_for()
    shoot("what_does_this_erase")
    if editor.label != "1.32.9_vue":  # whose menu takes no entries of others
        editor.select(node, button="right")
        editor.page.get_by_text("What does this erase?").first.wait_for()


def test_a_dropped_file_that_is_not_ours_is_left_to_the_editor(editor):
    editor.load(json.loads(FIRST.read_text(encoding="utf-8")))
    editor.page.evaluate("() => { window.passedOn = []; app.handleFile = (file) => window.passedOn.push(file.name); }")
    header = b'{"__metadata__":{"format":"pt"}}'
    data = b64encode(len(header).to_bytes(8, "little") + header).decode()
    editor.page.evaluate(DROP, [data, "other.safetensors"])
    editor.page.wait_for_function("window.passedOn.includes('other.safetensors')")
    assert not editor.page.evaluate("app.graph._nodes.some((n) => n.type === 'EraseLoadArtifact')")
    editor.open()


def test_a_dropped_file_that_is_not_ours_reaches_the_pack_it_was_dropped_on(editor):
    """It was taken away from panels and nodes of other packs, and handed to the editor."""
    header = b'{"__metadata__":{"format":"pt"}}'
    found = editor.page.evaluate(
        """async (bytes) => {
          const panel = document.body.appendChild(document.createElement("div")), items = new DataTransfer();
          const come = new Promise((resolve) => panel.addEventListener("drop", (event) => {
            event.stopPropagation();
            resolve([event.dataTransfer.files[0].name, event.clientX]);
          }));
          items.items.add(new File([new Uint8Array(bytes)], "other.safetensors"));
          panel.dispatchEvent(new DragEvent("drop", { dataTransfer: items, bubbles: true, cancelable: true, clientX: 7 }));
          return await Promise.race([come, new Promise((resolve) => setTimeout(resolve, 3000))]);
        }""",
        list(len(header).to_bytes(8, "little") + header),
    )
    assert found == ["other.safetensors", 7]


@pytest.mark.smoke
def test_a_node_that_ends_a_graph_says_its_report_on_itself(editor, shoot):
    """The editor draws no text of other packs' nodes: the doctor ran and nothing was to be seen."""
    page = editor.page
    page.evaluate("() => { app.graph.clear(); app.graph.add(LiteGraph.createNode('EraseDoctor')); }")
    editor.show(scale=1.0)
    assert page.locator(".erase-report").count() == 0 or not page.locator(".erase-report").is_visible()
    kind, detail = editor.run()
    assert kind == "execution_success", detail
    page.locator(".erase-report").wait_for()
    shoot("doctor")
    assert "torch" in page.inner_text(".erase-report")
    assert "torch" not in json.dumps(page.evaluate("() => app.graph.serialize()"))  # versions are not passed on
