"""Pairs of pictures for commands that make a page: their options, drawn, and written beside a text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from erase_plugins.cli.command import guard_key_option, quiet_libraries, stacked
from erase_plugins.cli.console import say

#: the same for every command that makes a page
drawing_options = stacked(
    click.option("--pairs", type=click.IntRange(1, 50), metavar="N", help="Draw N pairs with the base and the erased "
                 "model."),
    click.option("--pair-prompt", "prompts", multiple=True, metavar="TEXT", help="What to draw; repeat for several "
                 "pairs."),
    click.option("--model", help="Base model for the pairs; what the artifact names if left out."),
    click.option("--device", default="cpu", show_default=True, help="Device for the pairs: cpu, cuda, mps ..."),
    guard_key_option,
    click.option("--unblurred", is_flag=True, help="Show pictures of explicit concepts and persons as they are."),
    click.option("--adult/--no-adult", default=None, help="Ask visitors of the page first (tag "
                 "not-for-all-audiences); by default for explicit concepts."),
)  # fmt: skip


def asked(given: dict[str, Any]) -> tuple[dict[str, Any], bool | None]:
    """Takes what `drawing_options` brought out of the options of a command: for `draw`, and whether to blur."""
    blur = False if given.pop("unblurred") else None
    return {name: given.pop(name) for name in ("pairs", "prompts", "model", "device", "guard_key")}, blur


def draw(artifact: Any, report: str | None, how: dict[str, Any], blur: bool | None = None) -> Any:
    """The pairs that were asked for, or None; those of explicit concepts and persons unrecognisable, unless told."""
    how = dict(how)
    if not (count := how.pop("pairs") or len(how["prompts"])):
        return None
    from erase_plugins.evaluation.saved import read_report
    from erase_plugins.evaluation.sensitive import to_blur
    from erase_plugins.workflow.pairs import draw_pairs

    quiet_libraries()
    found, _ = read_report(report)
    drawn = draw_pairs(artifact, count, report=found, **how)
    say(f"drew {len(drawn.pairs)} pairs: {', '.join(pair.prompt for pair in drawn.pairs)[:200]}")
    return drawn.blur() if (to_blur(artifact.manifest.concepts) if blur is None else blur) else drawn


def write(place: Path, text: str, gallery: Any, force: bool) -> None:
    """A text, and the pictures of its pairs beside it."""
    from erase_plugins.artifacts.atomic import atomic_file
    from erase_plugins.artifacts.places import FILE, check_place

    files = {place.parent / name: data for name, data in ({} if gallery is None else gallery.files()).items()}
    for name in files:
        check_place(name, force, FILE)
    for name, data in {**files, place: text.encode()}.items():
        name.parent.mkdir(parents=True, exist_ok=True)
        with atomic_file(name, force) as work:
            work.write_bytes(data)
