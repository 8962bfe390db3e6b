"""What a guard says about itself, as JSON: stages that act while a model runs. It never changes weights.

A policy stands in a file of its own (`guard.json`) or among the ``guards`` of a manifest, where an artifact needs no
weights. Tensors in it are base64 of little-endian float32, as fingerprints are.
"""

from __future__ import annotations

import base64
import binascii
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import CorruptArtifact, RequestError

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.manifest import Manifest

SCHEMA, KIND = 1, "guardrail"
#: what happens to a prompt that is hit: reported, refused, or drawn as the empty prompt
ACTIONS = ("flag", "block", "empty")
#: every artifact with a policy says this
NOTHING_REMOVED = (
    "a guard, not an erasure: nothing is removed from the weights; whoever runs the model without it, or goes round "
    "it, meets the concept"
)


def make(
    concept: str, stages: Sequence[Mapping[str, Any]], action: str = "block", message: str = "", *,
    shareable: bool = True, calibration: Mapping[str, Any] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """A policy.

    Args:
        concept: id of what is guarded; no name in a private guard.
        stages: what looks or steers, in this order; each says its ``type``.
        action: one of `ACTIONS`, for stages that look.
        message: what is answered in the place of what was blocked.
        shareable: False where the file would tell about a person; a push refuses it.
        calibration: how thresholds were found, with the rates that they had.
    """
    found = {
        "schema": SCHEMA, "kind": KIND, "weight_level": False, "concept": concept,
        "stages": [dict(stage) for stage in stages], "action": action, "message": message, "shareable": shareable,
    }  # fmt: skip
    return found if calibration is None else {**found, "calibration": dict(calibration)}


def checked(data: Any) -> Mapping[str, Any]:
    """The policy, if it is one of this version.

    Raises:
        CorruptArtifact: another schema, a claim about weights, or a field of another type.
    """
    try:
        sound = (
            data["schema"] == SCHEMA and data["kind"] == KIND and data["weight_level"] is False
            and data["action"] in ACTIONS and type(data["shareable"]) is bool
            and isinstance(data["concept"], str) and isinstance(data["message"], str)
            and isinstance(data["stages"], list) and bool(data["stages"])
            and all(isinstance(stage["type"], str) for stage in data["stages"])
        )  # fmt: skip
    except (KeyError, TypeError) as error:
        raise CorruptArtifact("this is not a guard") from error
    if not sound:
        raise CorruptArtifact("this is not a guard of this version, or it was changed")
    found: Mapping[str, Any] = data
    return found


def check_action(action: str, message: str) -> None:
    """Refuses an unknown action, and one that blocks with nothing to answer.

    Raises:
        RequestError: says what would do.
    """
    if action not in ACTIONS or (action == "block" and not message):
        raise RequestError(
            f"action is one of {', '.join(ACTIONS)}, and a guard that blocks needs a message to answer with"
        )


def policies(manifest: Manifest) -> tuple[Mapping[str, Any], ...]:
    """The guards of an artifact that this package can put in front of a model.

    Raises:
        CorruptArtifact: one claims to be such a guard and is not.
    """
    return tuple(checked(item) for item in manifest.guards if item.get("kind") == KIND)


def numbers(stage: Mapping[str, Any], names: Sequence[str]) -> list[float]:
    """Settings of a stage, by name.

    Raises:
        CorruptArtifact: one is missing or no finite number.
    """
    try:
        found = [float(stage[name]) for name in names]
    except (KeyError, TypeError, ValueError) as error:
        raise CorruptArtifact(f"the guard '{stage['type'][:40]}' has no usable settings") from error
    if not all(map(math.isfinite, found)):
        raise CorruptArtifact(f"the guard '{stage['type'][:40]}' has settings that are NaN or infinite")
    return found


def packed(tensor: Tensor) -> dict[str, Any]:
    """A tensor as JSON: shape, and base64 of its values as float32."""
    values = tensor.detach().cpu().float().contiguous()
    return {"shape": list(values.shape), "float32": base64.b64encode(values.numpy().astype("<f4").tobytes()).decode()}


def unpacked(data: Any) -> Tensor:
    """Inverse of `packed`.

    Raises:
        CorruptArtifact: not such a tensor, or not finite.
    """
    import numpy as np
    import torch

    try:
        values = np.frombuffer(base64.b64decode(data["float32"], validate=True), "<f4").reshape(data["shape"])
    except (KeyError, TypeError, ValueError, binascii.Error) as error:
        raise CorruptArtifact("a tensor of the guard is damaged") from error
    if not np.isfinite(values).all():
        raise CorruptArtifact("a tensor of the guard holds NaN or infinity")
    return torch.from_numpy(values.copy())
