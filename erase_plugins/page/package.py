"""How others get this package, which is on no index: whoever registers its name there would run code everywhere.

So a page names a pinned source, or none; and a Space has the package in itself.
"""

from __future__ import annotations

import io
import re
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.hints import Hint

NAME = "erase-plugins"
#: the package as a Space holds it
ARCHIVE = "erase_plugins.zip"
REQUIREMENTS = "requirements.txt"
_PACKAGES = ("erase_plugins", "hub_cards")
#: parts that a Space does not run
_LEFT_OUT = (
    "__pycache__", "erase_plugins/testing/", "erase_plugins/pocket/judge.safetensors", "erase_plugins/pocket/language",
)  # fmt: skip
_POCKET = "erase_plugins/pocket/model/"
_GIT = re.compile(r"git\+https://[^\s@#]+@[0-9a-f]{40}(#subdirectory=[\w./-]+)?")
_WHEEL = re.compile(r"https://[^\s@#]+\.(whl|zip|tar\.gz)#sha256=[0-9a-f]{64}")


def pinned(line: str) -> str:
    """A line for pip that can only bring what it brings today.

    Args:
        line: "erase-plugins @ git+https://HOST/OWNER/NAME@COMMIT" with all 40 digits of the commit, or "erase-plugins @
            https://HOST/FILE.whl#sha256=HASH".

    Raises:
        RequestError: a name that an index would be asked for, a branch or tag, a login in the address.
    """
    name, _, place = " ".join(str(line).split()).partition(" @ ")
    if name != NAME or not (_GIT.fullmatch(place) or _WHEEL.fullmatch(place)):
        raise RequestError(
            f"'{str(line)[:80]}' is not pinned, and {NAME} is on no index: a package of that name there would be "
            f"somebody else's; write '{NAME} @ git+https://HOST/OWNER/NAME@COMMIT' with the commit's 40 digits"
        )
    return f"{name} @ {place}"


def carried(pocket: bool, requirement: str | None = None) -> dict[str, bytes]:
    """The files that bring this package to another machine: name -> bytes.

    Args:
        pocket: with the weights of the embedded model.
        requirement: line for pip with a pinned source; None sends the package itself.
    """
    if requirement is not None:
        return {REQUIREMENTS: f"{pinned(requirement)}\n".encode()}
    lines = [line for line in _installed().requires or () if ";" not in line]  # what it needs of others
    return {REQUIREMENTS: ("\n".join(sorted(lines)) + "\n").encode(), ARCHIVE: archive(pocket)}


def archive(pocket: bool) -> bytes:
    """This package as a zip, with what makes its plugins known; the same bytes for the same files.

    Args:
        pocket: with the weights of the embedded model.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as made:
        for name, data in _files(pocket):
            made.writestr(zipfile.ZipInfo(name, (1980, 1, 1, 0, 0, 0)), data, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def _files(pocket: bool) -> Iterator[tuple[str, bytes]]:
    root = Path(__file__).resolve().parents[2]
    for package in _PACKAGES:
        for path in sorted(item for item in (root / package).rglob("*") if item.is_file()):
            name = path.relative_to(root).as_posix()
            hidden = any(part.startswith(".") for part in path.relative_to(root).parts)  # of whoever works on it
            if hidden or any(part in name for part in _LEFT_OUT) or (name.startswith(_POCKET) and not pocket):
                continue
            yield name, path.read_bytes()
    found = _installed()
    for name in ("METADATA", "entry_points.txt"):
        yield f"erase_plugins-{found.version}.dist-info/{name}", (found.read_text(name) or "").encode()


def _installed() -> Distribution:
    try:
        return distribution(NAME)
    except PackageNotFoundError as error:
        raise Unsupported(
            f"{NAME} is not installed here, so a Space cannot get a copy of it; install it, or name a source with ",
            Hint("requirement"),
        ) from error
