"""A plain client of ComfyUI's server, for tests that need no websocket."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import Any


class Client:
    """Talks to a server on this machine.

    Args:
        url: its address.
    """

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=120) as answer:
            return json.loads(answer.read())

    def post(self, path: str, content: Any) -> tuple[int, Any]:
        body = json.dumps(content).encode()
        request = urllib.request.Request(self.url + path, body, {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, json.loads(answer.read() or b"{}")
        except urllib.error.HTTPError as error:
            return error.code, json.loads(error.read() or b"{}")

    def run(self, graph: dict[str, Any], seconds: float = 500.0) -> dict[str, Any]:
        """Queues a graph and gives its entry in the history.

        Raises:
            AssertionError: it was refused.
            TimeoutError: it did not end.
        """
        status, answer = self.post("/prompt", {"prompt": graph, "client_id": "test"})
        assert status == 200, answer
        assert not answer["node_errors"], answer
        return self.wait(answer["prompt_id"], seconds)

    def wait(self, prompt: str, seconds: float = 500.0) -> dict[str, Any]:
        """The entry in the history of what was queued.

        Raises:
            TimeoutError: it did not end.
        """
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            found = self.get(f"/history/{prompt}")
            if found:
                ended: dict[str, Any] = found[prompt]
                return ended
            time.sleep(0.1)
        raise TimeoutError(f"no end within {seconds} s")

    def picture(self, place: dict[str, str]) -> bytes:
        with urllib.request.urlopen(f"{self.url}/view?{urllib.parse.urlencode(place)}", timeout=120) as answer:
            return answer.read()
