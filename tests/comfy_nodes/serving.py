"""Runs inside the ComfyUI interpreter: starts the real server with our pack, queues graphs, gives what came back."""

from __future__ import annotations

import asyncio
import copy
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).parent))
import comfy_server
from workflow import to_prompt

from tools.docs.comfy.examples import FIRST

ABSENT = comfy_server.ABSENT
#: what finds libraries imported, see tests/preloaded.py
PRELOADED: list[str] = json.loads(os.environ.get("ERASE_PRELOADED", "null")) or [sys.executable]
FINAL = ("execution_success", "execution_error", "execution_interrupted")


@asynccontextmanager
async def running(
    comfy: Path, base: Path, absent: tuple[str, ...] = ABSENT, python: list[str] | None = None
) -> AsyncIterator[tuple[aiohttp.ClientSession, dict[str, Any], subprocess.Popen[bytes]]]:
    """The server, with nothing installed beside ComfyUI's own packages as far as the nodes can see: a session, what it
    says of all nodes, and its process.

    Args:
        comfy, base: where it is, its base folder.
        absent: packages whose import fails in it.
        python: what stands for the interpreter; the interpreter itself measures what a start and a first run take.
    """
    (base / "front").mkdir(exist_ok=True)
    (base / "front" / "index.html").write_text("no editor in this test", encoding="utf-8")
    path = os.pathsep.join([str(comfy_server.hide(base, absent)), os.environ.get("PYTHONPATH", "")])
    port = comfy_server.own_port()
    process = comfy_server.start(python or [sys.executable], comfy, base, port, base / "front", path)
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            comfy_server.wait_ready(process, base, port)
            async with session.get("/object_info") as answer:
                info = await answer.json()
            yield session, info, process
    finally:
        comfy_server.stop(process)


async def queue(
    session: aiohttp.ClientSession, graph: dict[str, Any], extra: dict[str, Any] | None = None,
    stop_at: int | None = None, stop_in: str | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Status of the request, and what the websocket told until the end.

    Args:
        session: of the server.
        graph: API form.
        extra: goes into the picture.
        stop_at: interrupts at this value of a progress bar; what it showed after that is counted in "steps_after_stop".
        stop_in: interrupts a moment after this node began.
    """
    found: dict[str, Any] = {"executed": [], "cached": [], "pictures": 0, "progress": []}
    asked = False
    async with session.ws_connect("/ws?clientId=test", max_msg_size=0) as channel:
        message = {"prompt": graph, "client_id": "test", "extra_data": extra or {}}
        async with session.post("/prompt", json=message) as answer:
            found["status"] = answer.status
            body = await answer.json()
        found["node_errors"] = body.get("node_errors")
        if answer.status != 200:
            return found
        async for message in channel:
            if message.type != aiohttp.WSMsgType.TEXT:
                found["pictures"] += message.type == aiohttp.WSMsgType.BINARY
                continue
            frame = json.loads(message.data)
            data = frame.get("data") or {}
            if frame["type"] == "erase_plugins.publish":
                found.setdefault("offers", []).append(data)
            if data.get("prompt_id") != body["prompt_id"]:
                continue
            if frame["type"] == "progress":
                found["progress"].append([data["node"], data["value"], data["max"]])
                found["steps_after_stop"] = found.get("steps_after_stop", 0) + asked
                if stop_at is not None and not asked and data["value"] >= stop_at:
                    asked = True
                    await session.post("/interrupt")
            if frame["type"] == "execution_cached":
                found["cached"] = data["nodes"]
            if frame["type"] == "executing" and data.get("node"):
                found["executed"].append(data["node"])
                if data["node"] == stop_in:
                    await asyncio.sleep(0.02)  # a closed form may be done in a tenth of a second
                    await session.post("/interrupt")
            if frame["type"] == "executed":
                found.setdefault("output", {})[data["node"]] = data["output"]
            if frame["type"] in FINAL:
                found["end"], found["error"] = frame["type"], data.get("exception_message")
                found["ended_in"] = data.get("node_id")
                break
    return found


async def picture(session: aiohttp.ClientSession, result: dict[str, Any], node: str) -> bytes:
    place = result["output"][node]["images"][0]
    async with session.get("/view", params=place) as answer:
        return await answer.read()


def first_example(repository: Path, info: dict[str, Any]) -> dict[str, Any]:
    """API form of the first example workflow, with one picture of few steps.

    Args:
        repository: its root.
        info: the server's description of all nodes.
    """
    file = repository / "example_workflows" / f"{FIRST}.json"
    graph = to_prompt(json.loads(file.read_text(encoding="utf-8")), info)
    graph["1"]["inputs"]["pictures"] = 1
    graph["5"]["inputs"]["steps"] = graph["6"]["inputs"]["steps"] = 4
    return graph


def bare(graph: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Nodes of methods in an installation that has nothing but ComfyUI's own packages."""
    common = {"erase": "pizza", "kind": "object", "strength": 1.0, "keep": "", "seed": 0, "any_base": False,
              "preview_every": 0}  # fmt: skip
    model = {"model": ["1", 0], "clip": ["1", 1]}
    text = {"class_type": "PrimitiveStringMultiline", "inputs": {"value": "pocket"}}
    found = {}
    for name, method, inputs in (
        ("checkpoint", "Uce", {"checkpoint": "pocket"}),
        ("linked checkpoint", "Uce", {"checkpoint": ["3", 0]}),
        ("closed form", "Uce", {"checkpoint": "", **model}),
    ):  # fmt: skip
        node = {"class_type": f"EraseMethod{method}", "inputs": {**common, **inputs}}
        look = {"class_type": "PreviewAny", "inputs": {"source": ["2", 3]}}
        found[name] = {"1": graph["1"], "2": node, "3": text, "4": look}
    return found


async def cases(session: aiohttp.ClientSession, info: dict[str, Any], base: Path, repository: Path) -> dict[str, Any]:
    """The first example, what is refused, and what the server lists."""
    out: dict[str, Any] = {}
    out["nodes"] = {name: item for name, item in info.items() if name.startswith("Erase")}
    async with session.get("/api/workflow_templates") as answer:
        out["templates"] = await answer.json()
    graph = first_example(repository, info)
    out["first"] = await queue(session, graph)
    (base / "first.png").write_bytes(await picture(session, out["first"], "10"))
    out["again"] = await queue(session, graph)
    off = copy.deepcopy(graph)
    off["2"]["inputs"]["strength"] = 0.0
    out["off"] = await queue(session, off)
    bad = copy.deepcopy(graph)
    bad["2"]["inputs"]["erase"] = "pizza -> pizza"
    out["bad concept"] = await queue(session, bad)
    for name in ("missing", "wrong_base"):
        load = copy.deepcopy(graph)
        load["2"] = {"class_type": "EraseLoadArtifact", "inputs": {
            "artifact": name, "model": ["1", 0], "clip": ["1", 1], "strength": 1.0, "strength_clip": 1.0,
            "any_base": False,
        }}  # fmt: skip
        load["11"]["inputs"]["source"] = ["2", 3]
        out[name] = await queue(session, load)
    for name, item in bare(graph).items():
        out[name] = await queue(session, item)
    doctor = {"1": {"class_type": "EraseDoctor", "inputs": {}}}
    out["doctor"] = await queue(session, doctor)
    return out
