"""Context maps by themselves: on every prompt of a MODEL, or on one CONDITIONING."""

from __future__ import annotations

from typing import Any

from ..spec import Input, NodeSpec, Output, Result

_ALIASES = ("erase plugins", "unlearn", "remove concept", "text embedding", "context map", "controlnet")


def patch_model(model: Any, edit: Any, strength: float) -> Result:
    """MODEL that maps the text rows in front of every key and value projection.

    Args:
        model: stays as it is.
        edit: an `Artifact` that holds a context map and nothing else.
        strength: 0 gives the MODEL itself.

    Raises:
        Unsupported: the edit is more than a context map.
        BaseMismatch: the map is for text rows of another width.
    """
    from .. import host
    from ..curves import apply_artifact
    from ..targets import target_of

    context_map(edit)
    with host.computing():
        done = apply_artifact(target_of(model), edit, strength, touch_weights=False)
    text = f"{done.report(edit.name, strength)}\nerases: {', '.join(edit.manifest.erased) or 'not named'}"
    return Result((done.model, text), text)


def patch_conditioning(conditioning: Any, edit: Any, strength: float) -> Result:
    """CONDITIONING with mapped text rows; everything else in it (masks, control, pooled row) stays.

    Args:
        conditioning: list of [rows (1, tokens, width), dictionary]; not changed.
        edit: an `Artifact` that holds a context map and nothing else.
        strength: 0 gives the CONDITIONING itself.

    Raises:
        Unsupported: the edit is more than a context map.
        BaseMismatch: the map is for text rows of another width.
    """
    from erase_plugins.errors import BaseMismatch, Unsupported
    from erase_plugins.runtime.context import ActiveMap, ContextHook

    from .. import host
    from ..curves import CurvedArtifact
    from ..patches import check_strength

    check_strength(strength)
    if isinstance(edit, CurvedArtifact):
        raise Unsupported(f"'{edit.name}' has a curve over time, which a prompt cannot follow; put it on the MODEL")
    item = context_map(edit)
    for rows, _ in conditioning:
        if rows.shape[-1] != item.A.shape[1]:
            raise BaseMismatch(
                f"'{edit.name}' maps text rows of {item.A.shape[1]}, this conditioning has {rows.shape[-1]}; encode "
                "the prompt with the CLIP of the model that the artifact was made for"
            )
    text = f"{edit.name}: mapped {len(conditioning)} prompt parts, strength {strength:g}"
    mapped = conditioning
    if strength != 0:
        with host.computing():
            active = [ActiveMap(item, strength)]
            mapped = [[ContextHook.apply(rows, active), dict(extra)] for rows, extra in conditioning]
    return Result((mapped, text), text)


def context_map(edit: Any) -> Any:
    """The context map of an artifact that is nothing else.

    Raises:
        Unsupported: it holds other changes, or changes of several components.
    """
    from erase_plugins.errors import Unsupported
    from erase_plugins.runtime.guard import context_maps

    maps = context_maps(edit.edit)
    if len(edit.edit) != 1 or len(maps) != 1:
        raise Unsupported(
            f"'{edit.name}' holds {', '.join(sorted(edit.edit.kinds))} changes, not one context map; "
            "use 'Erase: load artifact'"
        )
    return next(iter(maps.values()))


_EDIT = Input("edit", "ERASE_EDIT", "An erasure in closed form (UCE, RECE) from a node that erases or loads.")
_STRENGTH = Input("strength", "FLOAT", "1 erases, 0 leaves all exactly as it is, below 0 strengthens the concept.",
                  options={"default": 1.0, "min": -2.0, "max": 2.0, "step": 0.05})  # fmt: skip
SPECS = (
    NodeSpec(
        id="EraseEmbeddingPatch",
        title="Erase: map every prompt",
        category="erase/apply",
        description=(
            "Erases by mapping the text rows in front of the model's text attention, for every prompt of this MODEL. "
            "No weight is touched, so it is exact on fp8, bf16 and GGUF models and on fine-tunes."
        ),
        inputs=(Input("model", "MODEL", "The model to erase from. It stays as it is."), _EDIT, _STRENGTH),
        outputs=(
            Output("MODEL", "MODEL", "The model with the erasure; goes into a sampler."),
            Output("report", "STRING", "What was mapped."),
        ),
        run=patch_model,
        aliases=_ALIASES,
        when=(
            "Take the load node for artifacts with weight changes, for a check of the base, and where the model is to "
            "be saved or merged: nodes that do so see weights only. Take the node for one prompt when a "
            "ControlNet reads the prompt too, or when only one prompt is meant."
        ),
        cost="One small matrix product per attention layer; nothing is loaded or copied.",
        instead="'Erase' (remove concepts) and the load node, which map prompts by themselves where weights cannot "
                "carry the change",
    ),
    NodeSpec(
        id="EraseConditioning",
        title="Erase: map one prompt",
        category="erase/apply",
        description=(
            "Erases in one CONDITIONING by mapping its text rows; prompts on other wires stay as they are. "
            "It reaches everything that reads the prompt's rows, a ControlNet included; the pooled row of SDXL stays."
        ),
        inputs=(
            Input("conditioning", "CONDITIONING", "The encoded prompt, in front of a sampler or a ControlNet."), _EDIT,
            _STRENGTH,
        ),
        outputs=(
            Output("CONDITIONING", "CONDITIONING", "The prompt without the concept."),
            Output("report", "STRING", "How many parts of the prompt were mapped."),
        ),
        run=patch_conditioning,
        aliases=_ALIASES,
        when=(
            "Take the node for every prompt unless a ControlNet is in the graph: here every wire with a prompt needs "
            "its own node."
        ),
        cost="One small matrix product, once.",
        instead="'Erase' (remove concepts), which holds for every prompt of its MODEL",
    ),
)  # fmt: skip
