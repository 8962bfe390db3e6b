"""Strength by prompt: an erasure that acts where a prompt means the concept."""

from __future__ import annotations

from typing import Any

from ..concepts import phrase_problem, read_lines, read_phrases
from ..spec import Input, NodeSpec, Output, Result

_MEASURES = ("probe", "cosine")


def gate(
    model: Any, clip: Any, edit: Any, strength: float, phrases: str, measure: str, low: float, high: float, words: int,
    prompts: str,
) -> Result:  # fmt: skip
    """MODEL under an edit that each prompt opens as far as it means one of the phrases, and that edit.

    Args:
        model, clip: stay as they are.
        edit: weight changes of the denoiser, or a context map.
        strength: behind a fully open gate; 0 gives the MODEL itself.
        phrases: what opens the gate, one a line; the concepts of the edit if empty.
        measure: "probe" learns from the text encoder's vocabulary, "cosine" compares whole embeddings.
        low, high: scores at which the gate begins to open and is fully open.
        words: vocabulary words that a probe learns from.
        prompts: prompts to try, one a line; told in the report.

    Raises:
        RequestError: no phrase, or low is not below high.
        Unsupported: the edit holds changes that cannot be gated.
    """
    from erase_plugins.artifacts.artifact import Artifact
    from erase_plugins.artifacts.lowrank import behind_gate
    from erase_plugins.artifacts.store import lower_for
    from erase_plugins.engine.context import RunContext
    from erase_plugins.engine.gating import GateRecipe, make_gate
    from erase_plugins.errors import RequestError
    from erase_plugins.runtime.gates import gate_values

    from .. import host
    from ..patches import apply_edit
    from ..solved import solved
    from ..targets import target_of

    names = read_phrases(phrases) or tuple(
        dict.fromkeys(text for concept in edit.manifest.concepts for text in (concept.text, *concept.prompts))
    )
    if not names:
        raise RequestError("no phrase opens the gate: write some, or connect an edit that names its concepts")
    if not low < high:
        raise RequestError(f"low {low:g} must be below high {high:g}")
    with host.computing():
        target = target_of(model, clip)
        recipe, erased = GateRecipe(measure, words, 0.85, low, high), edit.manifest.concepts
        made = solved(
            model, clip, ("gate", names, recipe, repr([(concept.kind, concept.extra) for concept in erased])),
            lambda: make_gate(target, [", ".join(names)], [names], erased, recipe, RunContext("gate")),
        )  # fmt: skip
        plain = behind_gate(lower_for(edit.edit, target), made)
        manifest = edit.manifest.changed(
            kinds=tuple(sorted(plain.kinds)),
            notes=(*edit.manifest.notes, f"opened by prompts that mean: {', '.join(names)}"),
        )  # fmt: skip
        done = apply_edit(target, plain, strength)
        tried = read_lines(prompts)
        values: Any = gate_values(target.encode(tried).embeds, made.weights["embeddings"], made.config) if tried else []
    lines = [done.report(edit.name, strength), f"opened by: {', '.join(names)}"]
    lines += [f"{prompt}: open {100 * float(value):.0f} %" for prompt, value in zip(tried, values, strict=True)]
    text = "\n".join(lines)
    return Result((done.model, Artifact(manifest, plain), text), text)


SPECS = (
    NodeSpec(
        id="ErasePromptGate",
        title="Erase: strength by prompt",
        category="erase/apply",
        description=(
            "Lets an erasure act only where a prompt means the concept, and as far as it does; other prompts are "
            "drawn as "
            "if nothing had been erased. Every prompt of a batch, positive and negative, opens its own gate."
        ),
        inputs=(
            Input("model", "MODEL", "The model without this erasure. It stays as it is."),
            Input("clip", "CLIP", "The CLIP that feeds the prompts; the gate learns from its vocabulary."),
            Input("edit", "ERASE_EDIT", "The erasure: closed form, or weight changes of the denoiser."),
            Input("strength", "FLOAT", "Behind a fully open gate; 0 leaves the model exactly as it is.",
                  options={"default": 1.0, "min": -2.0, "max": 2.0, "step": 0.05}),
            Input("phrases", "STRING", "What opens the gate, one phrase a line. Empty: the concepts of the erasure.",
                  options={"default": "", "multiline": True, "placeholder": "van gogh"}),
            Input("measure", "COMBO", "How a prompt is judged: probe learns what the concept means from the "
                                      "vocabulary, "
                  "cosine compares whole embeddings as published.", choices=_MEASURES, options={"default": "probe"}),
            Input("low", "FLOAT", "Score at which the gate begins to open. Lower opens it for more prompts.",
                  options={"default": 0.3, "min": -10.0, "max": 10.0, "step": 0.05}),
            Input("high", "FLOAT", "Score at which the gate is fully open.",
                  options={"default": 0.6, "min": -10.0, "max": 10.0, "step": 0.05}),
            Input("words", "INT", "Vocabulary words that a probe learns from; more are slower and a little surer.",
                  options={"default": 300, "min": 8, "max": 50_000}),
            Input("prompts", "STRING", "Prompts to try, one a line: the report tells how far each opens the gate.",
                  options={"default": "", "multiline": True, "placeholder": "a painting of a harbour"}),
        ),
        outputs=(
            Output("MODEL", "MODEL", "The model with the gated erasure; goes into a sampler."),
            Output("ERASE_EDIT", "ERASE_EDIT", "The gated erasure; goes into nodes that save or stack."),
            Output("report", "STRING", "What opens the gate, and how far the tried prompts do."),
        ),
        run=gate,
        aliases=("erase plugins", "SPM", "facilitated transport", "conditional strength", "only when mentioned"),
        checks={"phrases": phrase_problem},
        paper="https://arxiv.org/abs/2312.16145",
        when="Without a gate an erasure is harder to get around with unusual words: a gate stays closed for "
             "prompts that "
             "it does not understand.",
        cost="A probe encodes three short prompts per vocabulary word, once; sampling takes a few percent longer.",
    ),
)  # fmt: skip
