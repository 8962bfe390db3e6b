"""The editor in chromium on a real server, for two frontends and both renderers (all of it with ``--full``)."""

from __future__ import annotations

import json
import os
import re
import shutil
from functools import cache
from pathlib import Path

import pytest

from erase_plugins.testing.hub_server import HubServer
from tests.comfy_nodes import comfy_server
from tests.comfy_nodes.browser.editor import CHROMIUM_FLAGS, Editor
from tests.comfy_nodes.conftest import ROOT
from tests.comfy_nodes.workflow import quickly
from tools.docs.comfy import examples

#: folder in custom_nodes: the repository itself, as after git clone (the editor finds no help page of a folder with a dot)
NAME = "erase-plugins"
FRONTENDS = ("oldest", "newest")
#: graph of the first template, and the type of its main node
FIRST, KIND = ROOT / "example_workflows" / f"{examples.FIRST}.json", "EraseNegative"
#: puts a stock LoRA loader behind an Erase node of that graph, and gives its id
LORA_BEHIND = """([id, file]) => {
  const erase = app.graph._nodes.find((n) => String(n.id) === id), lora = LiteGraph.createNode("LoraLoader");
  lora.pos = [erase.pos[0], erase.pos[1] + 900];
  app.graph.add(lora);
  lora.widgets[0].value = file;
  const sampler = app.graph._nodes.find((n) => n.title === "Erased: same seed");
  erase.connect(0, lora, 0);
  erase.connect(1, lora, 1);
  lora.connect(0, sampler, 0);
  return String(lora.id);
}"""


def _parts(item):
    """Frontend and renderer of a test, None each where it has none."""
    found = item.callspec.params if getattr(item, "callspec", None) else {}
    return found.get("frontend"), found.get("open_editor")


def pytest_collection_modifyitems(items):
    """The newest frontend with nodes drawn by Vue runs everything, the oldest with classic nodes what is marked smoke.

    Of one frontend and renderer, files with pages of their own come first: the page that the others share takes a tenth of
    a core even while it waits.
    """
    places = [place for place, item in enumerate(items) if item.path.parent == Path(__file__).parent]
    first = {_parts(items[place]): place for place in reversed(places)}
    ours = [items[place] for place in places]
    ours.sort(key=lambda item: (first[_parts(item)], not getattr(item.module, "OWN_PAGE", False)))
    for place, item in zip(places, ours, strict=True):
        items[place] = item
        frontend, renderer = _parts(item)
        newest = frontend == "newest" and renderer in ("vue", None)
        smoke = (frontend, renderer) == ("oldest", "classic") and item.get_closest_marker("smoke")
        if frontend and not (newest or smoke):
            item.add_marker(pytest.mark.full)


def missing(reason: str) -> None:
    if os.environ.get("ERASE_REQUIRE_BROWSER"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="package")
def chromium():
    """A running browser."""
    program = os.environ.get("ERASE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if not program:
        missing("no chromium found; install Debian's package chromium, or name a program in ERASE_CHROMIUM")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        missing("playwright is not installed")
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=program, args=list(CHROMIUM_FLAGS))
        yield browser
        browser.close()


@pytest.fixture(scope="package", params=FRONTENDS)
def frontend(request):
    """(version, folder) of an unpacked comfyui-frontend-package."""
    places = [Path(item) for item in os.environ.get("ERASE_COMFY_FRONTENDS", "").split(os.pathsep) if item]
    if len(places) != len(FRONTENDS):
        missing("set ERASE_COMFY_FRONTENDS to two unpacked comfyui-frontend-package wheels, oldest first")
    place = places[FRONTENDS.index(request.param)]
    found = next(iter(place.glob("comfyui_frontend_package-*.dist-info")), None)
    version = re.sub(r".*package-|\.dist-info$", "", found.name) if found else "0.0.0"
    return version, place / "comfyui_frontend_package" / "static"


@pytest.fixture(scope="package")
def hub():
    with HubServer(account="erase-plugins") as server:
        yield server


@pytest.fixture(scope="package")
def running_base(frontend, tmp_path_factory):
    """Base folder of the server with this frontend; packs that templates compare with are stood in for."""
    base = comfy_server.prepare(tmp_path_factory.mktemp("editor"), ROOT, NAME)
    for pack in ("rival_packs.py", "few_steps.py"):
        comfy_server.prepare(base, ROOT / "tests" / "comfy_nodes" / pack, pack)
    return base


@pytest.fixture(scope="package")
def running(environment, frontend, chromium, hub, running_base):
    """Address of a server with this frontend and the pack."""
    python, comfy = environment
    base = running_base
    port = comfy_server.own_port()
    process = comfy_server.start(
        [str(python)], comfy, base, port, frontend[1], str(ROOT), environment=hub.environment(base / "hf")
    )
    try:
        comfy_server.wait_ready(process, base, port)
        yield f"http://127.0.0.1:{port}"
    finally:
        comfy_server.stop(process)


@pytest.fixture(scope="package", params=["classic", "vue"])
def open_editor(request, running, chromium, frontend):
    """Function that opens the editor on a page of its own, at whose scripts a processor works for eight seconds."""
    pages = []

    def opened():
        pages.append(chromium.new_page(viewport={"width": 1600, "height": 900}))
        pages[-1].set_default_timeout(60_000)
        made = Editor(pages[-1], running, frontend[0], vue=request.param == "vue")
        made.label = f"{frontend[0]}_{request.param}"
        return made

    yield opened
    for page in pages:
        page.close()


@pytest.fixture(scope="package")
def shared_editor(open_editor):
    """Function that gives the one page of all files but those that say ``OWN_PAGE``."""
    return cache(open_editor)


@pytest.fixture(scope="module")
def editor(request, frontend, open_editor, shared_editor):
    """The editor; nothing in the console may name our folder.

    The frontend is named first, so that pytest changes it after the renderers: each has a server.
    """
    if getattr(request.module, "OWN_PAGE", False):
        opened = open_editor()
        yield opened
        opened.page.close()
    else:
        shared_editor().clear()
        yield shared_editor()


@pytest.fixture
def shoot(editor):
    """Saves a picture of the page for people who look at it, in the folder ERASE_SCREENSHOTS; nothing without one."""
    folder = os.environ.get("ERASE_SCREENSHOTS")
    return lambda name: editor.screenshot(Path(folder) / f"{editor.label}_{name}.png") if folder else None


@pytest.fixture
def no_error_from_our_files(editor):
    yield
    assert editor.errors_of(f"/extensions/{NAME}/") == []


@pytest.fixture
def first(editor):
    """Id of the Erase node of the first template, loaded; its samplers take two steps."""
    editor.load(quickly(json.loads(FIRST.read_text(encoding="utf-8"))))
    return editor.node(KIND)
