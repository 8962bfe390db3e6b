"""Runs inside the ComfyUI interpreter: what `switching` and `serving` ask of the real server with our pack; prints what came back.

Usage: python server.py COMFY_DIR BASE REPOSITORY; BASE is the server's base folder, its custom_nodes holds our pack. One server
answers both, because starting it takes as long as what is asked of it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

import serving
import switching


async def run(comfy: Path, base: Path, repository: Path) -> dict[str, Any]:
    async with serving.running(comfy, base) as (session, info, process):
        out = {"switching": await switching.cases(session, info, process, repository)}
        async with session.post("/free", json={"unload_models": True, "free_memory": True}):
            await asyncio.sleep(2)  # nothing is left that a node gave
        out["serving"] = await serving.cases(session, info, base, repository)
    out["serving"]["log"] = (base / "server.log").read_text(encoding="utf-8", errors="replace")
    return out


if __name__ == "__main__":
    print("RESULT " + json.dumps(asyncio.run(run(*map(Path, sys.argv[1:4])))))
