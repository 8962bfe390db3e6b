"""The suite ``standard-metrics``: CLIP score, LPIPS, FID, KID and CMMD, as papers name them, by kept libraries.

Subjects: ``base`` and ``edited`` (CLIP score); ``edited`` also holds the distances of its pictures from the base's with
the same prompts and seeds, and ``other_seeds`` those of the base's own pictures with other seeds: as far as two draws
of one model are. Where one is given, ``reference``, a model that never saw the concept, is measured as ``edited`` is.
No number is comparable with a paper's, and every row says so: those take 10,000 and more prompts, photographs as
reference, and a model, sampler and encoder of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError
from erase_plugins.evaluation.attacks.rates import REFERENCE
from erase_plugins.extras import installed, require
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.types import EvalReport, EvalRow

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.evaluation.context import SuiteContext
    from erase_plugins.evaluation.prompts import Prompt
    from erase_plugins.evaluation.run import Subject

BASE, EDITED = "base", "edited"
METRICS = ("clip", "lpips", "fid", "kid", "cmmd")
SETS = ("target", "kept")
OTHER = "other_seeds"
#: added to a seed for another draw of the same prompt
_SHIFT = 50_000_003


@dataclass(frozen=True)
class Options:
    """Options of the suite."""

    metrics: str = option(",".join(METRICS), "which, with commas between them")
    clip: str = option("openai/clip-vit-base-patch32", "CLIP model: a folder, or a Hub id in the client's cache")
    lpips: str = option("alex", "network of LPIPS", choices=("alex", "vgg", "squeeze"))
    features: str = option("inception", "what FID and KID look at pictures with", choices=("inception", "clip"))
    reference: str = option("", "folder of a model that never saw the concept; it is measured beside the others")


class StandardSuite:
    """See the module."""

    id = "standard-metrics"
    title = "CLIP score, LPIPS, FID, KID and CMMD by torchmetrics; not comparable with papers"
    needs: frozenset[str] = frozenset({"denoiser", "text"})
    packages: frozenset[str] = frozenset({"metrics"})
    Options = Options

    def run(self, subject: Subject, ctx: SuiteContext) -> EvalReport:
        """See the module.

        Raises:
            MissingExtra: torchmetrics is not installed.
            RequestError: unknown metric, fewer than two pictures, or an encoder or a reference that is not there.
            Unsupported: the reference is a model of another kind.
        """
        from erase_plugins.evaluation.attacks.reference import open_reference
        from erase_plugins.evaluation.draw import sampler_facts
        from erase_plugins.evaluation.prompts import prompts_hash, quick_prompts
        from erase_plugins.evaluation.quick import draw_and_judge

        require(self.packages, f"suite {self.id}")
        chosen = chosen_metrics(ctx.options["metrics"])
        if subject.images < 2:
            raise RequestError(f"suite {self.id} compares sets of pictures; ask for two pictures at least")
        tools = open_tools(chosen, ctx.options, ctx.device)
        never = open_reference(subject, ctx.options["reference"])
        made = quick_prompts(subject.judge, subject.erased, subject.images, subject.seed)
        sets = {name: made[name] for name in SETS}
        plain = partial(draw_and_judge, edit="off")
        drawn = {BASE: subject.remembered(sets, plain, "base").pictures, EDITED: draw_and_judge(subject, sets).pictures}
        if never is not None:
            drawn[REFERENCE] = never.remembered(sets, plain, "base").pictures
        if set(chosen) - {"clip"}:
            shifted = {name: [replace(item, seed=item.seed + _SHIFT) for item in part] for name, part in sets.items()}
            drawn[OTHER] = subject.remembered(shifted, plain, "base").pictures
        subject.drawn = drawn
        note = f"not comparable with papers: {subject.images} pictures"
        values = per_picture(tools, sets, drawn)
        rows = _rows_of_values(values, subject.seed, note)
        rows += _rows_of_sets(chosen, tools, {name: part["kept"] for name, part in drawn.items()}, subject.seed, note)
        return EvalReport(
            suite=self.id, model=subject.model, rows=tuple(rows),
            artifacts=tuple(item.name for item in subject.artifacts), erased=tuple(subject.erased),
            strength=subject.strength, judge=subject.judge.id, judge_hash=subject.judge.fingerprint,
            prompts_hash=prompts_hash(sets), seeds=(subject.seed,), warnings=tuple(_warnings(chosen, subject, tools)),
            details={
                "values": values, "sampler": sampler_facts(subject), "encoders": _encoders(tools, ctx.options),
                "prompts": {name: [item.text for item in items] for name, items in sets.items()},
            },
        )  # fmt: skip


def chosen_metrics(text: str) -> tuple[str, ...]:
    """The named metrics in their own order.

    Raises:
        RequestError: none, or one that is not known.
    """
    asked = [part.strip() for part in text.split(",") if part.strip()]
    unknown = [name for name in asked if name not in METRICS]
    if unknown or not asked:
        raise RequestError(f"metrics={text!r}: choose among {', '.join(METRICS)}, with commas between them")
    return tuple(name for name in METRICS if name in asked)


def open_tools(chosen: Sequence[str], options: Mapping[str, Any], device: str) -> dict[str, Any]:
    """The encoders that the metrics need, opened before anything is drawn: clip, lpips, inception."""
    from erase_plugins.evaluation.standard.encoders import Clip, Inception, Lpips

    tools: dict[str, Any] = {}
    wide = {"fid", "kid"} & set(chosen)
    if {"clip", "cmmd"} & set(chosen) or (wide and options["features"] == "clip"):
        tools["clip"] = Clip(options["clip"], device)
    if "lpips" in chosen:
        tools["lpips"] = Lpips(options["lpips"], device)
    if wide:
        tools["features"] = Inception(device) if options["features"] == "inception" else tools["clip"]
    return {**tools, "scores": "clip" in chosen}


def per_picture(
    tools: Mapping[str, Any], sets: Mapping[str, list[Prompt]], drawn: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, dict[str, list[float]]]:
    """Metric -> subject -> one number per picture (CLIP score) or pair of pictures (LPIPS).

    Args:
        tools: of `open_tools`.
        sets: prompts by set.
        drawn: subject -> set -> pictures.
    """
    found: dict[str, dict[str, list[float]]] = {}
    for name, prompts in sets.items():
        texts = [item.text for item in prompts]
        if tools["scores"]:
            found[f"clip_score_{name}"] = {
                subject: tools["clip"].scores(pictures[name], texts)
                for subject, pictures in drawn.items()
                if subject != OTHER
            }
        if "lpips" in tools:
            found[f"lpips_{name}"] = {
                subject: tools["lpips"].distances(drawn[BASE][name], pictures[name])
                for subject, pictures in drawn.items()
                if subject != BASE
            }
    return found


def _rows_of_values(values: Mapping[str, Mapping[str, list[float]]], seed: int, note: str) -> list[EvalRow]:
    from erase_plugins.evaluation.bootstrap import mean_interval

    rows = []
    for metric, subjects in values.items():
        for subject, numbers in subjects.items():
            value, low, high = (round(part, 6) for part in mean_interval(numbers, seed, pictures=0))
            rows.append(EvalRow(metric, subject, value, low, high, len(numbers), note))
    return rows


def _rows_of_sets(
    chosen: Sequence[str], tools: Mapping[str, Any], kept: Mapping[str, Tensor], seed: int, note: str
) -> list[EvalRow]:
    from erase_plugins.evaluation.standard.distances import DISTANCES

    rows = []
    for encoder, metrics in (("features", ("fid", "kid")), ("clip", ("cmmd",))):
        asked = [name for name in metrics if name in chosen]
        if not asked:
            continue
        features = {subject: tools[encoder].features(pictures) for subject, pictures in kept.items()}
        first = features.pop(BASE)
        for subject, second in features.items():
            for name in asked:
                value = round(DISTANCES[name](first, second, seed), 6)
                rows.append(EvalRow(f"{name}_kept", subject, value, value, value, len(first), note))
    return rows


def _encoders(tools: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, str]:
    found = {"torchmetrics": installed("torchmetrics") or ""}
    if "clip" in tools:
        found |= {"clip": options["clip"].rstrip("/").split("/")[-1], "clip_hash": tools["clip"].fingerprint()}
    if "lpips" in tools:
        found["lpips"] = options["lpips"]
    if "features" in tools:
        found["fid_and_kid"] = options["features"]
    return found


def _warnings(chosen: Sequence[str], subject: Subject, tools: Mapping[str, Any]) -> list[str]:
    found = [
        f"no number is comparable with a paper's: {subject.images} pictures of prompts of our own, sampler and "
        "encoders as in details; compare only what was measured alike"
    ]
    if sets := [name for name in chosen if name in ("fid", "kid", "cmmd")]:
        found.append(f"{', '.join(sets)}: one number for two sets of pictures, whose interval is not known")
    if "fid" in chosen:
        width = 2048 if tools["features"] is not tools.get("clip") else tools["clip"].config.projection_dim
        if subject.images <= width:
            found.append(
                f"fid of {subject.images} pictures with {width} features is far too large: it needs several times as "
                f"many pictures as features; hold it against {OTHER} only"
            )
    return found


@hookimpl
def erase_suites() -> list[StandardSuite]:
    return [StandardSuite()]
