"""A guard in front of the model for each request: there before the run, and for as long as it is not revoked."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence
from pathlib import Path

from erase_plugins.artifacts.keyword_guard import FILE, KeywordGuard, keyword_guard
from erase_plugins.errors import ArtifactError, CorruptArtifact, RequestError
from erase_plugins.requests.case import Case
from erase_plugins.requests.store import Desk

MESSAGE = "this cannot be answered"


def place_of(desk: Desk, case: Case) -> Path:
    """Where the guard of a request is kept."""
    return desk.folder / f"{case.id}-guard" / FILE


def guard_key(desk: Desk) -> bytes:
    """The key of the guards, from which that of the ledger does not follow."""
    return hmac.new(desk.key, b"erase-plugins guard", hashlib.sha256).digest()


def write_guard(desk: Desk, case: Case, names: Sequence[str]) -> str | None:
    """Writes the guard of a request, a file that names nobody; returns its SHA-256.

    None if a name cannot be guarded by keyword: it has too few letters or too many words.
    """
    try:
        guard = keyword_guard(f"request {case.id}", names, key=guard_key(desk), action="block", message=MESSAGE)
    except RequestError:
        return None
    guard.write(place_of(desk, case))
    return hashlib.sha256(place_of(desk, case).read_bytes()).hexdigest()


def guards(desk: Desk) -> list[KeywordGuard]:
    """The guards of all requests under way or deployed, for `erase_plugins.runtime.prompt_guard.Guarded`.

    Raises:
        ArtifactError: one is missing or was changed; do not serve the model without it.
    """
    found = []
    for case in desk.ledger().cases.values():
        wanted = case.last.get("made", {}).get("guard")
        over = "rejected" in case.last or "revoked" in case.last
        over |= case.state == "closed" and "deployed" not in case.last
        if over or (wanted is None and not place_of(desk, case).is_file()):
            continue
        try:
            if wanted not in (None, hashlib.sha256(place_of(desk, case).read_bytes()).hexdigest()):
                raise CorruptArtifact("it was changed")
            found.append(KeywordGuard.read(place_of(desk, case), guard_key(desk)))
        except (OSError, CorruptArtifact) as error:
            raise ArtifactError(
                f"the guard of request {case.id} is missing or was changed; do not serve the model without it"
            ) from error
    return found
