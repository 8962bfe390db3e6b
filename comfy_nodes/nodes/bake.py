"""A checkpoint with the erasure in it, checked to draw what the graph draws."""

from __future__ import annotations

from typing import Any

from ..spec import METADATA, Input, NodeSpec, Output, Result


def bake(
    model: Any, clip: Any, vae: Any, filename_prefix: str, check_prompt: str = "", prompt: Any = None,
    extra_pnginfo: Any = None, unique_id: Any = None,
) -> Result:  # fmt: skip
    """Name of the file below the output folder, and a report.

    Args:
        model, clip, vae: what the graph draws with.
        filename_prefix: as that of ComfyUI's saving nodes.
        check_prompt: drawn for the comparison; the first erased concept if empty.
        prompt, extra_pnginfo, unique_id: ComfyUI's hidden inputs, noted in the file.

    Raises:
        Unsupported, ArtifactError: nothing was kept.
    """
    from .. import baking, chaining, host

    chain, problem = chaining.chain_of(model)
    concepts = () if chain is None else chain.artifact.manifest.concepts
    asked = check_prompt.strip() or (concepts[0].text if concepts else "a photo")
    with host.computing():
        done = baking.bake(model, clip, vae, filename_prefix, asked, prompt, extra_pnginfo)
        lines = [
            f"{done.name}: {done.path.stat().st_size / 2**20:.0f} MB in the output folder",
            f"checked: the file draws '{asked}' as this graph does (latents differ by {100 * done.far:.2f} %)",
            *_left(model, clip, concepts),
        ]
    if chain is None:
        lines.append("warning: no erase node is in front of this MODEL; other nodes made what is in the file")
    if problem or baking.mixed(model):
        lines.append(
            "warning: a merge behind the erase node mixed other weights over the erased ones; erase behind it, and "
            "connect that"
        )
    text = "\n".join(lines)
    return Result((done.name, text), text)


def _left(model: Any, clip: Any, concepts: Any) -> list[str]:
    """How much of each concept is left in the weights that were saved."""
    from erase_plugins.errors import EraseError

    from ..probing import probe
    from ..targets import target_of

    try:
        return [item.line() for item in probe(target_of(model, clip), concepts[:12])]
    except EraseError:
        return []  # methods whose work keys and values do not tell


SPECS = (
    NodeSpec(
        id="EraseBake",
        title="Erase: bake checkpoint",
        category="erase/make",
        description=(
            "Saves a checkpoint with the erasure in its weights, for any program and without an add-on. The file is "
            "loaded again and kept only if it draws what this graph draws."
        ),
        inputs=(
            Input("model", "MODEL", "The erased model. Nodes that change sampling come behind this one."),
            Input("clip", "CLIP", "The CLIP that feeds the prompts."),
            Input("vae", "VAE", "Goes into the file unchanged."),
            Input("filename_prefix", "STRING", "Name in the output folder, with folders if wanted; a number is added, "
                  "nothing is replaced.", options={"default": "checkpoints/erased"}),
            Input("check_prompt", "STRING", "Drawn with the graph and with the file, from the same noise. Empty: the "
                  "first erased concept.", required=False, options={"default": ""}),
        ),
        outputs=(
            Output("file", "STRING", "Name of the file below the output folder."),
            Output("report", "STRING", "Size, how far the file is from the graph, how much of each concept is left."),
        ),
        run=bake,
        aliases=("erase plugins", "bake", "save checkpoint", "merge", "permanent", "export", "ship"),
        is_output=True,
        hidden=METADATA,
        when="Take the save node for a file of a few MB that others can put on their own model, weigh and take out.",
        cost="As large as the checkpoint, on disk and for the check once more in memory; two small drawings of four "
             "steps.",
    ),
)  # fmt: skip
