"""Numbers before any sampling, and measurements on pictures."""

from __future__ import annotations

from typing import Any

from ..concepts import concept_problem, read_concepts, read_lines
from ..spec import Input, NodeSpec, Output, Result
from .closed_form import KINDS

_ALIASES = ("erase plugins", "residual", "drift", "measure", "check", "status", "what is erased", "metrics")


def probe_model(model: Any, clip: Any, erase: str, kind: str, keep: str, base: Any = None, edit: Any = None) -> Result:
    """How far phrases are mapped on a model, how far others moved, and what came back since an edit was made.

    Args:
        model, clip: everything that hangs on them counts; neither is changed.
        erase: text box of concepts; those of ``edit`` if empty.
        kind: kind of the concepts in the text box.
        keep: one prompt a line.
        base: the model to compare with; the stored weights of ``model`` if None.
        edit: an `Artifact`; with ``base`` also tells what it does there by itself.

    Raises:
        RequestError: nothing to ask about, or a phrase without content.
    """
    from erase_plugins.errors import RequestError
    from erase_plugins.stack import stack_of

    from .. import charts, host
    from ..probing import RESIDUAL, probe, probe_report
    from ..stacking import put_on
    from ..targets import target_of

    concepts = read_concepts(erase, kind) if read_lines(erase) else tuple(edit.manifest.concepts if edit else ())
    kept = read_lines(keep)
    if not concepts and not kept:
        raise RequestError("nothing to look at: write a concept under erase, or connect an edit that names some")
    with host.computing():
        target = target_of(model, clip)
        before = None if base is None else target_of(base, clip)
        found = probe(target, concepts, kept, before)
        alone = {}
        if edit is not None and base is not None:
            done = put_on(base, clip, stack_of(edit), any_base=True, effective=False)
            there = target_of(done.model, done.clip)
            alone = {item.phrase: item.value for item in probe(there, concepts, (), before) if item.metric == RESIDUAL}
    report = probe_report(found, target.info.model, [] if edit is None else [edit.name])
    lines, items = [], []
    for row, item in zip(report.rows, found, strict=True):
        lines.append(item.line())
        if item.metric == RESIDUAL:
            items.append(charts.Bar(f"{item.phrase}: mapped", 1 - item.value, f"{100 * (1 - item.value):.1f} %"))
            back = item.value - alone.get(item.phrase, item.value)
            if item.phrase in alone:
                lines.append(
                    f"{item.phrase}: residual {100 * alone[item.phrase]:.1f} % with the erasure alone, "
                    f"{100 * item.value:.1f} % on this model: what came later brings back {100 * back:.1f} %"
                )
                items.append(charts.Bar(f"{item.phrase}: brought back", back, f"{100 * back:.1f} %", charts.ORANGE))
        else:
            interval = (row.low, row.high)
            number = f"{100 * item.value:.1f} %"
            items.append(charts.Bar(f"{item.phrase}: drift", item.value, number, charts.BLUE, interval))
    lines += unseen(model)
    if any(item.metric == RESIDUAL and item.value - alone.get(item.phrase, item.value) > 0.02 for item in found):
        lines.append("put the erase node last in the chain, or stack the erasure again behind the LoRAs")
    picture = charts.bars("what cross-attention makes of the phrases", items)
    text = "\n".join(lines)
    return Result((picture, text, report), text, picture)


def unseen(model: Any) -> list[str]:
    """What hangs on a MODEL and is not in its keys and values, a line each."""
    from ..addons import OutputPatch
    from ..gates import hangs_on

    patches = model.model_options.get("transformer_options", {}).get("patches", {})
    behind = any(isinstance(patch, OutputPatch) for group in patches.values() for patch in group)
    lines = ["add-ons behind attention layers act later and are not seen here; measure pictures"] if behind else []
    return lines + (["changes behind a gate depend on the prompt and are not seen here"] if hangs_on(model) else [])


