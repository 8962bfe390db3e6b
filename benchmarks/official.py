"""Ours against the procedures of the official programs, at the full shapes of Stable Diffusion 1.5, in one run.

    python -m benchmarks.official [--rows uce,stack,gates,fuse,esd,chain,table] [--concepts 1,100] [--json]

Weights are random, shapes and tokenizer are the published ones. The official side of a row is the loop in
`benchmarks/plain` that was written from the description of the official program; it runs on the same weights, in the
same process, on one thread; times are processor seconds. `docs/benchmarks.md` quotes what this prints and nothing else.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from zlib import crc32

from benchmarks import chain, table

Row = dict[str, Any]
#: edits of the row "stack"
STACKED = 300
#: times that short work is done; the quickest counts
TURNS = 3
#: times that gated memories are put on and taken off
GATED = 2
#: concepts of which the official program of 2025 is timed; more are computed from these, since its work is linear
MOST = 100


def main(arguments: list[str] | None = None) -> None:
    """Runs the rows and prints one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--concepts", default="1,100", help="sizes of the row uce")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    sizes = [int(item) for item in given.concepts.split(",")]
    with tempfile.TemporaryDirectory() as place:
        for name in given.rows.split(","):
            for row in ROWS[name](Path(place), sizes):
                print(json.dumps(row) if given.json else line(row), flush=True)


def line(row: Row) -> str:
    """One line for people."""
    return ", ".join(
        f"{key}: {value:.3g}" if isinstance(value, float) else f"{key}: {value}" for key, value in row.items()
    )


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """(processor time of this process, result); both sides work in one thread, and other programs do not count."""
    started = time.process_time()
    result = work()
    return time.process_time() - started, result


def against(work: str, official: float, ours: float, **more: Any) -> Row:
    """A row of two times or counts."""
    return {"work": work, "official": official, "ours": ours, "ratio": official / ours, **more}


def uce(place: Path, sizes: list[int]) -> Iterator[Row]:
    """Whole jobs, texts to files; then a revoke and an addition on files."""
    from benchmarks.full_size import sd15
    from benchmarks.plain import uce as plain
    from erase_plugins.engine.words import listed
    from erase_plugins.workflow.models import as_target

    os.environ["ERASE_PLUGINS_CACHE"] = str(place / "cache")
    pipe = sd15()
    words = list(dict.fromkeys(word for table in listed().values() for word in table if word.isalpha()))
    target = as_target(pipe)
    plain.light(pipe, [(words[-1], "")], out=place / "warm.safetensors")
    for count in sizes:
        yield from uce_of(place, pipe, target, words, count)


def uce_of(place: Path, pipe: Any, target: Any, words: list[str], count: int) -> Iterator[Row]:
    """The rows of one number of concepts."""
    import erase_plugins as ep
    from benchmarks.plain import uce as plain

    names, pairs = words[:count], [(name, "") for name in words[:count]]
    light, said = official_of(place, pipe, pairs)

    def job(tokens: str, folder: str, texts: list[str] = names) -> float:
        target.forget()
        return seconds(lambda: ep.erase(target, texts, "uce", options={"tokens": tokens}).save(place / folder))[0]

    if count == 1:
        light = min(light, *(official_of(place, pipe, pairs)[0] for _ in range(TURNS - 1)))
        firsts = []
        for turn in range(TURNS):
            os.environ["ERASE_PLUGINS_CACHE"] = str(place / f"cache{turn}")
            firsts.append(job("window", f"first{turn}"))
        yield against(f"UCE N=1, defaults, first time; official of 2025; quickest of {TURNS} each", light, min(firsts))
    window, last = job("window", f"window{count}"), job("last", f"last{count}")
    yield against(f"UCE N={count}, defaults (window rows); official of 2025 (last rows){said}", light, window)
    yield against(f"UCE N={count}, last rows on both sides; official of 2025{said}", light, last)
    part, _ = seconds(lambda: plain.window(pipe, pairs[:1], layers=1))
    work = (
        f"UCE N={count}, window rows on both sides; official of 2023, one concept and layer timed, times {32 * count}"
    )
    yield against(work, part * count * 32, window)
    saved = ep.load_artifact(place / f"window{count}").save(place / f"given{count}", target=target)
    yield {"work": f"UCE N={count}, files at defaults", "megabytes": megabytes(place / f"given{count}"),
           "files": [f"{item.name} {item.bytes / 1e6:.1f}" for item in saved.manifest.files]}  # fmt: skip
    if count > 1:
        ours, _ = seconds(lambda: revoked(place / f"last{count}", names[0], place / f"less{count}"))
        yield against(f"UCE revoke one of {count}, files to files; official: the job without it", light, ours)
        job("last", f"new{count}", [words[count]])
        ours, _ = seconds(lambda: added(place / f"last{count}", place / f"new{count}", place / f"more{count}"))
        yield against(f"UCE add one to {count}, files to files; official: the job with it", light, ours)


