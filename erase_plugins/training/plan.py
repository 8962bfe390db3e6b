"""What a training run will cost, from configuration alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

from erase_plugins.engine.optimizers import moment_bytes
from erase_plugins.errors import Unsupported
from erase_plugins.families.base import ModuleRef, TargetInfo
from erase_plugins.families.capabilities import TEXT
from erase_plugins.types import EraseRequest

#: samples of a pass that only looks, as most trajectories are made
_AT_ONCE = 32


def check_trainable(method: str, info: TargetInfo) -> None:
    """Refuses denoisers that a text-only training run cannot feed.

    Raises:
        Unsupported: models that take more than latents (inpainting, control: a mask or picture beside them), or a
            guidance embedding that the method does not give.
    """
    denoiser = info.configs.get(info.family.denoiser, {}) if "denoiser" in info.family.roles else {}
    taken = denoiser.get("in_channels")
    latents = denoiser.get("out_channels") or taken
    if taken != latents:
        raise Unsupported(
            f"{method} trains on plain latents of {latents} channels, {info.model} takes {taken} (inpainting and "
            "control models take a mask or a picture too); use the base model, or a closed-form method such as uce"
        )
    if denoiser.get("time_cond_proj_dim"):
        raise Unsupported(
            f"{info.model} is guidance-distilled (time_cond_proj_dim is set) and {method} has no guidance embedding to "
            "give it; erase from the model it was distilled from, or use uce"
        )


def place(ref: ModuleRef) -> str:
    """What a plan calls a module."""
    return f"{ref.component}.{ref.path}"


def trainable(refs: Sequence[ModuleRef], rank: int | None) -> int:
    """Number of trained values: LoRA factors, or full weights and biases."""
    if rank is None:
        return sum(prod(ref.shape) + (ref.shape[0] if ref.bias else 0) for ref in refs)
    return sum(min(rank, ref.shape[0], prod(ref.shape[1:])) * (ref.shape[0] + prod(ref.shape[1:])) for ref in refs)


def trained_bytes(values: int, optimizer: str) -> int:
    """Memory of trained values with their gradients and the optimizer's moments."""
    return (8 + moment_bytes(optimizer)) * values


def seconds_of(work: float, device: str, refs: Sequence[ModuleRef]) -> float:
    """Rough run time of ``work`` floating point operations in layers like ``refs``, without the time to load a model.

    Args:
        work: operations.
        device: torch device name.
        refs: what they are done in; their sizes decide how fast a processor is (`engine.rates`).
    """
    from erase_plugins.engine import rates

    return round(work / rates.layer(rates.width_of(refs), device), 1)


def computed(options: Any, device: str) -> Any:
    """Options of a loop with the precision that ``auto`` is on a device."""
    from erase_plugins.engine.precision import settled

    precision = settled(options.precision, device)
    return options if precision == options.precision else replace(options, precision=precision)


def estimate(
    info: TargetInfo, request: EraseRequest, values: int, *, forwards: float, iterations: int, batch: int, states: int,
    prompts: float = 0.0, texts: int = 0, searches: bool = False, again: bool = False, precision: str = "bfloat16",
    optimizer: str = "adam",
) -> dict[str, Any]:  # fmt: skip
    """Rough run time, memory besides the model, and file size, as fields of an `EditPlan`.

    Args:
        info, request: what is trained, where.
        values: trained values, see `trainable`.
        forwards: samples through the denoiser before and beside training.
        iterations, batch: training steps and samples per step (forward and backward).
        states: stored states.
        prompts: prompts through the text encoders beside their encoding; one that is trained on counts three times.
        texts: prompts of a training step that go through a text encoder with gradients.
        searches: whether words are looked for among all that the text encoder knows.
        again: whether a large denoiser computes its blocks again on the way back.
        precision: of the pass.
        optimizer: of training.
    """
    from erase_plugins.engine import rates
    from erase_plugins.engine.activations import look_bytes, step_bytes, text_bytes
    from erase_plugins.engine.vocabulary import rows_to_search

    own = [ref for ref in info.refs if ref.component == info.family.denoiser]
    size = sum(prod(ref.shape) for ref in own)
    latent = prod(info.latent_shape)
    each = 2.0 * size * max(latent / info.latent_shape[0] / 6.0, 1.0)
    encoders = info.components(TEXT) if TEXT in info.roles else ()
    read = [ref for ref in info.refs if ref.component in encoders and ref.kind == "linear"]
    rows = prompts * info.tokens + (rows_to_search(info) if searches and read else 0)
    text = 2.0 * sum(prod(ref.shape) for ref in read) * rows

    def passes(work: float, samples: int, trained: bool) -> float:
        rate = rates.of_accelerator(request.device)
        if rate is None and work:
            width = rates.width_of(ref for ref in own if ref.kind == "linear")
            convolved = any(len(ref.shape) == 4 and ref.shape[-1] > 1 for ref in own)
            positions = latent // info.latent_shape[0] // 4
            rate = rates.block(width, positions, samples, precision, convolved, trained)
        return work / rate if rate else 0.0

    seconds = passes(forwards * each, _AT_ONCE, False) + passes(3.0 * iterations * batch * each, batch, True)
    seconds += seconds_of(text, request.device, read) if text else 0.0
    step = step_bytes(info, batch, again, request.dtype, precision) or batch * latent * 40 * max(info.width, 256)
    step += text_bytes(info, texts, request.dtype)
    looked = look_bytes(info, 2 * _AT_ONCE, request.dtype, precision) if forwards else 0
    trained = trained_bytes(values, optimizer)
    return {
        "seconds": round(seconds, 1),
        # adapters with gradient and moments, activations of a pass, stored latents and predictions
        "memory_bytes": trained + max(step, looked) + 16 * states * latent,
        "file_bytes": 4 * values,
    }