def measure(
    erase: str, images: int, steps: int, guidance: float, seed: int, strength: float, judge: str, edit: Any = None,
    model: Any = None, clip: Any = None, vae: Any = None, base_pictures: Any = None, erased_pictures: Any = None,
) -> Result:  # fmt: skip
    """A quick evaluation on the connected model, or what can be measured on pictures that are there.

    Args:
        erase: concepts to look for, one a line; those of ``edit`` if empty.
        images: pictures per set of the suite.
        steps, guidance, seed: of the sampler.
        strength: of the edit.
        judge: id of the judge of pictures that are given; NONE asks nobody.
        edit, model, clip, vae: what the suite draws with; ``model`` is without the edit.
        base_pictures, erased_pictures: (n, height, width, 3) in 0..1; instead of the suite.

    Raises:
        RequestError: neither pictures nor all that the suite needs.
        Unsupported: no judge knows what the model draws.
    """
    from erase_plugins.errors import RequestError

    from .. import host

    names = [item.text for item in read_concepts(erase)] if read_lines(erase) else []
    names = names or list(edit.manifest.erased if edit is not None else ())
    given = (base_pictures, erased_pictures)
    suite = {"model": model, "clip": clip, "vae": vae, "edit": edit}
    missing = [name for name, item in suite.items() if item is None]
    if (base_pictures is None) != (erased_pictures is None) or (base_pictures is None and missing):
        raise RequestError(
            "connect base_pictures and erased_pictures, or everything that the suite draws with; missing are "
            + ", ".join(missing if given == (None, None) else ["the other pictures"])
        )
    with host.computing():
        if base_pictures is not None:
            report, drawn = _of_pictures(base_pictures, erased_pictures, names, judge, seed), None
        else:
            from ..measuring import run_suite

            report, drawn = run_suite(
                "quick", model, clip, vae, edit, names, images=images, steps=steps, guidance=guidance, seed=seed,
                strength=strength, progress=host.stages(),
            )  # fmt: skip
        sheet = _sheet(report, drawn)
    text = _text(report)
    return Result((_chart(report), sheet, text, report), text, _chart(report))


def _of_pictures(base: Any, erased: Any, names: list[str], judge: str, seed: int) -> Any:
    from erase_plugins.errors import Unsupported
    from erase_plugins.evaluation.given import measure_pictures
    from erase_plugins.manager import get_manager

    chosen = None if judge == NONE else get_manager().evaluator(judge, "judge")
    size = getattr(chosen, "size", None)
    if size is not None and tuple(base.shape[1:3]) != tuple(size):
        raise Unsupported(
            f"judge '{judge}' looks at pictures of {size[0]} x {size[1]}, these are {base.shape[1]} x {base.shape[2]}; "
            "choose none, and look at them yourself"
        )
    first, second = (part.float().cpu().movedim(-1, 1).clone() for part in (base, erased))
    return measure_pictures(first, second, names if chosen is not None else (), chosen, seed)


def _text(report: Any) -> str:
    lines = [f"{report.suite} on {report.model}: {', '.join(report.erased) or 'no concept named'}"]
    for row in report.rows:
        numbers = f"{100 * row.value:.1f} % ({100 * row.low:.1f} to {100 * row.high:.1f} %, n = {row.n})"
        lines.append(f"{row.metric} {row.subject}: {numbers}")
    return "\n".join([*lines, *(f"note: {text}" for text in report.warnings)])


def _chart(report: Any) -> Any:
    from .. import charts

    colours = {"base": charts.GREY, "edited": charts.RED}
    rows = [row for row in report.rows if row.subject in colours]
    items = [
        charts.Bar(f"{row.metric.removesuffix('_rate')}, {row.subject}", row.value, f"{100 * row.value:.0f} %",
                   colours[row.subject], (row.low, row.high))
        for row in sorted(rows, key=lambda row: [item.metric for item in rows].index(row.metric))
    ]  # fmt: skip
    metrics = list(dict.fromkeys(row.metric for row in report.rows))
    subjects = list(dict.fromkeys(row.subject for row in report.rows))
    cells = {(row.metric, row.subject): f"{100 * row.value:.0f} % (n {row.n})" for row in report.rows}
    lines = [[metric, *(cells.get((metric, subject), "-") for subject in subjects)] for metric in metrics]
    title = f"{', '.join(report.erased[:4]) or report.model}, strength {report.strength:g}"
    return charts.below([charts.bars(title, items), charts.table("all numbers", ["metric", *subjects], lines)])


def _sheet(report: Any, drawn: Any) -> Any:
    """What the suite drew, one row per set and subject; the chart where nothing was drawn."""
    import torch

    if drawn is None:
        return _chart(report)
    rows = []
    for name, pictures in drawn["base"].pictures.items():
        if len(pictures):
            for subject in ("base", "edited"):
                row = drawn[subject].pictures[name][:8]
                rows.append(torch.cat([*row, *[torch.ones_like(row[0])] * (8 - len(row))], dim=-1))
    return torch.cat(rows, dim=-2).movedim(0, -1)[None].clone()


NONE = "none"


def _judges() -> list[str]:
    from erase_plugins.manager import get_manager

    judges = [entry.item for entry in get_manager().evaluators("judge")]
    return [NONE, *sorted(item.id for item in judges if not getattr(item, "argument", ""))]


def erase_problem(text: str) -> str | None:
    """Why a text box of concepts, which may be empty, cannot be used."""
    return concept_problem(text) if read_lines(text) else None


