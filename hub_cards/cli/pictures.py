"""Options about pictures, the same for every command that makes a page."""

from __future__ import annotations

from typing import Any

import click

from erase_plugins.cli.command import stacked

drawing_options = stacked(
    click.option("--pairs", type=click.IntRange(1, 50), metavar="N", help="Draw N pairs with the base and the erased "
                 "model."),
    click.option("--pair-prompt", "prompts", multiple=True, metavar="TEXT", help="What to draw; repeat for several "
                 "pairs."),
    click.option("--model", help="Base model for the pairs; what the artifact names if left out."),
    click.option("--device", default="cpu", show_default=True, help="Device for the pairs: cpu, cuda, mps ..."),
    click.option("--unblurred", is_flag=True, help="Show pictures of explicit concepts and persons as they are."),
    click.option("--adult/--no-adult", default=None, help="Ask visitors of the page first (tag "
                 "not-for-all-audiences); by default for explicit concepts."),
)  # fmt: skip


def asked(given: dict[str, Any]) -> dict[str, Any]:
    """Takes what `drawing_options` brought out of the options of a command, for `draw`."""
    return {name: given.pop(name) for name in ("pairs", "prompts", "model", "device")}


def draw(artifact: Any, report: str | None, how: dict[str, Any]) -> Any:
    """The pairs that were asked for, or None."""
    count, prompts = how["pairs"], how["prompts"]
    if not count and not prompts:
        return None
    from erase_plugins.cli.command import quiet_libraries
    from erase_plugins.cli.console import say
    from erase_plugins.evaluation.saved import read_report
    from erase_plugins.workflow.pairs import draw_pairs

    quiet_libraries()
    found, _ = read_report(report)
    drawn = draw_pairs(
        artifact, count or len(prompts), model=how["model"], prompts=prompts, report=found, device=how["device"]
    )
    say(f"drew {len(drawn.pairs)} pairs: {', '.join(pair.prompt for pair in drawn.pairs)[:200]}")
    return drawn
