"""How often each attribute of a concept is drawn: what debiasing steers by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import Edit
from erase_plugins.artifacts.manifest import Manifest
from erase_plugins.families.diffusers_target import DiffusersTarget
from erase_plugins.manager import get_manager
from erase_plugins.runtime.apply import attach_edit

Shares = Callable[[Edit, str, list[str]], list[float]]


def attribute_shares(target: Any, attributes: list[str], images: int = 48, seed: int = 10_000) -> Shares | None:
    """A function (edit, concept, attributes) -> share of pictures per attribute; None where no judge knows them.

    Args:
        target: the model; pictures are drawn only on a diffusers pipeline.
        attributes: labels on one axis of a judge.
        images: pictures per measurement.
        seed: of the first picture; the same pictures in every round.
    """
    if not isinstance(target, DiffusersTarget):
        return None
    for entry in get_manager().evaluators("judge"):
        axis = next((name for name, labels in entry.item.axes.items() if set(attributes) <= set(labels)), None)
        if axis is not None and entry.item.accepts(target.info):
            return _measure(target, entry.item, axis, images, seed)
    return None


def _measure(target: DiffusersTarget, judge: Any, axis: str, images: int, seed: int) -> Shares:
    def shares(edit: Edit, concept: str, attributes: list[str]) -> list[float]:
        from erase_plugins.evaluation.draw import draw

        plain = replace(edit, statistics={}, meta={})
        manifest = Manifest(name="trial", method={"id": "trial"}, concepts=())
        handle = attach_edit(target.pipe, target, Artifact(manifest, plain), 1.0, "weights")
        try:
            pictures = draw(target.pipe, [f"a {concept}"] * images, range(seed, seed + images))
        finally:
            handle.remove()
        best = judge.score(pictures)[axis].argmax(-1).tolist()
        seen = [judge.axes[axis][index] for index in best]
        counted = max(sum(seen.count(name) for name in attributes), 1)
        return [seen.count(name) / counted for name in attributes]

    return shares
