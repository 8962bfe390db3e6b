"""What a method may be asked to forget, and what it may hand back."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from erase_plugins.artifacts.edit import Edit
from erase_plugins.errors import PluginError, Unsupported
from erase_plugins.types import KINDS, Certificate, EraseRequest, RunResult

#: kinds of concepts in pictures; methods say themselves why they cannot erase one of them
_PICTURED = frozenset(KINDS[:4])


def check_items(request: EraseRequest, method: Any, methods: Sequence[Any]) -> None:
    """Refuses what a method does not read: data, labels, and kinds that it does not name.

    Args:
        request: what is asked.
        method: its method; ``reads_data = True`` says that it reads data and labels.
        methods: all registered methods, to name those that could.

    Raises:
        Unsupported: names the item, and the methods that take it.
    """
    for item in request.forget:
        if item.kind not in method.kinds | _PICTURED:
            able = ", ".join(other.id for other in methods if item.kind in other.kinds) or "none"
            raise Unsupported(
                f"{method.id} forgets {', '.join(sorted(method.kinds))}, not {item.kind} ('{item.name}'); methods for "
                f"{item.kind}: {able}"
            )
    if getattr(method, "reads_data", False):
        return
    data = [item for item in request.forget if item.data is not None or item.label is not None]
    what = [f"label {item.label!r}" if item.data is None else f"'{item.data.name}'" for item in data]
    what += [f"'{item.name}'" for item in request.retain_data]
    if what:
        able = ", ".join(other.id for other in methods if getattr(other, "reads_data", False)) or "none"
        raise Unsupported(
            f"{method.id} reads no data; leave out {what[0]} and name what to forget and to keep as text "
            f"(--erase TEXT, --keep TEXT); methods that read data: {able}"
        )


def checked(method: Any, result: Any, family: str) -> tuple[Edit, RunResult]:
    """The edit that a method handed back, empty where it changes no weights, and all of it as a `RunResult`.

    Raises:
        PluginError: it is no edit, nothing at all, or holds what the method does not declare or JSON does not have.
    """
    found = result if isinstance(result, RunResult) else RunResult(result)
    beside = found.certificate is not None or found.guards or found.records
    if not isinstance(found.edit, Edit) and not (found.edit is None and beside):
        raise PluginError(f"method {method.id} returned {type(found.edit).__name__} instead of an Edit")
    edit = found.edit if found.edit is not None else Edit(family, {})
    undeclared = edit.kinds - method.produces
    if undeclared:
        raise PluginError(f"method {method.id} made {', '.join(sorted(undeclared))} changes that it does not declare")
    if not isinstance(found.certificate, Certificate | None):
        raise PluginError(f"method {method.id} returned a certificate that is {type(found.certificate).__name__}")
    guards, records = (_json(method, name, getattr(found, name)) for name in ("guards", "records"))
    return edit, replace(found, guards=guards, records=records)


def _json(method: Any, name: str, items: Any) -> tuple[dict[str, Any], ...]:
    """The items as JSON gives them back."""
    try:
        plain = json.loads(json.dumps(list(items), allow_nan=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise PluginError(f"method {method.id} returned {name} that JSON cannot hold: {error}") from error
    if not all(isinstance(item, dict) for item in plain):
        raise PluginError(f"method {method.id} returned {name} that are not all mappings")
    return tuple(plain)
