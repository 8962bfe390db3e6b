"""Files as the client reads them for an upload: by LFS, which every server speaks, and with an end to trying.

The client sends by xet what it is given by path, and has no way back from there; what it is given opened, it sends by
LFS. Left alone, each of thousands of files would be tried for half a minute on a server that is down.
"""

from __future__ import annotations

import io
from typing import Any

from hub_cards.bundle import PushFile

#: further tries of one file, with 1, 2 and 4 seconds between them, after which no other file is tried any more
RETRIES = 3
#: files from this size on have a bar of their own, in bytes
_LARGE = 10_000_000


class Upload(io.BufferedIOBase):
    """One file of a push, open while it is read.

    Args:
        item: the file.
        tired: files of the same push that were tried too often; the others are not tried any more then.
    """

    def __init__(self, item: PushFile, tired: list[Upload]) -> None:
        self.item, self.tired = item, tired
        self.place = self.begun = 0
        self.file: Any = None
        self.bar: Any = None

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self.place

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """Goes to a place; back to the beginning is another try.

        Raises:
            ConnectionError: another file of the same push was tried too often.
        """
        if whence == io.SEEK_SET and not offset:
            self.begun += 1
            if self.begun > RETRIES + 1:
                self.tired.append(self)
        if any(item is not self for item in self.tired):
            raise ConnectionError("given up after another file failed")
        self._end()
        self.place = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.place, io.SEEK_END: self.item.size}[whence]
        return self.place

    def read(self, size: int | None = -1, /) -> bytes:
        """The next bytes."""
        if self.file is None:
            from huggingface_hub.utils import tqdm

            source = self.item.source
            self.file = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
            self.file.seek(self.place)
            if self.item.size > _LARGE:
                self.bar = tqdm(
                    total=self.item.size, initial=self.place, unit="B", unit_scale=True, desc=self.item.name
                )
        data: bytes = self.file.read(-1 if size is None else size)
        self.place += len(data)
        if self.bar is not None:
            self.bar.update(len(data))
        if self.place >= self.item.size:
            self._end()
        return data

    def _end(self) -> None:
        for item in (self.file, self.bar):
            if item is not None:
                item.close()
        self.file = self.bar = None
