"""Recognises a base model from one value per parameter: cheap, and stable under casts to fp16 and bf16."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import CorruptArtifact

if TYPE_CHECKING:
    from torch import Tensor

#: a cast to bf16 moves a value by at most 2**-9 of its size; anything beyond 1 % is another weight
_RELATIVE = 1e-2
_ABSOLUTE = 1e-6


@dataclass(frozen=True)
class Comparison:
    """Result of comparing two fingerprints: "same", "weights" (same architecture, other weights) or "structure"."""

    verdict: str
    changed: int
    total: int

    def __str__(self) -> str:
        if self.verdict == "same":
            return "same weights"
        if self.verdict == "structure":
            return "another architecture"
        return f"same architecture, other weights ({self.changed} of {self.total} sampled values differ)"


@dataclass(frozen=True)
class Fingerprint:
    """Hash of parameter names and shapes, and the middle value of each parameter in float32."""

    structure: str
    sample: bytes

    @property
    def short(self) -> str:
        """Twelve hexadecimal digits for people."""
        return hashlib.sha256(self.structure.encode() + self.sample).hexdigest()[:12]

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready form."""
        return {"structure": self.structure, "sample": base64.b64encode(self.sample).decode()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Fingerprint:
        """Inverse of `to_dict`.

        Raises:
            CorruptArtifact: fields missing or not decodable.
        """
        try:
            sample = base64.b64decode(str(data["sample"]), validate=True)
            structure = str(data["structure"])
        except (KeyError, TypeError, ValueError) as error:
            raise CorruptArtifact(
                "the base fingerprint in the manifest is damaged; fetch the artifact again"
            ) from error
        if len(sample) % 4:
            raise CorruptArtifact("the base fingerprint in the manifest is damaged; fetch the artifact again")
        return cls(structure=structure, sample=sample)

    def compare(self, other: Fingerprint) -> Comparison:
        """How ``other`` relates to this one."""
        import numpy as np

        mine, theirs = (np.frombuffer(item.sample, dtype="<f4") for item in (self, other))
        if self.structure != other.structure or mine.shape != theirs.shape:
            return Comparison("structure", 0, len(mine))
        far = ~(np.abs(mine - theirs) <= _ABSOLUTE + _RELATIVE * np.abs(mine))
        changed = int(far.sum())
        return Comparison("weights" if changed else "same", changed, len(mine))


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
    import torch

    names = sorted(parameters)
    lines = "\n".join(f"{name}:{tuple(parameters[name].shape)}" for name in names)
    values = [parameters[name].detach().reshape(-1)[parameters[name].numel() // 2] for name in names]
    sample = torch.stack([value.to("cpu", torch.float32) for value in values]).numpy().astype("<f4")
    return Fingerprint(hashlib.sha256(lines.encode()).hexdigest(), sample.tobytes())
