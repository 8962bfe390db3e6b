"""Writes the pages and the copies in the root; pages of nodes that are gone are removed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from . import COPIED, pages


def main() -> None:
    """Writes below the folder given as argument, or the current one."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
    found = pages(root)
    for path, render in found.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(), encoding="utf-8")
    for path in (root / "comfy_nodes" / "web" / "docs").glob("*.md"):
        if path not in found:
            path.unlink()
    for name in COPIED:
        shutil.rmtree(root / name, ignore_errors=True)
        shutil.copytree(root / "comfy_nodes" / name, root / name)


if __name__ == "__main__":
    main()
