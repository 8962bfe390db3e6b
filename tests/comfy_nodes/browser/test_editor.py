"""People's way through the editor: a template is loaded, Run is clicked, pictures and refusals are seen, help opens."""

from __future__ import annotations

import json

import pytest

from tests.comfy_nodes.browser.conftest import FIRST
from tests.comfy_nodes.conftest import ROOT
from tests.comfy_nodes.workflow import quickly
from tools.docs.comfy import examples, own_specs

#: they double-click on the graph, where nothing may lie that another file left open
OWN_PAGE = True
pytestmark = [
    pytest.mark.comfy,
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.usefixtures("no_error_from_our_files"),
]
WORKFLOWS = sorted((ROOT / "example_workflows").glob("*.json"))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


_RECTANGLES = """() => app.graph._nodes.map((node) => {
  const ds = app.canvas.ds, shown = document.querySelector(`[data-node-id="${node.id}"]`);
  if (!shown) return [node.title, node.pos[0], node.pos[1] - 30, node.size[0], node.size[1] + 30];
  const box = shown.getBoundingClientRect();
  return [node.title, box.left / ds.scale, box.top / ds.scale, box.width / ds.scale, box.height / ds.scale];
})"""


def overlaps(editor):
    """Titles of nodes of which one lies on the other."""
    boxes = editor.page.evaluate(_RECTANGLES)
    return [
        (one[0], two[0]) for place, one in enumerate(boxes) for two in boxes[place + 1 :]
        if all(one[axis] < two[axis] + two[axis + 2] and two[axis] < one[axis] + one[axis + 2] for axis in (1, 2))
    ]  # fmt: skip


@pytest.mark.smoke
def test_no_node_of_a_template_lies_on_another(editor, shoot):
    found = {}
    for path in WORKFLOWS:
        editor.load(read(path))
        shoot(path.stem)
        found[path.stem] = overlaps(editor)
    assert {title: pairs for title, pairs in found.items() if pairs} == {}


@pytest.mark.parametrize(
    "path",
    [pytest.param(path, id=path.stem, marks=[pytest.mark.smoke] if path == FIRST else []) for path in WORKFLOWS],
)
def test_one_click_draws_pictures_and_no_node_grows_over_another(editor, shoot, path):
    editor.load(quickly(read(path)))
    kind, detail = editor.run()
    assert kind == "execution_success", detail
    editor.show()
    widths = editor.picture_widths()
    shoot(f"{path.stem}_ran")
    kinds = editor.page.evaluate("() => app.graph._nodes.map((node) => node.type)")
    assert ({"KSamplerWithNAG", "Negpip"} <= set(kinds)) == (path.stem == examples.RIVALS)
    assert widths
    assert overlaps(editor) == []


_WITHOUT_OTHERS = """async (workflow) => {
  const kinds = LiteGraph.registered_node_types, others = ["KSamplerWithNAG", "Negpip"].map((kind) => [kind, kinds[kind]]);
  const note = () => app.graph._nodes.find((n) => n.type === "Note").widgets[0].value, said = [];
  for (const [kind] of others) delete kinds[kind];
  await app.loadGraphData(workflow);
  said.push([app.graph._nodes.length, note()]);
  for (const [kind, known] of others) kinds[kind] = known;
  await app.loadGraphData(workflow);
  said.push([app.graph._nodes.length, note()]);
  await app.loadGraphData(JSON.parse(JSON.stringify(app.graph.serialize())));
  return [...said, [app.graph._nodes.length, note()]];
}"""


@pytest.mark.smoke
def test_nodes_of_other_packs_join_the_comparison_where_they_are_installed(editor):
    workflow = read(ROOT / "example_workflows" / f"{examples.RIVALS}.json")
    added = sum(len(part["nodes"]) for part in workflow["extra"]["erase_plugins"]["where_installed"])
    without, present, again = editor.page.evaluate(_WITHOUT_OTHERS, workflow)
    assert without[0] == len(workflow["nodes"])
    assert "NAG is not installed: install the pack ComfyUI-NAG" in without[1]
    assert present[0] == again[0] == len(workflow["nodes"]) + added
    for _count, text in (present, again):
        assert "NAG is installed and drawn below" in text and "not installed" not in text


@pytest.mark.smoke
def test_the_first_template_tells_on_its_node_and_nothing_overlaps(editor, shoot):
    """One click: residual and two pictures on the node itself, which grows; no other node may lie under it."""
    editor.load(quickly(read(FIRST)))
    kind, detail = editor.run()
    assert kind == "execution_success", detail
    editor.show()
    editor.page.wait_for_function("document.querySelector('.erase-report').textContent.includes('residual')")
    shoot("first_after_run")
    assert overlaps(editor) == []
    heights = editor.page.evaluate(
        "() => [...document.querySelectorAll('.erase-panel')].map((item) => item.offsetHeight)"
    )
    assert max(heights) < 500
    again = editor.page.evaluate("() => app.graph.serialize()")
    editor.load(again)
    assert "residual" in editor.page.inner_text(".erase-report")  # there again without a run