def official_of(place: Path, pipe: Any, pairs: list[tuple[str, str]]) -> tuple[float, str]:
    """(time, how it was found) of the program of 2025; its work beyond the first concept grows with their number."""
    from benchmarks.plain import uce as plain

    def timed(count: int) -> float:
        return seconds(lambda: plain.light(pipe, pairs[:count], out=place / "light.safetensors"))[0]

    if len(pairs) <= MOST:
        return timed(len(pairs)), ""
    one, many = timed(1), timed(MOST)
    return one + (many - one) * (len(pairs) - 1) / (MOST - 1), f", from 1 and {MOST} of them"


def revoked(folder: Path, name: str, out: Path) -> Any:
    """Files to files."""
    import erase_plugins as ep

    return ep.revoke(ep.load_artifact(folder), name, forget=True).save(out)


def added(folder: Path, other: Path, out: Path) -> Any:
    """Files to files."""
    import erase_plugins as ep

    return ep.merge([ep.load_artifact(folder), ep.load_artifact(other)]).save(out)


def megabytes(folder: Path) -> float:
    """All files of a folder."""
    return sum(item.stat().st_size for item in folder.rglob("*") if item.is_file()) / 1e6


def stack(place: Path, sizes: list[int]) -> Iterator[Row]:
    """Edits of rank 1 on all key and value projections, given one by one and all at once."""
    import erase_plugins as ep
    from benchmarks.full_size import sd15
    from erase_plugins.workflow.applying import apply_all

    for name, pipe, loop in (("pocket", ep.load("pocket"), STACKED), ("SD 1.5", sd15(), 40)):
        made = ranks_of_one(pipe, STACKED)
        together, handles = seconds(partial(apply_all, pipe, made))
        removal, _ = seconds(handles[STACKED // 2].remove)
        for handle in handles if name == "pocket" else []:
            handle.remove()
        yield {"work": f"{STACKED} stacked edits on {name}", "seconds": together, "one removal": removal}
        if name != "pocket":
            pipe = sd15()
        one_by_one, handles = seconds(partial(_each, pipe, made[:loop]))
        yield {"work": f"{loop} edits on {name}, each applied by itself", "seconds": one_by_one}


def _each(pipe: Any, artifacts: list[Any]) -> list[Any]:
    import erase_plugins as ep

    return [ep.apply(pipe, item) for item in artifacts]


def ranks_of_one(pipe: Any, count: int) -> list[Any]:
    """Artifacts that change every key and value projection a little."""
    import torch

    import erase_plugins as ep
    from erase_plugins.artifacts.edit import Edit, LowRank
    from erase_plugins.workflow.models import as_target

    base = ep.erase(pipe, ["pizza"], "uce", options={"vocabulary": 0, "tokens": "last"})
    shapes = {ref.weight: ref.shape for ref in as_target(pipe).readers()}
    draw = torch.Generator().manual_seed(0)
    found = []
    for number in range(count):
        deltas = {
            name: LowRank(torch.randn(1, width, generator=draw) / 100, torch.randn(out, 1, generator=draw) / 100)
            for name, (out, width) in shapes.items()
        }
        manifest = replace(base.manifest, name=f"edit-{number}")
        found.append(ep.Artifact(manifest, Edit(base.edit.family, {"unet": deltas})))
    return found


def gates(place: Path, sizes: list[int]) -> Iterator[Row]:
    """A step of the U-Net on 16 x 16 latents: bare, with 1,000 memories of one artifact, with 100 artifacts."""
    import torch

    import erase_plugins as ep
    from benchmarks.full_size import sd15
    from erase_plugins.workflow.applying import apply_all
    from erase_plugins.workflow.models import as_target

    pipe = sd15()
    context = as_target(pipe).encode(["pizza"]).embeds
    base = ep.erase(pipe, ["pizza"], "uce", options={"vocabulary": 0, "tokens": "last"}).manifest
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))

    @torch.no_grad()
    def step() -> float:
        return seconds(lambda: pipe.unet(latents, 10, encoder_hidden_states=context))[0]

    for work, count, each, opened in (
        ("1,000 memories of one artifact, one gate open", 1, 1000, 1),
        ("100 artifacts of one memory, one gate open", 100, 1, 1),
        ("100 artifacts of one memory, ten gates open", 100, 1, 10),
    ):
        made = [memories(pipe, base, context, each, number < opened, f"{work} {number}") for number in range(count)]
        with_them, bare = [], []
        for _ in range(GATED):  # in turns, so that a busy spell of the machine meets both
            handles = apply_all(pipe, made, any_base=True)
            step()
            with_them += [step(), step()]
            for handle in reversed(handles):
                handle.remove()
            bare += [step(), step()]
        yield {"work": f"step with {work}", "bare": min(bare), "with": min(with_them),
               "ratio": min(with_them) / min(bare)}  # fmt: skip


