"""Memory that was freed stays with the process, which is about to ask for it again, where a small model runs."""

from __future__ import annotations

import ctypes
import sys
from typing import Any

#: parameters of ``mallopt`` in glibc's <malloc.h>: how much free memory at the end of the heap goes back to the system,
#: and from which size on a block is mapped by itself, to be unmapped when it is freed
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: bytes; the activations of a batch of small pictures, and a few of those
_BLOCK, _TOP = 256 << 20, 512 << 20
#: bytes of weights up to which it is worth it
_SMALL = 512 << 20


def keep_freed_memory(host: Any) -> bool:
    """Makes the C library keep freed blocks of up to 256 MB for the next ones; whether it does.

    Without it every large activation is new memory that the system has to clear, page by page: of drawing 320 pictures
    with pocket on a CPU 4 of 57 seconds. Only glibc offers this.

    Only the end of the heap goes back to the system: what a large model leaves in between, such as its float32 weights
    after a cast or a move to an accelerator, would stay for good. There clearing is little beside the work, too.

    Args:
        host: the pipeline or module that was loaded; called when that is done.
    """
    from torch import nn

    from erase_plugins.families.hosts import parts_of

    parts = [part for part in parts_of(host).values() if isinstance(part, nn.Module)]
    if sum(value.numel() * value.element_size() for part in parts for value in part.parameters()) > _SMALL:
        return False
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_MMAP_THRESHOLD, _BLOCK) and library.mallopt(_TRIM_THRESHOLD, _TOP))
