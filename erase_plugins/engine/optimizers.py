"""Optimizers by name. No torch at import: options name them."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import MissingExtra, RequestError, Unsupported

if TYPE_CHECKING:
    from torch.optim import Optimizer

#: those whose moments take a byte each instead of four; of bitsandbytes (extra 8bit), on an accelerator
EIGHT_BIT = {"adam8bit": "Adam8bit", "adamw8bit": "AdamW8bit"}
OPTIMIZERS = ("adam", "adamw", "sgd", *EIGHT_BIT)
#: devices that bitsandbytes has these optimizers for
_DEVICES = ("cuda", "xpu")


def check_optimizer(name: str, device: str) -> None:
    """Refuses an 8-bit optimizer before anything is done for it.

    Raises:
        MissingExtra: bitsandbytes is not installed.
        Unsupported: it does not run on this device (torch name).
    """
    if name not in EIGHT_BIT:
        return
    try:
        found = importlib.util.find_spec("bitsandbytes")
    except ValueError:  # something that was put in its place
        found = None
    if found is None:
        raise MissingExtra(f"optimizer {name}", "8bit")
    if device.split(":")[0] not in _DEVICES:
        raise Unsupported(
            f"optimizer {name} does not run on {device}, only on {' and '.join(_DEVICES)}; choose "
            f"{name.removesuffix('8bit')}, or another device"
        )


def moment_bytes(name: str) -> int:
    """Bytes that Adam's two moments of a trained value take; the others are counted alike."""
    return 2 if name in EIGHT_BIT else 8


def make_optimizer(
    name: str, parameters: list[Any], lr: float, decay: float = 0.01, momentum: float | None = None
) -> Optimizer:
    """Optimizer by name: Adam and AdamW with betas 0.9/0.999 (AdamW decays by ``decay``), SGD, plain or with both.

    Raises:
        RequestError: unknown name.
        EraseError: as `check_optimizer`.
    """
    import torch

    if name in EIGHT_BIT:
        check_optimizer(name, next((part.device.type for part in parameters), "cpu"))
        import bitsandbytes

        made: Optimizer = getattr(bitsandbytes.optim, EIGHT_BIT[name])(
            parameters, lr=lr, weight_decay=decay if name == "adamw8bit" else 0.0
        )
        return made
    if name == "adam":
        return torch.optim.Adam(parameters, lr=lr)
    if name == "adamw":
        fused = all(part.is_floating_point() and part.device.type in ("cpu", "cuda") for part in parameters)
        return torch.optim.AdamW(parameters, lr=lr, weight_decay=decay, fused=fused)
    if name == "sgd":
        return torch.optim.SGD(parameters, lr, momentum or 0.0, weight_decay=0.0 if momentum is None else decay)
    raise RequestError(f"unknown optimizer '{name}'; choose one of {', '.join(OPTIMIZERS)}")
