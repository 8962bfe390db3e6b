"""Runs inside the ComfyUI interpreter: every node in today's form beside the classic one on one server, and workflows
of version 0.1 with both.

Usage: python v3.py COMFY_DIR BASE REPOSITORY; BASE/custom_nodes/both holds both forms, those of today's end in V3.
"""

from __future__ import annotations

import asyncio
import copy
import json
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from serving import PRELOADED, first_example, picture, queue, running
from workflow import to_prompt


def today(graph: dict[str, Any]) -> dict[str, Any]:
    """The graph with our nodes in today's form."""
    found = copy.deepcopy(graph)
    for node in found.values():
        if node["class_type"].startswith("Erase"):
            node["class_type"] += "V3"
    return found


async def run(comfy: Path, base: Path, repository: Path) -> dict[str, Any]:
    out: dict[str, Any] = {}
    # methods that train are stopped here
    async with running(comfy, base, absent=(), python=PRELOADED) as (session, info, _process):
        out["nodes"] = {name: item for name, item in info.items() if name.startswith("Erase")}
        graph = first_example(repository, info)
        for name, item in {"classic": graph, "today": today(graph), "again": today(graph)}.items():
            out[name] = await queue(session, item)
            if name != "again":
                (base / f"{name}.png").write_bytes(await picture(session, out[name], "10"))
        for file in sorted((repository / "tests" / "comfy_nodes" / "frozen_workflows").glob("*.json")):
            old = to_prompt(json.loads(file.read_text(encoding="utf-8")), info)
            for form, item in {"classic": old, "today": today(old)}.items():
                name = f"{file.stem}_{form}"
                out[name] = await queue(session, item)
                (base / f"{name}.png").write_bytes(await picture(session, out[name], "11"))
        bad = today(graph)
        bad["2"]["inputs"]["erase"] = "pizza -> pizza"
        out["bad"] = await queue(session, bad)
        load = {"class_type": "EraseLoadArtifactV3", "inputs": {
            "artifact": "missing", "model": ["1", 0], "strength": 1.0, "strength_clip": 1.0, "any_base": False,
        }}  # fmt: skip
        out["missing"] = await queue(session, {**today(graph), "2": load})
        train = today(graph)
        short = "iterations = 400\ntrajectories = 2\nharvest = 2\nsteps = 3\nkeep_words = 2\nkeep_batch = 1"
        train["2"]["inputs"].update(method="esd", erase="pizza", options=short)
        out["stopped"] = await queue(session, {"1": train["1"], "2": train["2"]}, stop_at=2)
    out["log"] = (base / "server.log").read_text(encoding="utf-8", errors="replace")
    return out


if __name__ == "__main__":
    print("RESULT " + json.dumps(asyncio.run(run(*map(Path, sys.argv[1:4])))))