SPECS = (
    NodeSpec(
        id="EraseProbe",
        title="Erase: probe",
        category="erase/check",
        description=(
            "Tells before any sampling how far each erased phrase is mapped to its replacement, how far kept phrases "
            "moved, and what a LoRA behind the erasure brings back. Measured on the keys and values of all text "
            "attention layers of the model as it is, with everything that hangs on it."
        ),
        inputs=(
            Input("model", "MODEL", "The model as the sampler gets it, behind all erasures and LoRAs."),
            Input("clip", "CLIP", "The CLIP that feeds the prompts."),
            Input("erase", "STRING", "What should be gone, one a line, as in 'pizza -> hamburger'. Empty: what the "
                  "connected edit erases.",
                  options={"default": "", "multiline": True, "placeholder": "pizza -> hamburger"}),
            Input("kind", "COMBO", "What the concepts are; decides what they become where no replacement is written.",
                  choices=KINDS, options={"default": "object"}),
            Input("keep", "STRING", "Prompts that should be as before, one a line. Replacements are looked at anyway.",
                  options={"default": "", "multiline": True, "placeholder": "a cat"}),
            Input("base", "MODEL", "The model in front of the erasure, to compare with. Without it the stored weights "
                  "are, and LoRAs in front of the erasure count as drift.", required=False),
            Input("edit", "ERASE_EDIT", "The erasure. With base connected it is also measured alone, which shows what "
                  "a later LoRA brings back.", required=False),
        ),
        outputs=(
            Output("chart", "IMAGE", "Bars: mapped (red), brought back (orange), drift (blue)."),
            Output("report", "STRING", "The numbers as text, one phrase a line."),
            Output("ERASE_REPORT", "ERASE_REPORT", "The numbers as a report."),
        ),
        run=probe_model,
        aliases=_ALIASES,
        is_output=True,
        checks={"erase": erase_problem},
        when="Pictures decide in the end: take the measure node, or look at base and erased with the compare node.",
        cost="Well under a second on Stable Diffusion 1.5, and one text encoder pass per phrase.",
    ),
    NodeSpec(
        id="EraseReport",
        title="Erase: measure",
        category="erase/check",
        description=(
            "Measures an erasure: draws with and without it and asks a judge what is still there (pocket), or measures "
            "pictures that you connect. Where no judge knows the pictures, it tells how much changed and no more."
        ),
        inputs=(
            Input("erase", "STRING", "Concepts to look for, one a line. Empty: what the connected edit erases.",
                  options={"default": "", "multiline": True, "placeholder": "pizza"}),
            Input("images", "INT", "Pictures per set: target, synonyms, neighbours, kept. 8 is a first look, 32 a "
                  "measurement.", options={"default": 8, "min": 1, "max": 256}),
            Input("steps", "INT", "Sampler steps of every picture.", options={"default": 8, "min": 1, "max": 100}),
            Input("guidance", "FLOAT", "Classifier-free guidance of the sampler.",
                  options={"default": 4.0, "min": 1.0, "max": 30.0, "step": 0.5}),
            Input("seed", "INT", "Of prompts, noise and resampling.",
                  options={"default": 0, "min": 0, "max": 2**31 - 1}),
            Input("strength", "FLOAT", "Strength of the erasure while it is measured.",
                  options={"default": 1.0, "min": -2.0, "max": 2.0, "step": 0.05}),
            Input("judge", "COMBO", "Who looks at connected pictures; none tells only how much changed.",
                  choices=_judges, options={"default": NONE}),
            Input("edit", "ERASE_EDIT", "The erasure to measure.", required=False),
            Input("model", "MODEL", "The model without the erasure, for drawing.", required=False),
            Input("clip", "CLIP", "Its CLIP, for drawing.", required=False),
            Input("vae", "VAE", "Its VAE, for drawing.", required=False),
            Input("base_pictures", "IMAGE", "Your own pictures without the erasure, instead of drawing.",
                  required=False),
            Input("erased_pictures", "IMAGE", "The same with the erasure: same seeds, same number and size.",
                  required=False),
        ),
        outputs=(
            Output("chart", "IMAGE", "Bars with 95 % intervals, and a table of all numbers."),
            Output("pictures", "IMAGE", "What was drawn, a row per set before and after; the chart if nothing was."),
            Output("report", "STRING", "The numbers as text."),
            Output("ERASE_REPORT", "ERASE_REPORT", "The report; goes into the node that publishes."),
        ),
        run=measure,
        aliases=(*_ALIASES, "evaluate", "evaluation", "benchmark", "chart"),
        is_output=True,
        checks={"erase": erase_problem},
        when="The probe node answers in a second, from the weights alone.",
        cost="About 14 pictures per picture asked for: 8 per set take a minute or less with pocket on a CPU.",
    ),
)  # fmt: skip
