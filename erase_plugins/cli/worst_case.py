"""``erase-plugins worst-case METHOD``: what a method finds hardest to forget, as a file that can be shared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from erase_plugins.cli.command import (
    declare,
    dry_run_option,
    force_option,
    model_options,
    parse_settings,
    quiet_libraries,
    quote,
    seed_option,
)
from erase_plugins.cli.console import emit, progress, say, table
from erase_plugins.families.forget_set import CLASS, DATA, PROMPT


@declare("worst-case", example="finetune --model pocket-classifier --budget 10% --out worst-case.json")
@click.argument("method")
@model_options
@click.option("--data", metavar="DATA",
              help="Pictures with labels to select from: a folder, a .jsonl file or datasets:NAME; those beside the "
                   "model if left out.")  # fmt: skip
@click.option(
    "--budget", default="10%", show_default=True, metavar="B", help="How much to select: a share or a number."
)
@click.option("--wise", type=click.Choice((DATA, CLASS, PROMPT)), default=DATA, show_default=True,
              help="Select rows of the data, classes, or concepts of a text-to-image model.")  # fmt: skip
@click.option("--concept", "concepts", multiple=True, metavar="TEXT", help="Pool of --wise prompt; repeat for several.")
@click.option("--kind", default="object", show_default=True, metavar="K", help="Kind of these concepts.")
@click.option("--rounds", type=click.IntRange(1, 1000), default=3, show_default=True,
              help="Rounds at most; a set that stays ends the search.")  # fmt: skip
@click.option("--step", type=float, metavar="S", help="Step of the upper level; free of scale if left out.")
@click.option("--gamma", type=float, default=0.0, show_default=True, help="Weight of the squared selection.")
@click.option("--per-class-quota", type=click.IntRange(1), metavar="N", help="At most so many rows of a class.")
@click.option("--easiest", is_flag=True, help="Search the set that is easiest to forget instead.")
@click.option("--images", type=click.IntRange(1, 10_000), default=8, show_default=True,
              help="Pictures per concept (--wise prompt).")  # fmt: skip
@click.option("--judge", metavar="J", help="Judge of --wise prompt; chosen by the model if left out.")
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="Option of the method (see 'info METHOD').")
@seed_option("Seed of the start and of the method.")
@click.option("--out", default="worst-case.json", show_default=True, metavar="FILE", help="JSON file to write.")
@dry_run_option
@force_option
def command(
    method: str, model: str, revision: str | None, dtype: str, device: str, data: str | None, budget: str, wise: str,
    concepts: tuple[str, ...], kind: str, rounds: int, step: float | None, gamma: float, per_class_quota: int | None,
    easiest: bool, images: int, judge: str | None, settings: tuple[str, ...], seed: int, out: str, dry_run: bool,
    force: bool,
) -> None:  # fmt: skip
    """Search the pictures, classes or concepts that METHOD finds hardest to forget.

    Each round forgets the selection and exchanges it for what is least forgotten. Beside the set stand a random one
    and that with the lowest losses before any unlearning. 'run --forget FILE' and 'compare --forget FILE' use it.
    """
    from erase_plugins.manager import get_manager
    from erase_plugins.workflow.worst_case import planned, worst_case

    get_manager().method(method)
    given: dict[str, Any] = {
        "data": data, "budget": budget, "wise": wise, "concepts": concepts, "kind": kind, "rounds": rounds,
        "step": step, "gamma": gamma, "per_class_quota": per_class_quota, "easiest": easiest, "images": images,
        "judge": judge, "options": parse_settings(settings), "seed": seed, "revision": revision, "dtype": dtype,
        "device": device,
    }  # fmt: skip
    quiet_libraries()
    if dry_run:
        count, total, what = planned(model, method, **given)
        say(f"would select {total} of {count} {what} in at most {rounds} rounds of {method}, and 2 runs to measure")
        emit({"schema": 1, "dry_run": True, "of": count, "budget": total, "what": what, "runs": rounds + 2})
        return
    with progress() as bar:
        found = worst_case(model, method, out=out, force=force, progress=bar.update, **given)
    emit({**found.to_dict(), "file": out})
    _tell(found, out, model, data)


def _tell(found: Any, out: str, model: str, data: str | None) -> None:
    facts = found.forget_set
    sets = {f"{facts['direction']} ({facts['method']})": found.measured} | {
        name: item["measured"] for name, item in found.baselines.items()
    }
    columns = list(found.measured)
    table(
        f"{facts['budget']} of {facts['of']}, forgotten by {facts['method']}", ("selection", *columns),
        [[name, *(f"{100 * row[column]:.1f} %" for column in columns)] for name, row in sets.items()], columns,
    )  # fmt: skip
    kept = ", ".join(f"{share:.0%}" for share in facts["kept"])
    best = f"the set of round {facts['best']}" if facts["best"] else "the random start"
    left = ", ".join(f"{score:.3g}" for score in facts["left"])
    say(f"{facts['rounds']} rounds; of the set stayed {kept}; loss left on each set: {left}; taken: {best}")
    if "classes" in facts:
        say("by class: " + ", ".join(f"{name} {count}" for name, count in facts["classes"].items()))
        if max(facts["classes"].values()) > 0.5 * facts["budget"]:
            say("  more than half are of one class; --per-class-quota spreads the set")
    if found.names:
        say(f"selected: {', '.join(found.names)}")
    same = found.baselines["lowest-loss"]["overlap"]
    say(f"{same:.0%} of the set have the lowest losses before any unlearning as well")
    say(f"wrote {Path(out).name}")
    more = ("--retain", data) if data is not None else ()
    say(
        f"next:\n  {quote('erase-plugins', 'run', facts['method'], '--model', model, '--forget', out, *more)} --out DIR"
    )
