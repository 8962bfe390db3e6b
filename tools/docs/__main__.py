"""Writes the pages of the package and of the ComfyUI nodes; pages of nodes that are gone are removed."""

from __future__ import annotations

import argparse
from pathlib import Path

from tools.docs import comfy, pages


def main() -> None:
    """Reads the command line and writes."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, nargs="?", default=Path(), help="folder to write below; the current one")
    root = parser.parse_args().root
    found = {**pages.pages(root), **comfy.pages(root)}
    for path, render in found.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(render(), encoding="utf-8")
    for path in (root / "comfy_nodes" / "web" / "docs").glob("*.md"):
        if path not in found:
            path.unlink()


if __name__ == "__main__":
    main()
