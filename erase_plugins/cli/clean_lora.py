"""``erase-plugins clean-lora``: somebody's LoRA without a concept, in closed form, in the same file format."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click

from erase_plugins.cli.command import (
    check_output,
    declare,
    dry_run_option,
    dtype_option,
    existing,
    quiet_libraries,
    seed_option,
)
from erase_plugins.cli.console import emit, hint, say
from erase_plugins.errors import RequestError


@declare("clean-lora", example="lora.safetensors --erase pizza --base MODEL --out clean.safetensors")
@click.argument("lora")
@click.option("--erase", "concept", metavar="TEXT", help="Concept to take out, as prompts name it.")
@click.option("--alias", "aliases", multiple=True, metavar="TEXT", help="Another word for it; repeatable.")
@click.option("--keep", multiple=True, metavar="TEXT", help="What the LoRA must go on drawing; repeatable.")
@click.option("--strict", is_flag=True, help="Also switch off layers that read no text; the rest gets weaker.")
@click.option("--steps", type=click.IntRange(0), default=0, show_default=True,
              help="Training steps after the closed form; 200 reach layers that read no text.")  # fmt: skip
@click.option("--base", "--model", "base", required=True, metavar="MODEL", help="Model that the LoRA is for.")
@click.option("--revision", help="Hub revision of the model.")
@dtype_option
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps ...")
@click.option("--out", required=True, metavar="PATH", help="File to write (for peft or many a folder); never replaced.")
@click.option("--images", type=click.IntRange(0), default=16, show_default=True,
              help="Pictures per measurement, where a judge knows the concept; 0 draws none.")  # fmt: skip
@seed_option("Seed of prompts and noise.")
@dry_run_option
def command(
    lora: str, concept: str | None, aliases: tuple[str, ...], keep: tuple[str, ...], strict: bool, steps: int,
    base: str, revision: str | None, dtype: str, device: str, out: str, images: int, seed: int, dry_run: bool,
) -> None:  # fmt: skip
    """Take a concept out of a LoRA, without data. Layers that read no text stay; what they carry is measured.

    Of a folder of LoRAs (files, or folders of peft adapters) all are cleaned, into the same names in --out. What is
    there already is left alone, so the same command goes on after an interruption and tries again what failed.
    """
    if concept is None:
        raise RequestError("nothing to take out was named; add --erase TEXT")
    quiet_libraries()
    from erase_plugins.workflow.cleaning import clean_lora
    from erase_plugins.workflow.lora_places import KIND, check_out, lora_file, lora_files

    place, there = Path(out), existing(lora, "LoRA")
    if many := lora_files(there):
        from erase_plugins.cli.clean_loras import clean_each

        asked = {"aliases": aliases, "keep": keep, "strict": strict, "steps": steps, "images": images, "seed": seed}
        clean_each(many, place, concept, base, asked, revision=revision, dtype=dtype, device=device, dry_run=dry_run)
        return
    file = lora_file(there)
    check_out(place, file)
    check_output(place, False, kind="file" if place.suffix else KIND, dry_run=dry_run)
    made = clean_lora(
        file, concept, base, out=place, aliases=aliases, keep=keep, strict=strict, steps=steps, images=images,
        seed=seed, dry_run=dry_run, revision=revision, dtype=dtype, device=device,
    )  # fmt: skip
    rest = "switched off" if strict else f"trained for {steps} steps" if steps else "left as it is"
    say(f"{made.source} ({made.format}, family {made.family}): {'would clean' if dry_run else 'cleaned'} "
        f"{_listed(made.cleaned)}, {_listed(made.left) or 'nothing'} {rest}")  # fmt: skip
    for note in made.notes:
        hint(f"note: {note}")
    if not dry_run:
        for line in _numbers(made.before, made.after, made.base, images):
            say(f"  {line}")
        say(f"wrote {place.name}")
    emit({"dry_run": dry_run, **made.to_dict()})


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} modules of {component}" for component, count in counts.items())


def _numbers(
    before: Mapping[str, float], after: Mapping[str, float], base: Mapping[str, float], images: int
) -> list[str]:
    """Before and after for people."""
    lines = [
        f"change of the prediction where the concept is named: {before['effect']:.1%} -> {after['effect']:.1%}",
        f"elsewhere: {before['elsewhere']:.1%} -> {after['elsewhere']:.1%} (moved by {after['moved']:.1%})",
    ]
    if "rate" in after:
        lines.insert(0, f"concept shown: {before['rate']:.0%} -> {after['rate']:.0%} (base {base['rate']:.0%})")
    elif images:
        lines.append("no judge knows the concept; look at pictures, or name a model and concept that one knows")
    return lines
