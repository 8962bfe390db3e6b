"""How far a download is, told to whoever asked; the client's own bars stay off."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

from huggingface_hub.utils import tqdm

#: is told (bytes that came, bytes of the file)
Tell = Callable[[int, int], None]


@contextmanager
def telling(tell: Tell | None) -> Iterator[dict[str, Any]]:
    """Arguments that make the client tell of one download in the with-block. What ``tell`` raises ends the download.

    The xet library calls from a thread of its own, ignores what is raised there and goes on to the end of the file; its
    session is cancelled then, as the client does it for Ctrl-C.
    """
    here, raised = threading.get_ident(), list[BaseException]()

    def heard(done: int, total: int) -> None:
        if tell is None or raised:
            return
        try:
            tell(done, total)
        except BaseException as error:
            raised.append(error)
            if threading.get_ident() != here:
                threading.Thread(target=_cancel, daemon=True).start()
            raise

    try:
        yield {} if tell is None else {"tqdm_class": partial(Bar, heard)}
    finally:
        if raised:
            raise raised[0] from None


def _cancel() -> None:
    with suppress(Exception):  # a client without it: the download ends with the file
        from huggingface_hub.utils._xet import abort_xet_session

        abort_xet_session()


class Bar(tqdm):
    """A bar of the client that shows nothing and tells instead.

    Args:
        tell: called after every part.
        total, initial: bytes of the file, and how many are there from an earlier try.
    """

    def __init__(self, tell: Tell, total: float | None = None, initial: float = 0, **_: Any) -> None:
        super().__init__(disable=True)
        self.tell, self.n, self.total = tell, int(initial), int(total or 0)

    def update(self, count: float = 1) -> None:
        self.n += int(count)
        self.tell(self.n, max(self.total, self.n))
