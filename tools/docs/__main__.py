"""Writes the pages of the package and of the ComfyUI nodes; pages of nodes that are gone are removed."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.docs import comfy, pages


def main() -> None:
    """Writes below the folder given as argument, or the current one."""
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path()
    found = {**pages.pages(root), **comfy.pages(root)}
    for path, render in found.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(), encoding="utf-8")
    for path in (root / "comfy_nodes" / "web" / "docs").glob("*.md"):
        if path not in found:
            path.unlink()


if __name__ == "__main__":
    main()
