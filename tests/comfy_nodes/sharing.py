"""Runs inside the ComfyUI interpreter: Hub nodes and refusals on the real server; prints what came back as JSON.

Usage: python sharing.py COMFY_DIR BASE; the environment points the Hub's client to a test Hub and logs it in.
"""

from __future__ import annotations

import asyncio
import copy
import json
import sys
from pathlib import Path
from typing import Any

import aiohttp
from serving import picture, queue, running

REPO = "tester/no-pizza"


def node(kind: str, /, **inputs: Any) -> dict[str, Any]:
    return {"class_type": kind, "inputs": inputs}


def drawing(model: list[Any], clip: list[Any]) -> dict[str, Any]:
    """Nodes 1 and 4 to 9: the loader, and a picture of a pizza drawn with a MODEL."""
    return {
        "1": node("ErasePocketLoader"),
        "4": node("CLIPTextEncode", text="a pizza", clip=clip),
        "5": node("CLIPTextEncode", text="", clip=clip),
        "6": node("ErasePocketLatent", batch_size=1),
        "7": node("KSampler", model=model, positive=["4", 0], negative=["5", 0], latent_image=["6", 0], seed=3, steps=4,
                  cfg=4.0, sampler_name="dpmpp_2m", scheduler="karras", denoise=1.0),
        "8": node("VAEDecode", samples=["7", 0], vae=["1", 2]),
        "9": node("SaveImage", images=["8", 0], filename_prefix="shared"),
    }  # fmt: skip


def stack(rows: Any, **more: Any) -> dict[str, Any]:
    return node("EraseStack", model=["1", 0], rows=rows, any_base=False, effective=True, clip=["1", 1], **more)


def told(*nodes: dict[str, Any], output: int) -> dict[str, Any]:
    """A graph that ends in the text of its last node: the loader is node 1, the others follow."""
    graph = {"1": node("ErasePocketLoader"), **{str(index): item for index, item in enumerate(nodes, 2)}}
    graph["99"] = node("PreviewAny", source=[str(len(nodes) + 1), output])
    return graph


def refused() -> dict[str, dict[str, Any]]:
    """Case -> graph that must be refused, or must not."""
    model = {"model": ["1", 0], "clip": ["1", 1]}
    library = {**model, "strength": 1.0, "any_base": False, "effective": True}
    uce = node("EraseUCE", **model, erase="pizza", strength=1.0, kind="object")
    shape = {"edit": ["2", 1], **model, "strength": 1.0}
    probe = {**model, "kind": "object", "keep": ""}
    report = {"images": 2, "steps": 2, "guidance": 4.0, "seed": 0, "strength": 1.0, "judge": "none"}
    publish = {"publish": True, "private": False, "create_pr": False, "license": "apache-2.0", "message": ""}
    return {
        "rows": told(stack("pizza : much"), output=4),
        "rows missing": told(stack("shard"), output=4),
        "rows twice": told(stack("shared\nshared : 0.5"), output=4),
        "rows linked": told(node("PrimitiveStringMultiline", value="shared : 0.5"), stack(["2", 0]), output=4),
        "rows linked wrong": told(node("PrimitiveStringMultiline", value="shared : x"), stack(["2", 0]), output=4),
        "other base": told(stack("other_base"), output=4),
        "other width": told(stack("other_width"), output=4),
        "partial": told(stack("partial"), output=4),
        "outside": told(stack("../../secret"), output=4),
        "lora stack": told(stack("", lora_stack=["1", 0]), output=4),
        "collection": told(node("EraseLibrary", collection="shelv", names="pizza", **library), output=3),
        "collection name": told(node("EraseLibrary", collection="shelf", names="piza", **library), output=3),
        "nothing picked": told(node("EraseLibrary", collection="shelf", names="", **library), output=3),
        "revoke": told(uce, node("EraseRevoke", edit=["2", 1], model=["1", 0], names="dog", protect=False,
                                 any_base=False, effective=True), output=3),
        "time": told(uce, node("EraseStrength", **shape, over_time="2 : 1", layers=""), output=3),
        "layer": told(uce, node("EraseStrength", **shape, over_time="", layers="top : 1"), output=3),
        "probe guide": told(node("EraseProbe", **probe, erase="dog -> dog"), output=1),
        "probe nothing": told(node("EraseProbe", **probe, erase=""), output=1),
        "probe long": told(node("EraseProbe", **probe, erase="pizza " * 90), output=1),
        "report": told(node("EraseReport", erase="", **report), output=2),
        "repo": told(node("EraseHubPull", repo="no-pizza", keep=False, offline=False), output=2),
        "repo missing": told(node("EraseHubPull", repo="tester/nothing", keep=False, offline=False), output=2),
        "revision missing": told(node("EraseHubPull", repo=f"{REPO}@gone", keep=False, offline=False), output=2),
        "not mine": told(node("EraseHubPush", name="shared", repo="somebody/else", **publish), output=0),
        "list": told(node("EraseUCE", model=["1", 0], clip=["1", 1], erase="pizza, dog, car", strength=1.0,
                          kind="object"), output=2),
        "NUL": told(node("EraseHubPush", name="sha\x00red", repo=REPO, **publish), output=0),
        "long": told(stack("x" * 5000), output=4),
        "NUL row": told(stack("x\x00y"), output=4),
        "nothing saved": told(node("EraseHubPush", name="shard", repo=REPO, **publish), output=0),
    }  # fmt: skip


