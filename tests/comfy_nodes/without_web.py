"""Runs inside the ComfyUI interpreter: the real server with a pack whose web folder is gone.

Usage: python without_web.py COMFY_DIR BASE REPOSITORY; a copy of the nodes is in BASE/custom_nodes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).parent))
import comfy_server
from serving import first_example, picture, queue, start


async def run(comfy: Path, base: Path, repository: Path) -> dict[str, Any]:
    port = comfy_server.own_port()
    process = start(comfy, base, port)
    out: dict[str, Any] = {}
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{port}") as session:
            comfy_server.wait_ready(process, base, port)
            async with session.get("/extensions") as answer:
                out["scripts"] = await answer.json()
            async with session.get("/object_info") as answer:
                info = await answer.json()
            out["nodes"] = sorted(name for name in info if name.startswith("Erase"))
            out["first"] = await queue(session, first_example(repository, info))
            (base / "first.png").write_bytes(await picture(session, out["first"], "10"))
            out["doctor"] = await queue(session, {"1": {"class_type": "EraseDoctor", "inputs": {}}})
    finally:
        comfy_server.stop(process)
    out["log"] = (base / "server.log").read_text(encoding="utf-8", errors="replace")
    return out


if __name__ == "__main__":
    print("RESULT " + json.dumps(asyncio.run(run(*map(Path, sys.argv[1:4])))))
