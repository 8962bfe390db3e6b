"""A connected MODEL and CLIP as what methods work on, whatever its architecture."""

from __future__ import annotations

from typing import Any

from .flow_target import ComfyFlowTarget, flow_family
from .target import ComfyTarget


def target_of(model: Any, clip: Any = None) -> ComfyTarget:
    """A UNet or a flow transformer behind the `Target` contract.

    Args:
        model: ModelPatcher of a diffusion model.
        clip: its CLIP; without it nothing can be encoded.

    Raises:
        Unsupported, RequestError: neither, or the CLIP of another model.
    """
    return ComfyTarget(model, clip) if flow_family(model) is None else ComfyFlowTarget(model, clip)
