"""Strength that depends on where the sampler is (over time) and on the layer.

Factors of layers become part of the change, so any node and any file can carry them. A curve over time exists while
the model runs only: what it concerns is hung on so that every pass of the denoiser looks at the current sigma.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import Delta, Edit
from erase_plugins.errors import ArtifactError, RequestError, Unsupported
from erase_plugins.families.model import CROSS_ATTENTION
from erase_plugins.runtime.context import ActiveMap
from erase_plugins.runtime.guard import context_maps

from . import addons
from .patches import Patched, WeightWrapper, apply_edit, check_strength, resolve
from .row_maps import ContextPatch
from .target import ComfyTarget
from .weights import kept_by_module

#: points (share of the sampling in 0..1, factor), by share
Points = tuple[tuple[float, float], ...]
_STEPS = 1000


def read_points(rows: Sequence[tuple[str, float]]) -> Points:
    """Points of a curve from lines ``share : factor``.

    Raises:
        RequestError: a share outside 0..1.
    """
    points = []
    for name, factor in rows:
        try:
            share = float(name)
        except ValueError:
            share = -1.0
        if not 0 <= share <= 1:
            raise RequestError(f"'{name}' is no share of the sampling; write 0 for the start, 1 for the end: 0.4 : 1")
        points.append((share, factor))
    return tuple(sorted(points))


def factor_at(points: Points, share: float) -> float:
    """The curve at a share of the sampling: straight lines between the points, level outside of them."""
    place = bisect_right([point[0] for point in points], share)
    if place == 0:
        return points[0][1]
    if place == len(points):
        return points[-1][1]
    (left, low), (right, high) = points[place - 1 : place + 1]
    return low + (high - low) * (share - left) / (right - left)


def by_layer(artifact: Artifact, target: ComfyTarget, rows: Sequence[tuple[str, float]]) -> Artifact:
    """The artifact with the changes of some layers multiplied, in memory.

    Args:
        artifact: context maps are written out by layer for it.
        target: the model.
        rows: (beginning of a module path as in "up_blocks.1", factor); the longest that fits counts.

    Raises:
        RequestError: a row fits no layer that the artifact changes.
    """
    from erase_plugins.artifacts.store import lower_for

    edit = lower_for(artifact.edit, target)
    keys = {key for component, key, _ in edit.items() if component == "unet"}
    for name, _ in rows:
        if not any(_below(key, name) for key in keys):
            tops = sorted({".".join(key.split(".")[: 1 if key.startswith("mid") else 2]) for key in keys})
            raise RequestError(f"'{name}' is no layer that '{artifact.name}' changes; it changes {', '.join(tops)}")

    def change(component: str, key: str, delta: Delta) -> Delta:
        found = [(len(name), factor) for name, factor in rows if component == "unet" and _below(key, name)]
        return delta.scaled(max(found)[1]) if found else delta

    note = f"layers: {', '.join(f'{name} {factor:g}' for name, factor in rows)}"
    manifest = artifact.manifest.changed(notes=(*artifact.manifest.notes, note))
    return Artifact(manifest, replace(edit.map(change), statistics={}, meta={}))


def _below(key: str, name: str) -> bool:
    return key == name or key.startswith(f"{name}.")


@dataclass(frozen=True, eq=False)
class CurvedArtifact(Artifact):
    """An artifact whose strength follows a curve over time; it lives in the graph only."""

    points: Points = ()

    def save(self, *_: Any, **__: Any) -> Artifact:
        raise ArtifactError(
            f"'{self.name}' has a strength curve over time, which no file can carry; save what goes into the strength "
            "node and add the curve after loading"
        )


class Level:
    """The current factor; every pass of the denoiser sets it, everything hung on with it reads it."""

    def __init__(self, points: Points, sigmas: Sequence[float]) -> None:
        self.points, self.rising = points, list(sigmas)[::-1]
        self.value = factor_at(points, 0.0)

    def at(self, sigma: float) -> float:
        """Factor at a sigma; sigmas fall while the share of the sampling rises."""
        return factor_at(self.points, 1.0 - bisect_left(self.rising, sigma) / (len(self.rising) - 1))

    def __call__(self, executor: Any, *arguments: Any, **named: Any) -> Any:
        """As a wrapper around the denoiser."""
        options = named.get("transformer_options") or next(
            (item for item in arguments if isinstance(item, dict) and "sigmas" in item), {}
        )
        if "sigmas" in options:
            self.value = self.at(float(options["sigmas"].max()))
        return executor(*arguments, **named)

    def __deepcopy__(self, _memo: Any) -> Level:
        return self


class TimedPatch:
    """An attention patch of ours, as far as the current sigma says."""

    def __init__(self, patch: Any, level: Level) -> None:
        self.patch, self.level = patch, level

    def __call__(self, *arguments: Any) -> Any:
        extra = arguments[-1]
        value = self.level.at(float(extra["sigmas"].max())) if "sigmas" in extra else self.level.value
        if value == 0:
            return arguments[0] if len(arguments) == 2 else arguments[:-1]
        done = self.patch(*arguments)
        if isinstance(done, Tensor):
            return arguments[0] + value * (done - arguments[0])
        query, key, value_rows = arguments[:-1]
        mapped = key + value * (done[1] - key)
        return query, mapped, mapped if value_rows is key else value_rows + value * (done[2] - value_rows)

    def mapped(self, rows: Tensor) -> Tensor:
        """Text rows where the curve is highest; what is asked before sampling."""
        most = max((factor for _, factor in self.level.points), key=abs)
        return rows + most * (self.patch.mapped(rows) - rows)

    def to(self, device: Any) -> TimedPatch:
        """Called when the model moves."""
        return TimedPatch(self.patch.to(device), self.level)

    def __deepcopy__(self, _memo: Any) -> TimedPatch:
        return self


class TimedWrapper(WeightWrapper):
    """A weight change as far as the current sigma says."""

    def __init__(self, delta: Delta, strength: float, level: Level) -> None:
        super().__init__(delta, strength)
        self.full, self.level = strength, level

    def __call__(self, weight: Tensor) -> Tensor:
        self.strength = self.full * self.level.value
        return weight if self.strength == 0 else super().__call__(weight)


def apply_artifact(
    target: ComfyTarget,
    artifact: Artifact,
    strength: float,
    strength_clip: float | None = None,
    *,
    touch_weights: bool = True,
) -> Patched:
    """`patches.apply_edit`, with the curve over time of a `CurvedArtifact`.

    Raises:
        Unsupported: a curve over time for changes of the text encoder, which runs before the sampling.
    """
    if not isinstance(artifact, CurvedArtifact):
        return apply_edit(target, artifact.edit, strength, strength_clip, touch_weights=touch_weights)
    check_strength(strength)
    if set(artifact.edit.deltas) - {"unet"}:
        raise Unsupported(f"'{artifact.name}' changes the text encoder, which knows no time; leave the time curve out")
    return _timed(target, artifact.edit, strength, artifact.points)


def _timed(target: ComfyTarget, edit: Edit, strength: float, points: Points) -> Patched:
    keys, behind, gated = resolve(target, edit)
    if gated:
        raise Unsupported("a change that follows the prompt cannot follow a curve over time as well; leave one out")
    maps: Mapping[str, Any] = context_maps(edit)
    if maps and not target.info.supports(CROSS_ATTENTION):
        raise Unsupported(f"on {target.info.model} a strength cannot follow a curve over time; leave the curve out")
    if any(kept_by_module(target.part(component).stored(place)) for (component, _), place in keys.items()):
        raise Unsupported(
            "changes of weights cannot follow a curve over time on a GGUF model; leave the curve out, or load the "
            "model in 16 bit"
        )
    total = len(keys) + len(behind) + (len(target.readers()) if maps else 0)
    if strength == 0 or all(factor == 0 for _, factor in points):
        return Patched(target.model, target.clip, total, total, ())
    clone = target.model.clone()
    sampling = clone.get_model_object("model_sampling")
    level = Level(points, [float(sampling.percent_to_sigma(step / _STEPS)) for step in range(_STEPS + 1)])
    for item in maps.values():
        clone.set_model_attn2_patch(TimedPatch(ContextPatch((ActiveMap(item, strength),)), level))
    for name, patch in addons.output_patches(behind, strength).items():
        clone.set_model_patch(TimedPatch(patch, level), name)
    if keys:
        from comfy.patcher_extension import WrappersMP

        for (component, key), place in keys.items():
            clone.add_weight_wrapper(place, TimedWrapper(edit.deltas[component][key], strength, level))
        clone.add_wrapper_with_key(WrappersMP.DIFFUSION_MODEL, f"erase_plugins_{id(level)}", level)
    why = "its strength follows the sampling"
    return Patched(clone, target.clip, total, total, ("strength over time",), (why,))
