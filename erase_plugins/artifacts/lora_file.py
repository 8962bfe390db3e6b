"""What the LoRA layouts share: which edits they can carry, padding that loaders need, pairs of factors.

Facts behind it: one rank and a baked scale per file, since some loaders mis-scale mixed ranks or alphas; a text encoder
LoRA needs at least one attention output projection, else diffusers drops or rejects the file, so a zero one is added.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from erase_plugins.artifacts.edit import Delta, Edit, LowRank, is_bias
from erase_plugins.artifacts.lowrank import uniform_rank
from erase_plugins.artifacts.standin import stand_in, stand_in_loss
from erase_plugins.errors import ArtifactError, CorruptArtifact, Unsupported
from erase_plugins.hints import Command, Sentence, joined, sentence_of
from erase_plugins.protocols import Verdict

if TYPE_CHECKING:
    from erase_plugins.artifacts.family_names import FamilyNames

#: header key that lists module names which hold nothing but zeros, for loaders only
PADDING = "erase_plugins.padding"
_BIAS = "bias"
#: key of a pattern that is a module's name; peft takes others, and the point in it, as regular expressions
_PLAIN_PATTERN = re.compile(r"\^?[\w.-]+")
_DROP_BIAS = Command("convert --drop-bias", "`convert --drop-bias`")
_WHY = {
    "dense": "full weight changes (write them with layout diff or patch, or convert with a rank)",
    _BIAS: Sentence("bias changes (a LoRA has none; ", _DROP_BIAS, " leaves them out on request)"),
    "rows": "changed rows of an embedding table",
    "contextmap": "a context map (needs the base weights to become a LoRA)",
    "addon": "added modules",
}


def lora_verdict(edit: Edit) -> Verdict:
    """Whether an edit is low-rank changes of linear and convolution weights, or has stand-ins for the rest."""
    lost = stand_in_loss(edit)
    edit = stand_in(edit) if lost else edit
    kinds = {_BIAS if is_bias(delta) else delta.kind for _, _, delta in edit.items()}
    other = sorted(kinds - {"lowrank"})
    if other:
        return Verdict(
            "no", Sentence("a LoRA file cannot carry ", joined("; ", [_WHY.get(kind, kind) for kind in other]))
        )
    odd = [f"{component} {key}" for component, key, _ in edit.items() if not is_lora_key(key)]
    if odd:
        return Verdict("no", f"a LoRA file changes weights of linear and convolution modules only, not {odd[0]}")
    if lost:
        return Verdict("lossy", lost)
    return Verdict("yes") if len(edit) else Verdict("no", "the edit is empty")


def named_verdict(edit: Edit, family: FamilyNames, layout: str) -> Verdict:
    """`lora_verdict`, and "no" where the family has no names for the layout."""
    found = lora_verdict(edit)
    if not found:
        return found
    # added modules have no names in a file, what stands in for them has
    written = stand_in(edit) if "addon" in edit.kinds else edit
    try:
        for component, key, _ in written.items():
            family.stem(layout, component, key.removesuffix(".weight"))
    except Unsupported as error:
        return Verdict("no", sentence_of(error))
    return found


def is_lora_key(key: str) -> bool:
    """Whether a parameter name is the weight of a linear or convolution module."""
    return key.endswith(".weight") and not key.removesuffix(".weight").endswith("embedding")


def is_text(component: str) -> bool:
    """Whether a component is a text encoder."""
    return component.startswith("text_encoder")


def prepared(edit: Edit) -> tuple[Edit, list[tuple[str, str]]]:
    """The edit with one rank and stand-ins, in contiguous tensors, plus the zero projections that loaders need.

    Returns:
        The edit, and (component, module path) of what was added.
    """
    padded = uniform_rank(stand_in(edit))
    dtype = stored_dtype(edit)
    deltas: dict[str, dict[str, Delta]] = {}
    for component, key, delta in padded.items():
        assert isinstance(delta, LowRank)
        deltas.setdefault(component, {})[key] = LowRank(fresh(delta.A, dtype), fresh(delta.B, dtype))
    added = []
    for component, group in deltas.items():
        if is_text(component) and not any(key.endswith("self_attn.out_proj.weight") for key in group):
            key, width = _missing_projection(group)
            if key:
                rank = padded.rank
                group[key] = LowRank(torch.zeros(rank, width, dtype=dtype), torch.zeros(width, rank, dtype=dtype))
                added.append((component, key.removesuffix(".weight")))
    return Edit(edit.family, deltas), added


def _missing_projection(group: Mapping[str, Delta]) -> tuple[str, int]:
    """Name and width of an output projection beside a module that is changed."""
    for key, delta in sorted(group.items()):
        parts = key.split(".")
        if isinstance(delta, LowRank) and parts[:2] == ["encoder", "layers"]:
            width = delta.B.shape[0] if parts[-2] == "fc2" else delta.A.shape[1]
            return ".".join([*parts[:3], "self_attn", "out_proj", "weight"]), width
        if isinstance(delta, LowRank) and key == "text_projection.weight":
            return "encoder.layers.0.self_attn.out_proj.weight", delta.A.shape[1]
    return "", 0


def fresh(tensor: Tensor, dtype: torch.dtype = torch.float32) -> Tensor:
    """Contiguous copy that shares storage with nothing."""
    return tensor.detach().to("cpu", dtype, copy=True).contiguous()


def stored_dtype(edit: Edit) -> torch.dtype:
    """Dtype of the factors in a file: float32 unless a conversion asked for a smaller one."""
    name = edit.meta.get("dtype", "float32")
    return {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(name, torch.float32)


def padding_header(stems: Iterable[str]) -> dict[str, str]:
    """Header entry that names padding modules; empty without any."""
    names = sorted(stems)
    return {PADDING: json.dumps(names)} if names else {}


def padding_names(header: Mapping[str, str]) -> frozenset[str]:
    """Inverse of `padding_header`."""
    try:
        names = json.loads(header.get(PADDING, "[]"))
    except (ValueError, RecursionError) as error:
        raise CorruptArtifact(f"the header entry {PADDING} is damaged; fetch the artifact again") from error
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise CorruptArtifact(f"the header entry {PADDING} is damaged; fetch the artifact again")
    return frozenset(names)


def adapter_scale(config: Mapping[str, Any], path: str, rank: int) -> float:
    """alpha / rank of one module as peft computes it, patterns and rank-stabilised scaling included.

    Args:
        config: fields of peft's LoraConfig; alpha is the rank where they say nothing.
        path: of the module.
        rank: of its factors.

    Raises:
        CorruptArtifact: not a number.
        ArtifactError: a pattern that is an expression; peft would match it, and a guess would give a wrong strength.
    """
    patterns = config.get("alpha_pattern") or {}
    try:
        odd = next((name for name in patterns if not _PLAIN_PATTERN.fullmatch(name)), "")
        found = (value for name, value in patterns.items() if _names_module(name, path))
        alpha = float(next(found, config.get("lora_alpha", rank)))
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise CorruptArtifact("alpha of the adapter is not a number") from error
    if odd:
        raise ArtifactError(
            f"alpha_pattern holds the regular expression '{odd[:80]}', which is not read; write out the module names"
        )
    return alpha / (rank**0.5 if config.get("use_rslora") else rank) if rank else 1.0


def _names_module(name: str, path: str) -> bool:
    """Whether a plain key of a pattern is a module's path, or, without a ^, the end of it."""
    key, path = name.removeprefix("^").removeprefix("text_model."), path.removeprefix("text_model.")
    return path == key or (not name.startswith("^") and path.endswith(f".{key}"))


