"""The command that rebuilds the embedded model: ``python -m tools.pocket.train --out DIR``.

Every stage saves checkpoints and continues from them with ``--resume``, after a kill too.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from erase_plugins.errors import EraseError, RequestError, RunCancelled
from erase_plugins.pocket.world import pocket_world
from tools.pocket import art
from tools.pocket.recipe import STAGES, Recipe

#: steps per second of each loop on two cores that do nothing else, from CPU time of short runs; for estimates only
SPEED = {"vae": 1.0, "decoder": 1.4, "denoiser": 0.9, "refine": 0.9, "judge": 8.0, "flow": 1.7}
MEASURE_SECONDS = 150
LOOPS = {"vae": ("vae",), "decoder": ("decoder",), "denoiser": ("denoiser", "refine"), "judge": ("judge",),
         "flow": ("flow",)}  # fmt: skip


def plan(recipe: Recipe, stages: tuple[str, ...]) -> list[dict[str, Any]]:
    """Stage, steps, pictures and estimated seconds on two free cores."""
    batches = {"vae": recipe.vae_batch, "decoder": recipe.vae_batch, "judge": recipe.judge_batch,
               "flow": recipe.flow_batch}  # fmt: skip
    steps, rows = recipe.steps(), []
    for stage in stages:
        for loop in LOOPS.get(stage, ()):
            count = steps[loop]
            pictures = count * batches.get(loop, recipe.denoiser_batch)
            rows.append({"stage": loop, "steps": count, "pictures": pictures, "seconds": round(count / SPEED[loop])})
        if stage == "measure":
            rows.append({"stage": stage, "steps": 0, "pictures": 0, "seconds": MEASURE_SECONDS})
    return rows


def prepare(out: Path, recipe: Recipe, resume: bool, force: bool) -> None:
    """Refuses an output folder in use, or clears or checks it.

    Raises:
        RequestError: there is something already, or it was started with another recipe.
    """
    from tools.pocket.build import RESULTS, WORK

    started = out / WORK / "recipe.json"
    if resume:
        if not started.is_file():
            raise RequestError(f"'{out.name}' holds no started training to resume; leave --resume out to begin one")
        if changes := recipe.differences(json.loads(started.read_text(encoding="utf-8"))):
            raise RequestError(f"'{out.name}' was started with another recipe: {'; '.join(changes)}")
    elif out.exists() and any(out.iterdir()):
        if not force:
            raise RequestError(f"'{out.name}' is not empty; pass --resume to continue there or --force to start again")
        if not started.is_file():
            raise RequestError(f"'{out.name}' is not a training folder and is not deleted; choose another --out")
        if others := sorted({item.name for item in out.iterdir()} - {WORK, *RESULTS}):
            raise RequestError(
                f"'{out.name}' holds {others[0]}, which no training wrote; move it or choose another --out"
            )
        shutil.rmtree(out)


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("pocket-model"),
    show_default=True,
    help="Folder of the result (the structure of erase_plugins/pocket) and of checkpoints.",
)
@click.option("--stage", type=click.Choice(["all", *STAGES]), default="all", show_default=True)
@click.option("--steps-scale", type=float, default=1.0, show_default=True, help="Multiplies the steps of every stage.")
@click.option("--seed", type=int, default=0, show_default=True)
@click.option(
    "--art",
    "art_folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Folder with the sprites or the npm packages; default: fetched with npm into the cache.",
)
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--resume", is_flag=True, help="Continue a started training.")
@click.option("--force", is_flag=True, help="Delete a started training in --out and start again.")
@click.option("--dry-run", is_flag=True, help="Print stages, steps and estimated time; write nothing.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object on stdout.")
def main(
    out: Path,
    stage: str,
    steps_scale: float,
    seed: int,
    art_folder: Path | None,
    device: str,
    resume: bool,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Trains the pocket model from emoji art: autoencoder, denoiser with text encoder, judge; then measures it."""
    with one_line():
        recipe = Recipe(seed=seed).scaled(steps_scale)
        stages = STAGES if stage == "all" else (stage,)
        if dry_run:
            _show_plan(plan(recipe, stages), as_json)
            return
        prepare(out, recipe, resume or (stage != "all" and _started(out) and not force), force)
        result = _train(out, recipe, stages, art_folder, device)
    if as_json:
        click.echo(json.dumps(result))
    else:
        for name, numbers in result["stages"].items():
            short = {key: value for key, value in numbers.items() if isinstance(value, int | float)}
            click.echo(f"{name}: {json.dumps(short)}")
        click.echo(f"written: {out}")


@contextmanager
def one_line() -> Iterator[None]:
    """An error of ours is one line on stderr and its exit code, for the commands beside this one too."""
    try:
        yield
    except EraseError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


def _started(out: Path) -> bool:
    from tools.pocket.build import WORK

    return (out / WORK / "recipe.json").is_file()


def _train(out: Path, recipe: Recipe, stages: tuple[str, ...], art_folder: Path | None, device: str) -> dict[str, Any]:
    from tools.pocket.build import Build

    world = pocket_world()
    sprites = art.load_sprites(world, art_folder or art.fetch(world), recipe.size)
    numbers: dict[str, Any] = {}
    with StepBars() as show:
        build = Build(out, world, sprites, recipe, device, show)
        for stage in stages:
            started = time.perf_counter()
            try:
                numbers[stage] = build.run(stage, lambda done, total: show("measure", done, total, float("nan")))
            except KeyboardInterrupt:
                raise RunCancelled(f"stopped in stage '{stage}'; the same command with --resume continues") from None
            numbers[stage]["seconds"] = round(time.perf_counter() - started, 1)
    return {"out": str(out), "recipe": asdict(recipe), "stages": numbers}


class StepBars:
    """A bar per loop on stderr with the time left; called after each step."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        self._bars: dict[str, Any] = {}
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[loss]}"),
            console=Console(stderr=True),
        )

    def __enter__(self) -> StepBars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def __call__(self, stage: str, done: int, total: int, loss: float) -> None:
        if stage not in self._bars:
            # what a resumed run finds done must not count as this run's speed
            self._bars[stage] = self._progress.add_task(stage, total=total, completed=max(0, done - 1), loss="")
        text = f"loss {loss:.4f}" if loss == loss else ""
        self._progress.update(self._bars[stage], completed=done, loss=text)


def _show_plan(rows: list[dict[str, Any]], as_json: bool) -> None:
    total = sum(row["seconds"] for row in rows)
    if as_json:
        click.echo(json.dumps({"dry_run": True, "stages": rows, "seconds": total}))
        return
    for row in rows:
        click.echo(
            f"{row['stage']:<10}{row['steps']:>7} steps{row['pictures']:>9} pictures{row['seconds'] / 60:>7.0f} min"
        )
    click.echo(f"about {total / 3600:.1f} hours on two cores that do nothing else; nothing was written")


if __name__ == "__main__":
    main()
