"""``erase-plugins convert``: an artifact, or a foreign file, in another layout."""

from __future__ import annotations

from pathlib import Path

import click

from erase_plugins.cli.command import (
    check_output,
    declare,
    dry_run_option,
    existing,
    force_option,
    load_target,
    saved_facts,
    say_saved,
)
from erase_plugins.cli.console import emit, say
from erase_plugins.families.loading import DTYPES


@declare("convert", example="no-pizza --layout kohya --out no-pizza-kohya")
@click.argument("artifact")
@click.option("--layout", required=True, metavar="L", help="Layout to write (see 'list layouts').")
@click.option("--base", "--model", "base", metavar="MODEL", help="Base model, where it is needed; pocket is found.")
@click.option("--rank", type=int, help="Keep this many directions per weight.")
@click.option("--energy", type=float, help="Keep this share of the squared norm, in 0..1.")
@click.option("--file-dtype", type=click.Choice(DTYPES), help="Precision in the file.")
@click.option("--drop-bias", is_flag=True, help="Leave bias changes out.")
@click.option("--with-sidecars", is_flag=True, help="Also write a preview and a description for web interfaces.")
@click.option("--picture", "pictures", multiple=True, type=click.Path(exists=True), help="Picture for the preview.")
@click.option("--family", metavar="F", help="Family of a file that does not say it.")
@click.option("--out", metavar="PATH", help="File (.safetensors) or folder; named after the artifact if left out.")
@dry_run_option
@force_option
def command(
    artifact: str, layout: str, base: str | None, rank: int | None, energy: float | None, file_dtype: str | None,
    drop_bias: bool, with_sidecars: bool, pictures: tuple[str, ...], family: str | None, out: str | None,
    dry_run: bool, force: bool,
) -> None:  # fmt: skip
    """Write an artifact or a recognised foreign file in another layout."""
    from erase_plugins.manager import get_manager

    get_manager().layout(layout)
    source = existing(artifact)
    place = Path(out or f"{source.stem}-{layout}")
    check_output(place, force, kind="file" if place.suffix == ".safetensors" else "artifact", dry_run=dry_run)
    if dry_run:
        from erase_plugins.cli.inspect import look

        facts = look(source)
        say(f"would write {source.name} ({facts['title']}) in layout {layout} to {place}")
        emit({"schema": 1, "dry_run": True, "layout": layout, "source": facts, "out": str(place)})
        return
    from erase_plugins.workflow.convert import convert

    made = convert(
        source, layout, out=place, base=_base(source, base), rank=rank, energy=energy, drop_bias=drop_bias,
        sidecars=with_sidecars, pictures=pictures, dtype=file_dtype, family=family, force=force,
    )  # fmt: skip
    errors = made.manifest.history[-1].get("errors", {}) if made.manifest.history else {}
    say_saved(made)
    for name, value in sorted(errors.items(), key=lambda item: -item[1])[:10]:
        say(f"  relative error {value:.2g}  {name}")
    if len(errors) > 10:
        say(f"  and {len(errors) - 10} more, none larger")
    emit({"schema": 1, "artifact": saved_facts(made), "layout": layout, "errors": errors})


def _base(source: Path, named: str | None) -> object:
    """The base model: the one named, the embedded one if the artifact was made for that, else none."""
    if named is not None:
        return load_target(named)
    from erase_plugins.errors import ArtifactError
    from erase_plugins.workflow.artifacts import load_artifact

    try:
        manifest = load_artifact(source).manifest
    except ArtifactError:
        return None  # a file of absolute weights; converting says what it needs
    return load_target("pocket") if manifest.base.get("model") == "pocket" else None
