"""What a closed-form run will cost, from configuration alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from erase_plugins.engine import rates
from erase_plugins.engine.collect import FILLER_WEIGHT, Recipe, check_guides, guide_of, phrase_count
from erase_plugins.engine.door_rows import PADS
from erase_plugins.engine.prompt_templates import ROWS
from erase_plugins.engine.solve import WIDE
from erase_plugins.engine.vocabulary import words_to_encode
from erase_plugins.errors import Unsupported
from erase_plugins.families.base import ModuleRef, TargetInfo
from erase_plugins.options import as_dict
from erase_plugins.types import STAND_IN, EditPlan, EraseRequest

#: rows of one phrasing that are not alike, about: its words, the end row and the first ones of padding
_UNLIKE = 10


def closed_form_plan(request: EraseRequest, options: Any, info: TargetInfo) -> EditPlan:
    """Plan of a method that edits the keys and values of cross-attention.

    Raises:
        RequestError: a concept is its own guide.
        Unsupported: the model has no such modules.
    """
    check_guides(request)
    refs = info.readers()
    recipe = options.recipe()
    # most words are one token behind the start row
    word = min(recipe.word_tail + 2, info.tokens) if recipe.word_tail else info.tokens
    lengths = info.family.padding(info)
    each = info.tokens + sum(lengths)
    word = each if lengths else word
    phrase = min(each, recipe.tail + 4) if recipe.tail and recipe.tokens == "window" else each
    asked = (recipe.vocabulary, recipe.vocabulary_scale, recipe.word_frames, recipe.word_tail, recipe.aliases)
    words = words_to_encode(info, *asked) if recipe.vocabulary else 0
    own = (phrase_count(request, recipe) - recipe.vocabulary) * phrase
    encoded = own + recipe.vocabulary * word
    other = info.family.other_values(info)
    rows = sum(rows_of(request, recipe, info))
    rank = min(rows, info.width)
    square = 0 if info.width > WIDE and not recipe.vocabulary else info.width**2  # see `solve.wide_factors`
    solve = 10.0 * square * info.width + 4.0 * square * (rows + own + words * word)
    seconds = text_seconds(info, own + words * word, request.device, other) + solve / rates.solving()
    outputs = sum(ref.shape[0] for ref in refs)
    warnings = []
    directions = directions_of(request, recipe, info)
    if directions > info.width and recipe.tokens != "last":
        count = len(request.concepts)
        warnings.append(
            f"{'the concept asks' if count == 1 else f'{count} concepts ask'} for a change in about {directions} "
            f"directions of text rows, and one linear map has {info.width}: they share directions, and other prompts "
            "change as well; look at what is kept (evaluate)"
        )
    if recipe.tokens == "last" and not recipe.expand:
        warnings.append("tokens=last leaves the end and padding rows, which carry the concept too; it may stay visible")
    if not recipe.vocabulary and not request.preserve and "vocabulary" not in request.options:
        warnings.append("nothing is kept but the empty prompt: name what must stay (keep), or set vocabulary")
    notes = [
        f"{concept.text} -> {guide_of(concept, recipe.fillers).strip() or 'the empty prompt'}"
        for concept in request.concepts[:20]
    ]
    if info.family.beside_rows:
        notes.append(f"{info.family.beside_rows} goes on naming what is erased: a closed form maps token rows only")
    return EditPlan(
        request=request,
        options=as_dict(options),
        modules=tuple(f"{ref.component}.{ref.path}" for ref in refs),
        steps=len(request.concepts),
        seconds=round(seconds, 3),
        memory_bytes=int(8 * (6 * square + info.width * encoded)),
        file_bytes=4 * rank * (outputs + info.width * len(refs)),
        warnings=tuple(warnings),
        notes=tuple(notes),
        produces=("contextmap",),
    )


def rows_of(request: EraseRequest, recipe: Recipe, info: TargetInfo) -> list[int]:
    """Rows that every concept asks for, about."""
    first, stop = ROWS.get(recipe.tokens, (0, info.tokens))
    stop = min(stop, 1 + recipe.tail) if recipe.tail and recipe.tokens == "window" else stop
    lengths = info.family.padding(info)
    # few rows stand for the padding of each encoder, one is the pooled one
    each = 1 + (PADS + 1) * (len(lengths) + 1) if lengths else stop - first
    return [recipe.framings(concept.kind) * each for concept in request.concepts]


def directions_of(request: EraseRequest, recipe: Recipe, info: TargetInfo) -> int:
    """Directions that all concepts together ask for, about: far fewer than their rows, of which many are alike."""
    total = 0
    for concept, rows in zip(request.concepts, rows_of(request, recipe, info), strict=True):
        phrasings = recipe.framings(concept.kind)
        fillers = recipe.fillers * (concept.kind == "style")  # all together weigh as few plain phrasings
        plain = phrasings - fillers + min(fillers, int(FILLER_WEIGHT))
        total += plain * min(rows // phrasings, _UNLIKE)
    return total


def settle_gates(request: EraseRequest, options: Any, info: TargetInfo) -> tuple[Any, tuple[str, ...]]:
    """`MemoryOptions` with ``gated`` decided, and what to tell a user who left that open.

    A concept fills as many directions of a map as it has rows, ``memory`` at most. Half of the map's directions are for
    what is retained; where concepts ask for more than the other half, each gets a gate.

    Raises:
        Unsupported: gates are asked for and the model has no layers for them.
    """
    gates = info.supports("cross_attention")
    if options.gated and not gates:
        raise Unsupported(f"{info.model} has no cross-attention, where memories lie; set gated=false")
    if options.gated is not None:
        return options, ()
    asked = sum(min(rows, options.memory) for rows in rows_of(request, options.recipe(), info))
    overfull = gates and asked > info.width // 2
    said = (
        f"{len(request.concepts)} concepts fill about {asked} directions, one map has {info.width} and half of them "
        "are for what is retained: every concept gets a change of its own behind a gate that its prompts open. Only "
        "the patch file and what reads it carry gates; where a LoRA is a must, gated=false makes one of all concepts, "
        "which leaves more of them and disturbs more besides",
    )
    return replace(options, gated=overfull), said if overfull else ()


def gated_plan(
    plan: EditPlan, options: Any, info: TargetInfo, refs: Sequence[ModuleRef], said: tuple[str, ...]
) -> EditPlan:
    """The plan of solutions that share nothing (`engine.memories`): how many concepts there are limits none of them.

    Args:
        plan: of the same request without gates.
        options: `MemoryOptions` of the method.
        info: model.
        refs: projections that are changed.
        said: of `settle_gates`.
    """
    request, count = plan.request, len(plan.request.concepts)
    alone = closed_form_plan(replace(request, forget=request.forget[:1]), options, info)
    values = options.memory * sum(ref.shape[0] + info.width for ref in refs) + info.width
    return replace(
        plan,
        seconds=round((plan.seconds or 0.0) + gates_seconds(info, count, options.gate_words, request.device), 3),
        file_bytes=4 * count * values,
        warnings=(*alone.warnings, *said),
        produces=(STAND_IN,),
        notes=(*plan.notes, "strength depends on the prompt; LoRA files hold the memories with their gates fixed at 1"),
    )


def gates_seconds(info: TargetInfo, concepts: int, words: int, device: str) -> float:
    """Time that gates of so many concepts take: phrasings of the words once, of each concept besides."""
    from erase_plugins.engine.gating import phrasings

    return text_seconds(info, info.tokens * phrasings(info, concepts, words), device)


def text_seconds(info: TargetInfo, rows: float, device: str, other: int = 0) -> float:
    """Time that text encoders take for so many rows of prompts.

    Args:
        info: model.
        rows: of all prompts together.
        device: where they are encoded; whatever is solved is solved by the processor.
        other: weights that prompts go through besides linear layers of the text encoders.
    """
    refs = [ref for ref in info.refs if ref.component != info.family.denoiser and ref.kind == "linear"]
    return 2.0 * (sum(prod(ref.shape) for ref in refs) + other) * rows / rates.layer(rates.width_of(refs), device)


def guard_plan(
    request: EraseRequest, options: Any, info: TargetInfo, refs: Sequence[ModuleRef], values: int, words: int,
) -> EditPlan:  # fmt: skip
    """Plan of a guard that holds ``values`` numbers and is calibrated on ``words`` prompts; nothing is trained."""
    phrases = sum(1 + len(concept.prompts) for concept in request.concepts)
    encoded = (5 * phrases + words) * info.tokens
    return EditPlan(
        request=request,
        options=as_dict(options),
        modules=tuple(f"{ref.component}.{ref.path}" for ref in refs),
        steps=1,
        seconds=round(text_seconds(info, encoded, request.device), 3),
        memory_bytes=4 * (values + encoded * info.width),
        file_bytes=4 * values,
        notes=(
            "acts at run time, on token embeddings only, not on a pooled one; LoRA files and ComfyUI cannot carry it",
        ),
        produces=("addon",),
    )
