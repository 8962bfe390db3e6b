"""Runs inside the ComfyUI interpreter: starts the real server with our pack, queues graphs, prints what came back.

Usage: python serving.py COMFY_DIR BASE REPOSITORY; BASE is the server's base folder, its custom_nodes holds our pack.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).parent))
from workflow import to_prompt

#: packages that the command line needs and a ComfyUI installation lacks; the nodes must do without
ABSENT = ("diffusers", "peft", "accelerate", "click", "rich", "platformdirs")
FINAL = ("execution_success", "execution_error", "execution_interrupted")


def free_port() -> int:
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        return place.getsockname()[1]


def start(comfy: Path, base: Path, port: int, absent: tuple[str, ...] = ABSENT) -> subprocess.Popen[bytes]:
    """The server process; its log goes to BASE/server.log. Importing what is ``absent`` fails in it."""
    (base / "front").mkdir(exist_ok=True)
    (base / "front" / "index.html").write_text("no editor in this test", encoding="utf-8")
    (base / "absent").mkdir(exist_ok=True)
    code = f"import sys\nsys.modules.update(dict.fromkeys({absent}))\n"
    (base / "absent" / "sitecustomize.py").write_text(code, encoding="utf-8")
    path = os.pathsep.join([str(base / "absent"), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [
            sys.executable, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port), "--base-directory",
            str(base), "--front-end-root", str(base / "front"), "--disable-auto-launch", "--disable-api-nodes",
            "--database-url", "sqlite:///:memory:",
        ],
        cwd=comfy, env={**os.environ, "PYTHONPATH": path}, stdout=(base / "server.log").open("wb"), stderr=subprocess.STDOUT,
    )  # fmt: skip


async def ready(session: aiohttp.ClientSession, process: subprocess.Popen[bytes], base: Path) -> None:
    for _ in range(4000):
        if process.poll() is not None:
            raise SystemExit((base / "server.log").read_text()[-3000:])
        try:
            async with session.get("/system_stats") as answer:
                if answer.status == 200:
                    return
        except aiohttp.ClientError:
            await asyncio.sleep(0.1)
    raise SystemExit("the server did not become ready")


async def queue(session: aiohttp.ClientSession, graph: dict[str, Any], stop_at: int | None = None) -> dict[str, Any]:
    """Status of the request, and what the websocket told until the end.

    Args:
        session: of the server.
        graph: API form.
        stop_at: interrupts at this value of a progress bar; the answer holds the seconds until the end as "stopped_in".
    """
    found: dict[str, Any] = {"executed": [], "cached": [], "pictures": 0, "progress": []}
    asked = None
    started = time.perf_counter()
    async with session.ws_connect("/ws?clientId=test", max_msg_size=0) as channel:
        async with session.post("/prompt", json={"prompt": graph, "client_id": "test"}) as answer:
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
            if data.get("prompt_id") != body["prompt_id"]:
                continue
            if frame["type"] == "progress":
                found["progress"].append([data["node"], data["value"], data["max"]])
                if stop_at is not None and asked is None and data["value"] >= stop_at:
                    asked = time.perf_counter()
                    await session.post("/interrupt")
            if frame["type"] == "execution_cached":
                found["cached"] = data["nodes"]
            if frame["type"] == "executing" and data.get("node"):
                found["executed"].append(data["node"])
            if frame["type"] == "executed":
                found.setdefault("output", {})[data["node"]] = data["output"]
            if frame["type"] in FINAL:
                found["end"], found["error"] = frame["type"], data.get("exception_message")
                break
    if asked is not None:
        found["stopped_in"] = time.perf_counter() - asked
    found["seconds"] = time.perf_counter() - started
    return found


async def picture(session: aiohttp.ClientSession, result: dict[str, Any], node: str) -> bytes:
    place = result["output"][node]["images"][0]
    async with session.get("/view", params=place) as answer:
        return await answer.read()


async def run(comfy: Path, base: Path, repository: Path) -> dict[str, Any]:
    port = free_port()
    process = start(comfy, base, port)
    out: dict[str, Any] = {}
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            await ready(session, process, base)
            async with session.get("/object_info") as answer:
                info = await answer.json()
            out["nodes"] = {name: item for name, item in info.items() if name.startswith("Erase")}
            async with session.get("/api/workflow_templates") as answer:
                out["templates"] = await answer.json()
            file = repository / "comfy_nodes" / "example_workflows" / "erase_and_compare_pocket.json"
            graph = to_prompt(json.loads(file.read_text(encoding="utf-8")), info)
            graph["5"]["inputs"]["batch_size"] = 1
            graph["6"]["inputs"]["steps"] = graph["7"]["inputs"]["steps"] = 4
            out["first"] = await queue(session, graph)
            (base / "first.png").write_bytes(await picture(session, out["first"], "11"))
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
                load["12"]["inputs"]["source"] = ["2", 3]
                out[name] = await queue(session, load)
            doctor = {"1": {"class_type": "EraseDoctor", "inputs": {}}}
            out["doctor"] = await queue(session, doctor)
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
    out["log"] = (base / "server.log").read_text(encoding="utf-8", errors="replace")
    return out


if __name__ == "__main__":
    print("RESULT " + json.dumps(asyncio.run(run(*map(Path, sys.argv[1:4])))))
