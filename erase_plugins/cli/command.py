"""Decorators and small parts that the commands share."""

from __future__ import annotations

import math
import shlex
import sys
import warnings
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext, redirect_stdout
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import click

from erase_plugins.errors import EraseError, RequestError
from erase_plugins.families.loading import AUTO, DTYPES
from erase_plugins.hints import said_as


def _set_flag(ctx: click.Context, parameter: click.Parameter, value: bool) -> None:
    from erase_plugins.cli.console import State

    if value:
        setattr(ctx.ensure_object(State), str(parameter.name), True)


#: how other tools and papers call an option -> ours, and what else then belongs to it
_ELSEWHERE = {
    **dict.fromkeys(("--concept", "--concepts", "--target", "--target-concept", "--erase-concept"), ("--erase", "")),
    **dict.fromkeys(("--style", "--artist"), ("--erase", " with --kind style")),
    **dict.fromkeys(("--anchor", "--anchor-concept", "--guide", "--replacement", "--map-to"), ("--to", "")),
    **dict.fromkeys(("--preserve", "--preserve-set", "--preserve-concepts", "--retain-concepts"), ("--keep", "")),
    **dict.fromkeys(("--weight", "--scale", "--multiplier"), ("--strength", "")),
    **dict.fromkeys(("--output", "--output-dir", "--save-path", "--save-dir"), ("--out", "")),
    "--out": ("--into", ""),
}


