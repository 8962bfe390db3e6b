"""Files as the client reads them for an upload: by LFS, which every server speaks, and with an end to trying.

The client sends by xet what it is given by path, and has no way back from there; what it is given opened, it sends by
LFS. Left alone, each of thousands of files would be tried for half a minute on a server that is down.
"""

from __future__ import annotations

import io
import threading
from typing import Any

from hub_cards.bundle import PushFile
from hub_cards.errors import given_up

#: files from this size on have a bar of their own, in bytes
_LARGE = 10_000_000


class _Reader(threading.local):
    """Where one thread is in a file: the client sends files of the same bytes several times, also at once."""

    place = 0
    file: Any = None
    bar: Any = None


class Upload(io.BufferedIOBase):
    """One file of a push, open while it is read."""

    def __init__(self, item: PushFile) -> None:
        self.item, self.here = item, _Reader()

    def tell(self) -> int:
        return self.here.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a place; the client does it before every try.

        Raises:
            ConnectionError: a file of this push was tried too often.
        """
        here = self.here
        if given_up():
            raise ConnectionError(given_up())
        self._end()
        here.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: here.place, io.SEEK_END: self.item.size}[whence]
        return here.place

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes."""
        here = self.here
        if here.file is None:
            from huggingface_hub.utils import tqdm

            here.file, total = self.item.open(), self.item.size
            here.file.seek(here.place)
            if total > _LARGE:
                here.bar = tqdm(total=total, initial=here.place, unit="B", unit_scale=True, desc=self.item.name)
        data: bytes = here.file.read(-1 if size is None else size)
        here.place += len(data)
        if here.bar is not None:
            here.bar.update(len(data))
        if here.place >= self.item.size:
            self._end()
        return data

    def _end(self) -> None:
        for item in (self.here.file, self.here.bar):
            if item is not None:
                item.close()
        self.here.file = self.here.bar = None
