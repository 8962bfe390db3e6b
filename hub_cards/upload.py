"""Files as the client reads them for an upload: by LFS, which every server speaks, and with an end to trying.

The client sends by xet what it is given by path, and has no way back from there; what it is given opened, it sends by
LFS. Left alone, each of thousands of files would be tried for half a minute on a server that is down.
"""

from __future__ import annotations

import io
import threading
from typing import Any

from hub_cards.bundle import PushFile

#: further tries of one file, with 1, 2, 4 and 8 seconds between them, after which no other file is tried any more
RETRIES = 4
#: files from this size on have a bar of their own, in bytes
_LARGE = 10_000_000


class _Reader(threading.local):
    """Where one thread is in a file: the client sends files of the same bytes several times, also at once."""

    place = begun = 0
    file: Any = None
    bar: Any = None


class Upload(io.BufferedIOBase):
    """One file of a push, open while it is read.

    Args:
        item: the file.
        tired: files of the same push that were tried too often; the others are not tried any more then.
    """

    def __init__(self, item: PushFile, tired: list[Upload]) -> None:
        self.item, self.tired, self.here = item, tired, _Reader()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        """The place; the client asks for it when it begins with the file."""
        self.here.begun = 0
        return self.here.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a place; back to the beginning is another try.

        Raises:
            ConnectionError: another file of the same push was tried too often.
        """
        here = self.here
        if whence == io.SEEK_SET and not offset:
            here.begun += 1
            if here.begun > RETRIES + 1:
                self.tired.append(self)
        if any(item is not self for item in self.tired):
            raise ConnectionError("given up after another file failed")
        self._end()
        here.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: here.place, io.SEEK_END: self.item.size}[whence]
        return here.place

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes."""
        here = self.here
        if here.file is None:
            from huggingface_hub.utils import tqdm

            source, total = self.item.source, self.item.size
            here.file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
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
