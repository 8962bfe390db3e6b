"""What a model is at a moment, to compare it with another one: every bit of its weights, and what acts beside them.

Where both are the same the model is the same function, and what it draws need not be drawn again.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from erase_plugins.artifacts.names import LEDGER
from erase_plugins.families.hosts import parts_of
from erase_plugins.runtime.patcher import checksum

#: attributes of a module whose values are compared, not which objects hold them
_TENSORS = ("_parameters", "_buffers")
#: attributes that take no part in what a model computes: a ledger, and what is called while weights are loaded
_IDLE = (LEDGER, "_load_state_dict_post_hooks")
#: bytes of a value that can be compared
_SIZES = (1, 2, 4, 8)


def standing(pipe: Any) -> list[tuple[Any, ...]] | None:
    """Facts that are equal at two moments only if the model is the same then; None where its weights do not show.

    Hooks, exchanged layers, processors and shadowed methods are told by which objects stand where, weights by a number
    of all their bits. A ledger, which only remembers what was written and watches who saves, does not count.

    Args:
        pipe: the pipeline or module; nothing may be loaded or thrown away in between.
    """
    facts: list[tuple[Any, ...]] = []
    modules = [(name, part) for name, part in sorted(parts_of(pipe).items()) if isinstance(part, nn.Module)]
    if not modules:
        return None  # a host of another kind, such as a graph of ComfyUI, holds them elsewhere
    owners = [] if isinstance(pipe, nn.Module) else [("", "", pipe)]
    owners += [(name, path, module) for name, part in modules for path, module in part.named_modules()]
    for name, path, owner in owners:
        for key, value in vars(owner).items():
            if key not in (*_TENSORS, *_IDLE) and not getattr(value, "_erase_watched", False):
                inside = tuple(map(id, value.values())) if isinstance(value, dict) else ()
                facts.append((name, path, key, id(value), *inside))
    for name, part in modules:
        for path, value in (*part.named_parameters(), *part.named_buffers()):
            plain = type(value) in (Tensor, nn.Parameter) and value.device.type != "meta"
            if not plain or value.element_size() not in _SIZES:
                return None  # quantised or offloaded
            bits = checksum(value) if value.numel() else 0
            facts.append((name, path, tuple(value.shape), value.dtype, value.device, bits))
    return facts
