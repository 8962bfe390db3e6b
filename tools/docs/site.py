"""Hooks of mkdocs: pages are written for readers of the repository, whose links may leave docs/."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PICTURES = "comfy_nodes/web/docs/images"
_LINK = re.compile(r"(?<=\]\()\.\./([^)\s#]+)(#[^)\s]*)?(?=\))")


def on_files(files: Any, config: Any) -> Any:
    """Adds the pictures of the nodes, which stand beside their help pages."""
    from mkdocs.structure.files import File

    for path in sorted((ROOT / PICTURES).glob("*.png")):
        made = File(path.name, str(path.parent), config["site_dir"], use_directory_urls=False)
        made.src_uri, made.dest_uri = f"images/nodes/{path.name}", f"images/nodes/{path.name}"
        made.abs_src_path, made.abs_dest_path = str(path), posixpath.join(config["site_dir"], made.dest_uri)
        files.append(made)
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links that leave docs/ lead to the repository, those to pictures of nodes to the copies on the site."""
    return _LINK.sub(lambda found: _moved(found[1], found[2] or "", config["repo_url"]), markdown)


def _moved(path: str, anchor: str, repository: str) -> str:
    if path.startswith(f"{PICTURES}/"):
        return f"images/nodes/{posixpath.basename(path)}"
    kind = "tree" if (ROOT / path).is_dir() else "blob"
    if not (ROOT / path).exists():
        raise ValueError(f"a page leads to ../{path}, which does not exist")
    return f"{repository}/{kind}/main/{path}{anchor}"
