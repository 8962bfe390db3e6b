"""The Erase node as a person uses it: from an empty graph to a compared pair, rows, methods, the line to drag, LoRAs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import psutil
import pytest

from tests.comfy_nodes.browser.conftest import FIRST, KIND, LORA_BEHIND
from tests.comfy_nodes.browser.editor import RUN, WATCH
from tests.comfy_nodes.conftest import ROOT
from tools.docs.comfy import examples

#: they double-click on the graph, where nothing may lie that another file left open
OWN_PAGE = True
pytestmark = [
    pytest.mark.comfy,
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.usefixtures("no_error_from_our_files"),
]
MOST_CLICKS, MOST_SECONDS = 6, 6.0

_COUNT = """() => {
  window.eraseClicks = 0;
  if (!window.eraseCounted) window.addEventListener("pointerdown", () => { window.eraseClicks += 1; }, true);
  window.eraseCounted = true;
}"""
_SOCKET = """() => {
  const node = app.graph._nodes[0], ds = app.canvas.ds, box = app.canvas.canvas.getBoundingClientRect();
  const drawn = document.querySelector(`[data-node-id="${node.id}"] .lg-slot--output [class*="slot-dot"]`);
  const dot = drawn?.getBoundingClientRect();
  if (dot?.width) return [dot.left + dot.width / 2, dot.top + dot.height / 2];
  const at = (node.getOutputPos ?? ((slot) => node.getConnectionPos(false, slot))).call(node, 0);
  return [box.left + (at[0] + ds.offset[0]) * ds.scale, box.top + (at[1] + ds.offset[1]) * ds.scale];
}"""
#: as a file holds it; what is undefined would come back as null, which older editors complain about
_SAVED = "() => JSON.parse(JSON.stringify(app.graph.serialize()))"
_PAIR = "[...document.querySelectorAll('.erase-slider img')].map((image) => image.naturalWidth)"


def pair(editor):
    """Waits for the pair on the node."""
    editor.page.wait_for_function(
        f"(() => {{ const w = {_PAIR}; return w.length === 2 && w.every((x) => x === 64); }})()"
    )


def sent(editor, node):
    return editor.page.evaluate("async (id) => (await app.graphToPrompt()).output[id].inputs", node)


def type_and_take(editor, words):
    """Types into the search box and takes the first hit; newer editors hang the node on the pointer until a click."""
    editor.page.wait_for_function("document.activeElement?.tagName === 'INPUT'")
    before = editor.page.evaluate("app.graph._nodes.length")
    editor.page.keyboard.type(words, delay=20)
    editor.page.wait_for_timeout(800)
    editor.page.keyboard.press("Enter")
    editor.page.wait_for_function("(old) => app.graph._nodes.length > old", arg=before)
    editor.page.wait_for_timeout(300)


@pytest.mark.smoke
def test_from_an_empty_graph_to_a_compared_pair_in_six_clicks(editor, shoot):
    """A double click counts two, a drag one. CLIP and VAE come by themselves from where MODEL comes from."""
    page, hangs = editor.page, not editor.label.startswith("1.32")
    page.evaluate("() => { app.graph.clear(); app.canvas.ds.scale = 1; app.canvas.ds.offset = [0, 0]; }")
    page.keyboard.press("Escape")
    page.evaluate(_COUNT)
    page.mouse.move(300, 300)
    page.mouse.dblclick(300, 300, delay=60)
    type_and_take(editor, "load pocket")
    if hangs:
        page.mouse.move(310, 310)
        page.mouse.click(310, 310)
        page.wait_for_timeout(300)
    x, y = page.evaluate(_SOCKET)
    page.mouse.move(x, y)
    page.mouse.down()
    page.mouse.move(x + 100, y - 40, steps=4)
    page.mouse.move(760, 160, steps=4)
    page.mouse.up()
    page.wait_for_timeout(800)
    type_and_take(editor, "unlearn")
    if hangs:
        page.mouse.move(770, 165)
        page.mouse.click(770, 165)
        page.wait_for_timeout(300)
    kind, detail = editor.run()
    assert kind == "execution_success", detail
    pair(editor)
    clicks = page.evaluate("window.eraseClicks")
    shoot("from_an_empty_graph")
    print("clicks", clicks)
    assert clicks <= MOST_CLICKS
    node = editor.node(KIND)
    assert {"model", "clip", "vae"} <= {name for name, value in sent(editor, node).items() if isinstance(value, list)}


def process_seconds(running):
    """Processor time of the server so far."""
    port = int(running.rpartition(":")[2])
    for process in psutil.process_iter(["cmdline"]):
        if str(port) in (process.info["cmdline"] or ()):
            used = process.cpu_times()
            return used.user + used.system
    raise LookupError(port)


@pytest.mark.smoke
def test_the_first_template_shows_its_first_picture_after_one_click_within_six_seconds(
    editor, running, running_base, shoot
):
    """Another strength in every run, so that nothing comes out of a cache of an earlier test; words of the vocabulary are
    encoded, as they are in any run but the first one after installing."""
    page, whole = editor.page, running_base / "input" / "whole_pairs"  # see few_steps.py
    editor.load(json.loads(FIRST.read_text(encoding="utf-8")))
    editor.set_widget(editor.node(KIND), "strength", 0.95)
    page.evaluate(_COUNT)
    page.evaluate(WATCH)
    whole.touch()
    try:
        before = process_seconds(running)
        page.click(RUN)
        page.wait_for_function(f"(() => {{ const w = {_PAIR}; return w.length === 2 && w.every((x) => x === 64); }})()")
        seconds = process_seconds(running) - before
        print("clicks", page.evaluate("window.eraseClicks"), "process seconds", seconds)
        assert page.evaluate("window.eraseClicks") == 1
        assert page.evaluate("() => window.eraseTestEnd")[0] == "execution_success"
    finally:
        whole.unlink()
    editor.show()
    shoot("first_template")
    assert seconds <= MOST_SECONDS


@pytest.mark.smoke
def test_rows_switch_replace_weaken_and_are_saved_as_text(editor, shoot, first):
    page = editor.page
    rows = page.locator(".erase-row")
    assert rows.count() == 2
    editor.show(first, scale=1.0)
    rows.nth(1).get_by_role("switch").click()
    boxes = rows.nth(1).locator("input")
    boxes.nth(1).fill("tiger")
    boxes.nth(2).fill("0.5")
    page.locator(".erase-rows .add").click()
    page.keyboard.type("car -> bicycle : 0.7")
    page.keyboard.press("Tab")
    rows.nth(0).get_by_role("switch").click()
    shoot("rows")
    wanted = "# pizza -> hamburger\ndog -> tiger : 0.5\ncar -> bicycle : 0.7"
    assert sent(editor, first)["erase"] == wanted
    assert boxes.nth(0).input_value() == "dog"
    assert (
        rows.nth(2).locator("input").nth(1).input_value() == "bicycle"
    )  # a whole line typed into one box is taken apart
    assert [item.get_attribute("aria-checked") for item in page.locator(".erase-row .switch").all()] == [
        "false", "true", "true",
    ]  # fmt: skip
    saved = page.evaluate(_SAVED)
    (node,) = [item for item in saved["nodes"] if item["type"] == KIND]
    assert node["widgets_values"][0] == wanted
    editor.load(saved)
    assert sent(editor, first)["erase"] == wanted
    editor.show(first, scale=1.0)
    rows.nth(2).get_by_role("button", name="remove the row").click()
    page.locator(".erase-rows .as-text").click()
    assert page.locator(".erase-rows textarea").input_value() == "# pizza -> hamburger\ndog -> tiger : 0.5"


def test_a_sign_inside_a_word_starts_no_comment(editor, first):
    editor.set_widget(first, "erase", "C# -> Java : 0.5  # why")
    boxes = editor.page.locator(".erase-row").first.locator("input")
    assert [boxes.nth(place).input_value() for place in range(3)] == ["C#", "Java", "0.5"]
    editor.show(first, scale=1.0)
    boxes.nth(0).fill("F#")
    editor.page.keyboard.press("Tab")
    assert sent(editor, first)["erase"] == "F# -> Java : 0.5  # why"


def test_a_row_says_how_much_is_left_until_it_is_changed(editor, first):
    kind, detail = editor.run()
    assert kind == "execution_success", detail
    left = editor.page.locator(".erase-row .left").first
    editor.page.wait_for_function("document.querySelector('.erase-row .left').textContent.includes('%')")
    share = float(left.inner_text().removesuffix(" %"))
    report = editor.page.inner_text(".erase-report")
    assert share == pytest.approx(float(report.split("residual ")[1].split(" %")[0]), abs=0.6)
    editor.show(first, scale=1.0)
    editor.page.locator(".erase-row").first.locator("input").nth(1).fill("cake")
    editor.page.keyboard.press("Tab")
    assert left.inner_text() == ""


@pytest.mark.smoke
def test_options_come_and_go_with_the_method(editor, shoot, first):
    page = editor.page
    page.wait_for_selector(".erase-options [data-name=aliases]")
    editor.show(first, scale=1.0)
    assert page.inner_text(".erase-method").startswith("Unified Concept Editing")
    labels = page.locator(".erase-option label").all_inner_texts()
    assert "also erase synonyms" in labels and not [text for text in labels if "_" in text]
    page.select_option(".erase-options [data-name=aliases]", "true")
    assert sent(editor, first)["options"] == "aliases = true"
    entries = page.evaluate(
        "(id) => app.graph._nodes.find((n) => String(n.id) === id).widgets.find((w) => w.name === 'method').options.values",
        first,
    )
    (esd,) = [entry for entry in entries if entry.startswith("esd:")]
    (uce,) = [entry for entry in entries if entry.startswith("uce:")]
    editor.set_widget(first, "method", esd)
    page.wait_for_selector(".erase-options [data-name=iterations]")
    assert page.locator(".erase-options [data-name=aliases]").count() == 0
    assert sent(editor, first)["options"] == ""
    page.fill(".erase-options [data-name=iterations]", "30")
    assert not page.locator(".erase-options [data-name=optimizer]").is_visible()
    editor.show(first)  # the node has grown
    page.locator(".erase-options summary").click()
    page.locator(".erase-options [data-name=optimizer]").wait_for()
    shoot("options_of_a_method")
    assert sent(editor, first)["options"] == "iterations = 30"
    saved = page.evaluate(_SAVED)
    editor.load(saved)
    page.wait_for_selector(".erase-options [data-name=iterations]")
    assert page.locator(".erase-options [data-name=iterations]").input_value() == "30"
    editor.set_widget(first, "method", uce)
    assert sent(editor, first)["options"] == ""  # those of the other method are not sent, which would be refused


def test_a_search_is_chosen_as_a_method_and_shows_its_front(editor, shoot, first):
    page = editor.page
    editor.set_widget(first, "erase", "pizza -> hamburger")
    editor.set_widget(first, "method", "auto: tries methods and settings, searches")
    page.wait_for_selector(".erase-options [data-name=minutes]")
    editor.show(first, scale=1.0)
    assert page.inner_text(".erase-method") == "tries methods and settings · searches"
    page.fill(".erase-options [data-name=minutes]", "0.4")
    page.locator(".erase-options summary").click()
    page.fill(".erase-options [data-name=methods]", "uce")
    page.keyboard.press("Tab")
    assert sent(editor, first)["options"] == "minutes = 0.4\nmethods = uce"
    kind, detail = editor.run()
    assert kind == "execution_success", detail
    assert page.inner_text(".erase-report").startswith("auto took uce")
    left = page.locator(".erase-row .left").first.inner_text()
    assert left.endswith("%") and float(left.removesuffix(" %")) < 50
    shown = "[...document.querySelectorAll('img')].filter((image) => image.src.includes('front.png'))"
    page.wait_for_function(f"{shown}.some((image) => image.naturalWidth > 800)")
    editor.show(first, scale=0.6, top=60)
    shoot("search")


def test_an_option_that_the_method_does_not_have_is_seen(editor, first):
    editor.set_widget(first, "options", "aliases = true\nof_another = 3")
    editor.page.get_by_text("? of_another").wait_for()
    editor.show(first, scale=1.0)
    editor.page.get_by_role("button", name="remove", exact=True).click()
    assert sent(editor, first)["options"] == "aliases = true"


@pytest.mark.smoke
def test_before_and_after_are_compared_by_dragging(editor, shoot, first):
    kind, detail = editor.run()
    assert kind == "execution_success", detail
    pair(editor)
    editor.show(first, scale=0.9, top=60)
    shoot("erase_node")
    box = editor.page.locator(".erase-slider").bounding_box()
    assert box["width"] == pytest.approx(box["height"], rel=0.02)  # as the pictures, so that the words lie on them
    tags = [tag.bounding_box() for tag in editor.page.locator(".erase-slider .tag").all()]
    assert all(box["x"] <= tag["x"] and tag["x"] + tag["width"] <= box["x"] + box["width"] + 1 for tag in tags)
    middle = box["y"] + box["height"] / 2
    place = editor.page.evaluate("(id) => [...app.graph._nodes.find((n) => String(n.id) === id).pos]", first)
    editor.page.mouse.move(box["x"] + box["width"] / 2, middle)
    editor.page.mouse.down()
    editor.page.mouse.move(box["x"] + 0.2 * box["width"], middle, steps=5)
    editor.page.mouse.up()
    assert int(editor.page.locator(".erase-slider").get_attribute("aria-valuenow")) == pytest.approx(20, abs=2)
    clip = editor.page.evaluate("() => document.querySelectorAll('.erase-slider img')[1].style.clipPath")
    assert float(clip.split()[-1].rstrip("%)")) == pytest.approx(20, abs=2)
    assert editor.page.evaluate("(id) => [...app.graph._nodes.find((n) => String(n.id) === id).pos]", first) == place
    shoot("slider")
    editor.page.keyboard.press("Tab")
    editor.page.locator(".erase-slider").focus()
    editor.page.keyboard.press("ArrowRight")
    assert int(editor.page.locator(".erase-slider").get_attribute("aria-valuenow")) == pytest.approx(25, abs=2)
    heights = editor.page.evaluate(
        "(id) => app.graph._nodes.find((n) => String(n.id) === id).widgets.map((w) => w.element?.offsetHeight ?? 0)",
        first,
    )
    assert max(heights) < 500
    again = editor.page.evaluate(_SAVED)
    editor.load(again)
    pair(editor)  # there again without a run


def test_a_lora_behind_that_was_made_for_the_concept_is_told_on_the_node(editor, running_base, shoot, first):
    loras = running_base / "models" / "loras"
    loras.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(ROOT / "comfy_nodes" / "library" / Path(examples.LORA).name, loras / "look_pizza_v2.safetensors")
    editor.page.evaluate("() => app.refreshComboInNodes()")
    lora = editor.page.evaluate(LORA_BEHIND, [first, "look_pizza_v2.safetensors"])
    assert sent(editor, first)["behind"] == "look_pizza_v2.safetensors : 1 : 1"
    kind, detail = editor.run()
    assert kind == "execution_success", detail
    told = editor.page.locator(".erase-back")
    told.wait_for()
    assert "look_pizza_v2.safetensors was made for 'pizza'" in told.inner_text()
    editor.show(first, scale=0.8, top=60)
    shoot("lora_behind")
    saved = editor.page.evaluate(
        "() => app.graph.serialize().nodes.find((n) => n.type === 'EraseNegative').widgets_values"
    )
    assert saved[-1] == ""  # what is behind is seen at every run, not kept
    editor.page.evaluate("(id) => { app.graph._nodes.find((n) => String(n.id) === id).mode = 4; }", lora)
    assert sent(editor, first)["behind"] == ""
    kind, _detail = editor.run()
    assert kind == "execution_success"
    told.wait_for(state="detached")


def test_baking_is_found_and_says_why_a_model_cannot_be_baked(editor, shoot, first):
    """The stock loader does not know pocket; what it cannot load is not kept. Real files: `test_baking.py`."""
    editor.show(first, scale=1.0)
    editor.page.evaluate("() => { app.canvas.ds.offset[0] -= 2600; app.canvas.setDirty(true, true); }")
    node = editor.insert("Erase: bake checkpoint", 700, 400)
    editor.page.evaluate(
        """([id, first]) => {
          const by = (number) => app.graph._nodes.find((n) => String(n.id) === number);
          const loader = app.graph._nodes.find((n) => n.type === "ErasePocketLoader");
          by(first).connect(0, by(id), 0);
          by(first).connect(1, by(id), 1);
          loader.connect(2, by(id), 2);
        }""",
        [node, first],
    )
    kind, detail = editor.run()
    editor.page.wait_for_timeout(500)
    shoot("bake")
    assert kind == "execution_error"
    assert "does not recognise a checkpoint of this model, so it was not kept" in detail["exception_message"]


_PANELS = "() => [...document.querySelectorAll('.erase-panel')].map((item) => item.offsetWidth)"
_NARROW = """(id) => {
  for (const widget of app.graph._nodes.find((n) => String(n.id) === id).widgets) if (widget.element) widget.width = 150;
  app.graph.setDirtyCanvas(true, true);
}"""


@pytest.mark.smoke
def test_rows_stay_as_wide_as_their_node_when_its_parameters_are_shown_beside_the_graph(editor, first):
    """Newer editors draw a widget once more there and set its width to theirs; classic nodes took it for their own."""
    editor.show(first, scale=0.9)
    before = editor.page.evaluate(_PANELS)
    editor.page.evaluate(_NARROW, first)
    editor.show(first, scale=0.85)
    assert min(before) > 250
    assert editor.page.evaluate(_PANELS) == before


@pytest.mark.smoke
def test_why_a_run_failed_is_read_on_the_node_and_an_old_result_is_pale(editor, shoot, first):
    """Newer editors say "Check its inputs or try a different configuration" and hide the reason behind a button."""
    page, told, old = editor.page, editor.page.locator(".erase-back"), editor.page.locator(".erase-old")
    method = sent(editor, first)["method"]
    editor.set_widget(first, "method", "esd: Erased Stable Diffusion, trains")
    assert editor.run()[0] == "execution_error"
    told.wait_for()
    assert "takes no replacement behind '->' (pizza); leave it out, or use uce" in told.inner_text()
    shoot("failed")
    page.keyboard.press("Escape")  # older editors lay a dialog over everything
    page.wait_for_function("document.querySelectorAll('.p-dialog-mask').length === 0")
    editor.set_widget(first, "method", method)
    assert editor.run()[0] == "execution_success"
    told.wait_for(state="detached")
    assert old.count() == 0
    editor.set_widget(first, "strength", 0.65)
    assert "of the run before your last change" in {item.get_attribute("title") for item in old.all()}
    editor.set_widget(first, "strength", 1.0)
    assert old.count() == 0
    editor.set_widget(first, "strength", 0.65)
    editor.load(page.evaluate("() => app.graph.serialize()"))
    assert old.count() > 0  # still so after a reload
