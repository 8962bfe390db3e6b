"""Whether the closed form solves the same on ComfyUI and diffusers; part of parity.py."""

from __future__ import annotations

from typing import Any


def far(ours: Any, theirs: Any) -> float:
    """Relative distance of two tensors."""
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def solutions(case: Any, source: Any, ours: Any, theirs: Any) -> dict[str, float]:
    """Distances of the text rows that both hosts solve from, and of the maps they solve.

    "rows as sampled" are those of ComfyUI's own attention, which our target replaces while it encodes.

    Args:
        source: target of diffusers.
        ours, theirs: artifacts of the closed form.
    """
    import torch

    from comfy_nodes.target import ComfyTarget

    words = [*source.vocabulary()[:100], "a pizza", "a photo of a dog", "hamburger", ""]
    wanted, here = (target.encode(words).embeds for target in (source, ComfyTarget(case.model, case.clip)))
    sampled = torch.cat([case.clip.encode_from_tokens(case.clip.tokenize(word)) for word in words])

    def change(artifact: Any) -> Any:
        found = artifact.edit.deltas["unet"]["context"]
        return found.B.double() @ found.A.double()

    return {
        "rows": far(here, wanted), "rows as sampled": far(sampled, wanted), "map": far(change(ours), change(theirs))
    }  # fmt: skip
