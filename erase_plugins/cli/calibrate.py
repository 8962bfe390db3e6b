"""``erase-plugins calibrate``: numbers of a model that defaults depend on, in one JSON file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from erase_plugins.cli.command import check_output, declare, force_option, model_options, quote
from erase_plugins.cli.console import emit, human_bytes, human_seconds, progress, say, table


@declare("calibrate", example="--model MODEL --out calibration.json")
@model_options
@click.option("--out", default="calibration.json", show_default=True, metavar="FILE", help="JSON file to write.")
@click.option("--method", "methods", multiple=True, metavar="M", help="Time only this method; repeat for several.")
@click.option("--quick", is_flag=True, help="Fewer captions, cheapest settings; says little about memory.")
@click.option("--limit", type=click.FloatRange(1), default=60.0, show_default=True, help="Seconds for each method.")
@force_option
def command(
    model: str, revision: str | None, dtype: str, device: str, out: str, methods: tuple[str, ...], quick: bool,
    limit: float, force: bool,
) -> None:  # fmt: skip
    """Measure a model: padding rows, neighbours of 30 concepts, gates on captions, first steps of every method.

    The file has no text, path or name of yours: it can be sent to the authors, or given as --preset of run.
    """
    from erase_plugins.cli.command import load_target, quiet_libraries
    from erase_plugins.manager import get_manager

    place = check_output(out, force, ".json")
    entries = [get_manager().method(name) for name in methods] or [entry.item for entry in get_manager().methods()]
    quiet_libraries()
    from erase_plugins.workflow.calibrate import calibrate, save
    from erase_plugins.workflow.models import find_model

    target = load_target(find_model(model, revision), dtype=dtype, device=device)
    with progress() as bar:
        found: dict[str, Any] = calibrate(target, entries, quick, limit, bar.update)
    save(found, place, force)
    emit({**found, "file": Path(out).name})
    _tell(found, out)


def _tell(found: dict[str, Any], out: str) -> None:
    rows = [
        (name, human_seconds(row["first_step_after"]), human_seconds(row["seconds_per_step"]),
         human_bytes(row["memory_bytes"]), row.get("stopped", "ok"))
        for name, row in found["methods"].items()
    ]  # fmt: skip
    table("first steps", ("method", "first step after", "a step", "memory", ""), rows)
    for measure, row in found["gates"].items():
        if "error" not in row:
            low, middle, high = row["others"]
            say(f"gate {measure}: others {low:.2f}..{high:.2f} (middle {middle:.2f}), named from {row['named'][0]:.2f}")
    options = ", ".join(f"{name}={value}" for name, value in found["preset"].items())
    say(f"options that follow: {options or 'none: same and near words cannot be told apart on this model'}")
    say(f"wrote {Path(out).name}")
    if options:
        say(f"next: {quote('erase-plugins', 'run', 'uce', '--preset', out)} ...")
