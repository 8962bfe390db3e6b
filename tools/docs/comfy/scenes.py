"""Parts that the example workflows share: what loads, prompts, samplers, and what shows the result.

Five columns: models and prompts, what erases, samplers, comparison, the picture that is kept. Nothing stands below a
node that grows when it ran.
"""

from __future__ import annotations

from typing import Any

from comfy_nodes.erasing import label
from erase_plugins.manager import get_manager

from .graphs import Graph, Ref

#: where the columns begin: models, erasing, samplers, comparison, picture
MODELS, ERASING, SAMPLERS, COMPARING, PICTURE = 20, 340, 800, 1160, 1500
POCKET = "pocket"
#: widgets of a stock sampler behind the seed: steps, cfg, sampler, scheduler, denoise
Settings = tuple[int, float, str, str, float]
POCKET_SETTINGS: Settings = (12, 5.0, "dpmpp_2m", "karras", 1.0)


def models(graph: Graph, checkpoint: str = POCKET, pictures: int = 4, url: str = "") -> list[Ref]:
    """MODEL, CLIP, VAE, LATENT and a report, of pocket or of a checkpoint; while that is missing, of pocket.

    Args:
        graph: grows.
        checkpoint: file name in models/checkpoints.
        pictures: in the latent.
        url: where the editor offers to download the checkpoint from.
    """
    outputs = graph.add("ErasePocketLoader", (MODELS, 320), pictures, checkpoint, size=(280, 190), title="Model")
    if url:
        graph.nodes[-1]["properties"]["models"] = [{"name": checkpoint, "url": url, "directory": "checkpoints"}]
    return outputs


def about(graph: Graph, text: str, height: int = 210) -> None:
    """What the workflow shows, at its upper left corner: the editor shows no description of a template."""
    graph.add("Note", (MODELS, 20), text, size=(280, height), title="About")


def prompts(graph: Graph, clip: Ref, text: str, negative: str = "") -> tuple[Ref, Ref]:
    """Below the models, which do not grow."""
    (positive,) = graph.add("CLIPTextEncode", (MODELS, 580), text, clip=clip, title="Prompt", size=(280, 130))
    (other,) = graph.add("CLIPTextEncode", (MODELS, 780), negative, clip=clip, title="Negative prompt", size=(280, 110))
    return positive, other


def erase(graph: Graph, words: str, kind: str, **sources: Any) -> list[Ref]:
    """The Erase node with the plainest method; room for the report and, with a VAE, two pictures on it."""
    method = label(get_manager().method("uce"))
    size = (420, 790 if "vae" in sources else 570)
    return graph.add(
        "EraseNegative", (ERASING, 20), words, method, 1.0, kind, "", "", size=size, title="Erase", **sources
    )


def sampler(
    graph: Graph, title: str, at: tuple[int, int], vae: Ref, settings: Settings = POCKET_SETTINGS, **sources: Any
) -> Ref:
    """The pictures of one sampler with the seed of all others; its decoder stands below."""
    (latent,) = graph.add("KSampler", at, 7, *settings, title=title, size=(320, 290), **sources)
    (pictures,) = graph.add("VAEDecode", (at[0], at[1] + 350), samples=latent, vae=vae, size=(320, 60))
    return pictures


def pair(
    graph: Graph, base: Ref, erased: Ref, vae: Ref, settings: Settings = POCKET_SETTINGS, **sources: Any
) -> tuple[Ref, Ref]:
    """Pictures of two models from the same noise."""
    left, below = SAMPLERS, 500
    plain: dict[str, Any] = {"size": (320, 290), **sources}
    (first,) = graph.add("KSampler", (left, below), 7, *settings, title="Base: same seed", model=base, **plain)
    (second,) = graph.add("KSampler", (left, 20), 7, *settings, title="Erased: same seed", model=erased, **plain)
    (before,) = graph.add("VAEDecode", (left, below + 350), samples=first, vae=vae, size=(320, 60))
    (after,) = graph.add("VAEDecode", (left, 370), samples=second, vae=vae, size=(320, 60))
    return before, after


def compare(graph: Graph, base: Ref, after: Ref, scale: int, name: str, report: Ref, loaded: Ref | None = None) -> None:
    """Both pictures beside each other, kept on disk, and what was erased in words."""
    sheet, _heat, _text = graph.add("EraseCompare", (COMPARING, 20), scale, base=base, erased=after, size=(300, 150))
    graph.add("SaveImage", (PICTURE, 20), name, images=sheet, size=(460, 700))
    graph.add("PreviewAny", (COMPARING, 300), source=report, title="What was erased", size=(300, 220))
    if loaded is not None:
        graph.add("PreviewAny", (COMPARING, 720), source=loaded, title="Which model drew this", size=(300, 180))
