"""Plugins of outside packages, good and bad, installed as fake distributions through a metadata path."""

from __future__ import annotations

import shutil
from pathlib import Path

HERE = Path(__file__).parent
#: module -> (distribution name, version)
PACKAGES = {
    "good_plugin": ("good-plugin", "1.2"),
    "duplicate_plugin": ("duplicate-plugin", "3.4"),
    "raises_at_import": ("raises-at-import", "0.1"),
    "exits_at_import": ("exits-at-import", "0.1"),
    "raises_in_hook": ("raises-in-hook", "0.2"),
    "misspelled_hook": ("misspelled-hook", "0.1"),
    "unmarked_hook": ("unmarked-hook", "0.1"),
    "no_hook": ("no-hook", "0.1"),
    "old_signature": ("old-signature", "0.9"),
    "old_api": ("old-api", "0.8"),
    "class_not_instance": ("class-not-instance", "0.1"),
    "lacks_attributes": ("lacks-attributes", "0.1"),
    "one_of_two": ("one-of-two", "0.1"),
}


def install(folder: Path, *modules: str, entry: str | None = None) -> Path:
    """Puts modules and their metadata into ``folder``, as an installer would.

    Args:
        folder: to be put on the import path.
        modules: keys of `PACKAGES`.
        entry: value of the entry point; the module by default.
    """
    for module in modules:
        name, version = PACKAGES[module]
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(HERE / f"{module}.py", folder)
        info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[erase_plugins]\n{name} = {entry or module}\n")
    return folder
