"""``erase-plugins apply``: a new checkpoint with artifacts fused in; the source is never changed."""

from __future__ import annotations

import click

from erase_plugins.cli.command import (
    check_output,
    declare,
    dry_run_option,
    force_option,
    hint_strength,
    load_artifacts,
    quote,
    strength_option,
)
from erase_plugins.cli.console import emit, hint, say
from erase_plugins.errors import RequestError, Unsupported


@declare("apply", example="no-pizza --model model.safetensors --out without-pizza.safetensors")
@click.argument("artifact")
@click.option("--model", required=True, help="'pocket', a diffusers folder or a .safetensors checkpoint on disk.")
@strength_option
@click.option("--any-base", is_flag=True, help="Allow a fine-tune of the artifact's base model.")
@click.option("--out", required=True, metavar="PATH", help="New folder, of a .safetensors file a new one.")
@dry_run_option
@force_option
def command(
    artifact: str, model: str, strength: float, any_base: bool, out: str, dry_run: bool, force: bool
) -> None:  # fmt: skip
    """Write a checkpoint with an artifact fused in: same names, dtypes and metadata, only its modules differ."""
    from erase_plugins.workflow.models import find_model

    found = find_model(model)
    source, family = found.source, found.family
    (loaded,) = load_artifacts([artifact])
    hint_strength([loaded], strength)
    say(f"model {source.name}: family {family.id} ({family.title})")
    if loaded.manifest.family != family.id:
        from erase_plugins.errors import BaseMismatch

        raise BaseMismatch(
            f"'{loaded.name}' was made for family {loaded.manifest.family}, {source.name} is of family {family.id}; "
            "nothing was written"
        )
    origin = source.file if source.file is not None else source.folder
    if origin is None:
        raise Unsupported(f"'{source.name}' is on the Hub; download it first and give its folder or file")
    if not origin.is_dir():
        place = check_output(out, force, ".safetensors", dry_run=dry_run)
    elif out.lower().endswith(".safetensors"):
        raise RequestError(f"{source.name} is a folder, and its copy is one: leave .safetensors out of --out")
    else:
        place = check_output(out, force, kind="checkpoint", dry_run=dry_run)
    if dry_run:
        say(f"would fuse {', '.join(loaded.manifest.erased)} at strength {strength:g} into a copy of {source.name}")
        emit({"schema": 1, "dry_run": True, "family": family.id, "modules": loaded.manifest.modules})
        return
    from erase_plugins.workflow.applying import fuse_checkpoint

    fused = fuse_checkpoint(loaded, origin, place, strength, any_base=any_base, force=force)
    say(f"wrote {place}: patched {fused.modules} of {fused.modules} modules, strength {strength:g}")
    for name in fused.files:
        say(f"  changed: {name}")
    for name in fused.left_out:
        hint(f"left out: {name} (a copy of the weights as they were)")
    next_line = quote("erase-plugins", "generate", "--model", place, "--prompt", "PROMPT", "--out", "picture.png")
    say(f"next: {next_line}")
    emit({"schema": 1, "out": str(place), "modules": fused.modules, "files": list(fused.files),
          "left_out": list(fused.left_out), "strength": strength, "next": [next_line]})  # fmt: skip
