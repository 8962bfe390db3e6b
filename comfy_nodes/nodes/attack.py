"""Attacks on the connected model, by asking only."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..concepts import read_concepts, read_lines
from ..spec import Input, NodeSpec, Output, Result
from .probe import erase_problem

#: pictures that are shown
_SHOWN = 8


def attack(
    model: Any, clip: Any, vae: Any, edit: Any, attack: str, budget: str, erase: str, strength: float, steps: int,
    guidance: float, seed: int, reference: str = "",
) -> Result:  # fmt: skip
    """Tries to bring back what an edit erased, with prompts alone.

    Args:
        model, clip, vae: what draws, without the edit.
        edit: the `Artifact`.
        attack, budget: id of a registered attack that only asks; quick, standard or long.
        erase: concepts to look for, one a line; those of the edit if empty.
        strength: of the edit.
        steps, guidance, seed: of the sampler.
        reference: folder of a model that never saw the concept; empty for none.

    Returns:
        The pictures that came back (n, height, width, 3), or what the plain name brings if none did; the prompt of the
        first one, empty if none; a report.

    Raises:
        RequestError: no model in the folder, or the attack takes no reference.
        Unsupported: no judge knows what the model draws, or it does not draw the concept itself.
    """
    from .. import host
    from ..measuring import run_attack

    names = [item.text for item in read_concepts(erase)] if read_lines(erase) else []
    with host.computing():
        report, pictures = run_attack(
            attack, budget, model, clip, vae, edit, names, _SHOWN, images=_SHOWN, steps=steps, guidance=guidance,
            seed=seed, strength=strength, reference=_place(reference), progress=host.stages(),
        )  # fmt: skip
    found = report.found.get("prompts", [])
    others = [name for name in names if name.casefold() not in {text.casefold() for text in edit.manifest.erased}]
    doubts = [f"note: the connected edit does not name {', '.join(others)} as erased"] if others else []
    text = "\n".join([*doubts, _text(report, len(found))])
    shown = pictures.movedim(1, -1).clone()
    return Result((shown, found[0]["prompt"] if found else "", text), text, shown)


def _text(report: Any, found: int) -> str:
    from erase_plugins.evaluation.attack_summary import against, excess_line

    def share(row: Any) -> str:
        return f"{100 * row.value:.0f} % ({100 * row.low:.0f} to {100 * row.high:.0f} %, n = {row.n})"

    came = f"shown are {min(found, _SHOWN)} of {found} pictures that came back" if found else (
        "nothing came back within this budget, which proves nothing; shown is what the plain name brings"
    )  # fmt: skip
    lines = [
        f"{report.attack}, {report.budget}: {', '.join(report.erased)} on {report.model}",
        f"came back: {share(report.success)} ({report.success.subject})",
        f"{against(report)}: {share(report.control)}; {excess_line(report)}",
        *(f"{row.metric} {row.subject}: {share(row)}" for row in report.rows),
        f"{report.queries} pictures, {report.passes} passes; {came}",
    ]
    return "\n".join([*lines, *(f"note: {text}" for text in report.warnings)])


def _place(text: str) -> str:
    """The folder of a reference model that somebody wrote; empty for none.

    Raises:
        RequestError: not there. Another name would be looked for on the Hub.
    """
    from erase_plugins.errors import RequestError

    place = text.strip()
    if place and not Path(place).expanduser().is_dir():
        name = Path(place).name
        raise RequestError(
            f"reference: no folder '{name}' on the machine that runs ComfyUI; give its whole path, or nothing"
        )
    return place


def _attacks() -> list[str]:
    from erase_plugins.manager import get_manager

    found = [entry.item for entry in get_manager().evaluators("attack")]
    return [item.id for item in found if getattr(item, "only_asks", False)]


def _budgets() -> list[str]:
    from erase_plugins.types import BUDGETS

    return list(BUDGETS)


SPECS = (
    NodeSpec(
        id="EraseAttack",
        title="Erase: attack",
        category="erase/check",
        description=(
            "Tries to bring an erased concept back by other prompts: paraphrases, descriptions, fluent sentences that "
            "pass a word filter, words with the same encoding. Shows what came back, and how often beside a control."
        ),
        inputs=(
            Input("model", "MODEL", "The model without the erasure, for drawing."),
            Input("clip", "CLIP", "Its CLIP, for drawing."),
            Input("vae", "VAE", "Its VAE, for drawing."),
            Input("edit", "ERASE_EDIT", "The erasure that is attacked."),
            Input("attack", "COMBO", "How prompts are found. Attacks that train or change weights run on the command "
                  "line.", choices=_attacks, options={"default": "paraphrase"}),
            Input("budget", "COMBO", "How many pictures may be drawn: quick is about 300 to 400.", choices=_budgets,
                  options={"default": "quick"}),
            Input("erase", "STRING", "Concepts to look for, one a line. Empty: what the connected edit erases.",
                  options={"default": "", "multiline": True, "placeholder": "pizza"}),
            Input("strength", "FLOAT", "Strength of the erasure while it is attacked.",
                  options={"default": 1.0, "min": -2.0, "max": 2.0, "step": 0.05}),
            Input("steps", "INT", "Sampler steps of every picture.", options={"default": 8, "min": 1, "max": 100}),
            Input("guidance", "FLOAT", "Classifier-free guidance of the sampler.",
                  options={"default": 4.0, "min": 1.0, "max": 30.0, "step": 0.5}),
            Input("seed", "INT", "Of prompts, noise and resampling.",
                  options={"default": 0, "min": 0, "max": 2**31 - 1}),
            Input("reference", "STRING", "Folder, in diffusers' form, of a model of the same kind that never saw the "
                  "concept. What the attack finds there was never hidden: it becomes the control. Empty: none.",
                  required=False, options={"default": ""}),
        ),
        outputs=(
            Output("pictures", "IMAGE", "What came back; what the plain name brings if nothing did."),
            Output("prompt", "STRING", "The first prompt that brought it back; empty if none did."),
            Output("report", "STRING", "Success rate with interval, control, all numbers as text."),
        ),
        run=attack,
        aliases=("erase plugins", "red team", "adversarial", "robustness", "jailbreak", "bring back"),
        is_output=True,
        checks={"erase": erase_problem},
        when="The measure node says how well an erasure holds for people who do not try to get around it.",
        cost="About 300 pictures at quick: minutes with pocket on a CPU. Needs a judge that knows the pictures.",
    ),
)  # fmt: skip
