"""Makes the pictures of the documentation: nodes for their help pages, thumbnails of workflows, the graph of the README.

    python -m tests.comfy_nodes.browser.pictures [NODE, WORKFLOW or graph ...]

Needs what the browser tests need (ERASE_COMFY_PYTHON, ERASE_COMFY_DIR, ERASE_COMFY_FRONTENDS); takes the newest frontend.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import tempfile
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any

from PIL import Image

from erase_plugins.testing.hub_server import HubServer
from tests.comfy.unpack import comfy_environment
from tests.comfy_nodes import comfy_server
from tests.comfy_nodes.browser.editor import CHROMIUM_FLAGS, Editor
from tests.comfy_nodes.conftest import ROOT
from tools.docs.comfy import own_specs
from tools.docs.comfy.examples import FIRST

NODES = ROOT / "comfy_nodes" / "web" / "docs" / "images"
WORKFLOWS = ROOT / "example_workflows"
#: of a thumbnail
WIDTH = 480
GRAPH = ROOT / "docs" / "images" / "comfy_graph.jpg"


def main() -> None:
    python, comfy = comfy_environment()
    place = Path(os.environ["ERASE_COMFY_FRONTENDS"].split(os.pathsep)[-1])
    wanted = set(sys.argv[1:])
    from playwright.sync_api import sync_playwright

    hub = HubServer(account="erase-plugins")
    with tempfile.TemporaryDirectory() as work, hub, sync_playwright() as driver:
        base = comfy_server.prepare(Path(work) / "base", ROOT, "erase-plugins")
        workflows = [path for path in sorted(WORKFLOWS.glob("*.json")) if not wanted or path.stem in wanted]
        port = comfy_server.own_port()
        process = comfy_server.start(
            [str(python)], comfy, base, port, place / "comfyui_frontend_package" / "static", str(ROOT),
            environment=hub.environment(base / "hf"),
        )  # fmt: skip
        program = os.environ.get("ERASE_CHROMIUM") or shutil.which("chromium")
        browser = driver.chromium.launch(executable_path=program, args=list(CHROMIUM_FLAGS))
        try:
            comfy_server.wait_ready(process, base, port)
            page = browser.new_page(viewport={"width": 1500, "height": 860})
            page.set_default_timeout(240_000)
            editor = Editor(page, f"http://127.0.0.1:{port}", "9.9.9", vue=True)
            NODES.mkdir(exist_ok=True)
            for spec in own_specs():
                if not wanted or spec.id in wanted:
                    node_picture(editor, spec.id)
            for path in workflows:
                thumbnail(editor, path)
            if not wanted or "graph" in wanted:
                graph_picture(editor)
        finally:
            browser.close()
            comfy_server.stop(process)


def node_picture(editor: Editor, kind: str) -> None:
    """The node alone, with its default values."""
    editor.page.evaluate(
        """(kind) => { app.graph.clear(); const node = LiteGraph.createNode(kind); node.pos = [100, 100];
             app.graph.add(node); node.setSize([Math.max(300, node.size[0]), node.size[1]]); }""",
        kind,
    )
    editor.show(scale=1.0)
    element = editor.page.locator("[data-node-id]").first
    element.wait_for()
    save(element.screenshot(), NODES / f"{kind}.png")


def thumbnail(editor: Editor, path: Path) -> None:
    """The picture that a workflow saves when it ran."""
    editor.load(json.loads(path.read_text(encoding="utf-8")))
    editor.page.evaluate(
        """() => { window.saved = [];
             app.api.addEventListener("executed", (e) => window.saved.push(...(e.detail.output?.images ?? []))); }"""
    )
    kind, detail = editor.run()
    assert kind == "execution_success", detail
    saved = editor.page.evaluate("() => window.saved.findLast((item) => item.type === 'output')")
    with urllib.request.urlopen(f"{editor.url}/view?{urllib.parse.urlencode(saved)}") as answer:
        data = answer.read()
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    scale = WIDTH / picture.width
    picture = picture.resize((WIDTH, round(picture.height * scale)), Image.Resampling.LANCZOS)
    picture.save(path.with_name(f"{path.stem}.jpg"), quality=82, optimize=True)


def graph_picture(editor: Editor) -> None:
    """The first example workflow after its run."""
    file = ROOT / "example_workflows" / f"{FIRST}.json"
    editor.load(json.loads(file.read_text(encoding="utf-8")))
    kind, detail = editor.run()
    assert kind == "execution_success", detail
    editor.show()
    editor.page.mouse.move(700, 850)
    box: dict[str, Any] = {"x": 56, "y": 40, "width": 1440, "height": 800}
    picture = Image.open(io.BytesIO(editor.page.screenshot(clip=box))).convert("RGB")
    picture.save(GRAPH, quality=85, optimize=True)


def save(png: bytes, path: Path) -> None:
    """Few colours are enough for a node, and a fifth of the size."""
    Image.open(io.BytesIO(png)).convert("RGB").quantize(96).save(path, optimize=True)


if __name__ == "__main__":
    main()
