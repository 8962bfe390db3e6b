"""Pictures of users as RGB with 8 bits a channel. No torch at import."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError

if TYPE_CHECKING:
    from PIL import Image


def opened(picture: Any, where: str = "") -> Image.Image:
    """A picture, or the file of one, as RGB; of an animation the first picture.

    Args:
        picture: path or PIL image.
        where: what an error begins with.

    Raises:
        RequestError: no picture, or one with more pixels than Pillow opens.
    """
    from PIL import Image

    try:
        if isinstance(picture, Image.Image):
            return _plain(picture)
        with Image.open(picture) as file:
            return _plain(file)
    except Image.DecompressionBombError as error:
        raise too_large(f"{where}{Path(str(picture)).name}") from error
    except (OSError, SyntaxError, ValueError, AttributeError, TypeError) as error:
        raise RequestError(f"{where}{Path(str(picture)).name} is no readable picture; take it out") from error


def too_large(what: str) -> RequestError:
    """What is said of a picture with more pixels than Pillow opens."""
    return RequestError(f"{what} has more pixels than can be opened safely; make it smaller")


def _plain(picture: Image.Image) -> Image.Image:
    """Greys of 16 bits are scaled; Pillow cuts them off at 255, and nearly all of them would become white."""
    import numpy as np
    from PIL import Image

    if picture.mode.startswith("I"):
        values = np.asarray(picture).astype(np.float64)
        if picture.mode != "I" or values.max(initial=0) > 255:
            values = values / 257
        picture = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    return picture.convert("RGB")
