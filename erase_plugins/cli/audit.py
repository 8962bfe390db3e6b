"""``erase-plugins audit``: what somebody's "erased" model or adapter really does, on one page."""

from __future__ import annotations

from pathlib import Path

import click

from erase_plugins.cli.command import (
    all_written,
    declare,
    dry_run_option,
    dtype_option,
    existing,
    force_option,
    guard_key_option,
    quiet_libraries,
    seed_option,
    strength_option,
)
from erase_plugins.cli.console import emit, hint, progress, say, table


@declare("audit", example="pocket no-pizza --out audited")
@click.argument("model")
@click.argument("artifact", required=False)
@click.option(
    "--erase", "erased", multiple=True, metavar="TEXT", help="What should be gone; what ARTIFACT names if left out."
)
@click.option("--base", metavar="MODEL", help="The model that a whole MODEL was made from; leave out with an ARTIFACT.")
@click.option(
    "--budget",
    default="quick",
    show_default=True,
    metavar="B",
    help="Of each attack: quick, standard, long, or a number.",
)
@click.option("--attacks", default="", metavar="A,B", help="Attacks to run (see 'list attacks'); all if left out.")
@click.option("--reference", default="", metavar="DIR", help="A model that never saw it: the control of the attacks.")
@click.option("--judge", metavar="J", help="Judge to use, such as clip:FOLDER; chosen by the model if left out.")
@click.option("--images", type=click.IntRange(1, 100_000), default=32, show_default=True, help="Pictures per set.")
@strength_option
@seed_option("Seed of prompts, noise and resampling.")
@click.option("--revision", help="Hub revision of the base.")
@dtype_option
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps ...")
@click.option("--any-base", is_flag=True, help="Allow a fine-tune of the artifact's base model.")
@guard_key_option
@click.option("--out", required=True, metavar="DIR", help="Folder for audit.html, audit.md and audit.json.")
@dry_run_option
@force_option
def command(
    model: str, artifact: str | None, erased: tuple[str, ...], base: str | None, budget: str, attacks: str,
    reference: str, judge: str | None, images: int, strength: float, seed: int, revision: str | None, dtype: str,
    device: str, any_base: bool, guard_key: str | None, out: str, dry_run: bool, force: bool,
) -> None:  # fmt: skip
    """Audit an "erased" MODEL, or an ARTIFACT on it: rates, attacks, pictures, one sentence to quote.

    ARTIFACT is anything that 'inspect' knows: a LoRA of any program, weights of an erased denoiser, an artifact folder.
    A killed audit goes on when it is called again with the same options.
    """
    from erase_plugins.evaluation.attack_suite import chosen
    from erase_plugins.workflow.audit import (
        HTML,
        RECORD,
        Wanted,
        attacks_of,
        audit,
        check,
        families_of,
        pictures_needed,
    )

    place = None if artifact is None else str(existing(artifact, "artifact or file"))
    wanted = Wanted(
        model, place, base, tuple(erased), budget, attacks, reference, images, seed, strength=strength, judge=judge,
        any_base=any_base, guard_key=guard_key, load={"revision": revision, "dtype": dtype, "device": device},
    )  # fmt: skip
    check(wanted)
    count, affordable = pictures_needed(wanted), attacks_of(wanted)
    left = [runner.id for runner in chosen(attacks) if runner.id not in affordable]
    if judge is not None:
        from erase_plugins.workflow.measure import find_judge

        find_judge(judge)
    families = families_of(wanted)
    if left:
        say(f"not run, since budget {budget} is too small for them: {', '.join(left)}")
    names = ", ".join(erased) or "what the artifact names"
    if dry_run:
        steps = count * wanted.steps * 2
        say(f"would look for {names} and attack it: at most {count} pictures, {steps} passes")
        emit({"schema": 1, "dry_run": True, "pictures": count, "passes": steps, "families": families,
              "erased": list(erased), "budget": budget, "attacks": list(affordable),
              "too_small_for": left})  # fmt: skip
        return
    quiet_libraries()
    with progress() as bar:
        found = audit(wanted, Path(out), force=force, progress=bar.update, note=hint)
    from erase_plugins.evaluation.page import attacks_table, rates_table, told

    emit({**found.to_dict(), "folder": out})
    for title, (head, rows) in (
        ("rates", rates_table(found.report)),
        ("attacks", attacks_table(found.attacks, found.not_run)),
    ):
        table(title, head, rows)
    say(found.sentence)
    for text in told(found):
        say(f"  {text}")
    say(f"page: {Path(out) / HTML}")
    all_written(RECORD, [*found.report.unwritten, *(name for item in found.attacks for name in item.unwritten)])
