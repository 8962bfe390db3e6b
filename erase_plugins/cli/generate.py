"""``erase-plugins generate``: one picture with artifacts applied, the same as in Python and elsewhere."""

from __future__ import annotations

import time

import click

from erase_plugins.cli.command import (
    Finite,
    check_output,
    declare,
    dry_run_option,
    force_option,
    guard_key_option,
    hint_strength,
    load_artifacts,
    model_options,
    seed_option,
    strength_option,
)
from erase_plugins.cli.console import emit, human_seconds, say


@declare("generate", example='no-pizza --model pocket --prompt "a pizza" --out after.png')
@click.argument("artifacts", nargs=-1, metavar="[ARTIFACT ...]")
@model_options
@click.option("--prompt", required=True, help="What to draw.")
@seed_option("Seed of the start noise.")
@strength_option
@click.option("--steps", type=click.IntRange(1, 1000), default=20, show_default=True, help="Sampler steps.")
@click.option("--guidance", type=Finite(), default=4.0, show_default=True, help="Classifier-free guidance scale.")
@click.option("--any-base", is_flag=True, help="Allow a fine-tune of the artifact's base model.")
@guard_key_option
@click.option("--out", required=True, metavar="FILE.png", help="Picture to write.")
@dry_run_option
@force_option
def command(
    artifacts: tuple[str, ...], model: str, revision: str | None, dtype: str, device: str, prompt: str, seed: int,
    strength: float, steps: int, guidance: float, any_base: bool, guard_key: str | None, out: str, dry_run: bool,
    force: bool,
) -> None:  # fmt: skip
    """Draw a picture with artifacts applied; without one, the base model's picture."""
    from erase_plugins.errors import Unsupported
    from erase_plugins.workflow.models import find_model

    found = find_model(model, revision)
    source, family = found.source, found.family
    place = check_output(out, force, ".png", dry_run=dry_run)
    loaded = load_artifacts(artifacts)
    hint_strength(loaded, strength)
    if "denoiser" not in family.roles:
        raise Unsupported(f"{source.name} (family {family.id}) offers {', '.join(sorted(family.offers))}, no pictures")
    facts = {"model": source.name, "family": family.id, "artifacts": [item.name for item in loaded], "prompt": prompt,
             "seed": seed, "strength": strength, "steps": steps, "guidance": guidance, "file": str(place)}  # fmt: skip
    if dry_run:
        say(f"would draw '{prompt}' with {source.name} (family {family.id}) and {len(loaded)} artifacts to {place}")
        emit({"schema": 1, "dry_run": True, **facts})
        return
    from erase_plugins.artifacts.atomic import atomic_file
    from erase_plugins.artifacts.places import png_stamp
    from erase_plugins.cli.command import load_target
    from erase_plugins.evaluation.draw import draw
    from erase_plugins.evaluation.sheet import to_image
    from erase_plugins.workflow.applying import apply_all

    target = load_target(found, dtype=dtype, device=device)
    started = time.perf_counter()
    handles = apply_all(target, loaded, strength, any_base=any_base, guard_key=guard_key)
    try:
        for handle in handles:
            say(handle.report())
        pictures = draw(
            target.pipe,
            [prompt],
            [seed],
            steps=steps,
            guidance=guidance,
            fast=False,
            denoiser=target.network("denoiser"),
        )
    finally:
        for handle in reversed(handles):
            handle.remove()
    patched = [{"artifact": handle.artifact.name, "patched": handle.patched} for handle in handles]
    with atomic_file(place, force) as work:
        to_image(pictures[0]).save(work, format="PNG", pnginfo=png_stamp())
    seconds = time.perf_counter() - started
    say(f"wrote {place} in {human_seconds(seconds)}")
    emit({"schema": 1, **facts, "applied": patched, "seconds": round(seconds, 3)})
