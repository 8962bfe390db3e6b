"""A seed stays as it is from run to run, and workflows that hold an older editor's control of it load in place."""

from __future__ import annotations

import pytest

pytestmark = [pytest.mark.comfy, pytest.mark.browser, pytest.mark.slow]

_NODE = """([kind]) => {
  app.graph.clear();
  const node = LiteGraph.createNode(kind);
  app.graph.add(node);
  return node.widgets.map((widget) => widget.name);
}"""
_VALUES = """(kind) => {
  const node = app.graph._nodes.find((n) => n.type === kind);
  return Object.fromEntries(node.widgets.filter((w) => w.serialize !== false).map((w) => [w.name, w.value]));
}"""
#: values in the order in which the editor wrote them: what it did with the seed stands behind the seed
REPORT = ["pizza", 4, 9, 4.5, 77, "randomize", 0.5, "none"]
METHOD = ["pizza", "object", 0.5, "a cat", 77, "randomize", "pocket", True, 7]


def workflow(kind, values):
    node = {"id": 1, "type": kind, "pos": [100, 100], "size": [340, 500], "flags": {}, "order": 0, "mode": 0,
            "inputs": [], "outputs": [], "properties": {}, "widgets_values": values}  # fmt: skip
    return {"last_node_id": 1, "last_link_id": 0, "nodes": [node], "links": [], "groups": [], "config": {}, "extra": {},
            "version": 0.4}  # fmt: skip


@pytest.mark.parametrize("kind", ["EraseReport", "EraseMethodUce", "EraseMethodEsd"])
def test_nothing_changes_a_seed_after_a_run(editor, kind):
    names = editor.page.evaluate(_NODE, [kind])
    assert "seed" in names
    assert not [name for name in names if name in ("control_after_generate", "fixed", "control after generate")]
    editor.page.evaluate(
        "() => app.graph._nodes[0].widgets.forEach((w) => { w.beforeQueued?.({}); w.afterQueued?.({}); })"
    )
    assert editor.page.evaluate(_VALUES, kind)["seed"] == 0


@pytest.mark.smoke
@pytest.mark.parametrize(
    ("kind", "values"), [("EraseReport", REPORT), ("EraseMethodUce", METHOD), ("EraseMethodEsd", METHOD)]
)
def test_old_workflows_load_in_place(editor, kind, values):
    editor.page.evaluate(_NODE, [kind])
    fresh = editor.page.evaluate(_VALUES, kind)
    rest = list(fresh.values())[len(values) - 1 :]
    editor.load(workflow(kind, [*values, *rest]))
    wanted = dict(zip(fresh, [*values[:5], *values[6:], *rest], strict=True))
    assert editor.page.evaluate(_VALUES, kind) == wanted
    saved = editor.page.evaluate("() => app.graph.serialize().nodes[0].widgets_values")
    assert saved == list(wanted.values())
    editor.load(workflow(kind, saved))  # the new form, with one value less
    assert editor.page.evaluate(_VALUES, kind) == wanted


def test_a_copied_node_keeps_its_values(editor):
    editor.load(workflow("EraseReport", REPORT))
    editor.page.evaluate(
        """() => { const node = app.graph._nodes[0]; app.canvas.selectItems?.([node]);
             app.canvas.copyToClipboard([node]); app.canvas.pasteFromClipboard(); }"""
    )
    editor.page.wait_for_function("app.graph._nodes.length === 2")
    values = editor.page.evaluate("() => app.graph._nodes[1].widgets.slice(0, 7).map((w) => w.value)")
    assert values == [*REPORT[:5], *REPORT[6:]]
