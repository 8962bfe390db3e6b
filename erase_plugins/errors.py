"""Every exception the package raises on purpose, with the exit code that the command line maps it to.

Messages follow one pattern: what was asked, what was found, what to do next.
"""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

from erase_plugins.hints import LIST_PLUGINS, AnyHint, Sentence


class EraseError(Exception):
    """Base of all errors of this package.

    Args:
        said: its sentence, in one piece or as texts, hints (`erase_plugins.hints`) and the errors that it passes on.
    """

    exit_code = 1

    def __init__(self, *said: str | AnyHint | BaseException) -> None:
        super().__init__(said[0] if len(said) == 1 and isinstance(said[0], str) else Sentence(*said))


class RequestError(EraseError, ValueError):
    """The request itself is wrong (empty concept, bad option value, contradictory lists)."""

    exit_code = 2


class UnknownName(RequestError, LookupError):
    """A name is not registered; the message lists what is, the closest ones of very many."""

    _most = 30

    def __init__(self, what: str, name: str, known: Iterable[str], left_out: Iterable[str] = ()) -> None:
        self.what, self.name, self.known, self.left_out = what, name, tuple(sorted(known)), tuple(left_out)
        close = get_close_matches(name.lower(), self.known, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else "."
        shown, more = self.known, ""
        if len(shown) > self._most:
            shown = tuple(get_close_matches(name, shown, n=self._most, cutoff=0.0))
            more = f" and {len(self.known) - len(shown)} more"
        said = f"no {what} named '{name}'{hint} Known: {', '.join(shown) or 'none'}{more}"
        lost = ", ".join(self.left_out)  # plugins that might have had it
        super().__init__(*((f"{said}; left out: {lost}, ", LIST_PLUGINS, " says why") if lost else (said,)))


class Unsupported(EraseError, ValueError):
    """A combination (family x method x layout x host) that is not possible, with the nearest that is."""

    exit_code = 3


class MissingExtra(EraseError, ImportError):
    """An optional package is needed."""

    exit_code = 4

    def __init__(self, what: str, extra: str) -> None:
        self.extra = extra
        super().__init__(f"{what} needs an optional package: pip install 'erase-plugins[{extra}]'")


class MissingPlugin(EraseError, ImportError):
    """A function comes from a plugin package that is not there."""

    exit_code = 4

    def __init__(self, what: str, package: str) -> None:
        self.package = package
        super().__init__(
            f"{what} comes from the package {package}, which is not in use; it is part of erase-plugins, and ",
            LIST_PLUGINS,
            " says why it was left out",
        )


class PluginError(EraseError, RuntimeError):
    """A plugin broke its contract or raised where it must not."""


class RunRefused(EraseError):
    """A hook vetoed the run."""

    exit_code = 3


class Blocked(RunRefused):
    """A guard that blocks refused what a model was asked, or cannot read it; nothing was made."""


class RunCancelled(EraseError):
    """The run was stopped on request; the last checkpoint is kept."""

    exit_code = 130


class NotFiniteError(EraseError, ArithmeticError):
    """NaN or infinity appeared; nothing was written."""


class ArtifactError(EraseError, ValueError):
    """An artifact cannot be read, written or used as asked."""

    exit_code = 2


class CorruptArtifact(ArtifactError):
    """The files do not pass verification (hash, header, names, shapes, finiteness)."""


class PluginAbsent(ArtifactError):
    """The layout or family of an artifact comes from a package that is not there; its files may be whole."""

    exit_code = 4


class BaseMismatch(ArtifactError):
    """The artifact was made for another base model; nothing was changed."""

    exit_code = 3


class PipelineChanged(ArtifactError):
    """A pipeline was changed below an applied edit, so that it cannot be taken off, changed or used exactly."""

    exit_code = 3


class AlreadyApplied(ArtifactError):
    """The same change is in force already; applied again it would act twice."""

    exit_code = 3


class NotInFile(ArtifactError):
    """What is about to be saved or copied does not hold an edit that is in force."""

    exit_code = 3


class HubError(EraseError, RuntimeError):
    """The Hub refused or could not be reached."""

    exit_code = 5


class HubUnreachable(HubError):
    """The Hub did not answer, or may not be asked, and the cache does not hold what is needed."""


class PushRefused(HubError):
    """A hook or a check vetoed the upload."""


class NotAllowed(HubError):
    """The Hub says that this account may not do that."""
