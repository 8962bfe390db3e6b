"""Memory that was freed stays with the process, which is about to ask for it again."""

from __future__ import annotations

import ctypes
import sys

#: parameters of ``mallopt`` in glibc's <malloc.h>: how much free memory at the end of the heap goes back to the system,
#: and from which size on a block is mapped by itself, to be unmapped when it is freed
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
#: bytes; the activations of a batch of small pictures, and a few of those
_BLOCK, _TOP = 256 << 20, 512 << 20


def keep_freed_memory() -> bool:
    """Makes the C library keep freed blocks of up to 256 MB for the next ones; whether it does.

    Without it every large activation is new memory that the system has to clear, page by page: of drawing 320 pictures
    with pocket on a CPU 4 of 57 seconds. Only glibc offers this.
    """
    if not sys.platform.startswith("linux"):
        return False
    library = ctypes.CDLL(None)
    if not hasattr(library, "gnu_get_libc_version"):
        return False
    return bool(library.mallopt(_MMAP_THRESHOLD, _BLOCK) and library.mallopt(_TRIM_THRESHOLD, _TOP))
