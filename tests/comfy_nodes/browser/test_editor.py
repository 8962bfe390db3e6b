"""People's way through the editor: a template is loaded, Run is clicked, pictures and refusals are seen, help opens."""

from __future__ import annotations

import json

import pytest

from tests.comfy_nodes.browser.conftest import NAME
from tests.comfy_nodes.conftest import ROOT

pytestmark = [pytest.mark.comfy, pytest.mark.browser, pytest.mark.slow]
WORKFLOWS = sorted((ROOT / "comfy_nodes" / "example_workflows").glob("*.json"))


def read(path):
    return json.loads(path.read_text(encoding="utf-8"))


def needs(path):
    """Files that a workflow asks for and that are not here."""
    return read(path)["extra"].get("erase_plugins", {}).get("needs")


@pytest.fixture(autouse=True)
def no_error_from_our_files(editor):
    yield
    assert editor.errors_of(f"/extensions/{NAME}/") == []


@pytest.mark.parametrize("path", [path for path in WORKFLOWS if not needs(path)], ids=lambda path: path.stem)
def test_a_workflow_runs_and_its_pictures_are_seen(editor, shoot, path):
    editor.load(read(path))
    kind, detail = editor.run()
    assert kind == "execution_success", detail
    editor.show()
    widths = editor.picture_widths()
    shoot(path.stem)
    assert widths


def test_the_help_page_opens_with_its_picture(editor, shoot):
    editor.load(read(WORKFLOWS[0]))
    text = editor.help(editor.node("EraseUCE"))
    shoot("help")
    for part in ("Erase: concepts (UCE)", "One concept a line", "When to use another node", "arxiv.org/abs/2308.14761"):
        assert part in text
    pictures = editor.page.evaluate(
        "() => [...document.querySelectorAll('.node-help-content img')].map((image) => image.naturalWidth)"
    )
    assert pictures
    assert all(pictures)


def test_a_refusal_is_read_in_the_editor(editor, shoot):
    editor.load(read(WORKFLOWS[0]))
    editor.set_widget(editor.node("EraseUCE"), "erase", "pizza -> pizza")
    editor.refused("'pizza' would become itself")
    shoot("refusal")
    editor.page.keyboard.press("Escape")
