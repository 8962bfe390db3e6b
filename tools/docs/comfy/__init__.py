"""Pages that are written from the node descriptions; see `tools.docs`.

Help pages, translations, example workflows, the blueprint, and the node table of docs/comfyui.md.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from comfy_nodes import NODE_CLASS_MAPPINGS
from comfy_nodes.spec import OWN, NodeSpec


def own_specs() -> list[NodeSpec]:
    """Descriptions of the nodes that come with this package, in the order of the menu."""
    found = [node.SPEC for node in NODE_CLASS_MAPPINGS.values() if node.SPEC.package == OWN]  # type: ignore[attr-defined]
    order = ("erase", "erase/load", "erase/make", "erase/apply", "erase/check")
    return sorted(found, key=lambda spec: (order.index(spec.category) if spec.category in order else 9, spec.id))


def pages(root: Path) -> dict[Path, Callable[[], str]]:
    """Every written page and how to render it.

    Args:
        root: of the repository.
    """
    from tools.docs.pages import fill_marked

    from . import blueprint as blueprints
    from .examples import examples
    from .graphs import dump
    from .help import gallery, help_page, is_translated, node_table
    from .locales import coverage_table, languages, main_file, node_file

    pack, guide = root / "comfy_nodes", root / "docs" / "comfyui.md"
    specs = own_specs()
    found: dict[Path, Callable[[], str]] = {
        pack / "web" / "docs" / f"{spec.id}.md": lambda spec=spec: help_page(spec, pack / "web" / "docs")  # type: ignore[misc]
        for spec in specs
    }
    for language in languages()[1:]:
        for spec in (item for item in specs if is_translated(item, language)):
            found[pack / "web" / "docs" / spec.id / f"{language}.md"] = lambda spec=spec, language=language: help_page(  # type: ignore[misc]
                spec, pack / "web" / "docs", language
            )
    for language in languages():
        place = root / "locales" / language
        found[place / "nodeDefs.json"] = lambda language=language: node_file(specs, language)  # type: ignore[misc]
        found[place / "main.json"] = lambda language=language: main_file(language)  # type: ignore[misc]
    found |= {root / "example_workflows" / name: render for name, render in examples(specs).items()}
    inside = root / "subgraphs" / f"{blueprints.NAME}.json"
    found[inside] = lambda: dump(blueprints.blueprint({spec.id: spec for spec in specs}))
    found[root / "docs" / "nodes.md"] = lambda: gallery(specs)
    found[guide] = lambda: fill_marked(
        fill_marked(guide.read_text(encoding="utf-8"), "nodes", node_table(specs)), "languages", coverage_table(specs)
    )
    return found
