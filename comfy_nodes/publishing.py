"""Sending something to the Hub needs a person each time: a graph prepares an offer, and whoever queued it accepts it.

Workflow files, API graphs and the metadata of pictures come from strangers, and the login belongs to the person who
opens them. So nothing in a graph can send: the offer's key goes to the client that queued the graph, over its
websocket and nowhere else (not into outputs, history, pictures or the log), it works once and for a while, and only for
exactly what was shown.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from erase_plugins.errors import NotAllowed, PushRefused, RequestError

#: event of the websocket
EVENT = "erase_plugins.publish"
#: seconds for which an offer holds, and how many are kept
SECONDS, MOST = 1800.0, 16
_OFFERS: OrderedDict[str, Offer] = OrderedDict()
_CHANGING = threading.Lock()


@dataclass(frozen=True)
class Offer:
    """What would be sent.

    Attributes:
        deliver: sends a bundle after handing it to the function that it is given; returns what the Hub package returns.
        digest: of the bundle that was shown.
        until: reading of the monotonic clock at which it ends.
    """

    deliver: Callable[[Callable[[Any], None]], Any]
    digest: str
    until: float


def offer(bundle: Any, send: Callable[[Callable[[Any], None]], Any], client: str | None) -> str:
    """Asks the client that queued a graph; returns what the node's report says about it.

    Args:
        bundle: a bundle of hub_cards with its states.
        send: see `Offer`.
        client: id of the client; None if the request named none.
    """
    tell = getattr(getattr(sys.modules.get("server"), "PromptServer", None), "instance", None)
    if client is None or tell is None:
        return "nothing was sent: there is nobody to ask, since this run was queued without a client_id"
    key = secrets.token_urlsafe(32)
    with _CHANGING:
        _forget_old()
        _OFFERS[key] = Offer(send, digest(bundle), time.monotonic() + SECONDS)
        while len(_OFFERS) > MOST:
            _OFFERS.popitem(last=False)
    tell.send_sync(EVENT, {"key": key, **shown(bundle)}, client)
    return "nothing was sent yet: the editor asks whether to send exactly this, once and for half an hour"


def shown(bundle: Any) -> dict[str, Any]:
    """What the person is asked about."""
    return {
        "repo": bundle.repo, "new": not bundle.exists, "private": bundle.private, "create_pr": bundle.create_pr,
        "artifact": bundle.artifact.name, "message": bundle.message, "bytes": bundle.bytes, "account": _account(),
        "files": [{"name": item.name, "state": item.state, "bytes": item.size} for item in bundle.changed],
        "removed": list(bundle.removed),
    }  # fmt: skip


def settle(key: str, accepted: bool) -> dict[str, Any]:
    """Sends what was offered, or drops the offer; either way its key is used up.

    Raises:
        RequestError: no such offer, or it is too old.
        HubError, NotAllowed, PushRefused: nothing was changed.
    """
    with _CHANGING:
        _forget_old()
        found = _OFFERS.pop(key, None) if isinstance(key, str) else None
    if found is None:
        raise RequestError("nothing waits under this key; queue the graph again with 'publish' on, then you are asked")
    if not accepted:
        return {"sent": [], "text": "nothing was sent"}

    def same(bundle: Any) -> None:
        if digest(bundle) != found.digest:
            raise PushRefused(
                f"nothing was sent: {bundle.repo} or the artifact changed since you were asked; queue the graph again"
            )

    done = found.deliver(same)
    where = f"pull request {done.pull_request}" if done.pull_request else f"commit {str(done.commit)[:12]}"
    repo = done.bundle.repo
    text = f"published {len(done.sent)} files to {repo}: {where}; use it as {repo}@{done.commit}"
    return {"sent": list(done.sent), "commit": done.commit, "pull_request": done.pull_request, "text": text}


def digest(bundle: Any) -> str:
    """Hash of everything that a push of a bundle would do."""
    files = [(item.name, item.state, item.size, item.hashed().sha256) for item in bundle.changed]
    facts = (
        bundle.repo, bundle.repo_type, bundle.revision, bundle.create_pr, bundle.private, bundle.exists, bundle.parent,
        bundle.message, files, list(bundle.removed),
    )  # fmt: skip
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()


def refuse_strangers(headers: Mapping[str, str]) -> None:
    """Lets a request pass that comes from the editor itself or from a program, not from another page in the browser.

    Raises:
        NotAllowed: another page sent it.
    """
    origin = headers.get("Origin")
    here = origin is None or urlsplit(origin).netloc.lower() == headers.get("Host", "").lower()
    if not here or headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
        raise NotAllowed("this request comes from another web page; publish from ComfyUI's own page")
    if headers.get("Content-Type", "").partition(";")[0].strip().lower() != "application/json":
        raise NotAllowed("send JSON: a key, and whether to send")


def _forget_old() -> None:
    now = time.monotonic()
    for key in [key for key, item in _OFFERS.items() if item.until < now]:
        del _OFFERS[key]


def _account() -> str:
    """Whose login would be used; empty if the Hub does not say."""
    from huggingface_hub import HfApi

    try:
        return str(HfApi().whoami()["name"])
    except Exception:  # the question says that it is not known
        return ""