def measuring() -> dict[str, Any]:
    """A measurement that takes long enough to be stopped."""
    uce = node("EraseUCE", model=["1", 0], clip=["1", 1], erase="dog", strength=1.0, kind="object")
    report = node("EraseReport", erase="", images=64, steps=4, guidance=4.0, seed=0, strength=1.0, judge="none",
                  edit=["2", 1], model=["1", 0], clip=["1", 1], vae=["1", 2])  # fmt: skip
    return told(uce, report, output=2)


async def run(comfy: Path, base: Path) -> dict[str, Any]:
    out: dict[str, Any] = {}
    async with running(comfy, base) as (session, info, _process):
        out.update(await shared(session, base))
        for name, graph in {**refused(), **away()}.items():
            out[name] = await queue(session, graph)
        (offered,) = out["not mine"]["offers"]
        out["answers"]["not mine"] = await answered(session, {"key": offered["key"], "send": True})
        out["stopped"] = await queue(session, measuring(), stop_at=16)
        out["after the stop"] = await queue(session, drawing(["1", 0], ["1", 1]))
        async with session.get("/history") as answer:
            out["history"] = await answer.text()
        names = {name: value for name, value in info.items() if name.startswith("EraseHub")}
        out["hub inputs"] = sorted(
            {key for value in names.values() for group in value["input"].values() for key in group}
        )
    out["log"] = (base / "server.log").read_text(encoding="utf-8", errors="replace")
    return out


async def shared(session: aiohttp.ClientSession, base: Path) -> dict[str, Any]:
    """Erase, save, look, publish, find, pull, draw."""
    out: dict[str, Any] = {}
    push = {"repo": REPO, "private": False, "create_pr": False, "license": "apache-2.0", "message": ""}
    graph = {
        "1": node("ErasePocketLoader"),
        "2": node("EraseUCE", model=["1", 0], clip=["1", 1], erase="pizza -> hamburger", strength=1.0, kind="object"),
        "3": node("EraseSaveArtifact", edit=["2", 1], name="shared", overwrite=True, kohya_copy=False, model=["1", 0],
                  clip=["1", 1]),
        "4": node("EraseHubPush", name=["3", 0], publish=False, **push),
    }  # fmt: skip
    out["look"] = await queue(session, graph)
    published = copy.deepcopy(graph)
    published["4"]["inputs"]["publish"] = True
    out["asked"] = await queue(session, published, {"extra_pnginfo": {"workflow": {"nodes": [], "links": []}}})
    out["asked again"] = await queue(session, published)
    async with session.get("/history") as answer:
        out["history while waiting"] = await answer.text()
    out["nothing there yet"] = await queue(
        session, told(node("EraseHubPull", repo=REPO, keep=False, offline=False), output=2)
    )
    key, other = (out[name]["offers"][0]["key"] for name in ("asked", "asked again"))
    yes = {"key": key, "send": True}
    out["answers"] = {
        "other page": await answered(session, yes, {"Origin": "http://evil.example"}),
        "other page of this browser": await answered(session, yes, {"Sec-Fetch-Site": "same-site"}),
        "a form": await answered(session, yes, {"Content-Type": "text/plain"}),
        "guessed": await answered(session, {"key": "x" * 43, "send": True}),
        "no key": await answered(session, {"send": True}),
        "no object": await answered(session, [key]),
        "declined": await answered(session, {"key": other, "send": "yes"}),
        "after declining": await answered(session, {"key": other, "send": True}),
        "accepted": await answered(session, yes),
        "twice": await answered(session, yes),
    }
    out.update(await moved(session, published))
    out["search"] = await queue(
        session, {"1": node("EraseHubSearch", query="pizza", concept="", base_model="", limit=5)}
    )
    pulled = {**drawing(["3", 0], ["1", 1]), "2": node("EraseHubPull", repo=REPO, keep=True, offline=False),
              "3": stack("", edit_1=["2", 0]), "98": node("PreviewAny", source=["2", 2])}  # fmt: skip
    workflow = {"nodes": [{"id": 2, "type": "EraseHubPull", "widgets_values": [REPO, True, False]}], "links": []}
    out["pull"] = await queue(session, pulled, {"extra_pnginfo": {"workflow": workflow}})
    (base / "pulled.png").write_bytes(await picture(session, out["pull"], "9"))
    out["publish again"] = await queue(session, {"4": node("EraseHubPush", name="shared", publish=True, **push)})
    off = copy.deepcopy(pulled)
    off["3"]["inputs"]["rows"] = "shared : 0"
    out["off"] = await queue(session, off)
    (base / "off.png").write_bytes(await picture(session, out["off"], "9"))
    out["plain"] = await queue(session, drawing(["1", 0], ["1", 1]))
    (base / "plain.png").write_bytes(await picture(session, out["plain"], "9"))
    kept = {**drawing(["3", 0], ["1", 1]), "3": stack("tester_no_pizza")}
    out["kept"] = await queue(session, kept)
    (base / "kept.png").write_bytes(await picture(session, out["kept"], "9"))
    for name, graph, workflow in references():
        out[name] = await queue(session, graph, {"extra_pnginfo": {"workflow": workflow}})
        (base / f"{name}.png").write_bytes(await picture(session, out[name], "9"))
    return out


