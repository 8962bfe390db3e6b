"""Storage of the test Hub for files that the client sends and fetches through its own xet library: a folder.

The library takes ``local://<folder>`` for the address of a server of chunks, so that its real code runs here, in both
directions. The Hub itself is told no xet hash at a commit, only the SHA-256; which file that is, the library's own
records (shards) in the folder say.
"""

from __future__ import annotations

import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

#: bytes before the first record of a shard, and of every record
_HEAD, _RECORD = 48, 48
#: flags of a file's record: a row of checks follows every part; its SHA-256 follows
_VERIFIED, _HASHED = 1 << 31, 1 << 30
_END = b"\xff" * 32
#: seconds for which an access token is good
_LIFE = 3600


class XetStorage:
    """What the xet library keeps in a folder.

    Args:
        folder: an empty folder; the library makes its own folders in it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[str, tuple[str, int]] = {}
        self._read: set[str] = set()

    @property
    def url(self) -> str:
        """Address to give to the library."""
        return f"local://{self.folder}"

    @property
    def chunks(self) -> list[Path]:
        """The files that hold the bytes, to damage or remove them."""
        return [item for item in sorted(self.folder.glob("xet/xorbs/xorbs/default.*")) if item.suffixes[1:] == []]

    def access(self) -> dict[str, str | int]:
        """What both token routes answer."""
        return {"casUrl": self.url, "accessToken": "any", "exp": int(time.time()) + _LIFE}

    def find(self, sha256: str) -> tuple[str, int] | None:
        """Xet hash and size of the file with this SHA-256; None if it was never uploaded."""
        for path in self.folder.glob("xet/xorbs/shards/*.mdb"):
            if path.name not in self._read:
                self._known.update(read_shard(path.read_bytes()))
                self._read.add(path.name)
        return self._known.get(sha256)

    def put(self, data: bytes) -> str:
        """Uploads bytes, as the Hub does with what came by LFS; gives their xet hash."""
        from hf_xet import XetSession

        with XetSession().new_upload_commit(endpoint=self.url) as commit:
            upload = commit.start_upload_bytes(data)
        return str(upload.result().xet_info.hash)

    def get(self, xet_hash: str, size: int) -> bytes:
        """The bytes of a file."""
        from hf_xet import XetFileInfo, XetSession

        with tempfile.TemporaryDirectory() as place:
            target = Path(place) / "file"
            with XetSession().new_file_download_group(endpoint=self.url) as group:
                group.start_download_file(XetFileInfo(xet_hash, size), str(target))
            return target.read_bytes()


def read_shard(data: bytes) -> Iterator[tuple[str, tuple[str, int]]]:
    """SHA-256, and xet hash with size, of every file that a shard describes."""
    place = _HEAD
    while place + _RECORD <= len(data) and data[place : place + 32] != _END:
        words = struct.unpack("<4Q", data[place : place + 32])
        flags, count = struct.unpack("<2I", data[place + 32 : place + 40])
        parts = [place + _RECORD * (index + 1) for index in range(count)]
        size = sum(struct.unpack("<I", data[part + 36 : part + 40])[0] for part in parts)
        place += _RECORD * (1 + count * (2 if flags & _VERIFIED else 1))
        if flags & _HASHED:
            sha256 = struct.unpack("<4Q", data[place : place + 32])
            yield "".join(f"{word:016x}" for word in sha256), ("".join(f"{word:016x}" for word in words), size)
            place += _RECORD
