"""The embedded model: a complete graph without a download."""

from __future__ import annotations

from typing import Any

from ..spec import Input, NodeSpec, Output, Result

_ALIASES = ("erase plugins", "pocket", "tiny model", "demo", "test model")


def load_pocket(pictures: int = 4, checkpoint: str = "pocket") -> Result:
    """MODEL, CLIP and VAE, an empty latent for so many pictures, and which model it is.

    Args:
        pictures: in the latent.
        checkpoint: entry of ``models/checkpoints``; the embedded model draws in its place while it is not there.
    """
    from erase_plugins.families.source import POCKET, POCKET_FLOW, POCKET_NATURAL, pocket_folder

    from .. import pocket, real

    told = f"drawn by {checkpoint}, which comes with erase-plugins"
    if checkpoint == POCKET_FLOW:
        from .. import pocket_flow

        folder = pocket_folder(POCKET_FLOW)
        both = pocket_flow.load_model(folder, POCKET_FLOW), pocket_flow.load_clip(folder)
        return Result((*both, pocket.load_vae(folder), *pocket_latent(pictures).values, told))
    embedded = checkpoint in (POCKET, POCKET_NATURAL)
    path = None if embedded else real.path_of(checkpoint)
    if path is not None:
        *parts, latent = real.load(path, pictures)
        return Result((*parts, latent, f"drawn by {checkpoint}"))
    name = checkpoint if embedded else POCKET
    folder = pocket_folder(name)
    model, clip, vae = pocket.load_model(folder, name), pocket.load_clip(folder), pocket.load_vae(folder)
    text = told if embedded else real.stand_in(checkpoint)
    return Result((model, clip, vae, *pocket_latent(pictures).values, text), "" if embedded else text)


def _checkpoints() -> list[str]:
    """Entries of the list, the embedded models first."""
    from erase_plugins.families.source import POCKET, POCKET_FLOW, POCKET_NATURAL

    from .. import real

    return [POCKET, POCKET_NATURAL, POCKET_FLOW, *real.names()]


def _state(checkpoint: Any = None, **_: Any) -> Any:
    """Differs once the checkpoint is there, and when another one takes its place."""
    from .. import files, real

    path = real.path_of(checkpoint) if isinstance(checkpoint, str) else None
    return "" if path is None else f"{path} {files.stamp(path)}"


def pocket_latent(batch_size: int) -> Result:
    """Empty latent of the embedded model: (batch, 4, 16, 16) for pictures of 64 x 64."""
    import torch

    latent: dict[str, Any] = {"samples": torch.zeros(batch_size, 4, 16, 16)}
    return Result((latent,))


SPECS = (
    NodeSpec(
        id="ErasePocketLoader",
        title="Erase: load pocket model",
        category="erase/load",
        description=(
            "Loads pocket, the tiny Stable Diffusion model that comes with erase-plugins, or pocket-flow, its sister "
            "built like Stable Diffusion 3: 64 x 64 pictures of emoji in seconds on a CPU, no download. Use them to "
            "try every erase node before touching a large model."
        ),
        inputs=(
            Input("pictures", "INT", "How many pictures are drawn at once from the latent.", required=False,
                  options={"default": 4, "min": 1, "max": 64}),
            Input("checkpoint", "COMBO", "pocket (a UNet), pocket-natural (the same, understands free phrasing), "
                  "pocket-flow (a flow transformer), or a file in models/checkpoints. While that file is not there, "
                  "pocket draws in its place, and the report says so.", required=False, choices=_checkpoints,
                  options={"default": "pocket"}),
        ),
        outputs=(
            Output("MODEL", "MODEL", "The denoiser; goes into erase nodes, LoRA loaders and samplers."),
            Output("CLIP", "CLIP", "The text encoder; goes into erase nodes and prompts."),
            Output("VAE", "VAE", "The decoder; goes into VAE Decode."),
            Output("LATENT", "LATENT", "Start of pictures of the size that this model draws; goes into a sampler."),
            Output("report", "STRING", "Which model draws."),
        ),
        run=load_pocket,
        aliases=_ALIASES,
        # named here, so that a template may ask for a file that is not there yet
        checks={"checkpoint": lambda _entry: None},
        state=_state,
        when="Behind the stock checkpoint loader every erase node works the same; that one refuses to run while a file "
             "is missing.",
        cost="Under a second, 20 MB of memory.",
    ),
    NodeSpec(
        id="ErasePocketLatent",
        title="Erase: empty latent (pocket)",
        category="erase/load",
        description=(
            "An empty latent of the size that the pocket model draws, 64 x 64 pixels. "
            "The stock node counts 8 pixels per latent cell, pocket has 4."
        ),
        inputs=(
            Input("batch_size", "INT", "How many pictures are drawn at once.",
                  options={"default": 4, "min": 1, "max": 64}),
        ),
        outputs=(Output("LATENT", "LATENT", "Start of a picture; goes into a sampler."),),
        run=pocket_latent,
        aliases=(*_ALIASES, "empty latent"),
        when="For every other model take the stock empty latent.",
        instead="the output LATENT of 'Erase: load pocket model'",
        cost="Nothing.",
    ),
)  # fmt: skip
