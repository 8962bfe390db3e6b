"""Where bfloat16 saves time: on devices that compute in it. Others imitate it and take two to four times as long."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch

#: bfloat16 where the device computes in it, the model's own type elsewhere
AUTO = "auto"
HALF, FULL = "bfloat16", "float32"
_X86 = ("x86_64", "x86", "i386")
#: what processors call their instructions for it
_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "avx10_1")
#: compute capability of NVIDIA's first devices with it (Ampere)
_AMPERE = 8


@cache
def computes_half(device: str) -> bool:
    """Whether a device ("cpu", "cuda:1", ...) computes in bfloat16; True where nobody can tell."""
    kind = torch.device(device).type
    if kind == "cuda" and torch.version.hip is None and torch.cuda.is_available():
        return torch.cuda.get_device_capability(device)[0] >= _AMPERE
    told: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)() if kind == "cpu" else {}
    return told.get("architecture") not in _X86 or any(told.get(name) for name in _INSTRUCTIONS)


def accelerator_name(device: Any) -> str:
    """The model of an accelerator: another one rounds otherwise. Empty for processors and where nobody can tell."""
    place = torch.device(device)
    named = getattr(getattr(torch, place.type, None), "get_device_name", None)
    return "" if named is None else str(named(place))


def settled(precision: str, device: Any) -> str:
    """ "bfloat16" or "float32" for one of them or "auto" on a device."""
    if precision != AUTO:
        return precision
    return HALF if computes_half(str(device)) else FULL


def autocast(device: Any, precision: str = AUTO) -> AbstractContextManager[Any]:
    """Context for a precision; none, so that the model's own type is computed in, for "float32"."""
    kind = torch.device(device).type
    return torch.autocast(kind, torch.bfloat16) if settled(precision, device) == HALF else nullcontext()
