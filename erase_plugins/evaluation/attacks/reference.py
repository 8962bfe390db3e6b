"""The model that never saw the concept, which the user may name as the control that counts."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import Unsupported

if TYPE_CHECKING:
    from erase_plugins.evaluation.run import Subject
    from erase_plugins.families.source import Source


def find_reference(path: str) -> Source:
    """The place and configuration of a reference; no weights are read.

    Raises:
        RequestError: nothing there.
    """
    from erase_plugins.families.source import find_source

    return find_source(str(Path(path).expanduser()))


def open_reference(subject: Subject, path: str) -> Subject | None:
    """A model that never saw the concept, asked like the subject; None if none was named.

    Raises:
        RequestError: nothing there.
        Unsupported: not of the subject's family, of another size, or drawing what the judge does not know.
    """
    if not path:
        return None
    family: Any = subject.target.family
    source = find_reference(path)
    if not family.detect(source.configs):
        raise Unsupported(f"reference '{source.name}' is no model of family {family.id}; it cannot be compared")
    dtype = str(subject.target.dtype).removeprefix("torch.")
    pipe = family.open(source, dtype, str(subject.target.device))
    target = family.wrap(pipe, source.name)
    mine, other = subject.target.info, target.info
    if (mine.latent_shape, mine.tokens) != (other.latent_shape, other.tokens):
        raise Unsupported(
            f"reference '{source.name}' draws {other.latent_shape} from {other.tokens} tokens, {mine.model} "
            f"{mine.latent_shape} from {mine.tokens}; it cannot be compared"
        )
    if not subject.judge.accepts(other):
        raise Unsupported(f"judge '{subject.judge.id}' does not know what reference '{source.name}' draws")
    return subject.of_another(pipe, target)
