"""Edits made of closed-form solutions, and their statistics read back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.edit import CONTEXT, ContextMap, Edit
from erase_plugins.artifacts.statistics_file import statistics_from_tensors, statistics_to_tensors
from erase_plugins.errors import ArtifactError

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.statistics import Statistics

DENOISER = "unet"


def context_edit(A: Tensor, B: Tensor, statistics: Statistics, family: Any, error: float = 0.0) -> Edit:
    """An edit with one context map B A and the statistics that made it, on the denoiser of ``family``."""
    tensors, facts = statistics_to_tensors(statistics)
    delta = ContextMap(A.float().contiguous(), B.float().contiguous())
    meta: dict[str, Any] = {"statistics": facts}
    if error:
        meta["truncation_error"] = error
    return Edit(family.id, {family.denoiser: {CONTEXT: delta}}, tensors, meta)


def statistics_of(edit: Edit, name: str = "artifact") -> Statistics:
    """Statistics stored in an edit.

    Raises:
        ArtifactError: the edit has none.
    """
    facts = edit.meta.get("statistics")
    if not isinstance(facts, dict):
        raise ArtifactError(
            f"'{name}' holds no closed-form statistics, which adding, revoking and solving jointly need; "
            "it can only be summed with others (merge)"
        )
    return statistics_from_tensors(edit.statistics, facts)