@pytest.mark.smoke
@pytest.mark.parametrize("word", ["unlearn", "ban", "negative", "remove concept"])
def test_the_erase_node_is_found_by_what_people_type(editor, word):
    editor.page.evaluate("() => app.graph.clear()")
    editor.page.keyboard.press("Escape")
    editor.page.mouse.move(880, 500)
    editor.page.wait_for_timeout(300)
    editor.page.mouse.dblclick(900, 500, delay=60)
    editor.page.wait_for_function("document.activeElement?.tagName === 'INPUT'")
    editor.page.keyboard.type(word, delay=20)
    editor.page.get_by_role("option").filter(has_text="remove concepts").first.wait_for()
    editor.page.keyboard.press("Escape")


def test_the_blueprint_is_served_and_becomes_one_node(editor, shoot):
    served = json.loads(editor.page.evaluate("async () => (await app.api.fetchApi('/global_subgraphs')).text()"))
    assert "Erase and compare" in [item["name"] for item in served.values()]
    editor.load(read(ROOT / "subgraphs" / "Erase and compare.json"))
    shoot("blueprint")
    (node,) = editor.page.evaluate(
        "() => app.graph._nodes.map((n) => [n.title, n.inputs.map((i) => i.name), n.outputs.map((o) => o.name)])"
    )
    names = ["model", "clip", "vae", "positive", "negative", "latent"]
    assert node == ["Erase and compare", names, ["base", "erased", "sheet", "report"]]
    inside = editor.page.evaluate(
        "async () => Object.values((await app.graphToPrompt()).output).map((item) => item.class_type)"
    )
    assert sorted(inside) == ["EraseCompare", "EraseNegative", "KSampler", "KSampler", "VAEDecode", "VAEDecode"]


_AROUND = """(id) => {
  const add = (kind, value) => {
    const made = LiteGraph.createNode(kind);
    app.graph.add(made);
    if (value) made.widgets[0].value = value;
    return made;
  };
  const node = app.graph._nodes.find((n) => String(n.id) === id), loader = add("ErasePocketLoader");
  [0, 1, 2].forEach((slot) => loader.connect(slot, node, slot));
  [add("CLIPTextEncode", "a pizza"), add("CLIPTextEncode", " ")].forEach((prompt, place) => {
    loader.connect(1, prompt, 0);
    prompt.connect(0, node, 3 + place);
  });
  loader.connect(3, node, 5);
  node.connect(node.outputs.findIndex((out) => out.name === "sheet"), add("SaveImage"), 0);
  app.graph.arrange(100);
}"""


def test_the_blueprint_is_placed_with_the_mouse_and_runs(editor, shoot):
    editor.page.evaluate("() => app.graph.clear()")
    node = editor.insert("Erase and compare", 900, 500)
    editor.page.evaluate(_AROUND, node)
    editor.show()
    kind, detail = editor.run()
    assert kind == "execution_success", detail
    shoot("blueprint_placed")
    assert editor.picture_widths()


def test_a_bypassed_erase_node_leaves_the_base_model_on_its_wire(editor):
    editor.load(read(FIRST))
    editor.page.evaluate(
        "(id) => { app.graph._nodes.find((n) => String(n.id) === id).mode = 4; }", editor.node("EraseNegative")
    )
    sent = editor.page.evaluate("async () => (await app.graphToPrompt()).output")
    assert "2" not in sent
    assert sent["6"]["inputs"]["model"] == sent["5"]["inputs"]["model"] == ["1", 0]


#: widgets with their heights: what the layout of the classic nodes gives them, and what the document shows
_WIDGETS = """() => app.graph._nodes.flatMap((node) => (node.widgets ?? []).map((widget) =>
  [node.type, widget.name, Math.max(widget.computedHeight ?? 0, widget.element?.offsetHeight ?? 0)]))"""
CONTROLS = ("control_after_generate", "control after generate", "fixed", "randomize")


@pytest.mark.smoke
def test_every_node_is_drawn(editor, shoot):
    ids = [spec.id for spec in own_specs()]
    editor.page.evaluate(
        """(ids) => { app.graph.clear(); ids.forEach((id, i) => { const node = LiteGraph.createNode(id);
             node.pos = [(i % 8) * 420, Math.floor(i / 8) * 900]; app.graph.add(node); }); }""",
        ids,
    )
    editor.show()
    editor.page.wait_for_timeout(1500)
    shoot("all_nodes")
    assert editor.page.evaluate("() => app.graph._nodes.length") == len(ids)
    assert editor.page.get_by_text("Node Render Error").count() == 0
    assert [text for text in editor.messages if "unhandled node type" in text] == []
    widgets = editor.page.evaluate(_WIDGETS)
    assert max(height for _kind, _name, height in widgets) <= 500
    assert [(kind, name) for kind, name, _height in widgets if name in CONTROLS] == []  # nothing changes after a run


def test_the_help_page_opens_with_its_picture(editor, shoot):
    editor.load(read(FIRST))
    text = editor.help(editor.node("EraseNegative"))
    shoot("help")
    for part in (
        "Erase: remove concepts",
        "One concept a line",
        "When to use another node",
        "arxiv.org/abs/2308.14761",
    ):
        assert part in text
    pictures = editor.page.evaluate(
        "() => [...document.querySelectorAll('.node-help-content img')].map((image) => image.naturalWidth)"
    )
    assert pictures
    assert all(pictures)


def test_a_refusal_is_read_in_the_editor(editor, shoot):
    editor.load(read(FIRST))
    editor.set_widget(editor.node("EraseNegative"), "erase", "pizza -> pizza")
    editor.refused("'pizza' would become itself")
    shoot("refusal")
    editor.page.keyboard.press("Escape")
