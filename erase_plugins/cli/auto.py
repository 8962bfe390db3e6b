"""``erase-plugins auto CONCEPT``: search method and settings, show the trade-off, write the best artifact."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from erase_plugins.cli.command import (
    check_layouts,
    check_output,
    declare,
    dry_run_option,
    force_option,
    layout_option,
    model_options,
    quiet_libraries,
    saved_facts,
    say_saved,
    seed_option,
)
from erase_plugins.cli.console import emit, hint, human_seconds, progress, say, table
from erase_plugins.concept_text import read_concept
from erase_plugins.hints import in_terminal
from erase_plugins.types import KINDS, Concept


@declare("auto", example='"van gogh" --model MODEL --out no-van-gogh')
@click.argument("concept")
@model_options
@click.option(
    "--methods", multiple=True, metavar="M", help="Ids to search among, with commas; all that fit but guards."
)
@click.option("--to", "anchors", multiple=True, metavar="TEXT",
              help="What the concept may become besides a method's own choice; repeat for several.")  # fmt: skip
@click.option("--also", multiple=True, metavar="TEXT",
              help="Another word for it, or a description, that must be gone too; repeat for several.")  # fmt: skip
@click.option("--keep", multiple=True, metavar="TEXT", help="What must stay as it is; repeat for several.")
@click.option("--kind", type=click.Choice(KINDS), default="object", show_default=True, help="Kind of the concept.")
@click.option("--minutes", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True,
              help="Budget, of processor time on a CPU; what cannot finish in it is not started.")  # fmt: skip
@click.option("--trials", type=click.IntRange(1), help="End after so many trials.")
@click.option("--images", type=click.IntRange(1), default=8, show_default=True,
              help="Pictures for each kind of prompt, where a judge knows the concept.")  # fmt: skip
@click.option("--cost", type=click.Choice(("size", "time")), default="size", show_default=True,
              help="The third number: size of the edit, or time that it takes to make it.")  # fmt: skip
@click.option("--pick", type=click.IntRange(0), metavar="N", help="Take trial N of a finished search; search nothing.")
@click.option("--search", metavar="DIR", help="Folder of the search; --out with '-search' if left out.")
@seed_option("Seed of everything random.")
@click.option("--out", required=True, metavar="DIR", help="Artifact folder to write.")
@layout_option
@dry_run_option
@force_option
def command(
    concept: str, model: str, revision: str | None, dtype: str, device: str, methods: tuple[str, ...],
    anchors: tuple[str, ...], also: tuple[str, ...], keep: tuple[str, ...], kind: str, minutes: float,
    trials: int | None, images: int, cost: str, pick: int | None, search: str | None, seed: int, out: str,
    layouts: tuple[str, ...], dry_run: bool, force: bool,
) -> None:  # fmt: skip
    """Search method and settings for one concept, and write the best artifact.

    Written as 'concept -> replacement', every trial makes it that; else what it becomes is searched too.
    Three numbers are made small: what is left of the concept, how far everything else moves, and size (or time). The
    knee of the trade-off is taken; with --pick another point, without searching again. The search is kept beside the
    artifact, and the same command goes on where it was interrupted. With --layout edits are measured as such files hold
    them, and what they cannot carry is not taken.
    """
    name, becomes = read_concept(concept, "one in a command")
    item, chosen = Concept(name, kind, anchor=becomes), check_layouts(layouts)
    wanted = [name.strip() for text in methods for name in text.split(",") if name.strip()]
    folder = check_output(out, force, dry_run=dry_run)
    quiet_libraries()
    from erase_plugins.autotune.run import PICTURE, auto, preview, search_folder
    from erase_plugins.autotune.trials import counting

    asked: dict[str, Any] = {"methods": wanted, "to": anchors, "also": also, "keep": keep, "seed": seed,
                             "revision": revision, "dtype": dtype, "device": device, "layouts": chosen}  # fmt: skip
    if dry_run:
        _say_preview(*preview(model, item, **asked), minutes)
        return
    with progress() as bar:

        def tell(label: str, done: int, most: int) -> None:
            bar.update("trials", done, most)
            bar.note(f"trial {done}: {label}")

        found = auto(
            model, item, **asked, minutes=minutes, trials=trials, images=images, cost=cost, pick=pick,
            out=folder, search=search, force=force, progress=tell,
        )  # fmt: skip
    _say_front(found, cost)
    place = Path(search) if search is not None else search_folder(folder)
    if PICTURE not in found.files:
        hint("no picture of the front: pip install 'erase-plugins[plots]'")
    say(f"{counting(found.trials)} done in {human_seconds(found.seconds)}; ended because {found.stopped}")
    say(f"took trial {found.taken.number}; another one: the same command with --pick N --force")
    say(f"wrote {', '.join(found.files)} in {place}")
    say_saved(found.artifact)
    if not chosen and any(" file: " in note for note in found.artifact.manifest.notes):
        hint("the numbers are those of the patch file; --layout with another --out searches for what other files hold")
    emit({"schema": 1, "dry_run": False, "search": str(place), "artifact": saved_facts(found.artifact),
          **found.to_dict()})  # fmt: skip


def _say_preview(starts: list, reasons: dict[str, str], minutes: float) -> None:
    """What would be searched."""
    table(
        "where the search begins", ("method", "about", "fits", "searched"),
        [[start.name, human_seconds(start.seconds), "yes" if start.seconds <= 60 * minutes else "no",
          ", ".join(item.name for item in start.searched) or "-"] for start in starts], ("about",),
    )  # fmt: skip
    _say_left_out(reasons)
    say("dry run: nothing was loaded or written")
    emit({
        "schema": 1, "dry_run": True, "left_out": reasons,
        "starts": [{"name": start.name, "method": start.method, "seconds": start.seconds,
                    "searched": {item.name: list(item.searched) for item in start.searched}} for start in starts],
    })  # fmt: skip


def _say_left_out(reasons: Mapping[str, str]) -> None:
    """Which methods take no part, by reason."""
    for reason in dict.fromkeys(reasons.values()):
        names = [name for name, own in reasons.items() if own == reason]
        hint(f"takes no part ({in_terminal(reason)}): {', '.join(names)}")


def _say_front(found: Any, cost: str) -> None:
    """The front for people, and what did not work."""
    from erase_plugins.autotune.front import base_cells, cells, not_measured

    parts = list(found.base)
    rows = [["-", "base model", *base_cells(found.base)]]
    for row in sorted(found.front, key=lambda item: (item.left, item.change)):
        mark = " <" if row.number == found.taken.number else ""
        rows.append([f"{row.number}{mark}", row.label, *cells(row, parts, cost)])
    numbers = ("left", *parts, "change", cost)
    table("trials that no other beats (0 is best in every column)", ("trial", "settings", *numbers), rows, numbers)
    if told := not_measured(found.base):
        hint(told)
    for label, reason in found.refused:
        hint(f"did not work: {label}: {reason}")
    _say_left_out(found.left_out)
    if found.doubt:
        hint(found.doubt)