async def answered(session: aiohttp.ClientSession, answer: Any, headers: dict[str, str] | None = None) -> list[Any]:
    """Status and body of an answer to the question whether to publish."""
    more = {"Content-Type": "application/json", **(headers or {})}
    async with session.post("/erase_plugins/publish", data=json.dumps(answer), headers=more) as found:
        ours = found.content_type == "application/json"
        return [found.status, await found.json() if ours else {"error": "refused by ComfyUI"}]


async def moved(session: aiohttp.ClientSession, published: dict[str, Any]) -> dict[str, Any]:
    """A graph that names a branch: queued twice, after another commit, and twice again; with and without a wire."""
    out: dict[str, Any] = {}

    async def publish(text: str) -> None:
        graph = copy.deepcopy(published)
        graph["2"]["inputs"]["erase"] = text
        graph["3"]["inputs"]["name"] = "moving"
        graph["4"]["inputs"]["repo"] = "tester/moving"
        found = await queue(session, graph)
        out[f"published {text}"] = await answered(session, {"key": found["offers"][0]["key"], "send": True})

    await publish("car")
    graphs = {"named": "tester/moving", "over a wire": ["97", 0]}
    for text in ("first", "second"):
        for name, repo in graphs.items():
            graph = {**drawing(["3", 0], ["1", 1]), "2": node("EraseHubPull", repo=repo, keep=False, offline=False),
                     "3": stack("hub:tester/moving : 0.5"), "98": node("PreviewAny", source=["2", 2]),
                     "97": node("PrimitiveStringMultiline", value="tester/moving")}  # fmt: skip
            graph["9"]["inputs"]["filename_prefix"] = name.replace(" ", "_")
            out[f"{text} {name}"] = await queue(session, graph)
            await queue(session, graph)  # what came over a wire is known after one run
            await asyncio.sleep(2.1)
            out[f"{text} {name} again"] = await queue(session, graph)
        if text == "first":
            await publish("dog")
            await asyncio.sleep(2.1)
    return out


def references() -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
    """Name, graph and workflow file of every further way to name what is on the Hub."""
    loaded = node("EraseLoadArtifact", artifact="shared", model=["1", 0], strength=1.0, strength_clip=1.0,
                  any_base=False, clip=["1", 1], reference=f"hub:{REPO}")  # fmt: skip
    text = node("PrimitiveStringMultiline", value=REPO)
    wire = {"name": "repo", "link": 1, "widget": {"name": "repo"}}
    ways = {
        "stacked": ({"3": stack(f"hub:{REPO} : 1")}, 4, {"id": 3, "type": "EraseStack",
                    "widgets_values": [f"hub:{REPO} : 1", False, True]}),
        "loaded": ({"3": loaded}, 3, {"id": 3, "type": "EraseLoadArtifact",
                   "widgets_values": ["shared", 1.0, 1.0, False, f"hub:{REPO}"]}),
        "linked": ({"97": text, "2": node("EraseHubPull", repo=["97", 0], keep=False, offline=False),
                    "3": stack("", edit_1=["2", 0])}, 4,
                   {"id": 2, "type": "EraseHubPull", "inputs": [wire], "widgets_values": ["", False, False]}),
    }  # fmt: skip
    return [
        (name, {**drawing(["3", 0], ["1", 1]), **nodes, "98": node("PreviewAny", source=["3", output])},
         {"nodes": [item], "links": [[1, 97, 0, 2, 0, "STRING"]]})
        for name, (nodes, output, item) in ways.items()
    ]  # fmt: skip


def away() -> dict[str, dict[str, Any]]:
    """What happens where the Hub does not answer: a test lets it answer nothing about these two repositories."""

    def pull(repo: str, offline: bool = False) -> dict[str, Any]:
        return told(node("EraseHubPull", repo=repo, keep=False, offline=offline), output=2)

    load = node("EraseLoadArtifact", artifact="shared", model=["1", 0], strength=1.0, strength_clip=1.0, any_base=False,
                clip=["1", 1], reference="hub:tester/away")  # fmt: skip
    return {
        "cached": pull("tester/cached"),
        "offline": pull(REPO, offline=True),
        "nothing cached": pull("tester/away"),
        "nothing cached, offline": pull("tester/away", offline=True),
        "nothing cached, loaded": told(load, output=3),
    }


if __name__ == "__main__":
    print("RESULT " + json.dumps(asyncio.run(run(*map(Path, sys.argv[1:3])))))
