"""Unified concept editing as the official programs do it, from their description: `light` (2025), `window` (2023).

Both work layer by layer in the pipeline's own precision and write the changed matrices; nothing is shared or kept.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

LAM = 0.5


def projections(pipe: Any) -> list[tuple[str, Any]]:
    """Key and value projections of the cross-attention layers."""
    return [
        (name, module) for name, module in pipe.unet.named_modules()
        if "attn2" in name and name.endswith(("to_k", "to_v"))
    ]  # fmt: skip


@torch.no_grad()
def encode(pipe: Any, prompt: str) -> tuple[Tensor, int]:
    """All rows of one prompt, and the row of its last content token."""
    rows = pipe.encode_prompt(prompt, "cpu", 1, False)[0][0]
    mask = pipe.tokenizer(prompt, padding="max_length", max_length=77, truncation=True)["attention_mask"]
    # a tokenizer whose padding is the end token may count all of it; the first end token closes the content
    ids = pipe.tokenizer(prompt)["input_ids"]
    return rows, min(sum(mask), len(ids)) - 2


@torch.no_grad()
def light(
    pipe: Any, pairs: Sequence[tuple[str, str]], kept: Sequence[str] = (), out: Path | None = None
) -> list[Tensor]:
    """The 2025 program: the last row of every prompt, encoded once; outputs of the guides; one inverse per layer.

    Args:
        pipe: is not changed.
        pairs: (concept, guide).
        kept: prompts to preserve.
        out: file for the changed matrices.
    """
    rows: dict[str, Tensor] = {}
    for prompt in dict.fromkeys([*(text for pair in pairs for text in pair), *kept]):
        found, last = encode(pipe, prompt)
        rows[prompt] = found[last : last + 1]
    layers = projections(pipe)
    originals = [copy.deepcopy(module) for _, module in layers]
    targets = {text: [module(rows[text]) for module in originals] for text in {*(pair[1] for pair in pairs), *kept}}
    edited = []
    for place, module in enumerate(originals):
        mat1 = LAM * module.weight
        mat2 = LAM * torch.eye(module.weight.shape[1])
        for concept, guide in pairs:
            c, v = rows[concept].T, targets[guide][place].T
            mat1 = mat1 + v @ c.T
            mat2 = mat2 + c @ c.T
        for prompt in kept:
            c, v = rows[prompt].T, targets[prompt][place].T
            mat1 = mat1 + v @ c.T
            mat2 = mat2 + c @ c.T
        edited.append(mat1 @ torch.inverse(mat2.float()))
    _write(layers, edited, out)
    return edited


@torch.no_grad()
def window(
    pipe: Any, pairs: Sequence[tuple[str, str]], out: Path | None = None, layers: int | None = None
) -> list[Tensor]:
    """The 2023 program: rows from the last content token on; every prompt encoded anew for every layer, and projected
    through all of them; all rows of the empty prompt kept with weight 1 (its default for one kept prompt).

    Args:
        pipe: is not changed.
        pairs: (concept, guide).
        out: file for the changed matrices.
        layers: only so many layers, to time a part of the work.
    """
    modules = projections(pipe)
    edited = []
    for place, (_, module) in enumerate(modules[:layers]):
        mat1 = LAM * module.weight
        mat2 = LAM * torch.eye(module.weight.shape[1])
        for concept, guide in pairs:
            old, first = encode(pipe, concept)
            new, second = encode(pipe, guide)
            far = max(first, second)
            old, new = old[first : len(old) - (far - first)], new[second : len(new) - (far - second)]
            values = [layer(new) for _, layer in modules]
            mat1, mat2 = _add(mat1, mat2, old, values[place])
        kept, _ = encode(pipe, "")
        values = [layer(kept) for _, layer in modules]
        mat1, mat2 = _add(mat1, mat2, kept, values[place])
        edited.append(mat1 @ torch.inverse(mat2))
    _write(modules[:layers], edited, out)
    return edited


def _add(mat1: Tensor, mat2: Tensor, rows: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Sums of outer products, formed as one product per row and then summed."""
    column, row, value = rows[:, :, None], rows[:, None, :], values[:, :, None]
    return mat1 + (value @ row).sum(0), mat2 + (column @ row).sum(0)


def _write(layers: Sequence[tuple[str, Any]], edited: Sequence[Tensor], out: Path | None) -> None:
    if out is not None:
        from safetensors.torch import save_file

        save_file({f"{name}.weight": value.contiguous() for (name, _), value in zip(layers, edited, strict=True)}, out)
