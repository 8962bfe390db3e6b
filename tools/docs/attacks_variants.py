"""Which variants of an attack the cells of its table have: one that was added later was not tried in older ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

#: attacks whose cells say which variants were tried, and the variants that older cells, which say nothing, have not
VARIANTS: Mapping[str, tuple[str, ...]] = {"noise": ("inverted",)}


def without(attack: str, items: Sequence[Mapping[str, Any]]) -> str:
    """What a table says of variants that were not tried in its finished cells; empty if there are none."""
    made = [item for item in items if item["status"] == "ok"]
    counts = {name: sum(name not in item.get("tried", ()) for item in made) for name in VARIANTS.get(attack, ())}
    return " ".join(
        f"Not tried in {count} of the {len(made)} cells of `{attack}`: the variant `{name}`."
        for name, count in counts.items() if count
    )  # fmt: skip
