"""The example workflows. Each finishes on a fresh installation without network; the file name is shown as title."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from comfy_nodes.spec import NodeSpec

from .graphs import Graph, Ref, dump
from .library import COLLECTION, ERASED, LORA
from .scenes import (
    COMPARING,
    ERASING,
    MODELS,
    PICTURE,
    SAMPLERS,
    Settings,
    about,
    compare,
    erase,
    models,
    pair,
    prompts,
    sampler,
)

Specs = dict[str, NodeSpec]
_HOST = "https://huggingface.co"
#: checkpoints that templates ask for -> where they are
DOWNLOADS = {
    "v1-5-pruned-emaonly-fp16.safetensors": f"{_HOST}/Comfy-Org/stable-diffusion-v1-5-archive/resolve/main/"
    "v1-5-pruned-emaonly-fp16.safetensors",
    "sd_xl_base_1.0.safetensors": f"{_HOST}/stabilityai/stable-diffusion-xl-base-1.0/resolve/main/"
    "sd_xl_base_1.0.safetensors",
    "flux1-dev-fp8.safetensors": f"{_HOST}/Comfy-Org/flux1-dev/resolve/main/flux1-dev-fp8.safetensors",
    "sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors": f"{_HOST}/Comfy-Org/stable-diffusion-3.5-fp8/resolve/main/"
    "sd3.5_medium_incl_clips_t5xxlfp8scaled.safetensors",
}
SD15_FILE, SDXL_FILE, FLUX_FILE, SD3_FILE = DOWNLOADS
#: titles: what a person wants to do
FIRST = "Erase a concept and see the difference"
SD15 = "Remove a style from Stable Diffusion 1.5"
SDXL = "Remove an object from SDXL"
REDRAW = "Redraw a picture without something in it (image to image)"
STACKED = "Put an erasure on top of a style LoRA"
SHELF = "A family-safe model - six concepts out of a library"
RIVALS = "Erased or negative prompt - the same seeds at CFG 5 and CFG 1"
PUBLISH = "Measure an erasure and publish it"
FLUX = "Remove an object from FLUX.1"
SD3 = "Remove an object from SD 3.5"
_OFFERED = (
    "The editor offers to download the checkpoint; any other of this family will do. Until it is there, pocket, the "
    "tiny model that comes with erase-plugins, draws in its place."
)


def examples(specs: Sequence[NodeSpec]) -> dict[str, Callable[[], str]]:
    """File name -> how to render it."""
    known = {spec.id: spec for spec in specs}
    graphs: dict[str, Callable[[Specs], dict[str, Any]]] = {
        FIRST: erase_and_compare, SD15: style, SDXL: object_of_sdxl, REDRAW: redraw, STACKED: pull_and_stack,
        SHELF: library, RIVALS: rivals, PUBLISH: evaluate_and_push,
        FLUX: lambda specs: flow(specs, FLUX_FILE, 1.0, 3.5), SD3: lambda specs: flow(specs, SD3_FILE, 4.5),
    }  # fmt: skip
    return {f"{title}.json": lambda make=make: dump(make(known)) for title, make in graphs.items()}  # type: ignore[misc]


def erase_and_compare(specs: Specs) -> dict[str, Any]:
    """Base and erased pictures of pocket from the same noise."""
    graph = Graph(specs)
    model, clip, vae, latent, _which = models(graph)
    words = "pizza -> hamburger\n# dog -> cat : 0.8"
    erased, _clip, _edit, report = erase(graph, words, "object", model=model, clip=clip, vae=vae)
    positive, negative = prompts(graph, clip, "a pizza on a blue background")
    sources: dict[str, Any] = {"positive": positive, "negative": negative, "latent_image": latent}
    base, after = pair(graph, model, erased, vae, **sources)
    compare(graph, base, after, 2, "erase_compare", report)
    about(
        graph,
        "Click Run. Both samplers draw the same prompt from the same noise, with and without the pizza. Then "
        "write your own concepts into Erase, or put your own model in front of it.",
    )
    return graph.content()


def style(specs: Specs) -> dict[str, Any]:
    """A style out of a Stable Diffusion 1.5 model."""
    about_it = "Removes a style and leaves the rest. Try 'van gogh -> painting' with your own checkpoint."
    return _real(specs, SD15_FILE, about_it, "3d -> flat\nglossy -> flat", "style", "a glossy 3d dog", 4)


def object_of_sdxl(specs: Specs) -> dict[str, Any]:
    """An object out of a Stable Diffusion XL model."""
    about_it = "Removes an object; both text encoders are read."
    return _real(specs, SDXL_FILE, about_it, "knife -> pencil", "object", "a knife on a blue background", 2)


def flow(specs: Specs, file: str, cfg: float, guidance: float | None = None) -> dict[str, Any]:
    """An object out of a flow transformer."""
    about_it = (
        "Changes the two layers where text enters the model. 8-bit files keep their weights: the text is changed."
    )
    settings: Settings = (20, cfg, "euler", "simple", 1.0)
    words, prompt = "pizza -> hamburger", "a pizza on a blue background"
    return _real(specs, file, about_it, words, "object", prompt, 2, settings, guidance)


def _real(
    specs: Specs, file: str, text: str, words: str, kind: str, prompt: str, pictures: int,
    settings: Settings = (20, 6.0, "dpmpp_2m", "karras", 1.0), guidance: float | None = None,
) -> dict[str, Any]:  # fmt: skip
    graph = Graph(specs)
    model, clip, vae, latent, which = models(graph, file, pictures, DOWNLOADS[file])
    erased, _clip, _edit, report = erase(graph, words, kind, model=model, clip=clip)
    positive, negative = prompts(graph, clip, prompt)
    if guidance is not None:
        (positive,) = graph.add("FluxGuidance", (MODELS, 960), guidance, conditioning=positive, size=(280, 90))
    sources: dict[str, Any] = {"positive": positive, "negative": negative, "latent_image": latent}
    base, after = pair(graph, model, erased, vae, settings, **sources)
    compare(graph, base, after, 1, "erase_compare", report, which)
    about(graph, f"{text} {_OFFERED}")
    return graph.content()


def redraw(specs: Specs) -> dict[str, Any]:
    """A picture drawn over by a model that no longer knows what is in it."""
    graph = Graph(specs)
    model, clip, vae, latent, _which = models(graph)
    erased, _clip, _edit, report = erase(graph, "bomb -> balloon", "object", model=model, clip=clip)
    positive, negative = prompts(graph, clip, "a bomb on a green background")
    sources: dict[str, Any] = {"positive": positive, "negative": negative}
    base = sampler(graph, "The picture", (SAMPLERS, 500), vae, model=model, latent_image=latent, **sources)
    (start,) = graph.add("VAEEncode", (SAMPLERS, 970), pixels=base, vae=vae, size=(320, 60))
    settings = (20, 5.0, "dpmpp_2m", "karras", 0.85)
    after = sampler(
        graph, "Drawn over, erased", (SAMPLERS, 20), vae, settings, model=erased, latent_image=start, **sources
    )
    compare(graph, base, after, 2, "erase_redraw", report)
    about(
        graph,
        "A picture with a bomb in it is drawn over by a model without bombs. For a picture of your own, put a"
        " Load Image node in front of VAE Encode.",
    )
    return graph.content()


def pull_and_stack(specs: Specs) -> dict[str, Any]:
    """A saved erasure on top of a style LoRA."""
    graph = Graph(specs)
    model, clip, vae, latent, _which = models(graph)
    styled, styled_clip, _lora, _text = graph.add(
        "EraseLoadArtifact", (ERASING, 20), LORA, 1.0, 1.0, False, "", model=model, clip=clip, size=(360, 260),
        title="Style LoRA",
    )  # fmt: skip
    erased, _clip, _edit, _loras, report = graph.add(
        "EraseStack", (ERASING, 370), f"{COLLECTION}/erase_beer : 1", False, True, model=styled, clip=styled_clip,
        size=(360, 330), title="Erasure on top",
    )  # fmt: skip
    positive, negative = prompts(graph, styled_clip, "a beer on a blue background")
    sources: dict[str, Any] = {"positive": positive, "negative": negative, "latent_image": latent}
    base, after = pair(graph, styled, erased, vae, **sources)
    compare(graph, base, after, 2, "erase_stack", report)
    about(
        graph,
        "A LoRA that turns blue into red, and an erasure on top, which is solved on the weights with the LoRA"
        " on. Both come with erase-plugins. A line hub:owner/name in the stack pulls one from the Hub.",
    )
    return graph.content()


def library(specs: Specs) -> dict[str, Any]:
    """All concepts of a collection, solved jointly."""
    graph = Graph(specs)
    model, clip, vae, latent, _which = models(graph)
    erased, _clip, _edit, report = graph.add(
        "EraseLibrary", (ERASING, 20), COLLECTION, "\n".join(ERASED), 1.0, False, False, model=model, clip=clip,
        size=(360, 480), title="Family safe",
    )  # fmt: skip
    positive, negative = prompts(graph, clip, "a gun on a blue background")
    sources: dict[str, Any] = {"positive": positive, "negative": negative, "latent_image": latent}
    base, after = pair(graph, model, erased, vae, **sources)
    compare(graph, base, after, 2, "erase_library", report)
    about(
        graph,
        "Six concepts out of a collection that comes with erase-plugins, solved as one. Take lines out, or "
        "give one a strength: gun : 0.5. 'Erase library' at the left side of the editor shows what there is.",
    )
    return graph.content()


def rivals(specs: Specs) -> dict[str, Any]:
    """The same seeds with the concept erased and with it in the negative prompt, with guidance and without."""
    graph = Graph(specs)
    model, clip, vae, latent, _which = models(graph)
    erased, _clip, _edit, report = erase(graph, "pizza -> hamburger", "object", model=model, clip=clip)
    positive, negative = prompts(graph, clip, "a pizza on a blue background", "pizza")
    sources: dict[str, Any] = {"positive": positive, "negative": negative, "latent_image": latent}
    sheets = []
    for column, cfg in enumerate((5.0, 1.0)):
        left, settings = SAMPLERS + 360 * column, (12, cfg, "dpmpp_2m", "karras", 1.0)
        with_erasure = sampler(graph, f"Erased, CFG {cfg:g}", (left, 20), vae, settings, model=erased, **sources)
        against = sampler(graph, f"Negative prompt, CFG {cfg:g}", (left, 500), vae, settings, model=model, **sources)
        sheets.append((against, with_erasure))
    right = SAMPLERS + 760
    for place, ((against, with_erasure), cfg) in enumerate(zip(sheets, (5, 1), strict=True)):
        sheet, _heat, _text = graph.add(
            "EraseCompare", (right, 20 + 560 * place), 2, base=against, erased=with_erasure, size=(300, 150),
            title=f"CFG {cfg}",
        )  # fmt: skip
        graph.add("SaveImage", (right + 340, 20 + 560 * place), f"erase_cfg_{cfg}", images=sheet, size=(460, 460))
    graph.add("PreviewAny", (right, 300), source=report, title="What was erased", size=(300, 190))
    about(
        graph,
        "Four ways, the same seeds: negative prompt and erasure, at CFG 5 and at CFG 1, where a negative "
        "prompt does nothing. NAG and NegPip, of other packs, stand below where they are installed.\n\n"
        f"{_NO_NAG}\n{_NO_NEGPIP}",
        height=250,
    )
    note = len(graph.known)
    erased_at_1 = sheets[1][1]
    with graph.where_installed(("KSamplerWithNAG",), note, _NO_NAG, "NAG is installed and drawn below, at CFG 1."):
        left = SAMPLERS
        (latents,) = graph.add(
            "KSamplerWithNAG", (left, _RIVALS), 7, 12, 1.0, 5.0, 2.5, 0.25, 0.0, "dpmpp_2m", "karras", 1.0, model=model,
            nag_negative=negative, title="NAG, CFG 1", size=(320, 420), **sources,
        )  # fmt: skip
        _against(graph, latents, vae, erased_at_1, "NAG", (left, _RIVALS + 490), (right, _RIVALS))
    with graph.where_installed(
        ("CLIPNegPip", "Negpip"), note, _NO_NEGPIP, "NegPip is installed and drawn below, at CFG 1."
    ):
        left = SAMPLERS + 360
        with_negpip, its_clip = graph.add(
            "CLIPNegPip", (MODELS, _RIVALS), model=model, clip=clip, title="NegPip", size=(280, 60)
        )
        (words,) = graph.add(
            "CLIPTextEncode", (MODELS, _RIVALS + 130), "a pizza on a blue background, (pizza:-1)", clip=its_clip,
            title="Prompt for NegPip", size=(280, 130),
        )  # fmt: skip
        (latents,) = graph.add(
            "KSampler", (left, _RIVALS), 7, 12, 1.0, "dpmpp_2m", "karras", 1.0, title="NegPip, CFG 1", size=(320, 290),
            **{**sources, "model": with_negpip, "positive": words},
        )  # fmt: skip
        _against(graph, latents, vae, erased_at_1, "NegPip", (left, _RIVALS + 490), (right, _RIVALS + 560))
    return graph.content()


#: where what is drawn by other packs begins, below all that grows
_RIVALS = 1140
_NO_NAG = "NAG is not installed: install the pack ComfyUI-NAG and open this template again to see it here."
_NO_NEGPIP = "NegPip is not installed: install the pack ComfyUI-ppm and open this template again to see it here."


def _against(
    graph: Graph, latents: Ref, vae: Ref, erased: Ref, name: str, below: tuple[int, int], at: tuple[int, int]
) -> None:
    """Pictures of another way beside the erased ones."""
    (pictures,) = graph.add("VAEDecode", below, samples=latents, vae=vae, size=(320, 60))
    sheet, _heat, _text = graph.add(
        "EraseCompare", at, 2, base=pictures, erased=erased, size=(300, 150), title=f"{name}, and erased"
    )
    prefix = f"erase_{name.lower()}"
    graph.add("SaveImage", (at[0] + 340, at[1]), prefix, images=sheet, size=(460, 460), title=f"{name}, and erased")


def evaluate_and_push(specs: Specs) -> dict[str, Any]:
    """Erase, measure, save, and look at what would be published."""
    graph = Graph(specs)
    model, clip, vae, _latent, _which = models(graph)
    _erased, _clip, edit, _report = erase(graph, "pizza -> hamburger", "object", model=model, clip=clip)
    chart, _pictures, text, numbers = graph.add(
        "EraseReport", (SAMPLERS, 20), "", 4, 8, 4.0, 0, 1.0, "none", edit=edit, model=model, clip=clip, vae=vae
    )
    name, _ = graph.add(
        "EraseSaveArtifact", (20, 580), "", True, True, edit=edit, model=model, clip=clip, size=(280, 220)
    )
    listing, _ = graph.add(
        "EraseHubPush", (COMPARING, 20), "", "me/no-pizza", False, False, False, "apache-2.0", "", name=name,
        report=numbers, size=(300, 330),
    )  # fmt: skip
    graph.add("SaveImage", (PICTURE, 20), "erase_report", images=chart, size=(460, 560))
    graph.add("PreviewAny", (COMPARING, 460), source=listing, title="What would be published", size=(300, 260))
    graph.add("PreviewAny", (PICTURE, 680), source=text, title="Numbers", size=(460, 200))
    about(
        graph,
        "Measures what is left, saves the erasure and lists what would be published. Nothing is sent before "
        "you agree in the editor; log in outside of ComfyUI, since no node wants a token.",
    )
    return graph.content()
