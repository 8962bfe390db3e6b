"""A Hub on this machine for tests: the real huggingface_hub client talks to it over HTTP, nothing leaves the computer.

    with HubServer() as hub:
        api = huggingface_hub.HfApi(endpoint=hub.url, token=hub.token)
        api.create_repo("tester/no-pizza")
        hub.fault("PUT /lfs/", 503, times=2)      # the next two uploads fail; the client tries again
        api.upload_file(...)
        assert hub.count("PUT /lfs/") == 3

It serves models: create, delete, upload through both modes, commits with parent check, pull requests, tags, branches,
trees, downloads with ranges, and the listing with its filters. Uploaded bytes are checked against their SHA-256.
``HubServer(xet=folder)`` keeps large files as the Hub does today: the client's xet library sends and fetches them, and
what comes by LFS is moved there. Without it xet has to be off (`HubServer.as_default` sees to both).
"""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

from erase_plugins.testing import hub_collections, hub_reading, hub_writing  # noqa: F401  they declare the routes
from erase_plugins.testing.hub_calls import Answer, Call, answer
from erase_plugins.testing.hub_faults import LIMITED, Asked, Fault, Faults
from erase_plugins.testing.hub_store import HubStore
from erase_plugins.testing.hub_xet import XetStorage

#: looks like a real token, so that tests can look for it where it must not appear
TOKEN = "hf_testCanaryTokenNeverToBeShown01"


#: hosts that are asked without a proxy
_HERE = "127.0.0.1,localhost"


