"""Strength by sampling time and by layer."""

from __future__ import annotations

from typing import Any

from ..rows import read_rows, rows_problem
from ..spec import Input, NodeSpec, Output, Result


def shape(edit: Any, model: Any, strength: float, over_time: str, layers: str, clip: Any = None) -> Result:
    """MODEL and CLIP under an edit whose strength depends on time and layer, and that edit.

    Args:
        edit: an `Artifact`.
        model, clip: stay as they are.
        strength: of the whole; 0 gives the MODEL itself.
        over_time: ``share of the sampling : factor`` lines, straight lines in between; empty for none.
        layers: ``module path : factor`` lines; empty for none.

    Raises:
        RequestError: a line that fits no layer or no share of the sampling.
        Unsupported: a time curve for changes of the text encoder.
    """
    from dataclasses import replace

    from erase_plugins.artifacts.artifact import Artifact

    from .. import host
    from ..curves import CurvedArtifact, apply_artifact, by_layer, read_points
    from ..targets import target_of

    points, rows = read_points(read_rows(over_time)), read_rows(layers)
    with host.computing():
        target = target_of(model, clip)
        made = by_layer(edit, target, rows) if rows else edit
        if points:
            plain = replace(made.edit, statistics={}, meta={})
            made = CurvedArtifact(made.manifest, plain, None, points)
        done = apply_artifact(target, made, strength)
        if strength != 1.0:
            scaled = made.edit.scaled(strength)
            note = f"strength {strength:g} is part of the change"
            manifest = replace(made.manifest, notes=(*made.manifest.notes, note), files=())
            made = CurvedArtifact(manifest, scaled, None, points) if points else Artifact(manifest, scaled)
    lines = [done.report(edit.name, strength)]
    lines += [f"{name} times {factor:g}" for name, factor in rows]
    if points:
        lines.append("over time: " + ", ".join(f"{100 * share:g} % {factor:g}" for share, factor in points))
    text = "\n".join(lines)
    return Result((done.model, done.clip, made, text), text)


def _time_problem(text: str) -> str | None:
    from erase_plugins.errors import EraseError
    from erase_plugins.hints import sentence_of

    try:  # the shares; reading them needs no torch
        for name, _ in read_rows(text):
            if not 0 <= float(name) <= 1:
                return f"'{name}' is no share of the sampling; write 0 for the start, 1 for the end: 0.4 : 1"
    except EraseError as error:
        return sentence_of(error)
    except ValueError:
        return "each line is a share of the sampling and a factor, as in 0.4 : 1"
    return None


SPECS = (
    NodeSpec(
        id="EraseStrength",
        title="Erase: strength by time and layer",
        category="erase/apply",
        description=(
            "Shapes how strongly an erasure acts: over the sampling, from composition at the start to detail at "
            "the end, "
            "and layer by layer. An erasure that acts early only leaves textures alone, one that acts late only leaves "
            "the composition."
        ),
        inputs=(
            Input("edit", "ERASE_EDIT", "The erasure, from a node that erases or loads."),
            Input("model", "MODEL", "The model without this erasure. It stays as it is."),
            Input("strength", "FLOAT", "Of the whole: 1 is what was evaluated, 0 leaves the model exactly as it is.",
                  options={"default": 1.0, "min": -2.0, "max": 2.0, "step": 0.05}),
            Input("over_time", "STRING", "Share of the sampling : factor, one a line; 0 is the start, 1 the end, "
                  "straight "
                  "lines in between. Empty: the same all the time.",
                  options={"default": "0 : 1\n0.6 : 1\n0.8 : 0", "multiline": True, "placeholder": "0 : 1\n0.8 : 0"}),
            Input("layers", "STRING", "Layer : factor, one a line, as in up_blocks.1 : 0.5 or mid_block : 0; the "
                                      "longest "
                  "name that fits counts. Empty: all alike.",
                  options={"default": "", "multiline": True, "placeholder": "mid_block : 0.5"}),
            Input("clip", "CLIP", "The CLIP of this model; needed by erasures that change the text encoder.",
                  required=False),
        ),
        outputs=(
            Output("MODEL", "MODEL", "The model with the shaped erasure; goes into a sampler."),
            Output("CLIP", "CLIP", "The CLIP with the erasure; the same as came in if it is not concerned."),
            Output("ERASE_EDIT", "ERASE_EDIT", "The shaped erasure, for a stack. Factors of layers can be saved, a "
                  "curve "
                   "over time cannot."),
            Output("report", "STRING", "What acts where and when."),
        ),
        run=shape,
        aliases=("erase plugins", "schedule", "timestep", "sigma", "block weight", "layer weight", "start end percent"),
        checks={"over_time": _time_problem, "layers": rows_problem},
        when="For one number for everything, the strength of the load or stack node does the same and can be saved.",
        cost="Over time, changed weights are added up anew in every step: a few percent of the sampling time.",
    ),
)  # fmt: skip
