"""Publishing in the editor: off in every file that is opened, asked each time, and sent after the button alone."""

from __future__ import annotations

import json

import pytest

from tests.comfy_nodes.conftest import ROOT
from tools.docs.comfy.examples import PUBLISH

pytestmark = [pytest.mark.comfy, pytest.mark.browser, pytest.mark.slow]
EXAMPLE = ROOT / "example_workflows" / f"{PUBLISH}.json"
_SWITCH = (
    """() => app.graph._nodes.find((n) => n.type === "EraseHubPush").widgets.find((w) => w.name === "publish").value"""
)
BOX = "dialog.erase-publish"


def shared(repo, **changes):
    """A workflow as a stranger would hand it on: with the switch on, without the slow measuring."""
    saved = json.loads(EXAMPLE.read_text(encoding="utf-8"))
    keep = {"ErasePocketLoader", "EraseNegative", "EraseSaveArtifact", "EraseHubPush"}
    nodes = [node for node in saved["nodes"] if node["type"] in keep]
    ids = {node["id"] for node in nodes}
    links = [link for link in saved["links"] if {link[1], link[3]} <= ids]
    there = {link[0] for link in links}
    for node in nodes:
        for item in node["inputs"]:
            item["link"] = item["link"] if item["link"] in there else None
        for item in node["outputs"]:
            item["links"] = [link for link in item["links"] or () if link in there]
        if node["type"] == "EraseHubPush":
            node["widgets_values"] = ["erase_pizza", repo, True, False, False, "apache-2.0", ""]
        if node["type"] == "EraseSaveArtifact":
            node["widgets_values"][1] = True  # overwrite
    return {**saved, "nodes": nodes, "links": links, **changes}


@pytest.fixture
def repo(editor):
    """A repository for each frontend and renderer."""
    return "erase-plugins/" + editor.label.replace(".", "-").replace("_", "-")


def run(editor):
    """How a run ended."""
    return editor.run()[0]


def switch_on(editor):
    editor.set_widget(editor.node("EraseHubPush"), "publish", True)


def switch_goes_off(editor):
    editor.page.wait_for_function(f"() => !({_SWITCH})()")


def test_a_file_never_brings_the_switch_on(editor, hub, repo):
    before = hub.count("POST /api/repos/create")
    editor.load(shared(repo))
    assert editor.page.evaluate(_SWITCH) is False
    assert run(editor) == "execution_success"
    assert editor.page.locator(BOX).count() == 0
    assert hub.count("POST /api/repos/create") == before
    switch_on(editor)
    saved = editor.page.evaluate("() => app.graph.serialize()")
    editor.load(saved)
    assert editor.page.evaluate(_SWITCH) is False


def test_the_person_is_asked_and_everything_but_the_button_means_no(editor, hub, repo, shoot):
    before = hub.count("POST /api/repos/create")
    editor.load(shared(repo))
    for way in ("Escape", "Enter", "no"):
        switch_on(editor)
        assert run(editor) == "execution_success"
        box = editor.page.locator(BOX)
        box.wait_for()
        text = box.inner_text()
        for part in (f"{repo} (new, public)", "with the login of erase-plugins", "new README.md", "new erase.json"):
            assert part in text
        shoot("publish_question")
        if way == "no":
            box.get_by_role("button", name="Do not publish").click()
        else:
            editor.page.keyboard.press(way)
        box.wait_for(state="detached")
        switch_goes_off(editor)
    assert hub.count("POST /api/repos/create") == before


@pytest.mark.smoke
def test_the_button_sends_exactly_once(editor, hub, repo, shoot):
    editor.load(shared(repo))
    switch_on(editor)
    assert run(editor) == "execution_success"
    editor.page.evaluate(
        "() => document.querySelectorAll('dialog.erase-publish button')[1].click()"
    )  # a script's click
    editor.page.locator(BOX).wait_for(state="detached")
    editor.page.wait_for_timeout(500)
    assert repo not in hub.store.repositories
    switch_on(editor)
    assert run(editor) == "execution_success"
    editor.page.locator(BOX).get_by_role("button", name="Publish", exact=True).click()
    editor.page.get_by_text("published ", exact=False).first.wait_for()
    shoot("published")
    assert hub.count(f"POST /api/models/{repo}/commit/") == 1
    switch_goes_off(editor)
    switch_on(editor)
    assert run(editor) == "execution_success"  # everything is there: nobody is asked
    editor.page.wait_for_timeout(500)
    assert editor.page.locator(BOX).count() == 0


def test_an_api_graph_in_the_editor_asks_too(editor, hub, repo):
    """Its values do not pass through the loading of a file; the question comes all the same."""
    before = hub.count("POST /api/models/")
    editor.load(shared(f"{repo}-api"))
    switch_on(editor)
    graph = editor.page.evaluate("async () => (await app.graphToPrompt()).output")
    editor.page.evaluate("(graph) => app.loadApiJson(graph, 'graph')", graph)
    editor.page.wait_for_timeout(500)
    assert run(editor) == "execution_success"
    box = editor.page.locator(BOX)
    box.wait_for()
    editor.page.keyboard.press("Escape")
    box.wait_for(state="detached")
    assert hub.count("POST /api/models/") == before
