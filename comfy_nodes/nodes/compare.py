"""Base and erased pictures side by side."""

from __future__ import annotations

from typing import Any

from ..spec import Input, NodeSpec, Output, Result


def compare(base: Any, erased: Any, scale: int) -> Result:
    """One row per picture: base, erased, heat map of the change.

    Args:
        base, erased: (n, height, width, 3) in 0..1, drawn from the same noise.
        scale: how many pixels a pixel becomes.

    Returns:
        The sheet (1, n * height * scale, 3 * width * scale, 3), the heat maps (n, height, width, 3), and a report.
    """
    from ..pictures import change, heat, sheet

    amount = change(base, erased)
    maps = heat(amount)
    text = "\n".join(
        f"picture {index + 1}: mean change {100 * float(item.mean()):.1f} %, "
        f"{100 * float((item > 0.1).float().mean()):.0f} % of the pixels by more than a tenth"
        for index, item in enumerate(amount)
    )
    return Result((sheet([base, erased, maps], scale), maps, text), text)


SPECS = (
    NodeSpec(
        id="EraseCompare",
        title="Erase: compare pictures",
        category="erase/check",
        description=(
            "Shows base and erased pictures beside each other, with a heat map of what changed. "
            "Draw both with the same seed, so that the erasure is the only difference."
        ),
        inputs=(
            Input("base", "IMAGE", "Pictures of the model as it was."),
            Input("erased", "IMAGE", "Pictures of the erased model, same seed, same number and size."),
            Input("scale", "INT", "Enlarges the sheet; small pictures are hard to see.",
                  options={"default": 2, "min": 1, "max": 8}),
        ),
        outputs=(
            Output("sheet", "IMAGE", "One row per picture: base, erased, change."),
            Output("heat", "IMAGE", "The heat maps alone: black is unchanged, white is changed most."),
            Output("report", "STRING", "Mean change of each picture."),
        ),
        run=compare,
        aliases=("erase plugins", "before after", "difference", "side by side", "heat map"),
        when="To slide between two large pictures take the compare node of ComfyUI itself, where it has one.",
        cost="Nothing beside the two samplers in front of it.",
    ),
)  # fmt: skip
