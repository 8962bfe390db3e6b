"""``erase-plugins fbqc``: scan, check, plot, table. The simulation is imported when a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from erase_plugins.cli.command import Command, dry_run_option, force_option, stacked
from erase_plugins.cli.console import emit, human_seconds, progress, say, table

network_option = click.option("--network", default="6ring", show_default=True, help="6ring or 4star.")
optics_options = stacked(
    click.option(
        "--p-fail", type=float, default=0.25, show_default=True, help="Failure rate of a fusion without loss."
    ),
    click.option("--photons", type=float, help="Photons detected in one fusion; 1 / p-fail if left out."),
    click.option("--encoding", default="none", show_default=True, help="none, shor22, or n,m up to 4,4."),
    click.option("--lost-basis", default="random", show_default=True, help="What a failure loses: random, XX or ZZ."),
    click.option("--orientation", default="random", show_default=True, help="Of the code: random or fixed."),
)


@click.group("fbqc")
def fbqc() -> None:
    """Thresholds of fusion-based quantum computation (no model involved)."""


@fbqc.command("scan", cls=Command)
@network_option
@click.option("--noise", default="erasure", show_default=True, help="erasure, error, mixed or optics.")
@click.option("--sizes", default="auto", show_default=True, help="Code distances, with commas; auto: by the noise.")
@click.option("--shots", type=int, help="Per size; for mixed noise the erasure patterns.")
@click.option("--low", type=float, help="Low end of the varied rate.")
@click.option("--high", type=float, help="High end of the varied rate.")
@click.option("--points", type=int, help="Points of the curve.")
@click.option("--error", type=float, default=0.005, show_default=True, help="Flip rate of mixed noise.")
@click.option("--vary", default="loss", show_default=True, help="What optics varies: loss (per fusion) or failure.")
@optics_options
@click.option("--geometry", default="cells", show_default=True, help="cells, or rotated (6-ring, even sizes).")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all samples.")
@click.option("--bootstrap", type=int, default=200, show_default=True, help="Resampled experiments behind an interval.")
@click.option("--threads", type=click.IntRange(1, 256), help="Threads; results do not depend on it.")
@click.option("--out", required=True, metavar="DIR", help="Folder for result.json, samples, figure and card section.")
@dry_run_option
@force_option
def scan(
    network: str, noise: str, sizes: str, shots: int | None, low: float | None, high: float | None,
    points: int | None, error: float, vary: str, p_fail: float, photons: float | None, encoding: str,
    lost_basis: str, orientation: str, geometry: str, seed: int, bootstrap: int, threads: int | None, out: str,
    dry_run: bool, force: bool,
) -> None:  # fmt: skip
    """Simulate failure curves of several sizes and find where they cross."""
    from erase_fbqc.result import beside, percent, refuse_existing, write
    from erase_fbqc.study import Study, optics_from, parse_sizes, run

    study = Study(
        network, noise, parse_sizes(sizes), shots, low, high, points, error,
        optics_from(p_fail, photons, encoding, lost_basis, orientation), vary, geometry, seed, bootstrap,
    )  # fmt: skip
    if dry_run:
        each = ", ".join(map(str, study.distances))
        say(f"would simulate {study.count} shots for L = {each}, about {human_seconds(study.seconds())} on one core")
        emit({"schema": 1, "dry_run": True, "study": study.to_dict(), "seconds": round(study.seconds(), 1)})
        return
    folder = Path(out)
    refuse_existing(folder, force)
    with progress() as bar:
        result = run(study, threads, bar.update)
    record = write(result, folder)
    emit({**{key: value for key, value in record.items() if key != "sizes"}, "folder": str(folder)})
    rows = [
        (
            item.method,
            "/".join(map(str, item.sizes)),
            percent(item.value),
            f"{percent(item.low)} to {percent(item.high)}",
        )
        for item in result.thresholds
    ]
    table(f"{network}, {noise}", ("threshold", "L", "value", "95 %"), rows, numbers=("value",))
    known = beside(record)
    if known is not None and known.value is not None:
        say(f"published: {percent(known.value)} ({known.source})")
    for note in result.notes:
        say(f"  {note}")
    if "figure" not in record:
        say("no figure: pip install 'erase-plugins-fbqc[plot]', then 'erase-plugins fbqc plot'")
    say(f"{human_seconds(result.seconds)}; result: {folder / 'result.json'}")


@fbqc.command("check", cls=Command)
@network_option
@click.option("--photon-loss", type=float, required=True, help="Chance that one photon is lost.")
@optics_options
@click.option("--seed", type=int, default=0, show_default=True, help="Seed, where a simulation is needed.")
@click.pass_context
def check(
    ctx: click.Context, network: str, photon_loss: float, p_fail: float, photons: float | None, encoding: str,
    lost_basis: str, orientation: str, seed: int,
) -> None:  # fmt: skip
    """Does a machine with these rates stay below threshold? Exit code 0 if it does, 1 if not."""
    from erase_fbqc.result import percent
    from erase_fbqc.study import optics_from
    from erase_fbqc.verdict import judge

    found = judge(network, optics_from(p_fail, photons, encoding, lost_basis, orientation), photon_loss, seed=seed)
    emit({"schema": 1, **found.to_dict()})
    say(f"{'below' if found.passes else 'NOT below'} threshold, margin {100 * found.margin:+.2f} points")
    say(f"erasure of one outcome {percent(found.erasure)}, threshold {percent(found.threshold)}"
        + (" (simulated: XX and ZZ are lost at different rates)" if found.simulated else ""))  # fmt: skip
    fusion, photon = percent(found.tolerated_fusion_loss), percent(found.tolerated_photon_loss)
    say(f"largest loss: {fusion} per fusion, {photon} per photon")
    ctx.exit(0 if found.passes else 1)


@fbqc.command("plot", cls=Command)
@click.argument("result", metavar="RESULT")
@click.option("--out", metavar="FILE", help="Picture file; curves.png beside the result if left out.")
def plot(result: str, out: str | None) -> None:
    """Draw the curves of a result.json, or of the report.json of 'evaluate --suite fbqc'."""
    from erase_fbqc.figures import draw
    from erase_fbqc.result import FIGURE, MissingPlots, read

    place = Path(result)
    record = read(place)
    target = Path(out) if out else (place if place.is_dir() else place.parent) / FIGURE
    if not draw(record, target):
        raise MissingPlots()
    emit({"schema": 1, "figure": str(target)})
    say(f"figure: {target}")


@fbqc.command("table", cls=Command)
@click.argument("results", nargs=-1, metavar="[RESULT ...]")
def published_table(results: tuple[str, ...]) -> None:
    """Published thresholds, with the measured ones of given results beside them."""
    from erase_fbqc.published import TABLE
    from erase_fbqc.result import beside, percent, read

    measured: dict[str, Any] = {}
    for path in results:
        record = read(Path(path))
        known = beside(record)
        if known is not None and record["threshold"] is not None:
            measured[known.id] = record["threshold"]
    rows = []
    for item in TABLE:
        ours = measured.get(item.id)
        cell = "-" if ours is None else f"{percent(ours['value'])} [{percent(ours['low'])} to {percent(ours['high'])}]"
        rows.append((item.title, percent(item.value), percent(item.derived), cell, item.source))
    emit({"schema": 1, "rows": [{**vars(item), "measured": measured.get(item.id)} for item in TABLE]})
    table("thresholds", ("what", "published", "derived", "measured", "source"), rows)
