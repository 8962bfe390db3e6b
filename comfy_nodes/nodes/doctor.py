"""What is installed, what is missing, and what to do."""

from __future__ import annotations

import platform
from importlib.metadata import PackageNotFoundError, version

from ..spec import NodeSpec, Output, Result


def examine() -> Result:
    """A report of versions, methods, families, plugins that failed and nodes that are missing."""
    import erase_plugins
    from erase_plugins.manager import get_manager
    from erase_plugins.needs import packages_of

    from .. import needs, registry
    from .methods import drawing_methods, node_id

    manager = get_manager()
    lines = [f"erase-plugins {erase_plugins.__version__}, Python {platform.python_version()}"]
    wanted: dict[str, list[str]] = {name: [] for name in ("torch", "safetensors", "pluggy", needs.LOADER)}
    for entry in drawing_methods():
        for name in needs.lacking(packages_of(entry.item)):
            wanted.setdefault(name, []).append(node_id(entry.item.id))
    problems = []
    for name, nodes in wanted.items():
        if not needs.lacking([name]):
            lines.append(f"{name} {_version(name)}")
            continue
        nodes += ["every node with something in 'checkpoint'"] if name == needs.LOADER else []
        problems.append(f"{name} is not installed; {', '.join(nodes) or 'all nodes'} need it: {needs.install([name])}")
    if needs.lacking(["peft"]):
        lines.append("peft is not installed (the command line needs it, the nodes do not)")
    lines.append("methods: " + ", ".join(entry.item.id for entry in manager.methods()))
    lines.append("families: " + ", ".join(entry.item.id for entry in manager.families()))
    problems += [f"plugin {item.plugin} ({item.package} {item.version}): {item.message}" for item in manager.check()]
    problems += [f"node {name}: {why}" for name, why in sorted(registry.FAILURES.items())]
    lines += [f"problem: {text}" for text in problems] or ["everything is in order"]
    text = "\n".join(lines)
    return Result((text,), text)


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(version unknown)"


SPECS = (
    NodeSpec(
        id="EraseDoctor",
        title="Erase: doctor",
        category="erase/check",
        description=(
            "Lists versions, methods, plugins that failed and nodes that are missing, with what to do. "
            "Paste its text into a bug report."
        ),
        inputs=(),
        outputs=(Output("report", "STRING", "The findings as text."),),
        run=examine,
        aliases=("erase plugins", "diagnose", "health", "versions"),
        is_output=True,
        state=lambda **_: float("nan"),
        when="To see whether an erasure works, compare pictures; this node looks at the installation only.",
        cost="Under a second. It runs at every queue, so that it never shows old findings.",
    ),
)