class HubServer:
    """The server; use it as a context manager.

    Args:
        account: name of the account.
        token: its token.
        xet: an empty folder to keep large files in as the client's xet library does; None speaks LFS only.
        redirects: large files are served from another host name.

    Attributes:
        url: endpoint to give to the client.
        token: the token of the account ``account``; every other one is refused.
        store: repositories and blobs, to look at or to change behind the client's back.
        log: every request, oldest first.
    """

    def __init__(
        self, account: str = "tester", token: str = TOKEN, *, xet: Path | None = None, redirects: bool = False
    ) -> None:
        self.account, self.token = account, token
        self.store = HubStore(None if xet is None else XetStorage(xet), redirects)
        self.log: list[Asked] = []
        self.faults = Faults()
        self.lock = threading.RLock()
        self._server: Any = None

    def __enter__(self) -> Self:
        self._server = _Server(("127.0.0.1", 0), _Handler)
        self._server.hub = self
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """Endpoint, without a slash at the end."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def fault(self, pattern: str, kind: int | str, times: int = 1, **more: Any) -> Fault:
        """Injects a fault; see `erase_plugins.testing.hub_faults.Fault`."""
        return self.faults.add(Fault(pattern, kind, times, **more))

    def count(self, pattern: str) -> int:
        """How many requests in the log match "METHOD /path"."""
        import re

        return sum(bool(re.search(pattern, f"{item.method} {item.path}")) for item in self.log)

    def uploaded(self) -> int:
        """Bytes that were sent through LFS."""
        return sum(item.sent for item in self.log if item.method == "PUT")

    def downloaded(self, pattern: str = "") -> int:
        """Bytes of all answers to requests that match."""
        import re

        return sum(item.answered for item in self.log if re.search(pattern, f"{item.method} {item.path}"))

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        """Content of a repository, read without the client."""
        found = self.store.repository(repo_id).commit(revision)
        return {path: self.store.blobs[entry.sha256] for path, entry in found.files.items()}

    def rename(self, old: str, new: str) -> None:
        """Renames a repository; the old name leads to the new one from now on."""
        repository = self.store.repositories[new] = self.store.repositories.pop(old)
        repository.repo_id = new
        self.store.moved[old] = new

    def environment(self, home: Path) -> dict[str, str]:
        """Variables that point the client of another process here, with its cache below ``home``."""
        return {
            "HF_ENDPOINT": self.url, "HF_TOKEN": self.token, "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "0" if self.store.xet else "1", "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": _HERE, "no_proxy": _HERE,
        }  # fmt: skip

    @contextmanager
    def as_default(self, cache: Path, token: bool = True, wait: float = 0.0, xet: bool | None = None) -> Iterator[Self]:
        """Makes this the client's Hub, in this process, for the length of a with-block.

        Args:
            cache: folder for the client's file cache.
            token: whether the client is logged in.
            wait: longest pause between two tries of the client.
            xet: whether the client uses its xet library; by default where this Hub has a storage for it.
        """
        import huggingface_hub.file_download as file_download
        import huggingface_hub.utils._http as client_http
        from huggingface_hub import constants, hf_api

        variables = {
            "HF_TOKEN": self.token if token else None, "HF_TOKEN_PATH": None, "HUGGING_FACE_HUB_TOKEN": None,
            "NO_PROXY": _HERE, "no_proxy": _HERE, "HF_XET_CACHE": str(cache / "xet"),
            "HF_XET_CLIENT_RETRY_MAX_ATTEMPTS": "0",
        }  # fmt: skip
        saved = {name: os.environ.get(name) for name in variables}
        with_xet = self.store.xet is not None if xet is None else xet
        clock = _Clock(wait)
        changes: list[tuple[Any, str, Any]] = [
            (constants, "ENDPOINT", self.url), (constants, "HF_HUB_OFFLINE", False),
            (constants, "HUGGINGFACE_CO_URL_TEMPLATE", self.url + "/{repo_id}/resolve/{revision}/{filename}"),
            (constants, "HF_HUB_DISABLE_XET", not with_xet), (constants, "HF_HUB_CACHE", str(cache)),
            (constants, "HF_TOKEN_PATH", str(cache / "no-token")), (hf_api.api, "endpoint", self.url),
            (client_http, "time", clock), (file_download, "time", clock),
        ]  # fmt: skip
        before = [(place, name, getattr(place, name)) for place, name, _ in changes]
        try:
            for name, value in variables.items():
                os.environ.pop(name, None) if value is None else os.environ.update({name: value})
            for place, name, changed in changes:
                setattr(place, name, changed)
            client_http.close_session()
            yield self
        finally:
            for place, name, old in before:
                setattr(place, name, old)
            for name, kept in saved.items():
                os.environ.pop(name, None) if kept is None else os.environ.update({name: kept})
            client_http.close_session()


class _Clock:
    """The time module, with shorter pauses."""

    def __init__(self, longest: float) -> None:
        self._longest = longest

    def sleep(self, seconds: float) -> None:
        time.sleep(min(seconds, self._longest))

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64
    hub: HubServer

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that a fault cut are no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and body are written apart; 40 ms would pass between them
    server: _Server

    def log_message(self, format: str, *args: Any) -> None:
        """The log is in `HubServer.log`."""

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _handle(self) -> None:
        hub, where = self.server.hub, urlsplit(self.path)
        body = self._body()
        fault = hub.faults.next(self.command, self.path)
        kind = None if fault is None else fault.kind
        lost = kind == "reset" or isinstance(kind, int)
        made = Answer()
        if fault is None or not lost or fault.after_work:
            sent = self.headers.get("Authorization", "")
            account = hub.account if sent == f"Bearer {hub.token}" else None
            headers = {key.lower(): value for key, value in self.headers.items()}
            if sent and account is None:
                text = "Invalid credentials in Authorization header"
                made = Answer.json({"error": text}, 401, **{"X-Error-Message": text})
            else:
                with hub.lock:
                    made = answer(
                        hub.store,
                        Call(self.command, where.path, parse_qs(where.query), headers, body, account, hub.url),
                    )
        if isinstance(kind, int):
            text = "injected fault" if fault is None else fault.message
            more = LIMITED if kind == 429 else {}
            made = Answer.json({"error": text}, kind, **{"X-Error-Message": text}, **more)
        with hub.lock:
            status = 0 if kind == "reset" else made.status
            answered = 0 if kind == "reset" or self.command == "HEAD" else len(made.body)
            hub.log.append(Asked(self.command, self.path, len(body), status, kind, answered))
        if kind == "reset":
            self._cut()
            return
        self._send(made, fault)

    def _send(self, made: Answer, fault: Fault | None) -> None:
        data = made.body
        if fault is not None and fault.kind == "wrong bytes" and data:
            middle = len(data) // 2
            data = data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]
        with suppress(ConnectionError):
            self.send_response(made.status)
            for name, value in made.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            if self.command == "HEAD":
                return
            if fault is not None and fault.kind == "truncated" and data:
                self.wfile.write(data[: len(data) // 2])
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_WR)
            elif fault is not None and fault.kind == "slow" and data:
                size = max(1, len(data) // 4)
                for start in range(0, len(data), size):
                    self.wfile.write(data[start : start + size])
                    self.wfile.flush()
                    time.sleep(fault.seconds / 5)
            else:
                self.wfile.write(data)

    def _cut(self) -> None:
        """Ends the connection with a reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _handle
