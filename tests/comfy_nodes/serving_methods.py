"""Runs inside the ComfyUI interpreter: methods of other packages on the real server, and what our nodes refuse there.

Usage: python serving_methods.py COMFY_DIR BASE SITE; SITE holds the packages with the methods.
"""

from __future__ import annotations

import asyncio
import copy
import json
import os
import sys
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).parent))
import refusing
from serving import ABSENT, PRELOADED, picture, queue, running

COMMON = {
    "erase": "pizza", "kind": "object", "strength": 1.0, "keep": "", "seed": 0, "checkpoint": "", "any_base": False,
    "preview_every": 0, "model": ["1", 0], "clip": ["1", 1], "vae": ["1", 2],
}  # fmt: skip


def graph_of(node: str, source: str = "2", **inputs: Any) -> dict[str, Any]:
    """Loader, our node, a sampler behind it, the picture and the report."""
    values = {**COMMON, **inputs}
    return {
        "1": {"class_type": "ErasePocketLoader", "inputs": {}},
        "2": {"class_type": node, "inputs": {name: value for name, value in values.items() if value is not None}},
        "3": {"class_type": "ErasePocketLatent", "inputs": {"batch_size": 1}},
        "4": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": "a pizza"}},
        "5": {"class_type": "CLIPTextEncode", "inputs": {"clip": ["1", 1], "text": ""}},
        "6": {"class_type": "KSampler", "inputs": {
            "model": [source, 0], "positive": ["4", 0], "negative": ["5", 0], "latent_image": ["3", 0], "seed": 1,
            "steps": 3, "cfg": 4.0, "sampler_name": "euler", "scheduler": "normal", "denoise": 1.0,
        }},
        "7": {"class_type": "VAEDecode", "inputs": {"samples": ["6", 0], "vae": ["1", 2]}},
        "8": {"class_type": "SaveImage", "inputs": {"images": ["7", 0], "filename_prefix": "x"}},
        "9": {"class_type": "PreviewAny", "inputs": {"source": ["2", 3]}},
    }  # fmt: skip


def base_graph() -> dict[str, Any]:
    """The sampler on the model as it is."""
    graph = graph_of("none", source="1")
    return {name: item for name, item in graph.items() if name not in ("2", "9")}


def load_graph(entry: str, **inputs: Any) -> dict[str, Any]:
    """The load node instead of a method."""
    graph = graph_of("EraseLoadArtifact")
    values = {"artifact": entry, "model": ["1", 0], "strength": 1.0, "strength_clip": 1.0, "any_base": False, **inputs}
    graph["2"]["inputs"] = values
    return graph


def pixels(content: bytes) -> list[int]:
    """Grey values of a picture."""
    import io

    from PIL import Image

    return list(Image.open(io.BytesIO(content)).convert("RGB").tobytes())


async def refusals(session: aiohttp.ClientSession) -> dict[str, Any]:
    """What the server answers to requests that cannot be served."""
    nudge = "EraseMethodSlowNudge"
    cases = {
        "nothing named": graph_of(nudge, erase="# only a comment"),
        "named twice": graph_of("EraseMethodUce", erase="pizza\nPizza"),
        "own guide": graph_of("EraseMethodUce", erase="pizza -> pizza"),
        "too long": graph_of("EraseMethodUce", erase="pizza " * 40),
        "no model": graph_of(nudge, model=None, clip=None),
        "option": graph_of("EraseMethodEsd", iterations="0"),
        "no checkpoint": graph_of(nudge, checkpoint="nowhere.safetensors"),
        "outside checkpoint": graph_of(nudge, checkpoint="../../custom_nodes"),
        "pickle": load_graph("old.ckpt", clip=["1", 1]),
        "outside": load_graph("../secret.safetensors", clip=["1", 1]),
        "partial": load_graph("partial.safetensors", clip=["1", 1]),
        "clip missing": load_graph("with_text"),
        **refusing.cases(),
    }
    return {name: await queue(session, graph) for name, graph in cases.items()}


async def run(comfy: Path, base: Path) -> dict[str, Any]:
    out: dict[str, Any] = {}
    absent = tuple(name for name in ABSENT if name != "diffusers")
    async with running(comfy, base, absent, PRELOADED) as (session, info, _process):
        out["nodes"] = {name: item for name, item in info.items() if name.startswith("EraseMethod")}
        first = await queue(session, base_graph())
        before = pixels(await picture(session, first, "8"))
        nudge = graph_of("EraseMethodSlowNudge", iterations=4, preview_every=2)
        out["run"] = await queue(session, nudge)
        out["changed"] = pixels(await picture(session, out["run"], "8")) != before
        weaker = copy.deepcopy(nudge)
        weaker["2"]["inputs"]["strength"] = 0.0
        out["off"] = await queue(session, weaker)
        out["off_same"] = pixels(await picture(session, out["off"], "8")) == before
        slow = graph_of("EraseMethodSlowNudge", iterations=10, pause=0.2, erase="dog")
        out["stopped"] = await queue(session, slow, stop_at=3)
        again = base_graph()
        again["8"]["inputs"]["filename_prefix"] = "y"
        await session.post("/free", json={"free_memory": True, "unload_models": True})
        after = await queue(session, again)
        out["base_after"] = pixels(await picture(session, after, "8")) == before
        out["resumed"] = await queue(session, slow)
        out["null"] = await queue(session, graph_of("EraseMethodNullValue", words=20))
        out["refused"] = await refusals(session)
        out["doctor"] = await queue(session, {"1": {"class_type": "EraseDoctor", "inputs": {}}})
    out["log"] = (base / "server.log").read_text(encoding="utf-8", errors="replace")[-3000:]
    return out


if __name__ == "__main__":
    os.environ["PYTHONPATH"] = os.pathsep.join([sys.argv[3], os.environ.get("PYTHONPATH", "")])
    print("RESULT " + json.dumps(asyncio.run(run(Path(sys.argv[1]), Path(sys.argv[2])))))