@dataclass
class Pairs:
    """Collects down, up and alpha per module while a file is read."""

    found: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def put(self, stem: str, part: str, tensor: Tensor) -> None:
        """Adds one tensor.

        Raises:
            CorruptArtifact: given twice.
        """
        group = self.found.setdefault(stem, {})
        if part in group:
            raise CorruptArtifact(f"{stem[:80]} has two {part} tensors")
        group[part] = tensor

    def lowrank(self, stem: str, scale: float | None = None) -> LowRank:
        """The pair of one module with its scale (alpha / rank unless given) baked into the up factor.

        Raises:
            CorruptArtifact: half a pair, or factors that do not multiply.
        """
        from erase_plugins.artifacts.serialize import check_delta

        group = self.found[stem]
        if "down" not in group or "up" not in group:
            raise CorruptArtifact(f"{stem[:80]} has only {', '.join(sorted(group))}; a LoRA needs down and up")
        down, up, alpha = group["down"], group["up"], group.get("alpha")
        for part in (down, up):
            if not part.is_floating_point() or part.element_size() < 2:
                raise CorruptArtifact(f"{stem[:80]} holds {part.dtype} factors")
        if down.ndim < 2 or up.ndim < 2 or not down.shape[0]:
            raise CorruptArtifact(f"{stem[:80]}: shapes {tuple(down.shape)} and {tuple(up.shape)} are no LoRA factors")
        if up.ndim == 4 and down.ndim == 2:  # 1 x 1 convolutions written half as linear
            up = up.flatten(1)
        if alpha is not None:
            if alpha.numel() != 1:
                raise CorruptArtifact(f"{stem[:80]}: alpha has shape {tuple(alpha.shape)}")
            scale = float(alpha.reshape(-1)[0].float()) / down.shape[0]
        pair = LowRank(down.float(), up.float() if scale in (None, 1.0) else up.float() * scale)
        check_delta(stem[:80], pair)
        return pair


def collect(
    family: str, pairs: Pairs, places: Mapping[str, tuple[str, str]], scales: Mapping[str, float] | None = None
) -> Edit:
    """Edit from pairs and where they belong.

    Raises:
        CorruptArtifact: the same module twice under different names.
        ArtifactError: nothing found.
    """
    deltas: dict[str, dict[str, Delta]] = {}
    for stem, (component, path) in places.items():
        group, key = deltas.setdefault(component, {}), f"{path}.weight"
        if key in group:
            raise CorruptArtifact(f"{component} {path} occurs twice, under different names")
        group[key] = pairs.lowrank(stem, (scales or {}).get(stem))
    if not deltas:
        raise ArtifactError("the file holds no LoRA pair")
    return Edit(family, deltas)
