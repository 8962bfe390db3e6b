"""What was made for somebody stays in the house: the mark in a manifest, and the last word before a push."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from erase_plugins.errors import PushRefused
from erase_plugins.hookspecs import hookimpl
from erase_plugins.types import ForgetItem

#: key of what is forgotten in a manifest; it stays with the concept when artifacts are merged
MARK = "request"


def anonymous(case: str, kind: str, shareable: bool) -> ForgetItem:
    """What a manifest names in the place of a subject."""
    return ForgetItem(f"request {case}", kind, extra={MARK: {"case": case, "shareable": shareable}})


@hookimpl
def erase_before_push(bundle: Any, destination: str) -> None:
    """Refuses what was made for a request that is not public, merged into something else or in a collection."""
    for data in _manifests(bundle):
        if any(item.get("shareable") is not True for item in _marks(data)):
            raise PushRefused(
                "this was made for a request that is not public, and whoever holds it and the base can test whose it "
                "was; nothing was sent, and there is no option that sends it"
            )


def _manifests(bundle: Any) -> Iterator[Any]:
    manifest = getattr(getattr(bundle, "artifact", None), "manifest", None)
    if manifest is not None:
        yield manifest.to_dict()
    for item in getattr(bundle, "files", ()):
        if item.name.endswith(".json") and item.size < 8_000_000:
            try:
                with item.open() as file:
                    yield json.load(file)
            except (ValueError, RecursionError):
                continue


def _marks(value: Any) -> Iterator[Mapping[str, Any]]:
    """Everything in a JSON value that says whether it may be shared: the mark of a concept, or a guard."""
    if isinstance(value, Mapping):
        if "shareable" in value:
            yield value
        for item in value.values():
            yield from _marks(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _marks(item)
