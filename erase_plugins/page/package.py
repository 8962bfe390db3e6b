"""This package as a page carries it to another machine: it is on no index, so a Space has it in itself."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

from erase_plugins.errors import Unsupported
from erase_plugins.hints import Hint

NAME = "erase-plugins"
#: the package as a Space holds it
ARCHIVE = "erase_plugins.zip"
_PACKAGES = ("erase_plugins", "hub_cards")
#: parts that a Space does not run
_LEFT_OUT = (
    "__pycache__", "erase_plugins/testing/", "erase_plugins/pocket/judge.safetensors", "erase_plugins/pocket/language",
)  # fmt: skip
_POCKET = "erase_plugins/pocket/model/"


def requirements() -> str:
    """requirements.txt of a Space that holds the package: what it needs of others, from their index."""
    lines = [line for line in _installed().requires or () if ";" not in line]
    return "\n".join(sorted(lines)) + "\n"


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
            if any(part in name for part in _LEFT_OUT) or (name.startswith(_POCKET) and not pocket):
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
