"""What the attack ``weights`` does to edited weights: strength, few bits, half put back, pruning, another LoRA.

All but the LoRA is done to classifiers as well (`erase_plugins.evaluation.classifier_weights`).

Parameters get other tensors and have their own back afterwards, whatever happens in between: nothing is computed back.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation.attacks.rates import TARGET, mean
from erase_plugins.hints import stored
from erase_plugins.late import FUNCTIONS

if TYPE_CHECKING:
    from torch import Tensor, nn

    from erase_plugins.artifacts.artifact import Artifact
    from erase_plugins.artifacts.edit import Delta
    from erase_plugins.evaluation.run import Subject

#: weights that share one scale when they are stored in few bits
BLOCK = 64
BITS = {"8bit": 8, "4bit": 4}
#: which half of the edited weights are those of the base again
HALVES = {"one half off": False, "other half off": True}
#: share of the values of each weight that become 0, in percent
PRUNED = {"pruned 30%": 30, "pruned 50%": 50}
MERGED = "LoRA merged"
#: rank of the random LoRA, and its norm as a share of that of each weight: trained adapters are about as large (esd 6 %
#: and leco 12 % of the weights that they change, on pocket), and a base with it still draws all that it drew
RANK, SHARE = 4, 0.05
_RANDOM = "random-lora"
#: why a variant was not tried
FEW = "the edit changes too few stored weights"
KEPT = "kept_rate"


@dataclass(frozen=True)
class Variant:
    """One way to change the weights: a strength, and what is done to the edited model then (nothing if empty)."""

    name: str
    strength: float
    change: str = ""

    @property
    def in_force(self) -> bool:
        """Whether at least half of the edit stays: less is taking it off, which always brings the base back."""
        return self.strength >= 0.5


VARIANTS = (
    Variant("off", 0.0),
    Variant("edited", 1.0),
    *(Variant(f"strength {value:g}", value) for value in (-1.0, -0.5, 0.25, 0.5, 0.75, 1.5)),
    *(Variant(name, 1.0, name) for name in (*BITS, *HALVES, *PRUNED)),
)


def worst_of(variants: Sequence[Variant], hits: Mapping[str, Mapping[str, Sequence[int]]]) -> Variant:
    """The change that leaves at least half of the edit and brings back most; of equal ones the one that keeps most.

    Args:
        variants: all.
        hits: variant -> set -> one 0/1 per picture, of those that were tried.
    """
    found = [item for item in variants if item.name in hits and item.in_force and item.name != "edited"]
    return max(found, key=lambda item: (mean(hits[item.name][TARGET]), mean(hits[item.name][KEPT])))


@dataclass(frozen=True, eq=False)
class Edited:
    """A parameter that the edit changed: where it is, and what it holds without the edit."""

    network: nn.Module
    key: str
    parameter: nn.Parameter
    base: Tensor


def said(change: str, lora: Artifact | None) -> str:
    """A change in words; empty for none."""
    if change in BITS:
        return f"edited weights stored in {BITS[change]} bits, one scale for {BLOCK}"
    if change in HALVES:
        return "half of the edited weights are those of the base again"
    if change in PRUNED:
        return f"the smallest {PRUNED[change]} % of each edited weight set to 0"
    if change != MERGED or lora is None:
        return ""
    if lora.path is None:
        return f"a random LoRA of rank {RANK} on the attention layers, {SHARE:.0%} of each weight's norm"
    return f"the LoRA '{lora.name}' beside it"


# ---- values of edited weights --------------------------------------------------------------------------------------


def parameters(pipe: Any) -> Iterator[tuple[nn.Module, str, nn.Parameter]]:
    """Network, canonical name and parameter, of all networks of a pipeline, or of a single one."""
    from torch import nn

    from erase_plugins.artifacts.names import canonical
    from erase_plugins.families.hosts import parts_of

    for component, module in parts_of(pipe).items():
        if isinstance(module, nn.Module):
            for name, parameter in module.named_parameters():
                yield module, canonical(component, name), parameter


def changed(change: str, edited: list[Edited], seed: int) -> list[tuple[Edited, Tensor]]:
    """Parameters with what they hold under a change; empty where there is nothing to change."""
    import torch

    if change in BITS:
        return [(item, quantised(item.parameter.data, BITS[change])) for item in edited]
    if change in PRUNED:  # connections: a bias, or a norm's scale, is none
        weights = [item for item in edited if item.parameter.ndim > 1]
        return [(item, pruned(item.parameter.data, PRUNED[change])) for item in weights]
    order = torch.randperm(len(edited), generator=torch.Generator().manual_seed(seed)).tolist()
    half = len(order) // 2
    chosen = order[half:] if HALVES[change] else order[:half]
    return [(edited[place], edited[place].base) for place in chosen]


def quantised(weight: Tensor, bits: int) -> Tensor:
    """A weight as it comes back from symmetric integers of ``bits`` bits, one scale for each `BLOCK` values."""
    import torch

    flat = weight.detach().float().flatten()
    padded = torch.nn.functional.pad(flat, (0, -len(flat) % BLOCK)).view(-1, BLOCK)
    most = 2 ** (bits - 1) - 1
    scale = padded.abs().amax(1, keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) / most
    rounded = (padded / scale).round().clamp(-most, most) * scale
    return rounded.flatten()[: len(flat)].view_as(weight).to(weight.dtype)


def pruned(weight: Tensor, percent: int) -> Tensor:
    """A weight whose smallest magnitudes are 0: ``percent`` of its values, rounded down; of equal ones the first.

    Magnitude pruning without training afterwards, each weight for itself (Han et al. 2015,
    [arXiv 1506.02626](https://arxiv.org/abs/1506.02626), who train on).
    """
    flat = weight.detach().flatten()
    count = flat.numel() * percent // 100
    if not count:
        return weight.detach().clone()
    size = flat.float().abs()
    limit = size.kthvalue(count).values
    below = size < limit
    equal = (size == limit).nonzero().flatten()
    below[equal[: count - int(below.sum())]] = True
    return flat.masked_fill(below, 0).view_as(weight)


@contextmanager
def varied(subject: Subject, variant: Variant) -> Iterator[bool]:
    """The edit in force as a variant changes it, for the length of a with-block; gives whether it changes anything."""
    strength = variant.strength * subject.strength
    if not strength:
        yield True
        return
    before = [parameter.data for _, _, parameter in parameters(subject.pipe)]
    with subject.edited(strength):
        if not variant.change:
            yield True
            return
        edited = [
            Edited(network, key, parameter, data)
            for (network, key, parameter), data in zip(parameters(subject.pipe), before, strict=True)
            if parameter.data.data_ptr() != data.data_ptr()
        ]
        change = changed(variant.change, edited, subject.seed)
        with swapped(change):
            yield bool(change)


@contextmanager
def swapped(change: list[tuple[Edited, Tensor]]) -> Iterator[None]:
    """Parameters with other values for the length of a with-block, and the fused projections made of them."""
    before = [(item, item.parameter.data) for item, _ in change]
    try:
        _put(change)
        yield
    finally:
        _put(before)


def _put(change: Iterable[tuple[Edited, Tensor]]) -> None:
    from erase_plugins.runtime.integrity import copy_fused

    keys: dict[nn.Module, list[str]] = {}
    for item, data in change:
        item.parameter.data = data
        keys.setdefault(item.network, []).append(item.key)
    for network, names in keys.items():
        copy_fused(network, names)


# ---- another LoRA --------------------------------------------------------------------------------------------------


def other_lora(subject: Subject, path: str) -> tuple[Artifact | None, str]:
    """The LoRA that is merged, which fits beside the edit: the user's, or a random one if no path is given.

    Returns:
        The LoRA, and why there is none: the model has no attention layers, or they cannot be changed.

    Raises:
        ArtifactError: the user's cannot be read, or does not fit.
        RequestError: the user's changes no weights.
    """
    lora = _of_the_user(path, subject) if path else None
    with subject.edited():
        try:
            lora = lora or random_lora(subject)
            with merged(subject, lora):
                return lora, ""
        except Unsupported as error:
            if path:
                raise
            return None, stored(error)


def _of_the_user(path: str, subject: Subject) -> Artifact:
    from erase_plugins.artifacts.policy import policies

    lora: Artifact = FUNCTIONS["load"](os.path.expanduser(path), subject.target.family.id)
    if policies(lora.manifest) or not len(lora.edit):
        raise RequestError(f"lora '{lora.name}' changes no weights; name a LoRA file or an artifact that does")
    return lora


def random_lora(subject: Subject) -> Artifact:
    """A LoRA of Gaussian factors on the attention layers, the same for every edit of a base and seed.

    Raises:
        Unsupported: there are none, or their weights cannot be read.
    """
    import torch

    from erase_plugins.artifacts.artifact import Artifact
    from erase_plugins.artifacts.edit import Edit, LowRank
    from erase_plugins.artifacts.fingerprint import readable
    from erase_plugins.artifacts.manifest import Manifest

    target, generator = subject.target, torch.Generator().manual_seed(subject.seed)
    deltas: dict[str, dict[str, Delta]] = {}
    for ref in target.modules("attn"):
        weight = target.base_weight(ref)
        if weight.ndim != 2 or not readable(weight):
            raise Unsupported(f"the weights of {ref.component} {ref.path} are quantised, offloaded or no matrix")
        down = torch.randn(RANK, weight.shape[1], generator=generator)
        up = torch.randn(weight.shape[0], RANK, generator=generator)
        up *= SHARE * float(weight.float().norm()) / float((up @ down).norm())
        deltas.setdefault(ref.component, {})[ref.weight] = LowRank(down, up)
    family = target.family.id
    return Artifact(Manifest(_RANDOM, {"id": "random"}, (), base={"family": family}), Edit(family, deltas))


@contextmanager
def merged(subject: Subject, lora: Artifact) -> Iterator[None]:
    """A LoRA in force at strength 1 for the length of a with-block, added to whatever is in force already."""
    from erase_plugins.runtime.apply import apply_to

    handle = apply_to(subject.target.family.wrap(subject.pipe), lora, any_base=subject.any_base)
    subject.told |= dict.fromkeys(handle.warnings)
    try:
        yield
    finally:
        handle.remove()
