"""Runs inside the ComfyUI interpreter: the first example workflow on the real server, switched, stopped and run again."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import json
import struct
import subprocess
from pathlib import Path
from typing import Any

import aiohttp
import psutil
from serving import picture, queue
from workflow import to_prompt

from tools.docs.comfy.examples import FIRST

BASE, ERASED = "13", "14"


def pixels(png: bytes) -> str:
    """Hash of the image data of a PNG file; its text chunks hold the graph and differ."""
    place, data = 8, b""
    while place < len(png):
        (length,) = struct.unpack(">I", png[place : place + 4])
        if png[place + 4 : place + 8] in (b"IHDR", b"IDAT"):
            data += png[place + 8 : place + 8 + length]
        place += 12 + length
    return hashlib.sha256(data).hexdigest()


async def cases(
    session: aiohttp.ClientSession, info: dict[str, Any], process: subprocess.Popen[bytes], repository: Path
) -> dict[str, Any]:
    """What came back; nothing may have run on the server before, since processor time is measured."""
    out: dict[str, Any] = {}
    file = repository / "example_workflows" / f"{FIRST}.json"
    shipped = to_prompt(json.loads(file.read_text(encoding="utf-8")), info)
    used = psutil.Process(process.pid)
    before = used.cpu_times()
    out["shipped"] = await queue(session, shipped)
    after = used.cpu_times()
    out["cpu_seconds"] = after.user + after.system - before.user - before.system
    graph = {
        **shipped,
        BASE: {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "base"}},
        ERASED: {"class_type": "SaveImage", "inputs": {"images": ["8", 0], "filename_prefix": "erased"}},
    }
    graph["1"]["inputs"]["pictures"] = 2
    graph["5"]["inputs"]["steps"] = graph["6"]["inputs"]["steps"] = 4

    async def case(name: str, change: Any = None, **more: Any) -> None:
        changed = copy.deepcopy(graph)
        if change is not None:
            change(changed)
        out[name] = found = await queue(session, changed, **more)
        if found.get("end") == "execution_success":
            found["pixels"] = {node: pixels(await picture(session, found, node)) for node in (BASE, ERASED)}

    def strength(value: float) -> Any:
        return lambda changed: changed["2"]["inputs"].update(strength=value)

    def long(changed: dict[str, Any]) -> None:
        changed["5"]["inputs"].update(steps=2000, seed=8)
        changed["6"]["inputs"].update(steps=2000, seed=8)

    def bypassed(changed: dict[str, Any]) -> None:  # what the editor sends for a bypassed node: its links go on
        changed["6"]["inputs"]["model"] = changed["2"]["inputs"]["model"]
        changed["11"]["inputs"]["source"] = ["9", 2]
        del changed["2"]

    await case("first")
    await case("half", strength(0.5))
    await case("off", strength(0.0))
    await case("bypassed", bypassed)
    await case("full again", strength(1.0))
    await case("stopped while sampling", long, stop_at=3)
    async with session.post("/free", json={"unload_models": True, "free_memory": True}):
        pass
    await asyncio.sleep(2)
    await case("stopped while erasing", stop_in="2")
    await case("after stops")
    return out
