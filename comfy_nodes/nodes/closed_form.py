"""Closed-form methods on the connected MODEL and CLIP: the same code as on the command line."""

from __future__ import annotations

from functools import partial
from typing import Any

from ..concepts import concept_problem, read_concepts, read_lines
from ..spec import Input, NodeSpec, Output, Result

_ALIASES = ("erase plugins", "unlearn", "remove concept", "forget", "censor", "concept erasure", "negative lora")
KINDS = ("object", "style", "person", "explicit")


def erase(method: str, model: Any, clip: Any, erase: str, strength: float, kind: str, keep: str = "") -> Result:
    """MODEL without the concepts, the edit, and a report.

    Args:
        method: id of a registered closed-form method.
        model, clip: the connected model; neither is changed.
        erase: text box of concepts, see `concepts.read_concepts`.
        strength: 1 erases, 0 leaves the model as it is to the last bit.
        kind: kind of all concepts.
        keep: one prompt a line.
    """
    import erase_plugins as ep
    from erase_plugins.stack import Entry

    from .. import chaining, host
    from ..patches import apply_edit, check_strength
    from ..solved import solved
    from ..targets import target_of

    concepts = read_concepts(erase, kind)
    check_strength(strength)
    with host.computing(), host.Progress(len(concepts)) as bar:
        target = target_of(model, clip)
        kept = tuple(read_lines(keep))
        asked = (method, tuple((item.text, item.anchor) for item in concepts), kind, kept)
        artifact = solved(
            model, clip, asked,
            lambda: ep.erase(target, list(concepts), method, keep=kept, listeners=(bar,), cancel=bar.cancel),
        )  # fmt: skip
        done = apply_edit(target, artifact.edit, strength)
        erased = chaining.added(model, done.model, clip, (Entry(artifact, strength),), artifact)
    text = report(artifact, done, strength, clip)
    return Result((erased, artifact, text), text)


def report(artifact: Any, done: Any, strength: float, clip: Any) -> str:
    """What was done, in a few lines."""
    manifest = artifact.manifest
    layer = getattr(clip, "layer_idx", None)
    lines = [
        done.report(artifact.name, strength),
        *manifest.notes,
        f"{manifest.method['title']}, rank {artifact.edit.rank}, {manifest.seconds:g} s, {manifest.base['model']}",
    ]
    if manifest.preserve:
        lines.append(f"kept: {', '.join(manifest.preserve)}")
    if layer is not None:
        lines.append(f"clip skip: layer {layer}")
    return "\n".join([*lines, *(f"warning: {text}" for text in manifest.warnings)])


_INPUTS = (
    Input("model", "MODEL", "The model to erase from. Put this node last in the chain of LoRAs."),
    Input("clip", "CLIP", "The CLIP that feeds the prompts, behind clip skip and CLIP LoRAs."),
    Input("erase", "STRING", "One concept a line. 'pizza -> hamburger' says what it becomes; # starts a comment.",
          options={"default": "pizza", "multiline": True, "placeholder": "van gogh -> painting"}),
    Input("strength", "FLOAT", "1 erases, 0 leaves the model exactly as it is, below 0 strengthens the concept.",
          options={"default": 1.0, "min": -2.0, "max": 2.0, "step": 0.05}),
    Input("kind", "COMBO", "What the concepts are; decides what they become where no replacement is written.",
          choices=KINDS, options={"default": "object"}),
    Input("keep", "STRING", "One prompt a line that must stay as it is. Common words are kept by themselves.",
          required=False, options={"default": "", "multiline": True, "placeholder": "hamburger"}),
)  # fmt: skip
_COST = (
    "No training. Common words of the vocabulary are encoded once for a CLIP and kept in the cache folder, then each "
    "solve is one small system of equations. Another strength does not solve again."
)
_OUTPUTS = (
    Output("MODEL", "MODEL", "The model without the concepts; goes into a sampler."),
    Output("ERASE_EDIT", "ERASE_EDIT", "The edit itself; goes into the node that saves it."),
    Output("report", "STRING", "What was changed, and how."),
)


def _spec(
    node: str, title: str, method: str, description: str, aliases: tuple[str, ...], when: str, paper: str
) -> NodeSpec:
    return NodeSpec(
        id=node, title=title, category="erase/make", description=description, inputs=_INPUTS, outputs=_OUTPUTS,
        run=partial(erase, method), aliases=(*aliases, *_ALIASES), checks={"erase": concept_problem},
        when=when, cost=_COST, paper=paper, instead=f"'Erase' (remove concepts) with the method {method}",
    )  # fmt: skip


SPECS = (
    _spec(
        "EraseUCE", "Erase: concepts (UCE)", "uce",
        "Erases concepts from the connected model in closed form, in seconds and without training. "
        "Unified Concept Editing: text rows of a concept are mapped to those of its replacement.",
        ("UCE", "unified concept editing"),
        "Take the hardened node (RECE) when paraphrases still bring the concept back, a trained method when it must "
        "hold against prompts that do not name it, and the load node for what is saved already.",
        "https://arxiv.org/abs/2308.14761",
    ),
    _spec(
        "EraseRECE", "Erase: concepts, hardened (RECE)", "rece",
        "As UCE, then erases the embeddings that would still bring the concept back. "
        "Stronger against paraphrases, with a little more side effect on neighbours.",
        ("RECE", "robust erase"),
        "Take UCE first: it changes less beside the concept. Take a trained method when a concept must not come back "
        "under any prompt.",
        "https://arxiv.org/abs/2407.12383",
    ),
)  # fmt: skip
