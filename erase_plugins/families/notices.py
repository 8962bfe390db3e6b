"""Keeps back what libraries log and no user needs, for a while; everything else comes through. No torch."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial

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

#: loggers of the Hub's client that say what we say ourselves, or what nobody has to know
_HUB = ("huggingface_hub.utils._http", "huggingface_hub._commit_api")
#: lines of theirs: two for every try, and that files go by LFS, as `hub_cards.sending` wants it
_TRIES = ("thrown while requesting", "[Retry ", "Falling back to HTTP upload")


@contextmanager
def filtered(filters: Mapping[str, Callable[[logging.LogRecord], bool]]) -> Iterator[None]:
    """Asks a function per logger which records may pass, for the time of the block; afterwards logging is as before."""
    for name, keep in filters.items():
        logging.getLogger(name).addFilter(keep)
    try:
        yield
    finally:
        for name, keep in filters.items():
            logging.getLogger(name).removeFilter(keep)


def without_notices() -> AbstractContextManager[None]:
    """Drops the listed notices for the time of the block."""

    def other(text: str, record: logging.LogRecord) -> bool:
        return text not in record.getMessage()

    return filtered({name: partial(other, text) for name, text in _NOTICES.items()})


def quiet_hub() -> AbstractContextManager[None]:
    """Drops the lines of every try for the time of the block; on a terminal one line says that the client goes on."""
    said: list[str] = []

    def passes(record: logging.LogRecord) -> bool:
        text = record.getMessage()
        if "[Retry " in text and not said and sys.stderr.isatty():
            said.append("the Hub does not answer as it should; trying again for a while\n")
            sys.stderr.writelines(said)
        return not any(part in text for part in _TRIES)

    return filtered(dict.fromkeys(_HUB, passes))