def memories(pipe: Any, base: Any, context: Any, count: int, opened: bool, name: str) -> Any:
    """An artifact of memories on the linear layers of all attention blocks, the first of them open if ``opened``."""
    import torch

    import erase_plugins as ep
    from erase_plugins.artifacts.edit import Edit, LowRank
    from erase_plugins.artifacts.gated import GATE, gate_addon, gated_lowrank

    draw = torch.Generator().manual_seed(crc32(name.encode()))  # no artifact comes in twice
    row = context[0, 1:].mean(0)
    rows = torch.zeros(count, 1, len(row))
    if opened:
        rows[0, 0] = row / row.pow(2).sum()
    deltas: dict[str, Any] = {
        GATE: gate_addon(rows, [f"{name} {n}" for n in range(count)], range(count), "probe", 77, low=0.2, high=0.8)
    }
    for path, module in pipe.unet.named_modules():
        if "attentions" in path and isinstance(module, torch.nn.Linear):
            down = torch.randn(count, module.in_features, generator=draw) / 100
            up = torch.randn(module.out_features, count, generator=draw) / 100
            deltas[path] = gated_lowrank(LowRank(down, up), list(range(count)))
    return ep.Artifact(replace(base, name=name), Edit("sd1", {"unet": deltas}))


class Peak:
    """Growth of the process's memory inside the block, in MB."""

    def __enter__(self) -> Peak:
        self.before, self.mb, self.going = resident(), 0.0, True
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def _watch(self) -> None:
        while self.going:
            self.mb = max(self.mb, (resident() - self.before) / 1e6)
            time.sleep(0.005)

    def __exit__(self, *_: object) -> None:
        self.going = False
        self.thread.join()


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def fuse(place: Path, sizes: list[int]) -> Iterator[Row]:
    """A U-Net of 1.7 GB in half precision, as a folder of diffusers."""
    import torch

    import erase_plugins as ep
    from benchmarks.full_size import sd15
    from erase_plugins.artifacts.tensors import write_tensors
    from erase_plugins.workflow.applying import fuse_checkpoint

    pipe = sd15(torch.float16)
    pipe.text_encoder.float()
    source = place / "model"
    (source / "unet").mkdir(parents=True)
    (source / "model_index.json").write_text('{"_class_name": "StableDiffusionPipeline"}')
    write_tensors(source / "unet" / "diffusion_pytorch_model.safetensors", dict(pipe.unet.state_dict()), {})
    artifact = ep.erase(pipe, ["pizza"], "uce")
    del pipe
    size = megabytes(source)
    copies, fused, peak = [], [], 0.0
    for _ in range(TURNS):  # each on a disk that has nothing left to write
        os.sync()
        copies.append(seconds(lambda: shutil.copytree(source, place / "copy"))[0])
        shutil.rmtree(place / "copy")
        os.sync()
        with Peak() as watched:
            fused.append(seconds(lambda: fuse_checkpoint(artifact, source, place / "fused"))[0])
        shutil.rmtree(place / "fused")
        peak = max(peak, watched.mb)
    shutil.rmtree(source)
    copy, took = min(copies), min(fused)
    yield {"work": f"fusing a U-Net of {size:.0f} MB", "copy s": copy, "fuse s": took, "times a copy": took / copy,
           "memory MB": peak}  # fmt: skip


def esd(place: Path, sizes: list[int]) -> Iterator[Row]:
    """Forward passes (samples) of 200 iterations at the options for Stable Diffusion 1.5; counted on a tiny model."""
    import erase_plugins as ep
    from erase_plugins.testing.tiny import tiny_sd1

    iterations, steps = 200, 50
    options = {"iterations": iterations, "steps": steps, "harvest": 10, "guidance": 3.0, "batch": 1, "keep_words": 0,
               "templates": ("{}",), "cooldown": 0.0}  # fmt: skip
    trained = ep.erase(tiny_sd1(), "pizza", "esd", options=options)
    # a fresh rollout of 0 to 49 guided steps, the teacher without and with the concept, the student
    plain = iterations * (2 * (steps - 1) / 2 + 2 + 1)
    yield against(f"ESD passes, {iterations} iterations", plain, trained.manifest.extra["numbers"]["unet_forwards"])


ROWS: dict[str, Callable[[Path, list[int]], Iterator[Row]]] = {
    "uce": uce, "stack": stack, "gates": gates, "fuse": fuse, "esd": esd, "chain": chain.rows,
    "table": table.rows,
}  # fmt: skip

if __name__ == "__main__":
    main()
