"""Convex losses of a linear head with the constants that the proof needs. Logits are (..., outputs, records)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from erase_plugins.errors import RequestError, Unsupported

#: what people ask for and cannot have, with the reason
REFUSED = {
    "hinge": "it has a kink, and the proof needs a smooth loss",
    "squared": "its gradient has no bound, and the proof needs one; use huber",
}


@dataclass(frozen=True)
class Loss:
    """A convex loss.

    Attributes:
        id: softmax, logistic or huber.
        threshold: of huber: beyond it the loss grows linearly.
    """

    id: str = "softmax"
    threshold: float = 1.0

    def __post_init__(self) -> None:
        if self.id in REFUSED:
            raise Unsupported(f"no certificate for the loss '{self.id}': {REFUSED[self.id]}; use softmax or logistic")
        if self.id not in ("softmax", "logistic", "huber"):
            raise Unsupported(f"no loss '{self.id}'; use softmax, logistic or huber")
        if not 0 < self.threshold < math.inf:
            raise RequestError(f"the threshold of huber is {self.threshold}; give a positive number")

    def lipschitz(self, norm: float) -> float:
        """Bound of the gradient norm of one record whose features have at most this norm."""
        return {"softmax": math.sqrt(2), "logistic": 1.0, "huber": self.threshold}[self.id] * norm

    def smoothness(self, norm: float) -> float:
        """Bound of the curvature that one record adds."""
        return {"softmax": 0.5, "logistic": 0.25, "huber": 1.0}[self.id] * norm**2

    def check_targets(self, targets: Any, outputs: int) -> Any:
        """Labels as the loss needs them: whole numbers for softmax, 0 or 1 for logistic, finite numbers for huber.

        Raises:
            RequestError: another kind or outside the range.
        """
        import numpy as np

        if targets.ndim != 1:
            raise RequestError(f"labels have the shape {targets.shape}; give one label per row")
        values = targets.astype(np.float64)
        if not np.isfinite(values).all():
            raise RequestError("a label is NaN or infinite; nothing was changed")
        if self.id == "huber":
            return values
        top = 2 if self.id == "logistic" else outputs
        bad = np.flatnonzero((values != np.floor(values)) | (values < 0) | (values >= top))
        if bad.size:
            raise RequestError(
                f"label {values[bad[0]]:g} of row {bad[0]} is not one of 0 ... {top - 1}; correct the labels"
            )
        return values

    def residual(self, logits: Any, targets: Any) -> Any:
        """Derivative of every record's loss by its logits, in the shape of the logits, which are overwritten."""
        import numpy as np

        if self.id == "softmax":
            logits -= logits.max(axis=-2, keepdims=True)
            np.exp(logits, out=logits)
            logits /= logits.sum(axis=-2, keepdims=True)
            logits[..., targets.astype(np.int64), np.arange(len(targets))] -= 1
            return logits
        if self.id == "logistic":
            return 0.5 * (1 + np.tanh(0.5 * logits)) - targets
        return np.clip(logits - targets, -self.threshold, self.threshold)

    def values(self, logits: Any, targets: Any) -> Any:
        """Loss of every record, (..., records)."""
        import numpy as np

        if self.id == "softmax":
            top = logits.max(axis=-2)
            own = logits[..., targets.astype(np.int64), np.arange(len(targets))]
            return top + np.log(np.exp(logits - top[..., None, :]).sum(axis=-2)) - own
        logits = logits[..., 0, :]
        if self.id == "logistic":
            return np.logaddexp(0, logits) - targets * logits
        size = np.abs(logits - targets)
        inner = np.minimum(size, self.threshold)
        return inner * (size - inner / 2)
