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

    import erase_plugins as ep
    from comfy_nodes.target import ComfyTarget

    words = [*source.vocabulary()[:100], "a pizza", "a photo of a dog", "hamburger", ""]
    targets = (ComfyTarget(case.model, case.clip), source)
    here, wanted = (target.encode(words).embeds for target in targets)
    first = [target.encode_start(words, 3).embeds for target in targets]
    sampled = torch.cat([case.clip.encode_from_tokens(case.clip.tokenize(word)) for word in words])

    def change(artifact: Any) -> Any:
        found = artifact.edit.deltas["unet"]["context"]
        return found.B.double() @ found.A.double()

    short = [change(ep.erase(target, "dog", options={"vocabulary_tail": 3})) for target in targets]
    return {
        "rows": far(here, wanted), "rows as sampled": far(sampled, wanted), "map": far(change(ours), change(theirs)),
        "first rows": far(*first), "first rows against all": far(first[0], here[:, : first[0].shape[1]]),
        "map of first rows": far(*short),
    }  # fmt: skip
