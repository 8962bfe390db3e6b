"""Recognises a base model from one value per parameter: cheap, and stable under casts to fp16 and bf16.

A fingerprint can be compared as a whole or for some parameters only: what an edit does not touch may be another one.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import CorruptArtifact

if TYPE_CHECKING:
    from torch import Tensor

#: a cast to bf16 moves a value by at most 2**-9 of its size; anything beyond 1 % is another weight
_RELATIVE = 1e-2
_ABSOLUTE = 1e-6
#: bytes of one parameter's key; two of a few thousand names meet with a chance below 1e-7
_KEY = 6


@dataclass(frozen=True)
class Comparison:
    """Result of comparing two fingerprints: "same", "weights" (same architecture, other weights) or "structure".

    Attributes:
        verdict: the result.
        changed: how many sampled values differ.
        total: how many were to be compared.
        unread: how many of them could not be read (quantised or offloaded).
        missing: the first parameter that matters and this one does not know, if its name is known.
    """

    verdict: str
    changed: int
    total: int
    unread: int = 0
    missing: str = ""

    def __str__(self) -> str:
        if self.verdict == "same":
            return "same weights"
        if self.verdict == "structure":
            return "another architecture" + (f" ({self.missing} is not the same)" if self.missing else "")
        return f"same architecture, other weights ({self.changed} of {self.total} sampled values differ)"


@dataclass(frozen=True)
class Fingerprint:
    """Hash of parameter names and shapes, and the middle value of each parameter in float32.

    Attributes:
        structure: SHA-256 of all names and shapes.
        sample: one little-endian float32 per parameter, sorted by name; NaN where the value cannot be read.
        keys: six bytes per parameter, in the same order: the start of a hash of name and shape. Empty in manifests
            that older versions wrote; those compare as a whole, or where the structure is the same.
        names: of a model at hand, not stored.
        whole: of a model at hand with adapters: the fingerprint as older versions took it, adapters counted in.
    """

    structure: str
    sample: bytes
    keys: bytes = b""
    names: tuple[str, ...] = field(default=(), compare=False, repr=False)
    whole: Fingerprint | None = field(default=None, compare=False, repr=False)

    @property
    def short(self) -> str:
        """Twelve hexadecimal digits for people."""
        return hashlib.sha256(self.structure.encode() + self.sample).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        parts = {"sample": self.sample, "keys": self.keys}
        return {"structure": self.structure} | {
            name: base64.b64encode(part).decode() for name, part in parts.items() if part or name == "sample"
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Fingerprint:
        """Inverse of `to_dict`.

        Raises:
            CorruptArtifact: fields missing or not decodable.
        """
        try:
            sample = base64.b64decode(str(data["sample"]), validate=True)
            keys = base64.b64decode(str(data.get("keys") or ""), validate=True)
            structure = str(data["structure"])
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise CorruptArtifact(
                "the base fingerprint in the manifest is damaged; fetch the artifact again"
            ) from error
        if len(sample) % 4 or (keys and len(keys) * 4 != len(sample) * _KEY):
            raise CorruptArtifact("the base fingerprint in the manifest is damaged; fetch the artifact again")
        return cls(structure=structure, sample=sample, keys=keys)

    def compare(self, other: Fingerprint, only: Collection[str] | None = None) -> Comparison:
        """How ``other`` relates to this one.

        Args:
            other: the other one, of a model at hand if ``only`` is given.
            only: names of the parameters that matter, as far as the other one has them; all if None.
        """
        import numpy as np

        mine, theirs = (np.frombuffer(item.sample, dtype="<f4") for item in (self, other))
        place = {name: number for number, name in enumerate(other.names)}
        # where nothing of what matters is known, everything counts: comparing nothing would accept every model
        wanted = None if only is None else [name for name in other.names if name in only] or None
        if self.structure == other.structure and mine.shape == theirs.shape:
            if wanted is not None:
                mine, theirs = (side[[place[name] for name in wanted]] for side in (mine, theirs))
        elif self.keys and other.names:  # what only the model at hand has are adapters that nobody knows by name
            live = _cut(other.keys)
            first, second = (
                dict(zip(keys, side, strict=True)) for keys, side in ((_cut(self.keys), mine), (live, theirs))
            )
            keys = list(first) if wanted is None else [live[place[name]] for name in wanted]
            if any(key not in first or key not in second for key in keys):
                lost = next((name for name in wanted or () if live[place[name]] not in first), "")
                return Comparison("structure", 0, len(keys), missing=lost)
            mine, theirs = (np.array([table[key] for key in keys], dtype="<f4") for table in (first, second))
        elif other.whole is not None and other.whole.structure == self.structure:
            return self.compare(other.whole, only)
        else:
            return Comparison("structure", 0, len(mine))
        unread = np.isnan(mine) | np.isnan(theirs)
        changed = int((~unread & far(mine, theirs)).sum())
        return Comparison("weights" if changed else "same", changed, len(mine), int(unread.sum()))


def far(mine: Any, theirs: Any) -> Any:
    """Whether a value, or each of several, is another one and not a cast of the first."""
    import numpy as np

    return np.logical_not(np.abs(mine - theirs) <= _ABSOLUTE + _RELATIVE * np.abs(mine))


def _cut(keys: bytes) -> list[bytes]:
    return [keys[start : start + _KEY] for start in range(0, len(keys), _KEY)]


def base_difference(mine: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """What speaks against using two artifacts together; empty if nothing does.

    Args:
        mine, theirs: the ``base`` of two manifests; components that only one of them knows are not compared.
    """
    if mine.get("family") != theirs.get("family"):
        return f"family {mine.get('family')} and family {theirs.get('family')}"
    ours, others = mine.get("fingerprint") or {}, theirs.get("fingerprint") or {}
    for component in sorted(set(ours) & set(others)):
        one, two = Fingerprint.from_dict(ours[component]), Fingerprint.from_dict(others[component])
        result = one.compare(two)
        if result.verdict != "same":
            return f"{component} {one.short} and {component} {two.short}: {result}"
    return ""


def fingerprint(parameters: Mapping[str, Tensor]) -> Fingerprint:
    """Fingerprint of a component.

    Args:
        parameters: canonical parameter name to tensor; adapters left out.
    """
    return fingerprint_of({name: (stated_shape(item), _middle(item)) for name, item in parameters.items()})


def fingerprint_of(facts: Mapping[str, tuple[tuple[int, ...], Tensor]]) -> Fingerprint:
    """Fingerprint from shape and middle value of every parameter, where nothing else needs to be read."""
    import torch

    names = tuple(sorted(facts))
    lines = [f"{name}:{tuple(facts[name][0])}" for name in names]
    values = [facts[name][1].reshape(()) for name in names]
    sample = torch.stack([value.to("cpu", torch.float32) for value in values]).numpy().astype("<f4")
    return Fingerprint(
        structure=hashlib.sha256("\n".join(lines).encode()).hexdigest(),
        sample=sample.tobytes(),
        keys=b"".join(hashlib.sha256(line.encode()).digest()[:_KEY] for line in lines),
        names=names,
    )


def stated_shape(tensor: Tensor) -> tuple[int, ...]:
    """Shape of a weight; of one that is packed (bitsandbytes' 4 bits, GGUF), the shape that it stands for."""
    packed = getattr(tensor, "quant_shape", tensor.shape)
    return tuple(getattr(getattr(tensor, "quant_state", None), "shape", packed))


def readable(tensor: Tensor) -> bool:
    """Whether the numbers of a parameter lie there as they are: plain, floating point of 16 bits or more, loaded."""
    import torch

    plain = type(tensor.detach()) in (torch.Tensor, torch.nn.Parameter) and tensor.is_floating_point()
    return plain and tensor.element_size() > 1 and tensor.device.type != "meta"


def _middle(tensor: Tensor) -> Tensor:
    import torch

    if not readable(tensor):
        return torch.tensor(float("nan"))
    return tensor.detach().reshape(-1)[tensor.numel() // 2]