class Command(click.Command):
    """A command with an example, ``--json`` and ``--debug``, and a word about options that have another name elsewhere.

    Args:
        example: what stands behind the command's name in a call that works; below its help.
    """

    def __init__(self, *args: Any, example: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.example = example
        flag: dict[str, Any] = {"is_flag": True, "expose_value": False, "is_eager": True, "callback": _set_flag}
        self.params.append(click.Option(["--json"], help="Print one JSON object on stdout, nothing else.", **flag))
        self.params.append(click.Option(["--debug"], help="Show the traceback of an error.", **flag))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The example, below the options; never broken, so that it can be pasted."""
        formatter.write(f"\nExample:\n  {ctx.command_path} {self.example}".rstrip() + "\n")
        super().format_epilog(ctx, formatter)

    def invoke(self, ctx: click.Context) -> Any:
        """Runs it; with ``--json`` what methods, plugins and libraries print goes to stderr, beside the one object."""
        from erase_plugins.cli.console import State

        settings = ctx.ensure_object(State)
        options = {name for parameter in self.params for name in parameter.opts}
        place = "into" if "--into" in options and "--out" not in options else "out"
        if settings.json:
            settings.out = sys.stdout
        with said_as(place), redirect_stdout(sys.stderr) if settings.json else nullcontext():
            return super().invoke(ctx)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        from erase_plugins.cli.console import State

        ctx.ensure_object(State).resumes = any("--resume" in parameter.opts for parameter in self.params)
        try:
            return super().parse_args(ctx, args)
        except click.NoSuchOption as error:
            ours, more = _ELSEWHERE.get(error.option_name, ("", ""))
            if any(ours in parameter.opts for parameter in self.params):
                said = f"No such option '{error.option_name}'; here it is {ours}{more}"
                raise click.NoSuchOption(error.option_name, said, ctx=ctx) from error
            raise


def declare(name: str, **options: Any) -> Callable[[Callable[..., Any]], Command]:
    """Declares the command of a module."""
    return lambda function: click.command(name, cls=Command, **options)(function)


def stacked(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Several option decorators as one, in reading order."""

    def decorate(function: Any) -> Any:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


dtype_option = click.option(
    "--dtype", type=click.Choice((AUTO, *DTYPES)), default=AUTO, show_default=True,
    help="Precision; auto is float32, and on accelerators what method and model allow.",
)  # fmt: skip
model_options = stacked(
    click.option("--model", default="pocket", show_default=True, help="'pocket', folder, .safetensors file or Hub id."),
    click.option("--revision", help="Hub revision of the model."),
    dtype_option,
    click.option("--device", default="cpu", show_default=True, help="cpu, cuda, cuda:1, mps ..."),
)
preset_option = click.option(
    "--preset", metavar="FILE", help="TOML file with option values by kind of model and concept; --set wins over it."
)
force_option = click.option(
    "--force", is_flag=True, help="Replace what was written there earlier; nothing else is ever replaced."
)
dry_run_option = click.option("--dry-run", is_flag=True, help="Show what would be done; touch nothing.")
guard_key_option = click.option(
    "--guard-key", metavar="FILE", help="File with the key of a guard whose words are HMACs."
)
layout_option = click.option(
    "--layout",
    "layouts",
    multiple=True,
    metavar="L",
    help="File layout to write; repeat for several (see 'list layouts').",
)


class Finite(click.FloatRange):
    """A number within bounds; "nan" and "inf", which pass every comparison or none, are no numbers."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        found = float(super().convert(value, param, ctx))
        if not math.isfinite(found):
            self.fail(f"{value} is not a number that can be used", param, ctx)
        return found

    def _describe_range(self) -> str:
        return super()._describe_range() if (self.min, self.max) != (None, None) else ""


#: what every generator takes, also where numbers of pictures or rounds are added to it
SEED = click.IntRange(0, 2**32 - 1)


def seed_option(help: str) -> Callable[[Any], Any]:
    """The option ``--seed`` of a command, with what is drawn from it."""
    return click.option("--seed", type=SEED, default=0, show_default=True, help=help)


strength_option = click.option("--strength", type=float, default=1.0, show_default=True, help="0 is the base.")


def hint_strength(artifacts: Iterable[Any], strength: float) -> None:
    """Tells of a strength that erases nothing, or does the opposite, or lies where an artifact is not meant to be."""
    from erase_plugins.cli.console import hint

    for item in artifacts:
        low, high = (item.manifest.strength.get(end) for end in ("low", "high"))
        if strength < 0:
            hint(f"strength {strength:g} pushes towards what '{item.name}' erases; a positive one erases it")
        elif strength == 0:
            hint(f"strength 0 is the base: nothing of '{item.name}' is in force")
        elif (low is not None and strength < low) or (high is not None and strength > high):
            hint(f"strength {strength:g} lies outside of what '{item.name}' is meant for: {low:g} to {high:g}")


def parse_settings(pairs: Iterable[str]) -> dict[str, str]:
    """Values of ``--set key=value``.

    Raises:
        RequestError: no '=', an empty key, or a key given twice.
    """
    found: dict[str, str] = {}
    for pair in pairs:
        key, sign, value = pair.partition("=")
        key = key.strip().replace("-", "_")
        if not sign or not key:
            raise RequestError(f"--set {pair} is not key=value; for example --set lam=0.5")
        if key in found:
            raise RequestError(f"--set {key} is given twice; give it once")
        found[key] = value.strip()
    return found


def check_layouts(names: Iterable[str]) -> tuple[str, ...]:
    """Layout ids, each known to the registry; empty if none is named: the family has its own then.

    Raises:
        UnknownName: not registered.
    """
    from erase_plugins.manager import get_manager

    wanted = tuple(dict.fromkeys(part.strip() for name in names for part in name.split(",") if part.strip()))
    for name in wanted:
        get_manager().layout(name)
    return wanted


def existing(path: str, what: str = "artifact") -> Path:
    """The path, if something is there; a reference ("hub:...") is resolved to its place on disk.

    Raises:
        RequestError: nothing is there; names close matches in the same folder.
    """
    from erase_plugins.workflow.artifacts import locate

    place = locate(path)
    if place.exists():
        return place
    try:
        around = [item.name for item in place.parent.iterdir() if not item.name.startswith(".")]
    except OSError:
        around = []
    close = get_close_matches(place.name, around, n=1)
    meant = f"; did you mean '{close[0]}'?" if close else "."
    raise RequestError(f"no {what} at '{place.name}'{meant} Give an artifact folder or a .safetensors file")


def all_written(record: str, unwritten: Iterable[str]) -> None:
    """Ends a command that measured everything and could not write all of it with an error.

    Args:
        record: the file with the numbers.
        unwritten: files that are missing; why was told above.

    Raises:
        EraseError: names the files.
    """
    if names := ", ".join(unwritten):
        raise EraseError(f"{names} could not be written, see above; the numbers are in {record}")


def check_output(
    path: str | Path, force: bool, suffix: str | None = None, *, kind: str = "artifact", dry_run: bool = False
) -> Path:
    """The output path, if it may be written; nobody else can write there until the command ends.

    Args:
        path: as the user gave it.
        force: whether what this program wrote there may be replaced.
        suffix: the ending that it must have; then it is a file.
        kind: what is written; see `erase_plugins.artifacts.places`.
        dry_run: look at nothing but the ending.

    Raises:
        RequestError: wrong ending.
        ArtifactError: something is in the way, or another run is writing there.
    """
    from erase_plugins.artifacts.locks import claim
    from erase_plugins.artifacts.places import FILE

    place = Path(path)
    if suffix is not None and place.suffix.lower() != suffix:
        raise RequestError(f"--out {place.name} must end in {suffix}; for example --out {place.stem or 'out'}{suffix}")
    if not dry_run:
        until_the_end(claim(place, force, kind if suffix is None else FILE))
    return place


def until_the_end(block: AbstractContextManager[Any]) -> None:
    """Enters a with-block that ends when the running command ends."""
    click.get_current_context().with_resource(block)


def quote(*words: object) -> str:
    """A command line that can be pasted into a shell."""
    return " ".join(shlex.quote(str(word)) for word in words)


def quiet_libraries() -> None:
    """Silences progress bars and notices of the model libraries; errors still come through as exceptions.

    Our own warnings, which Python shows with file and line, become lines as all others are.
    """
    import os

    warnings.showwarning = _warned
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1" if not _terminal() else "0")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", category=UserWarning, module=r"(diffusers|transformers|peft|torch)\b")
    from erase_plugins.cli.freed_memory import keep_freed_memory
    from erase_plugins.families.importing import without_collections
    from erase_plugins.workflow.found import LOADED

    if keep_freed_memory not in LOADED:
        LOADED.append(keep_freed_memory)
    with without_collections():
        import diffusers
        import transformers

    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()


_python_shows = warnings.showwarning


def _warned(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
    """A warning of ours as a line; any other as Python shows it."""
    from erase_plugins.cli.console import hint

    if category is UserWarning:
        hint(f"warning: {message}")
    else:
        _python_shows(message, category, *place, **more)


def quiet_client() -> None:
    """No progress bars of the Hub's client where nobody watches them."""
    if not _terminal():
        from huggingface_hub.utils import disable_progress_bars

        disable_progress_bars()


def _terminal() -> bool:
    import sys

    return sys.stderr.isatty()


def load_target(
    model: Any, revision: str | None = None, dtype: str = AUTO, device: str = "cpu", light: bool = False
) -> Any:
    """The loaded model (a name or a `FoundModel`) as a target, without the libraries' chatter."""
    quiet_libraries()
    from erase_plugins.api import as_target

    return as_target(model, revision=revision, dtype=dtype, device=device, light=light)


def load_artifacts(paths: Iterable[str]) -> list[Any]:
    """Verified artifacts.

    Raises:
        RequestError: nothing at a path.
        ArtifactError: does not pass verification.
    """
    places = [existing(path) for path in paths]
    from erase_plugins.workflow.artifacts import load_artifact

    return [load_artifact(place) for place in places]


def saved_facts(artifact: Any) -> dict[str, Any]:
    """What ``--json`` says about a saved artifact."""
    manifest = artifact.manifest
    return {
        "name": artifact.name,
        "folder": str(artifact.path) if artifact.path is not None else None,
        "erased": list(manifest.erased),
        "kept": list(manifest.preserve),
        "method": dict(manifest.method),
        "modules": manifest.modules,
        "rank": manifest.rank,
        "kinds": list(manifest.kinds),
        "bytes": artifact.bytes,
        "files": [{"name": item.name, "layout": item.layout, "bytes": item.bytes} for item in manifest.files],
        "notes": list(manifest.notes),
        "warnings": list(manifest.warnings),
    }


def say_saved(artifact: Any) -> None:
    """Result lines for people about a saved artifact."""
    from erase_plugins.cli.console import human_bytes, say

    count = len(artifact.manifest.files)
    say(f"wrote {artifact.path}: {human_bytes(artifact.bytes)} in {count} {'file' if count == 1 else 'files'}")
    for item in artifact.manifest.files:
        # a file by itself may have any name, of which its own manifest keeps what is ASCII
        name = artifact.path.name if artifact.path.is_file() else item.name
        say(f"  {name}  ({item.layout}, {human_bytes(item.bytes)})")
    for note in artifact.manifest.notes:
        if note.startswith("no ") or " file: " in note:
            say(f"  note: {note}")


def base_for(artifact: Any, model: str | None, options: Mapping[str, Any]) -> Any:
    """Base model of an artifact: the one named, the embedded one if it was made for that, else None."""
    if model is None and artifact.manifest.base.get("model") == "pocket":
        model = "pocket"
    return None if model is None else load_target(model, **options)
