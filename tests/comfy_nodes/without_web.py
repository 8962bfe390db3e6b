"""Runs inside the ComfyUI interpreter: the real server with a pack whose web folder is gone.

Usage: python without_web.py COMFY_DIR BASE REPOSITORY; a copy of the nodes is in BASE/custom_nodes.
"""

from __future__ import annotations

import asyncio
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from serving import PRELOADED, first_example, picture, queue, running


async def run(comfy: Path, base: Path, repository: Path) -> dict[str, Any]:
    out: dict[str, Any] = {}
    async with running(comfy, base, python=PRELOADED) as (session, info, _process):
        async with session.get("/extensions") as answer:
            out["scripts"] = await answer.json()
        out["nodes"] = sorted(name for name in info if name.startswith("Erase"))
        out["first"] = await queue(session, first_example(repository, info))
        (base / "first.png").write_bytes(await picture(session, out["first"], "10"))
        out["doctor"] = await queue(session, {"1": {"class_type": "EraseDoctor", "inputs": {}}})
    out["log"] = (base / "server.log").read_text(encoding="utf-8", errors="replace")
    return out


if __name__ == "__main__":
    print("RESULT " + json.dumps(asyncio.run(run(*map(Path, sys.argv[1:4])))))
