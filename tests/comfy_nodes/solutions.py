"""Where the closed-form solutions of ComfyUI and diffusers part; part of parity.py."""

from __future__ import annotations

from typing import Any


def far(ours: Any, theirs: Any) -> float:
    """Relative distance of two tensors."""
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


def solutions(case: Any, source: Any, concepts: list[Any], method: str, ours: Any, theirs: Any) -> dict[str, float]:
    """Where the solved maps of both hosts part: nothing but the rounding of the text encoders.

    "same rows" is our target fed with the rows of diffusers; "noise" is diffusers with its own rows changed at random
    by as much as the encoders differ; "written" is what the map makes of text rows.

    Args:
        source: target of diffusers; keeps the rows it gave.
    """
    from dataclasses import replace

    import torch

    import erase_plugins as ep
    from comfy_nodes.target import ComfyTarget
    from erase_plugins.families.diffusers_target import DiffusersTarget

    words = [*source.vocabulary()[:100], "a pizza", "a photo of a dog", "hamburger", ""]
    rows, here = (target.encode(words).embeds for target in (source, ComfyTarget(case.model, case.clip)))
    differ = far(here, rows)

    class SameRows(ComfyTarget):
        def encode(self, prompts: Any) -> Any:
            return source.encode(prompts)

    class Noisy(DiffusersTarget):
        def encode(self, prompts: Any) -> Any:
            found = source.encode(prompts)
            moved = [self._moved(prompt, row) for prompt, row in zip(prompts, found.embeds, strict=True)]
            return replace(found, embeds=torch.stack(moved))

        def _moved(self, prompt: str, row: Any) -> Any:
            seed = int.from_bytes(prompt.encode()[:7].ljust(7), "big")
            noise = torch.randn(row.shape, generator=torch.Generator().manual_seed(seed))
            return row + noise * (differ * row.norm() / noise.norm())

    def change(artifact: Any) -> Any:
        found = artifact.edit.deltas["unet"]["context"]
        return found.B.double() @ found.A.double()

    def solve(target: Any) -> Any:
        return change(ep.erase(target, concepts, method, keep=["a cat"]))

    wanted, found = change(theirs), change(ours)
    written = [rows.double() + rows.double() @ item.T for item in (found, wanted)]
    return {
        "rows": differ, "map": far(found, wanted), "written": far(*written),
        "noise": far(solve(Noisy(case.pipe, "pocket")), wanted),
        "same rows": far(solve(SameRows(case.model, case.clip)), wanted),
    }  # fmt: skip
