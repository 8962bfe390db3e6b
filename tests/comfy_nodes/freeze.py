"""Adds new nodes, inputs and outputs to the frozen list: ``python -m tests.comfy_nodes.freeze``. Never removes any."""

from __future__ import annotations

import json
from pathlib import Path

from comfy_nodes.spec import WIDGETS, NodeSpec
from tools.docs.comfy import own_specs

FILE = Path(__file__).parent / "frozen_nodes.json"


def shape(spec: NodeSpec) -> dict[str, list[str]]:
    """What workflow files depend on: sockets by name, widgets by place, outputs by place."""
    return {
        "sockets": sorted(item.name for item in spec.inputs if item.type not in WIDGETS),
        "widgets": list(spec.widgets),
        "outputs": [item.type for item in spec.outputs],
    }


def kept_specs() -> list[NodeSpec]:
    """Our nodes whose sockets are a promise; generated ones follow their method's options."""
    return [spec for spec in own_specs() if not spec.experimental]


def frozen() -> dict[str, dict[str, list[str]]]:
    return json.loads(FILE.read_text(encoding="utf-8"))


def problems(kept: dict[str, list[str]], now: dict[str, list[str]]) -> list[str]:
    """What an old workflow would miss."""
    found = [f"socket {name} is gone" for name in kept["sockets"] if name not in now["sockets"]]
    for part in ("widgets", "outputs"):
        if now[part][: len(kept[part])] != kept[part]:
            found.append(f"{part} were {kept[part]}, are {now[part]}: new ones go to the end")
    return found


def main() -> None:
    kept = frozen() if FILE.is_file() else {}
    for spec in kept_specs():
        now = shape(spec)
        wrong = problems(kept.get(spec.id, now), now)
        if wrong:
            raise SystemExit(f"{spec.id}: {'; '.join(wrong)}")
        kept[spec.id] = now
    lines = [f"  {json.dumps(name)}: {json.dumps(kept[name])}" for name in sorted(kept)]
    FILE.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
