"""Faults that a test Hub injects, and the log of what it was asked."""

from __future__ import annotations

import re
import threading
from dataclasses import dataclass

from erase_plugins.errors import RequestError

#: what can go wrong besides an HTTP status
KINDS = ("reset", "slow", "truncated", "wrong bytes")


@dataclass
class Fault:
    """Something that goes wrong at requests of a kind.

    Attributes:
        pattern: regular expression, searched in "METHOD /path?query".
        kind: an HTTP status as number (429, 500, 503 ...), "reset" (the connection ends without an answer), "slow"
            (the body comes in pieces), "truncated" (the body ends early) or "wrong bytes" (one byte is flipped).
        times: how often; 0 means always.
        after: this many matching requests pass unharmed first.
        after_work: for statuses and "reset": the request is carried out, only its answer is lost.
        seconds: total delay of "slow".
        message: what the answer says; for statuses.
    """

    pattern: str
    kind: int | str
    times: int = 1
    after: int = 0
    after_work: bool = False
    seconds: float = 0.2
    message: str = "injected fault"
    used: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.kind, int) and self.kind not in KINDS:
            raise RequestError(f"unknown fault '{self.kind}'; give an HTTP status or one of {', '.join(KINDS)}")
        re.compile(self.pattern)


#: what the Hub says besides to somebody who asked too often
LIMITED = {
    "RateLimit": '"api";r=0;t=55', "RateLimit-Policy": '"fixed window";"api";q=500;w=300', "Retry-After": "55",
}  # fmt: skip


@dataclass(frozen=True)
class Asked:
    """One request: method, path with query, size of its body, status of the answer (0: none was given) and its size."""

    method: str
    path: str
    sent: int
    status: int = 0
    fault: int | str | None = None
    answered: int = 0

    def __str__(self) -> str:
        return f"{self.method} {self.path} {self.status}{'' if self.fault is None else f' fault: {self.fault}'}"


class Faults:
    """The faults of a server; the first that matches is taken."""

    def __init__(self) -> None:
        self._items: list[Fault] = []
        self._lock = threading.Lock()

    def add(self, fault: Fault) -> Fault:
        """Injects a fault from now on."""
        with self._lock:
            self._items.append(fault)
        return fault

    def clear(self) -> None:
        """No faults any more."""
        with self._lock:
            self._items.clear()

    def next(self, method: str, path: str) -> Fault | None:
        """The fault for this request, counted as used."""
        with self._lock:
            for fault in self._items:
                if not re.search(fault.pattern, f"{method} {path}"):
                    continue
                if fault.after > 0:
                    fault.after -= 1
                    continue
                if fault.times == 0 or fault.used < fault.times:
                    fault.used += 1
                    return fault
        return None
