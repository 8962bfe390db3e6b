"""LoRAs and merges behind an Erase node: whether they bring back what it erased.

Text rows are erased whichever LoRA on keys and values comes behind. What may bring a concept back is a LoRA that
changes the text encoder, so that the concept is written in other rows, and one that was made for the concept. The first
is measured, the second is read from the file's own description.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PureWindowsPath
from typing import Any

from erase_plugins.plain_text import whole_words
from erase_plugins.types import Concept

from . import host

#: share of a concept that has to come back before anything is said
NOTICED = 0.05
#: in front of the name of a node that mixes models
MERGE = "merge:"
#: what trainers write into a file about what it was made for
_DESCRIBED = (
    "ss_output_name", "ss_tag_frequency", "ss_dataset_dirs", "modelspec.title", "modelspec.trigger_phrase",
    "modelspec.description", "modelspec.tags",
)  # fmt: skip


def read_behind(text: str) -> tuple[tuple[str, float, float], ...]:
    """(file, strength of the model, strength of the text encoder) of each line; numbers that are missing, or are none
    in the words of some pack, are 1."""
    found = []
    for line in filter(str.strip, text.splitlines()):
        if line.startswith(MERGE):
            continue
        name, *numbers = (part.strip() for part in line.rsplit(" : ", 2))
        model, clip = ([_number(item) for item in numbers] + [1.0, 1.0])[:2]
        found.append((name, model, clip))
    return tuple(found)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:  # what stands behind a node must not end a run that erased already
        return 1.0


def merged(text: str) -> list[str]:
    """A sentence for every node behind that mixes the erased model with another."""
    nodes = [line.removeprefix(MERGE).strip() for line in text.splitlines() if line.startswith(MERGE)]
    return [
        f"{name[:80]} behind this node mixes in weights that are not erased; erase behind it instead"
        for name in dict.fromkeys(nodes)
    ]


def brought_back(
    text: str, erased: tuple[Any, Any], bare: tuple[Any, Any], concepts: Sequence[Concept], left: Mapping[str, float]
) -> list[str]:
    """A sentence for every LoRA behind the node that brings a concept back, or was made for one.

    Args:
        text: see `read_behind`.
        erased, bare: MODEL and CLIP with and without the erasure; stay as they are.
        concepts: what was erased.
        left: concept -> share that is left without the LoRAs; empty where it cannot be measured.
    """
    lines = []
    model, clip = erased
    for name, strength, strength_clip in read_behind(text):
        if not strength and not strength_clip:
            continue
        path = host.lora_path(name) or host.lora_path(_whole(name))
        if path is None:
            lines.append(f"{name} behind this node was not looked at: it is not among the LoRA files")
            continue
        model, clip = _with(path, model, clip, strength, strength_clip)
        share = _left(model, clip, bare, concepts) if left else {}
        back = {word: value for word, value in share.items() if value > left.get(word, 1.0) + NOTICED}
        if back:
            told = ", ".join(f"'{word}' ({100 * value:.0f} % left, {100 * left[word]:.0f} % without it)"
                             for word, value in back.items())  # fmt: skip
            lines.append(f"{name} brings back {told}; put it in front of this node")
        named = [item.text for item in concepts if item.text not in back and names(path, item.text)]
        if named:
            lines.append(
                f"{name} was made for {', '.join(repr(word) for word in named)} by its own description and may draw it "
                "again; take it out, or compare pictures behind it"
            )
        left = {word: max(value, share.get(word, value)) for word, value in left.items()}
    return lines


def _whole(name: str) -> str:
    """The file that a pack calls by its name without folder and ending."""
    return next((item for item in host.lora_names() if PureWindowsPath(item).stem == name), name)


def names(path: Path, concept: str) -> bool:
    """Whether the name of a file or its header says that it was made for a concept."""
    from safetensors import safe_open

    with safe_open(str(path), "pt") as file:
        header = file.metadata() or {}
    said = " ".join([path.stem, *(header.get(key, "") for key in _DESCRIBED)])
    words, plain = (" ".join(re.findall(r"[^\W_]+", text.casefold())) for text in (concept, said))
    return bool(words) and re.search(whole_words(words), plain) is not None


def _with(path: Path, model: Any, clip: Any, strength: float, strength_clip: float) -> tuple[Any, Any]:
    """Clones under a LoRA, as the stock loader puts it on."""
    import comfy.sd
    import comfy.utils

    tensors = comfy.utils.load_torch_file(str(path), safe_load=True)
    found: tuple[Any, Any] = comfy.sd.load_lora_for_models(model, clip, tensors, strength, strength_clip)
    return found


def _left(model: Any, clip: Any, bare: tuple[Any, Any], concepts: Sequence[Concept]) -> dict[str, float]:
    from .probing import probe, residuals
    from .targets import target_of

    return residuals(probe(target_of(model, clip), concepts, (), target_of(*bare)))
