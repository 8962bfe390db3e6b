"""``erase-plugins guard``: add, forget, check, stats, calibrate, curve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from erase_plugins.cli.command import Command, force_option
from erase_plugins.cli.console import emit, progress, say, table

if TYPE_CHECKING:
    from erase_assoc_memory.guard import Encoder, Guard

file_argument = click.argument("file", metavar="FILE")
encoder_option = click.option(
    "--encoder", "encoder_name", metavar="E",
    help="'grams' (no model), or a model whose text encoder reads the prompts; for a new guard.",
)  # fmt: skip


@click.group("guard")
def guard() -> None:
    """Remember erased concepts and recognise them in prompts, also damaged ones."""


@guard.command("add", cls=Command)
@file_argument
@click.argument("concepts", nargs=-1, required=True, metavar="CONCEPT ...")
@encoder_option
@click.option("--clusters", type=int, default=32, show_default=True, help="Of a new guard: symbols of a code.")
@click.option("--letters", type=int, default=32, show_default=True, help="Of a new guard: letters of the alphabet.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of a new guard: seed of its projection.")
def add(file: str, concepts: tuple[str, ...], encoder_name: str | None, clusters: int, letters: int, seed: int) -> None:
    """Store concepts in FILE, which is made if it is not there. All of them or none."""
    from erase_assoc_memory.file import load_guard, save_guard
    from erase_assoc_memory.guard import Guard
    from erase_plugins.errors import RequestError

    path = Path(file)
    if not path.parent.is_dir():
        raise RequestError(f"there is no folder '{path.parent.name}'; make it first")
    if path.exists():
        stored = load_guard(path)
        encoder = _encoder(stored, encoder_name)
    else:
        encoder = _open(encoder_name or "grams")
        stored = Guard.new(encoder, clusters, letters, seed)
    for concept in concepts:
        stored.add(encoder, concept)
    save_guard(stored, path)
    _told(stored, path, f"stored {', '.join(concepts)}")


@guard.command("forget", cls=Command)
@file_argument
@click.argument("concepts", nargs=-1, required=True, metavar="CONCEPT ...")
@encoder_option
@click.option("--anti", is_flag=True, help="Cut connections (a file without counts); others may suffer.")
def forget(file: str, concepts: tuple[str, ...], encoder_name: str | None, anti: bool) -> None:
    """Unlearn concepts: bit for bit as if they had never been stored."""
    from erase_assoc_memory.file import load_guard, save_guard

    path = Path(file)
    stored = load_guard(path)
    encoder = _encoder(stored, encoder_name)
    for concept in concepts:
        stored.forget(encoder, concept, anti)
    save_guard(stored, path)
    _told(stored, path, f"forgot {', '.join(concepts)}")


@guard.command("check", cls=Command)
@file_argument
@click.argument("prompts", nargs=-1, required=True, metavar="PROMPT ...")
@encoder_option
@click.pass_context
def check(ctx: click.Context, file: str, prompts: tuple[str, ...], encoder_name: str | None) -> None:
    """Say whether prompts hold a stored concept. Exit code 1 if one does."""
    from erase_assoc_memory.file import load_guard

    stored = load_guard(Path(file))
    found = stored.check(_encoder(stored, encoder_name), prompts)
    rows = [(number + 1, "flagged" if item.flagged else "clear", item.label or "-", f"{item.overlap:.2f}")
            for number, item in enumerate(found)]  # fmt: skip
    table("", ("prompt", "", "concept", "overlap"), rows, numbers=("prompt", "overlap"))
    emit({"schema": 1, "results": [item.to_dict() for item in found], "tau": stored.tau})
    ctx.exit(1 if any(item.flagged for item in found) else 0)


@guard.command("calibrate", cls=Command)
@file_argument
@click.argument("prompts", metavar="PROMPTS", type=click.File(encoding="utf-8"))
@click.option("--rate", type=float, default=0.01, show_default=True, help="Share of these prompts that may be flagged.")
@encoder_option
def calibrate(file: str, prompts: Any, rate: float, encoder_name: str | None) -> None:
    """Set the threshold on ordinary prompts, one a line (at least 1 / rate of them)."""
    from erase_assoc_memory.file import load_guard, save_guard

    path = Path(file)
    stored = load_guard(path)
    tau = stored.calibrate(
        _encoder(stored, encoder_name), [line for line in prompts.read().splitlines() if line.strip()], rate
    )
    save_guard(stored, path)
    _told(stored, path, f"threshold {tau:.3f}")


@guard.command("stats", cls=Command)
@file_argument
@click.option("--names", is_flag=True, help="List the stored names.")
def stats(file: str, names: bool) -> None:
    """Size, load and threshold of a guard."""
    from erase_assoc_memory.file import load_guard

    stored = load_guard(Path(file))
    _told(stored, Path(file), "")
    for label in sorted(stored.labels.values()) if names else ():
        say(f"  {label}")


@guard.command("curve", cls=Command)
@click.option("--loads", default="50,150,300,600", show_default=True, help="Numbers of stored codes, with commas.")
@click.option("--clusters", type=int, default=8, show_default=True, help="Symbols of a code.")
@click.option("--letters", type=int, default=64, show_default=True, help="Letters of the alphabet.")
@click.option("--erased", type=float, default=0.2, show_default=True, help="Erasure while learning.")
@click.option("--inserted", type=float, default=0.02, show_default=True, help="Insertion while learning.")
@click.option("--cues", type=int, default=200, show_default=True, help="Cues per point.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed.")
@click.option("--out", required=True, metavar="DIR", help="Folder for robustness.json and robustness.png.")
@force_option
def curve(
    loads: str, clusters: int, letters: int, erased: float, inserted: float, cues: int, seed: int, out: str, force: bool
) -> None:
    """Recall against erasure and insertion, for several loads learned one by one under noise."""
    from erase_assoc_memory.robustness import Setting, measure, refuse_existing, write
    from erase_plugins.errors import RequestError

    try:
        numbers = tuple(sorted(int(part) for part in loads.split(",")))
    except ValueError as error:
        raise RequestError(f"loads '{loads}': whole numbers with commas between them are needed") from error
    folder = Path(out)
    refuse_existing(folder, force)
    setting = Setting(clusters, letters, numbers, erased, inserted, cues=cues, seed=seed)
    with progress() as bar:
        record = measure(setting, bar.update)
    files = write(record, folder)
    rows = [
        (item["load"], f"{item['density']:.3f}", f"{item['clean_density']:.3f}", f"{item['erasure'][5]:.2f}",
         f"{item['insertion'][3]:.2f}") for item in record["curves"]
    ]  # fmt: skip
    heads = ("codes", "density", "without noise", "recall, half erased", "recall, 5 % inserted")
    table("learned one by one under noise", heads, rows, numbers=heads)
    emit({**record, "files": list(files), "folder": str(folder)})
    say(f"{', '.join(files)} in {folder}")


def _told(stored: Guard, path: Path, what: str) -> None:
    memory = stored.memory
    facts = {
        "stored": len(stored.labels), "density": memory.density, "density_max": memory.density_max,
        "clusters": memory.clusters, "letters": memory.letters, "tau": stored.tau, "encoder": stored.encoder_id,
        "exact_forgetting": memory.counts is not None,
    }  # fmt: skip
    emit({"schema": 1, "file": path.name, **facts, "concepts": sorted(stored.labels.values())})
    say(what or f"{path.name}: {memory.clusters} clusters of {memory.letters} units, encoder {stored.encoder_id}")
    exact = "possible" if memory.counts is not None else "not possible"
    say(f"{len(stored.labels)} named concepts, density {memory.density:.3f} of {memory.density_max:g}")
    say(f"threshold {stored.tau:.3f}, exact forgetting {exact}")


def _encoder(stored: Guard, name: str | None) -> Encoder:
    """The encoder of a guard: the one without a model, or the text encoder of the model that is named."""
    from erase_plugins.errors import RequestError

    if name is None and stored.encoder_id != "grams":
        raise RequestError(f"this guard reads prompts with {stored.encoder_id}; name the model with --encoder MODEL")
    return _open(name or "grams")


def _open(name: str) -> Encoder:
    from erase_assoc_memory.coding import GramEncoder

    if name == "grams":
        return GramEncoder()
    import erase_plugins
    from erase_assoc_memory.text_encoder import PipelineEncoder

    return PipelineEncoder(erase_plugins.load(name))
