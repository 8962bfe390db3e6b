"""Hangs an edit on clones of MODEL and CLIP. Nothing is changed in place; strength 0 hangs nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from erase_plugins.artifacts.edit import AddOn, ContextMap, Delta, Edit, LowRank
from erase_plugins.errors import BaseMismatch, RequestError, Unsupported
from erase_plugins.families.model import CROSS_ATTENTION
from erase_plugins.runtime.context import ActiveMap
from erase_plugins.runtime.guard import context_maps, shape_problem
from erase_plugins.runtime.patcher import delta_tensor

from . import addons, gates
from .naming import DENOISER
from .row_maps import ContextPatch, hang_in_front, hang_in_weights, in_front
from .target import ComfyTarget
from .weights import PatchedWeights, kept_by_module, unbaked

_PATCHABLE = frozenset({"contextmap", "lowrank", "dense", "rows", "addon"})


@dataclass(frozen=True)
class Patched:
    """Clones with the edit, how many modules it reached, how, and why files of these models do not hold all of it."""

    model: Any
    clip: Any
    count: int
    total: int
    ways: tuple[str, ...]
    unsaved: tuple[str, ...] = ()

    def report(self, name: str, strength: float) -> str:
        """One line, as `erase_plugins.apply` reports, and one about what nodes that save or merge models leave out."""
        how = ", ".join(self.ways) or "off"
        line = f"{name}: patched {self.count} of {self.total} modules, strength {strength:g} ({how})"
        if not self.unsaved:
            return line
        return f"{line}\nnot in models that are saved or merged behind this node: {'; '.join(self.unsaved)}"


class WeightWrapper:
    """Adds a change to a weight at every use, after it was cast to the compute type: exact on fp8 and bf16 storage."""

    def __init__(self, delta: Delta, strength: float) -> None:
        self.delta, self.strength = delta, strength
        self._made: dict[Any, Tensor] = {}

    def __call__(self, weight: Tensor) -> Tensor:
        if weight.device not in self._made:
            self._made[weight.device] = delta_tensor(self.delta, weight.shape).to(weight.device)
        return (weight.float() + self.strength * self._made[weight.device]).to(weight.dtype)


def apply_edit(
    target: ComfyTarget, edit: Edit, strength: float, strength_clip: float | None = None, *, touch_weights: bool = True
) -> Patched:
    """Clones of the target's MODEL and CLIP with the edit on them; all modules or an error.

    Args:
        target: model and text encoder.
        edit: what to hang on.
        strength: of changes of the denoiser; 0 gives the MODEL itself.
        strength_clip: of changes of the text encoder; as ``strength`` if None.
        touch_weights: let the weights carry a context map where they can; False maps prompts in front of them.

    Raises:
        RequestError: a strength is not a usable number.
        Unsupported: a kind of change that has no place here, or CLIP is missing.
        BaseMismatch: "patched N of M" with the first problem.
    """
    denoiser = target.family.denoiser
    strengths = {denoiser: strength, "text": strength if strength_clip is None else strength_clip}
    for value in strengths.values():
        check_strength(value)
    strange = sorted(edit.kinds - _PATCHABLE)
    if strange:
        raise Unsupported(f"changes of kind {', '.join(strange)} cannot be used in ComfyUI")
    maps = context_maps(edit)
    keys, behind, gated = resolve(target, edit)
    total = len(keys) + len(behind) + len(gated) + (len(target.readers()) if maps else 0)
    model, clip, ways, unsaved = target.model, target.clip, [], []
    for component, item in maps.items():
        if component != denoiser or item.A.shape[1] != target.info.width:
            raise BaseMismatch(
                f"the map is for text rows of {item.A.shape[1]}, {target.info.model} takes {target.info.width}; "
                "nothing was changed"
            )
        if strength != 0:
            model, way, why = _with_map(target, model, ActiveMap(item, strength), touch_weights)
            ways.append(way)
            unsaved.append(why)
    for component in sorted(edit.deltas):
        factor = strengths[denoiser if component == denoiser else "text"]
        deltas = edit.deltas[component].items()
        chosen = {keys[(component, key)]: delta for key, delta in deltas if (component, key) in keys}
        if not chosen or factor == 0:
            continue
        if component == denoiser:
            model = model.clone() if model is target.model else model
            ways += _hang(model, target, component, chosen, factor)
        else:
            clip = clip.clone() if clip is target.clip else clip
            ways += _hang(clip.patcher, target, component, chosen, factor)
        unsaved.append(unbaked(target.part(component).stored(key) for key in chosen))
    if behind and strength != 0:
        model = model.clone() if model is target.model else model
        addons.hang(model, behind, strength)
        ways.append("add-ons behind attention layers")
        unsaved.append("add-ons are no weights of the model")
    gate, _ = gates.split(edit)
    if gate is not None and strength != 0:
        model = model.clone() if model is target.model else model
        gates.hang(model, gate, gated, strength)
        ways.append("strength by prompt, told from its embeddings alone")
        unsaved.append("its strength follows the prompt")
    said = tuple(dict.fromkeys(filter(None, unsaved)))
    return Patched(model, clip, total, total, tuple(dict.fromkeys(ways)), said)


def check_strength(strength: float) -> None:
    """Refuses what is no number.

    Raises:
        RequestError: names the value.
    """
    if strength != strength or abs(strength) > 100:
        raise RequestError(f"strength {strength!r} is not a usable number; 1 is the evaluated edit, 0 switches it off")


def resolve(
    target: ComfyTarget, edit: Edit
) -> tuple[dict[tuple[str, str], str], dict[addons.Place, AddOn], dict[str, AddOn]]:
    """Where everything goes; all of it or an error.

    Returns:
        Keys of the parameters that change, layers that get an add-on, and modules of the denoiser (by their path there)
        that get a gated change.
    """
    found: dict[tuple[str, str], str] = {}
    behind: dict[addons.Place, AddOn] = {}
    gated: dict[str, AddOn] = {}
    gate, changes = gates.split(edit)
    fits, first = 0, ""
    for component, key, delta in edit.items():
        if isinstance(delta, ContextMap):
            fits += 1
            continue
        if component != target.family.denoiser:
            target.part(component)  # says that CLIP is missing
        if delta is gate:
            fits += 1
            continue
        if isinstance(delta, AddOn) and key in changes:
            weight = target.key(component, f"{key}.weight")
            problem = (
                gates.problem(delta, target.part(component).stored(weight).shape) if weight else "not in this model"
            )
            if weight is None or problem:
                first = first or f"{component} {key}: {problem}"
                continue
            gated[weight.removeprefix(DENOISER).removesuffix(".weight")] = delta
            fits += 1
            continue
        if isinstance(delta, AddOn):
            layer = addons.place_of(key, target.info.configs["unet"])
            out = target.key(component, f"{key}.to_out.0.weight")
            problem = addons.problem(delta, target.part(component).stored(out).shape[0]) if out else "not in this model"
            if problem:
                first = first or f"{component} {key}: {problem}"
                continue
            behind[layer] = delta
            fits += 1
            continue
        place = target.key(component, key)
        if place is None:
            first = first or f"{component} {key}: not in this model"
            continue
        problem = shape_problem(delta, target.part(component).stored(place).shape)
        if problem:
            first = first or f"{component} {key}: {problem}"
            continue
        found[(component, key)] = place
        fits += 1
    if fits < len(edit):
        raise BaseMismatch(
            f"patched {fits} of {len(edit)} modules of {target.info.model} (family {target.family.id}): {first}; "
            "nothing was changed"
        )
    return found, behind, gated


def _with_map(target: ComfyTarget, model: Any, item: ActiveMap, touch_weights: bool) -> tuple[Any, str, str]:
    """A clone under one more map, how it was hung on, and why files of the model do not hold it (empty: they do)."""
    keys = [target.keys[(ref.component, ref.weight)] for ref in target.readers()]
    why = unbaked(target.unet.stored(key) for key in keys)
    if not touch_weights:
        why = "this node maps prompts and leaves the weights alone; the load node changes them where it can"
    elif not why and any(isinstance(patch, ContextPatch) for patch in in_front(model)):
        why = "prompts of this model are mapped already by a node in front, and maps have to stay together"
    if why:
        doors = not target.info.supports(CROSS_ATTENTION)
        return hang_in_front(model, item, doors), "context map in front of the weights", why
    return hang_in_weights(model, keys, item), "context map in the weights", ""


def _hang(patcher: Any, target: ComfyTarget, component: str, deltas: dict[str, Delta], strength: float) -> list[str]:
    """Hangs weight changes on a clone: patches, or wrappers where the storage would round the change away."""
    weights = target.part(component)
    stored = {key: weights.stored(key) for key in deltas}
    plain = {key: delta for key, delta in deltas.items() if kept_by_module(stored[key]) or not unbaked([stored[key]])}
    wrapped = {key: delta for key, delta in deltas.items() if key not in plain}
    if wrapped and not hasattr(patcher, "add_weight_wrapper"):
        plain, wrapped = deltas, {}
    if plain:
        accepted = patcher.add_patches(_as_patches(plain, weights), strength)
        if len(accepted) != len(plain):
            raise BaseMismatch(f"ComfyUI took {len(accepted)} of {len(plain)} patches; nothing was changed")
    for key, delta in wrapped.items():
        patcher.add_weight_wrapper(key, WeightWrapper(delta, strength))
    ways = {"weight patches": plain, "weight wrappers, exact on this storage type": wrapped}
    return [way for way, used in ways.items() if used]


def _as_patches(deltas: dict[str, Delta], weights: PatchedWeights) -> dict[str, Any]:
    """Changes in the form that ComfyUI patches with; factors stay factors, through its own LoRA reader."""
    import comfy.lora

    file, names, patches = {}, {}, {}
    for index, (key, delta) in enumerate(sorted(deltas.items(), key=lambda item: item[0])):
        if isinstance(delta, LowRank):
            stem = f"erase_{index}"
            names[stem] = key
            file[f"{stem}.lora_down.weight"], file[f"{stem}.lora_up.weight"] = delta.A, delta.B
        else:
            patches[key] = ("diff", (delta_tensor(delta, weights.stored(key).shape),))
    return {**comfy.lora.load_lora(file, names), **patches}
