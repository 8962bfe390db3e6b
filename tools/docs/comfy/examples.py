"""The example workflows and the blueprint."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from comfy_nodes.erasing import label
from comfy_nodes.spec import NodeSpec
from erase_plugins.manager import get_manager

from .graphs import Graph, Ref, dump

Specs = dict[str, NodeSpec]
#: what the collection of the example erases, and what it becomes
LIBRARY = {
    **dict.fromkeys(("pizza", "hamburger", "apple", "banana"), "cake"),
    **dict.fromkeys(("dog", "cat", "fish", "bird", "horse", "elephant", "lion"), "tiger"),
    **dict.fromkeys(("car", "bicycle", "train", "bus", "rocket"), "truck"),
    **dict.fromkeys(("guitar", "tree", "clock", "umbrella"), "star"),
}


STYLE_LORA = "pocket_red.safetensors"
HUB_REPO = "erase-plugins/pocket-no-pizza"
#: titles, as the editor shows them: what the graph does, and what has to be there beforehand
FIRST = "Erase a concept (tiny model, runs offline)"
SD15 = "Erase a style from Stable Diffusion 1.5 (needs a checkpoint)"
SDXL = "Erase a style from Stable Diffusion XL (needs a checkpoint)"
STACKED = "Erasure from the Hub over a style LoRA (needs both)"
SHELF = "Twenty concepts out of a library (needs a collection)"
PUBLISH = "Measure and publish an erasure (tiny model, runs offline)"


def examples(specs: Sequence[NodeSpec]) -> dict[str, Callable[[], str]]:
    """File name -> how to render it. ComfyUI shows the name as title, so it says what has to be there beforehand."""
    known = {spec.id: spec for spec in specs}
    graphs: dict[str, Callable[[], dict[str, Any]]] = {
        FIRST: lambda: erase_and_compare(known),
        SD15: lambda: erase_and_compare(known, "v1-5-pruned-emaonly.safetensors", 512),
        SDXL: lambda: erase_and_compare(known, "sd_xl_base_1.0.safetensors", 1024),
        STACKED: lambda: pull_and_stack(known),
        SHELF: lambda: library(known),
        PUBLISH: lambda: evaluate_and_push(known),
    }
    return {f"{title}.json": lambda make=make: dump(make()) for title, make in graphs.items()}  # type: ignore[misc]


def erase_and_compare(specs: Specs, checkpoint: str = "", side: int = 64) -> dict[str, Any]:
    """Base and erased pictures from the same noise; on pocket, or on a checkpoint of ``side`` pixels."""
    graph = Graph(specs)
    if checkpoint:
        model, clip, vae = graph.add("CheckpointLoaderSimple", (20, 220), checkpoint, size=(250, 100))
        words, prompt, kind = "van gogh -> painting", "a village at night, painting by van gogh", "style"
    else:
        model, clip, vae, latent = _pocket(graph)
        words, prompt, kind = "pizza -> hamburger\n# dog -> cat : 0.8", "a pizza on a blue background", "object"
    shown = {} if checkpoint else {"vae": vae}  # two pictures more, which a large model takes a while for
    erased, _clip, _edit, report = _erase(graph, words, kind, model=model, clip=clip, **shown)
    positive, negative = _prompts(graph, clip, prompt, 400, left=20, width=250)
    if checkpoint:
        (latent,) = graph.add("EmptyLatentImage", (20, 750), side, side, 1, size=(250, 110))
    base, after = _draw(graph, (model, erased), positive, negative, latent, vae, steps=25 if checkpoint else 12)
    _compare(graph, base, after, 1 if checkpoint else 2, "erase_compare", report)
    if not checkpoint:
        return graph.content()
    file = f"models/checkpoints/{checkpoint}"
    graph.add(
        "Note", (20, 20), f"Needs {file}. Any checkpoint of this family will do: choose yours in the loader.",
        size=(250, 130),
    )  # fmt: skip
    return graph.content([file])


def _pocket(graph: Graph) -> list[Ref]:
    return graph.add("ErasePocketLoader", (20, 220), 4, size=(240, 140))


def _erase(graph: Graph, words: str, kind: str, **sources: Ref) -> list[Ref]:
    """The Erase node with the plainest method; room for the report and, with a VAE, two pictures on it."""
    method = label(get_manager().method("uce"))
    size = (340, 760 if "vae" in sources else 540)
    return graph.add("EraseNegative", (300, 20), words, method, 1.0, kind, "", "", size=size, title="Erase", **sources)


def pull_and_stack(specs: Specs) -> dict[str, Any]:
    """An erasure from the Hub on top of a style LoRA."""
    graph = Graph(specs)
    model, clip, vae, latent = _pocket(graph)
    styled, styled_clip = graph.add(
        "LoraLoader", (300, 20), STYLE_LORA, 1.0, 1.0, model=model, clip=clip, title="Style"
    )
    erased, _clip, _edit, _loras, report = graph.add(
        "EraseStack", (700, 20), f"hub:{HUB_REPO} : 1", False, True, model=styled, clip=styled_clip, size=(300, 330)
    )
    positive, negative = _prompts(graph, styled_clip, "a pizza on a blue background", 430)
    base, after = _draw(graph, (styled, erased), positive, negative, latent, vae, left=1040, top=20)
    _compare(graph, base, after, 2, "erase_stack", report, left=1380)
    graph.add(
        "Note", (20, 430),
        f"Needs models/loras/{STYLE_LORA} and hub:{HUB_REPO}. Any LoRA and any erasure of this model will do. The "
        "erasure goes last: the stack solves it on the weights with the LoRA on.",
        size=(250, 190),
    )  # fmt: skip
    return graph.content([f"models/loras/{STYLE_LORA}", f"hub:{HUB_REPO}"])


def library(specs: Specs) -> dict[str, Any]:
    """Twenty concepts out of a collection, solved jointly."""
    graph = Graph(specs)
    model, clip, vae, latent = _pocket(graph)
    erased, _clip, _edit, report = graph.add(
        "EraseLibrary", (300, 20), "pocket_20", "\n".join(LIBRARY), 1.0, False, False, model=model, clip=clip,
        size=(340, 480),
    )  # fmt: skip
    positive, negative = _prompts(graph, clip, "a pizza on a blue background", 560)
    base, after = _draw(graph, (model, erased), positive, negative, latent, vae)
    _compare(graph, base, after, 2, "erase_library", report)
    graph.add(
        "Note", (20, 430),
        "Needs models/erase_plugins/pocket_20, a collection: a folder with a folder per concept. docs/comfyui.md tells "
        "how to make it.",
        size=(250, 130),
    )  # fmt: skip
    return graph.content(["models/erase_plugins/pocket_20"])


def evaluate_and_push(specs: Specs) -> dict[str, Any]:
    """Erase, measure, save, and look at what would be published."""
    graph = Graph(specs)
    model, clip, vae, _latent = _pocket(graph)
    _erased, _clip, edit, _report = _erase(graph, "pizza -> hamburger", "object", model=model, clip=clip)
    chart, _pictures, text, numbers = graph.add(
        "EraseReport", (700, 20), "", 4, 8, 4.0, 0, 1.0, "none", edit=edit, model=model, clip=clip, vae=vae
    )
    name, _ = graph.add(
        "EraseSaveArtifact", (300, 620), "", True, True, edit=edit, model=model, clip=clip, size=(340, 210)
    )
    listing, _ = graph.add(
        "EraseHubPush", (700, 860), "", "me/no-pizza", False, False, False, "apache-2.0", "", name=name, report=numbers
    )
    graph.add("SaveImage", (1100, 20), "erase_report", images=chart)
    graph.add("PreviewAny", (1100, 640), source=text, title="Numbers")
    graph.add("PreviewAny", (1440, 640), source=listing, title="What would be published")
    graph.add(
        "Note", (1540, 20), "Nothing is sent before you agree in the editor. Log in outside of ComfyUI: no node wants "
        "a token.",
        size=(260, 120),
    )  # fmt: skip
    return graph.content()


def _prompts(graph: Graph, clip: Ref, text: str, top: int, left: int = 300, width: int = 340) -> tuple[Ref, Ref]:
    (positive,) = graph.add("CLIPTextEncode", (left, top), text, clip=clip, title="Prompt", size=(width, 130))
    (negative,) = graph.add(
        "CLIPTextEncode", (left, top + 190), "", clip=clip, title="Negative prompt", size=(width, 110)
    )
    return positive, negative


def _draw(
    graph: Graph, models: tuple[Ref, Ref], positive: Ref, negative: Ref, latent: Ref, vae: Ref, steps: int = 12,
    left: int = 700, top: int = 20,
) -> tuple[Ref, Ref]:  # fmt: skip
    """Base and erased pictures: two samplers with the same seed, two decoders."""
    settings = (7, steps, 5.0, "dpmpp_2m", "karras", 1.0)
    sockets: dict[str, Any] = {"positive": positive, "negative": negative, "latent_image": latent}
    base, erased = models
    (first,) = graph.add("KSampler", (left, top + 380), *settings, model=base, title="Base: same seed", **sockets)
    (second,) = graph.add("KSampler", (left, top), *settings, model=erased, title="Erased: same seed", **sockets)
    column = left + 340
    (before,) = graph.add("VAEDecode", (column, top + 380), samples=first, vae=vae, size=(260, 60))
    (after,) = graph.add("VAEDecode", (column, top), samples=second, vae=vae, size=(260, 60))
    return before, after


def _compare(graph: Graph, base: Ref, after: Ref, scale: int, name: str, report: Ref, left: int = 1040) -> None:
    sheet, _heat, _text = graph.add("EraseCompare", (left, 160), scale, base=base, erased=after, size=(260, 150))
    graph.add("SaveImage", (left + 300, 20), name, images=sheet)
    graph.add("PreviewAny", (left, 540), source=report, title="What was erased", size=(260, 190))
