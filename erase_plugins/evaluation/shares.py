"""What a running method may ask a judge: how often each attribute is drawn, how often the concepts are still seen."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import Edit
from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.errors import Unsupported
from erase_plugins.families.diffusers_target import DiffusersTarget
from erase_plugins.runtime.apply import attach_edit

Shares = Callable[[Edit, str, list[str]], list[float]]
Rate = Callable[[Edit, int], float]


def attribute_shares(
    target: Any, attributes: list[str], judges: Iterable[Any], images: int = 48, seed: int = 10_000
) -> Shares | None:
    """A function (edit, concept, attributes) -> share of pictures per attribute; None where no judge knows them.

    Args:
        target: the model; pictures are drawn only on a diffusers pipeline.
        attributes: labels on one axis of a judge.
        judges: that may be asked.
        images: pictures per measurement.
        seed: of the first picture; the same pictures in every round.
    """
    if not isinstance(target, DiffusersTarget):
        return None
    for judge in judges:
        axis = next((name for name, labels in judge.axes.items() if set(attributes) <= set(labels)), None)
        if axis is not None and judge.accepts(target.info):
            return _measure(target, judge, axis, images, seed)
    return None


def _measure(target: DiffusersTarget, judge: Any, axis: str, images: int, seed: int) -> Shares:
    def shares(edit: Edit, concept: str, attributes: list[str]) -> list[float]:
        pictures = _drawn(target, edit, [f"a {concept}"] * images, range(seed, seed + images))
        best = judge.score(pictures)[axis].argmax(-1).tolist()
        seen = [judge.axes[axis][index] for index in best]
        counted = max(sum(seen.count(name) for name in attributes), 1)
        return [seen.count(name) / counted for name in attributes]

    return shares


def target_rate(target: Any, concepts: Sequence[str], judges: Iterable[Any], seed: int = 20_000) -> Rate:
    """A function (edit, pictures) -> share of drawn pictures in which the judge sees the erased concept.

    Args:
        target: the model.
        concepts: texts of the erased concepts or styles; the pictures are shared out among them.
        judges: that may be asked.
        seed: of prompts and pictures; the same pictures in every look, others than those of an evaluation.

    Raises:
        Unsupported: no judge knows all of them on this model.
    """
    from erase_plugins.evaluation.prompts import quick_prompts, texts_and_seeds

    judge = knowing(target, concepts, judges)
    if judge is None:
        raise Unsupported(
            f"stop_at needs a judge that knows {', '.join(concepts[:5])} in pictures of {target.info.model}, and none "
            "is registered; leave stop_at out"
        )
    quick_prompts(judge, concepts, 1, seed)  # refuses concepts of different kinds

    def rate(edit: Edit, images: int) -> float:
        prompts = quick_prompts(judge, concepts, max(images, len(concepts)), seed)["target"]
        pictures = _drawn(target, edit, *texts_and_seeds(prompts))
        best = {axis: scores.argmax(-1).tolist() for axis, scores in judge.score(pictures).items()}
        seen = [judge.axes[item.axis][best[item.axis][place]] for place, item in enumerate(prompts)]
        return sum(name == item.expected[item.axis] for name, item in zip(seen, prompts, strict=True)) / len(prompts)

    return rate


def knowing(target: Any, concepts: Sequence[str], judges: Iterable[Any]) -> Any:
    """The first judge that knows all concepts in pictures of the model; None where there is none."""
    if not isinstance(target, DiffusersTarget):
        return None
    for judge in judges:
        known = {label for labels in judge.axes.values() for label in labels}
        if judge.accepts(target.info) and known.issuperset(concepts):
            return judge
    return None


def _drawn(target: DiffusersTarget, edit: Edit, prompts: Sequence[str], seeds: Sequence[int]) -> Tensor:
    """Pictures (n, 3, height, width) with the edit in force."""
    from erase_plugins.evaluation.draw import draw

    plain = replace(edit, statistics={}, meta={})
    manifest = Manifest(name="trial", method={"id": "trial"}, concepts=())
    handle = attach_edit(target.pipe, target, Artifact(manifest, plain), 1.0, "weights")
    try:
        return draw(target.pipe, prompts, seeds, denoiser=target.network("denoiser"))
    finally:
        handle.remove()
