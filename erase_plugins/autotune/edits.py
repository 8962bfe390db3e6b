"""The edits that come nearest to the knee of a search, in its folder where it has one, so that a kill loses none."""

from __future__ import annotations

import hashlib
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.manifest import PATCH
from erase_plugins.artifacts.store import write_folder
from erase_plugins.errors import EraseError
from erase_plugins.hints import sentence_of
from erase_plugins.manager import get_manager
from erase_plugins.workflow.artifacts import load_artifact

#: edits that are kept
_MOST = 3


class Edits:
    """Edits at full strength by the settings that made them; the nearest ones stay.

    Args:
        place: folder for them; None keeps them in memory.
    """

    def __init__(self, place: Path | None = None) -> None:
        self.place = place
        self._near: dict[str, float] = {}
        self._held: dict[str, Artifact] = {}
        for folder in () if place is None or not place.is_dir() else place.iterdir():
            name, _, distance = folder.name.partition("-")
            try:
                self._near[name] = float(distance)
            except ValueError:  # what a kill left of one
                continue

    def __contains__(self, key: str) -> bool:
        return _name(key) in self._near

    def get(self, key: str) -> Artifact | None:
        """The edit of settings; None if it is not kept, or cannot be read any more."""
        name = _name(key)
        if name not in self._held and name in self._near and self.place is not None:
            try:
                found = load_artifact(self._folder(name))
            except (EraseError, OSError):
                self._drop(name)
                return None
            self._held[name] = Artifact(replace(found.manifest, files=()), found.edit)
        return self._held.get(name)

    def keep(self, key: str, distance: float, whole: Artifact) -> None:
        """Keeps an edit if it is among the nearest.

        Args:
            key: of its settings.
            distance: from nothing left and nothing else changed, of the best of its strengths.
            whole: the edit at full strength.
        """
        name = _name(key)
        if name in self._near:
            if distance < self._near[name]:
                self._move(name, distance)
            return
        self._near[name], self._held[name] = distance, whole
        worst = max(self._near, key=lambda item: self._near[item])
        if len(self._near) > _MOST:
            self._drop(worst)
        if name in self._near and self.place is not None:
            try:
                self.place.mkdir(exist_ok=True)
                write_folder(whole, self._folder(name), (PATCH,), None, False, get_manager().known())
            except (EraseError, OSError) as error:  # a plugin's kind of change, or a full disk
                why = sentence_of(error) if isinstance(error, EraseError) else error.strerror or type(error).__name__
                warnings.warn(
                    f"the edit of a trial stays in memory only ({why}); if the search is killed it is made again",
                    stacklevel=2,
                )

    def _folder(self, name: str) -> Path:
        assert self.place is not None
        return self.place / f"{name}-{self._near[name]!r}"

    def _move(self, name: str, distance: float) -> None:
        before = None if self.place is None else self._folder(name)
        self._near[name] = distance
        if before is not None and before.is_dir():
            before.rename(self._folder(name))

    def _drop(self, name: str) -> None:
        if self.place is not None:
            shutil.rmtree(self._folder(name), ignore_errors=True)
        del self._near[name]
        self._held.pop(name, None)


def _name(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()[:16]
