"""Drives ComfyUI's editor in a browser as a person does: load, click Run, look, open a help page."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

CHROMIUM_FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage")
RUN, INFO, HELP = '[data-testid="queue-button"]', '[data-testid="info-button"]', ".node-help-content"

WATCH = """() => {
  window.eraseTestEnd = new Promise((resolve) => {
    for (const type of ["execution_success", "execution_error", "execution_interrupted"])
      app.api.addEventListener(type, (event) => resolve([type, event.detail]), { once: true });
  });
}"""
_SHOW = """([left, top, width, height, scale, margin]) => {
  const ds = app.canvas.ds;
  ds.scale = scale ?? Math.min((innerWidth - 140) / width, (innerHeight - 160) / height, 1);
  ds.offset[0] = 90 / ds.scale - left;
  ds.offset[1] = margin / ds.scale - top;
  app.graph.setDirtyCanvas(true, true);
}"""
_BOX = """(ids) => {
  const nodes = app.graph._nodes.filter((n) => !ids || ids.includes(String(n.id)));
  const left = Math.min(...nodes.map((n) => n.pos[0])), top = Math.min(...nodes.map((n) => n.pos[1] - 30));
  return [left, top, Math.max(...nodes.map((n) => n.pos[0] + n.size[0])) - left,
          Math.max(...nodes.map((n) => n.pos[1] + n.size[1])) - top];
}"""

#: until no node has moved or grown for some frames and no picture is loading; at most three seconds
_STILL = """async () => {
  const shape = () => JSON.stringify([app.canvas.ds.scale, ...app.canvas.ds.offset, ...app.graph._nodes.map((node) => {
    const box = document.querySelector(`[data-node-id="${node.id}"]`)?.getBoundingClientRect();
    return [...node.pos, ...node.size, box?.left, box?.top, box?.width, box?.height];
  })]);
  const loading = () => [...document.images, ...app.graph._nodes.flatMap((node) => node.imgs ?? [])].some((i) => !i.complete);
  const start = performance.now();
  let before = shape(), since = start;
  while (performance.now() - since < 200 && performance.now() - start < 3000) {
    await new Promise(requestAnimationFrame);
    const now = shape();
    if (now !== before || loading()) since = performance.now();
    before = now;
  }
}"""
_CLEAR = """() => {
  const tabs = app.extensionManager.sidebarTab, open = tabs?.activeSidebarTabId ?? tabs?.activeSidebarTab?.id;
  if (open) tabs.toggleSidebarTab(open);
  document.activeElement?.blur();
  app.canvas.setGraph?.(app.graph);
  app.graph.clear();
  app.canvas.deselectAll?.();
}"""
_WIDTHS = """[...app.graph._nodes.flatMap((n) => n.imgs ?? []), ...document.querySelectorAll('img[src*="view?"]')]
  .map((image) => image.naturalWidth).filter(Boolean)"""

_TITLE = """(id) => {
  const node = app.graph._nodes.find((n) => String(n.id) === id), ds = app.canvas.ds;
  const place = app.canvas.canvas.getBoundingClientRect();
  return [place.left + (node.pos[0] + 90 + ds.offset[0]) * ds.scale,
          place.top + (node.pos[1] - 14 + ds.offset[1]) * ds.scale];
}"""


class Editor:
    """A page with the editor.

    Args:
        page: playwright page.
        url: of the server.
        version: of the frontend, told to it so that it does not show news.
        vue: renderer of the nodes.
        locale: language of the editor.
    """

    def __init__(self, page: Any, url: str, version: str, vue: bool, locale: str = "en") -> None:
        self.page, self.url = page, url
        self.settles = vue and version.startswith("1.32")  # our script puts nodes back where the file has them
        self.messages: list[str] = []
        page.on("pageerror", lambda error: self.messages.append(f"{error} {error.stack}"))
        page.on("console", self._console)
        self._settings = {
            "Comfy.TutorialCompleted": True, "Comfy.InstalledVersion": version, "Comfy.Locale": locale,
            "Comfy.VueNodes.Enabled": vue, "Comfy.Minimap.Visible": False, "Comfy.Graph.CanvasInfo": False,
            "Comfy.Workflow.ShowMissingModelsWarning": False,  # the oldest one lays a dialog over the graph
        }  # fmt: skip
        self.open()

    def open(self) -> None:
        """Loads the page, now or once more, as this editor is set; one server has the settings of all."""
        self.settings(self._settings)
        self.page.goto(self.url)
        self.wait_ready()

    def clear(self) -> None:
        """An empty graph, and nothing that another test left open over or beside it; what was complained about is forgotten."""
        self.page.keyboard.press("Escape")
        self.page.evaluate(_CLEAR)
        self.page.mouse.move(880, 500)
        self.close_messages()
        self.page.evaluate(_STILL)
        self.messages.clear()

    def wait_ready(self) -> None:
        self.page.wait_for_function("!!(window.app?.graph && window.LiteGraph?.registered_node_types?.EraseDoctor)")
        self.page.wait_for_timeout(500)

    def _console(self, message: Any) -> None:
        if message.type == "error":
            self.messages.append(f"{message.text} {message.location.get('url', '')}")

    def errors_of(self, path: str) -> list[str]:
        """What the browser complained about and that names ``path``; that no help page is translated is no complaint."""
        return [text for text in self.messages if path in text and not re.search(r"/docs/\w+/\w+\.md$", text)]

    def settings(self, values: dict[str, Any]) -> None:
        request = urllib.request.Request(
            f"{self.url}/settings", json.dumps(values).encode(), {"Content-Type": "application/json"}
        )
        urllib.request.urlopen(request, timeout=60).close()

    def load(self, workflow: dict[str, Any]) -> None:
        self.page.evaluate("(workflow) => app.loadGraphData(workflow)", workflow)
        self.page.wait_for_function(f"app.graph._nodes.length >= {len(workflow['nodes'])}")
        if self.settles:
            self.page.wait_for_timeout(1700)
        self.show()

    def show(self, *ids: str, scale: float | None = None, top: int = 120) -> None:
        """Moves the view to these nodes, or to all."""
        self.page.evaluate(_SHOW, [*self.page.evaluate(_BOX, list(ids) or None), scale, top])
        self.page.evaluate(_STILL)

    def close_messages(self) -> None:
        """Closes what the editor tells in its corner, which can lie over the Run button."""
        self.page.evaluate("() => document.querySelectorAll('.p-toast-message button').forEach((item) => item.click())")
        self.page.wait_for_function("document.querySelectorAll('.p-toast-message').length === 0")

    def run(self) -> tuple[str, dict[str, Any]]:
        """Clicks Run and waits for the end: its kind and what the server told."""
        self.close_messages()
        self.page.evaluate(WATCH)
        self.page.click(RUN)
        kind, detail = self.page.evaluate("() => window.eraseTestEnd")
        self.page.evaluate(_STILL)
        return kind, detail

    def refused(self, sentence: str) -> str:
        """Clicks Run, waits for a sentence on the page, behind "View details" and an info button where the editor hides it."""
        self.close_messages()
        self.page.click(RUN)
        details = self.page.get_by_text("View details")
        found = self.page.get_by_text(sentence)
        details.or_(found).first.wait_for()
        if details.count():
            details.first.click()
            self.page.get_by_label(re.compile("^Info for")).first.click()
        found.first.wait_for()
        self.page.wait_for_timeout(700)
        return found.first.inner_text()

    def picture_widths(self) -> list[int]:
        """Widths of the pictures that nodes show; classic nodes hold them, Vue nodes are part of the document."""
        self.page.wait_for_function(f"() => {_WIDTHS}.length > 0")
        self.page.evaluate(_STILL)
        return self.page.evaluate(f"() => {_WIDTHS}")

    def node(self, kind: str) -> str:
        """Id of the first node of a kind."""
        return self.page.evaluate("(kind) => String(app.graph._nodes.find((n) => n.type === kind).id)", kind)

    def select(self, node: str, button: str = "left") -> None:
        """Clicks the title of a node."""
        x, y = self.page.evaluate(_TITLE, node)
        self.page.mouse.click(x, y, button=button)
        self.page.wait_for_timeout(700)

    def insert(self, name: str, x: int, y: int) -> str:
        """Finds something in the search box that a double click opens, places it with the mouse, and gives its id."""
        before = self.page.evaluate("() => app.graph._nodes.map((n) => n.id)")
        self.page.mouse.move(x - 20, y)
        self.page.wait_for_timeout(300)
        self.page.mouse.dblclick(x, y, delay=60)
        self.page.wait_for_function("document.activeElement?.tagName === 'INPUT'")
        self.page.keyboard.type(name, delay=20)
        self.page.get_by_role("option").filter(has_text=name).first.click()
        self.page.wait_for_timeout(700)
        self.page.mouse.move(x - 20, y)
        self.page.mouse.click(x, y)  # newer editors hang it on the pointer until the next click
        self.page.wait_for_function("(old) => app.graph._nodes.some((n) => !old.includes(n.id))", arg=before)
        self.page.wait_for_timeout(700)
        (made,) = self.page.evaluate(
            "(old) => app.graph._nodes.map((n) => n.id).filter((id) => !old.includes(id))", before
        )
        return str(made)

    def set_widget(self, node: str, widget: str, value: Any) -> None:
        self.page.evaluate(
            """([id, name, value]) => { const node = app.graph._nodes.find((n) => String(n.id) === id);
                 const widget = node.widgets.find((w) => w.name === name);
                 widget.value = value; widget.callback?.(value); }""",
            [node, widget, value],
        )

    def help(self, node: str) -> str:
        """Text of the help page behind the info button."""
        self.show(node, scale=0.8, top=330)
        self.select(node)
        self.page.click(INFO)
        self.page.wait_for_selector(HELP)
        self.page.wait_for_function(f"document.querySelector('{HELP}').innerText.length > 200")
        return self.page.inner_text(HELP)

    def screenshot(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=str(path))
