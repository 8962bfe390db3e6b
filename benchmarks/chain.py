"""Closed forms behind each other on pocket: how far neighbours move, added up and solved jointly.

    python -m benchmarks.official --rows chain

Four animals are erased one by one. Adding up is what applying one artifact after the other does, which says so; a
`Stack`, `merge`, nodes behind each other and a library solve all together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_ERASED = 4


def rows(place: Path, sizes: Sequence[int]) -> Iterator[dict[str, Any]]:
    """The row; neither a place nor ``sizes`` are asked."""
    import erase_plugins as ep
    from erase_plugins.pocket.judge import PocketJudge
    from erase_plugins.stack import Entry, Stack
    from erase_plugins.workflow.models import as_target

    target = as_target(ep.load("pocket"))
    world = PocketJudge().world()
    group = world.concept("dog").group
    animals = ["dog", *(item.name for item in world.concepts if item.group == group and item.name != "dog")]
    erased, neighbours = animals[:_ERASED], animals[_ERASED:]
    cond = target.encode([f"a {name}" for name in neighbours])
    made = [ep.erase(target, name, "uce") for name in erased]
    (layer,) = Stack(tuple(Entry(item) for item in made)).layers()

    def drift(*artifacts: Any) -> float:
        """Mean relative change of the neighbours' text rows."""
        change = sum(delta.B.double() @ delta.A.double() for item in artifacts for _, _, delta in item.edit.items())
        found = cond.embeds.double()
        return float(((found @ change.T).norm(dim=-1) / found.norm(dim=-1)).mean())

    whole = drift(ep.erase(target, erased, "uce"))
    yield {
        "work": f"{_ERASED} animals erased on pocket, mean change of {len(neighbours)} others", "one request": whole,
        "artifacts solved jointly": drift(layer.artifact), "merged": drift(ep.merge(made)), "added up": drift(*made),
    }  # fmt: skip
