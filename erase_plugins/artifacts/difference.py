"""In what two edits differ, to the last bit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from erase_plugins.artifacts.edit import AddOn, Delta, Edit
from erase_plugins.record import plain


def difference(first: Edit, second: Edit, *, strength: bool = True) -> str:
    """The first thing in which the changes of two edits differ, in words; empty if all bits agree.

    Args:
        first, second: on any devices.
        strength: whether how strong a module acts counts, too.
    """
    left, right = ({(part, key): delta for part, key, delta in edit.items()} for edit in (first, second))
    if left.keys() != right.keys():
        part, key = min(left.keys() ^ right.keys())
        return f"{part} {key} is changed by one of them only"
    for place, delta in left.items():
        if odd := _apart(delta, right[place], strength):
            return f"{' '.join(place)}{odd}"
    return ""


def _apart(first: Delta, second: Delta, strength: bool) -> str:
    mine, theirs = first.tensors(), second.tensors()
    if first.kind != second.kind or mine.keys() != theirs.keys():
        return f" is {second.kind} in place of {first.kind}"
    for name, tensor in mine.items():
        if not _equal(tensor, theirs[name]):
            return f": {name} differs"
    if isinstance(first, AddOn) and _settings(first, strength) != _settings(second, strength):
        return ": the settings differ"
    return ""


def _settings(addon: Any, strength: bool) -> Any:
    """What a module does with its tensors; a file has lists where a method wrote tuples."""
    left_out = () if strength else ("strength",)
    return addon.type, plain({name: value for name, value in addon.config.items() if name not in left_out})


def _equal(first: Tensor, second: Tensor) -> bool:
    return first.shape == second.shape and first.dtype == second.dtype and torch.equal(first, second.to(first.device))
