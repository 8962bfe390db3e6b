"""The model that a language model is compared with: it never saw what is forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from erase_plugins.errors import Unsupported
from erase_plugins.families.source import TWINS, find_source

if TYPE_CHECKING:
    from erase_plugins.evaluation.run import Subject


def reference_of(subject: Subject, wanted: str) -> Any:
    """The model that never knew, None without one.

    Raises:
        Unsupported: it is of another family, or has other words.
    """
    name = TWINS.get(subject.target.info.model, "") if wanted == "auto" else "" if wanted == "none" else wanted
    if not name:
        return None
    family, source = subject.target.family, find_source(name)
    if not family.detect(source.configs):
        raise Unsupported(f"reference '{source.name}' is no model of family {family.id}; it cannot be compared")
    dtype = str(subject.target.dtype).removeprefix("torch.")
    twin = family.wrap(family.open(source, dtype, str(subject.target.device)), source.name)
    if twin.language.words != subject.target.language.words:
        raise Unsupported(
            f"reference '{source.name}' has {twin.language.words} words and {subject.target.info.model} "
            f"{subject.target.language.words}; it cannot be compared"
        )
    return twin
