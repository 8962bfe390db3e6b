"""Keeps back notices of the model libraries that tell a user nothing, while we load; everything else comes through."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

#: logger -> text of a notice; diffusers imports image processors that a text-to-image pipeline never calls, and
#: transformers then says which of its two implementations it took. Both import every quantizer that is installed, and
#: those tell which of their kernels for other hardware do not load: nothing here is quantized while it opens
_NOTICES = {
    "transformers.utils.import_utils": "ImageProcessor` requires torchvision (not installed); falling back to",
    "torchao": "Failed to load ",
    "bitsandbytes.backends.cpu.ops": "Failed to load CPU gemm_4bit_forward",
    "diffusers.quantizers.torchao.torchao_quantizer": "Unable to import `torchao` Tensor objects",
    "torch.utils._pytree": "is an Enum subclass and is now natively supported",
}


@contextmanager
def without_notices() -> Iterator[None]:
    """Drops the listed notices for the time of the block; logging is afterwards as it was before."""
    placed = []
    for name, text in _NOTICES.items():

        def keep(record: logging.LogRecord, text: str = text) -> bool:
            return text not in record.getMessage()

        logging.getLogger(name).addFilter(keep)
        placed.append((name, keep))
    try:
        yield
    finally:
        for name, keep in placed:
            logging.getLogger(name).removeFilter(keep)
