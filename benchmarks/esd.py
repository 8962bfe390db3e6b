"""ESD here against a plain textbook loop, on the embedded model: forward passes, seconds, memory, erasure.

    python -m benchmarks.esd [--quick] [--concept pizza] [--iterations 200 --batch 1 --steps 50 --seeds 4] [--json]

The baseline is written straight from the paper: two denoisers, and for every training sample a fresh
trajectory rolled out to a random step, then three predictions (empty, concept, student). It trains the same modules
with the same target, learning rate, batch and number of steps. As the teacher never changes, its trajectories are
rolled out some at a time before the training; the passes are those of rolling them out one by one. Ours runs with the
preservation term off in the comparison, so that both do the same job; the row "defaults" adds what a user gets. Each
row runs in its own process.
"held out" is the mean loss of the trained change on states of the unedited model that no row has trained on: 64 fresh
trajectories, one state each, all sampler steps alike; the same states for every row and seed. With several seeds the
difference of the rows comes with the 95 % interval of Student's t over the pairs of one seed.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROWS = ("baseline", "harvested", "defaults")
#: prompts that the compared rows train on
PROMPTS = ("{}", "a {}")
#: states of the held-out loss
HELD_OUT = 64
#: trajectories of the baseline that are rolled out together
TOGETHER = 32
#: factor of Student's 95 % interval by the number of pairs
STUDENT = {2: 12.71, 3: 4.30, 4: 3.18, 5: 2.78, 6: 2.57, 7: 2.45, 8: 2.36}
TEMPLATES = ("a {}", "a {} on a blue background", "a noto {}", "a twemoji {} on a white background")


def main() -> None:
    """Runs the rows and prints the table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concept", default="pizza")
    parser.add_argument("--images", type=int, default=32, help="pictures judged per row; 0: none")
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--seeds", type=int, default=1, choices=(1, *STUDENT), help="so many from --seed on")
    parser.add_argument("--steps", type=int, help="sampler steps; those of pocket if left out")
    parser.add_argument("--trajectories", type=int, help="harvested trajectories; the default if left out")
    parser.add_argument("--harvest", type=int, help="states kept of a trajectory; the default if left out")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--work", type=Path, help="keeps finished rows here, so that a stopped run goes on")
    parser.add_argument("--quick", action="store_true", help="fewer iterations and pictures; checks that it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    parser.add_argument("--held", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.quick:
        given.iterations, given.images = min(given.iterations, 12), min(given.images, 8)
    if given.row:
        sys.stdout.write(json.dumps(measure(given)) + "\n")
        return
    result = compared(given)
    sys.stdout.write(json.dumps(result) + "\n" if given.json else table(result))


def compared(given: argparse.Namespace) -> dict[str, Any]:
    """All rows and seeds: means, ratios, and how far the held-out losses of baseline and ours lie apart."""
    seeds = range(given.seed, given.seed + given.seeds)
    with tempfile.TemporaryDirectory() as place:
        given.work = given.work or Path(place)
        given.work.mkdir(parents=True, exist_ok=True)
        given.held = given.work / f"held-{given.concept}-{given.steps}.safetensors"
        runs = {name: [in_own_process(name, given, seed) for seed in seeds] for name in given.rows.split(",")}
    rows = {name: {key: mean(run[key] for run in found) for key in found[0]} for name, found in runs.items()}
    result: dict[str, Any] = {"concept": given.concept, "iterations": given.iterations, "batch": given.batch,
                              "seeds": list(seeds), "rows": rows}  # fmt: skip
    if {"baseline", "harvested"} <= set(rows):
        result["baseline_over_harvested"] = {
            key: round(rows["baseline"][key] / rows["harvested"][key], 2)
            for key in ("forwards", "seconds", "peak_mb", "held_out")
        }
        losses = [[run["held_out"] for run in runs[name]] for name in ("harvested", "baseline")]
        result["held_out_difference"] = paired(*losses)
    return result


def paired(ours: list[float], theirs: list[float]) -> tuple[float, float, float]:
    """(mean of ours minus theirs, low, high) over pairs, with Student's 95 % interval; no interval for one pair."""
    apart = [one - other for one, other in zip(ours, theirs, strict=True)]
    half = STUDENT[len(apart)] * stdev(apart) / len(apart) ** 0.5 if len(apart) > 1 else float("inf")
    return mean(apart), mean(apart) - half, mean(apart) + half


def in_own_process(name: str, given: argparse.Namespace, seed: int) -> dict[str, Any]:
    """One row, with a peak memory of its own; from the work folder where it is finished."""
    command = [sys.executable, "-m", "benchmarks.esd", "--row", name, "--concept", given.concept, "--seed", str(seed)]
    for key in ("images", "iterations", "batch", "held", "steps", "trajectories", "harvest"):
        command += [f"--{key}", str(getattr(given, key))] if getattr(given, key) is not None else []
    kept = given.work / f"{name}-{seed}-{hashlib.sha256(' '.join(command[1:]).encode()).hexdigest()[:12]}.json"
    if not kept.exists():
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        kept.write_text(done.stdout.strip().splitlines()[-1], encoding="utf-8")
    found: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8"))
    return found


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Trains one row and judges it."""
    import resource

    import torch

    import erase_plugins as ep
    from erase_plugins.workflow.models import target_of

    pipe = ep.load("pocket")
    target = target_of(pipe, "pocket")
    common: dict[str, Any] = {"iterations": given.iterations, "batch": given.batch, "templates": PROMPTS}
    common |= {"steps": given.steps} if given.steps else {}
    fewer = {key: getattr(given, key) for key in ("trajectories", "harvest") if getattr(given, key)}
    held = held_out(target, given)
    before = held_out_loss(target, held)
    started = time.perf_counter()
    if given.row == "baseline":
        numbers, losses = textbook(target, given)
        seconds = time.perf_counter() - started
    else:
        losses = []
        options = {} if given.row == "defaults" else {**common, **fewer, "keep_weight": 0.0, "cooldown": 0.0}
        artifact = ep.erase(
            target, given.concept, "esd", options=options, seed=given.seed,
            listeners=[lambda event: losses.append(event.numbers["loss"]) if "loss" in event.numbers else None],
        )  # fmt: skip
        seconds = time.perf_counter() - started
        numbers = artifact.manifest.extra["numbers"]["unet_forwards"]
        ep.apply(pipe, artifact)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    torch.manual_seed(0)
    return {
        "forwards": int(numbers),
        "seconds": round(seconds, 1),
        "peak_mb": round(peak),
        "loss_first": round(sum(losses[:5]) / len(losses[:5]), 5),
        "loss_last": round(sum(losses[-5:]) / len(losses[-5:]), 5),
        "untrained": round(before, 5),
        "held_out": round(held_out_loss(target, held), 6),
        "target_rate": judged(pipe, given.concept, given.images) if given.images else float("nan"),
    }


def held_out(target: Any, given: argparse.Namespace) -> tuple[Any, Any, Any]:
    """(states, prompts, wanted predictions) of the unedited model that no row trains on; drawn once for all rows."""
    import torch
    from safetensors.torch import load_file, save_file

    from erase_plugins.api import plan
    from erase_plugins.engine.trajectories import States, harvest, start_noise
    from erase_plugins.methods.esd import esd_target

    options = plan("pocket", given.concept, "esd").options
    steps = given.steps or options["steps"]
    scheduler, draw = target.scheduler(steps), torch.Generator().manual_seed(424_242)
    prompts = [PROMPTS[place % len(PROMPTS)].format(given.concept) for place in range(HELD_OUT)]
    cond, picks = target.encode(prompts), [[place // len(PROMPTS) % steps] for place in range(HELD_OUT)]
    if given.held is not None and given.held.exists():
        states = States.of(load_file(given.held))
    else:
        noise = start_noise(target, scheduler, HELD_OUT, draw)
        states = harvest(target, scheduler, noise, cond, target.encode([""]), picks, guidance=options["guidance"])
        if given.held is not None:
            save_file(states.tensors(), given.held)
    seen = states.predictions
    wanted = esd_target(seen["null"], seen["prompt"], seen["prompt"], options["eta"] + 1.0)
    return states, cond[states.row.tolist()], wanted


def held_out_loss(target: Any, held: tuple[Any, Any, Any]) -> float:
    """Mean squared error there of the model as it is now, in float32."""
    import torch

    from erase_plugins.engine.trajectories import ask

    states, cond, wanted = held
    with torch.no_grad():
        return float((ask(target, states.inputs, states.timestep, cond, None) - wanted).square().mean())


def textbook(target: Any, given: argparse.Namespace) -> tuple[int, list[float]]:
    """Two denoisers, one fresh trajectory per sample, in the order of the paper; changes the pipeline's UNet.

    LoRA factors are merged into the weights by parametrisation written out here, so nothing of the engine is used.
    """
    import copy

    import torch
    from torch.nn import functional
    from torch.nn.utils import parametrize

    class Delta(torch.nn.Module):
        def __init__(self, weight: torch.Tensor, rank: int, generator: torch.Generator) -> None:
            super().__init__()
            self.up = torch.nn.Parameter(torch.zeros(weight.shape[0], rank))
            width = weight[0].numel()
            self.down = torch.nn.Parameter(torch.randn((rank, width), generator=generator) / width**0.5)

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight + (self.up @ self.down).reshape(weight.shape)

    from erase_plugins.api import plan

    options = {**plan("pocket", given.concept, "esd").options, **({"steps": given.steps} if given.steps else {})}
    student = target.pipe.unet.requires_grad_(False)
    teacher = copy.deepcopy(student)
    generator = torch.Generator().manual_seed(given.seed)
    names = {ref.path for ref in target.modules("non_cross") if ref.kind in ("linear", "conv")}
    trained = []
    for path in sorted(names):
        module = student.get_submodule(path)
        delta = Delta(module.weight, options["rank"], generator)
        parametrize.register_parametrization(module, "weight", delta)
        trained += [delta.up, delta.down]
    optimizer = torch.optim.Adam(trained, lr=options["lr"])
    embeds = target.encode(["", *(prompt.format(given.concept) for prompt in PROMPTS)]).embeds
    scheduler = target.scheduler(options["steps"])
    forwards, losses = 0, []

    def ask(model: Any, x: torch.Tensor, stamp: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        nonlocal forwards
        forwards += len(x)
        with torch.autocast("cpu", torch.bfloat16):
            return model(x, stamp, encoder_hidden_states=rows, return_dict=False)[0].float()

    count = given.iterations * given.batch
    stops = torch.randint(options["steps"], (count,), generator=generator).tolist()
    rows = torch.randint(len(PROMPTS), (count,), generator=generator)
    noise = torch.randn((count, *target.info.latent_shape), generator=generator)
    samples: dict[int, tuple[torch.Tensor, ...]] = {}
    order = sorted(range(count), key=lambda place: -stops[place])  # trajectories of about one length together
    for start in range(0, count, TOGETHER):
        alive = order[start : start + TOGETHER]
        x = noise[alive]
        for index, stamp in enumerate(scheduler.timesteps[: stops[alive[0]] + 1]):
            pairs = torch.cat([embeds[:1].expand(len(alive), -1, -1), embeds[1 + rows[alive]]])
            with torch.no_grad():
                null, cond = ask(teacher, torch.cat([x, x]), stamp, pairs).chunk(2)
            for place, sample in enumerate(alive):
                if stops[sample] == index:
                    wanted = null[place] - options["eta"] * (cond[place] - null[place])
                    samples[sample] = x[place], stamp, wanted
            going = [place for place, sample in enumerate(alive) if stops[sample] > index]
            x = scheduler.step(null + options["guidance"] * (cond - null), stamp, x).prev_sample[going]
            alive = [alive[place] for place in going]
    for step in range(given.iterations):
        total = torch.zeros(())
        for sample in range(step * given.batch, (step + 1) * given.batch):
            x, stamp, wanted = samples[sample]
            out = ask(student, x[None], stamp, embeds[1 + rows[sample]][None])
            total = total + functional.mse_loss(out, wanted[None]) / given.batch
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()))
    return forwards, losses


def judged(pipe: Any, concept: str, images: int) -> float:
    """Share of pictures in which the judge sees the concept."""
    from erase_plugins.evaluation.draw import draw
    from erase_plugins.pocket.judge import PocketJudge

    judge = PocketJudge()
    prompts = [TEMPLATES[place % len(TEMPLATES)].format(concept) for place in range(images)]
    labels = judge.score(draw(pipe, prompts, list(range(100, 100 + images))))["concept"].argmax(-1)
    return round(sum(judge.axes["concept"][label] == concept for label in labels.tolist()) / images, 4)


def table(result: dict[str, Any]) -> str:
    """The result as aligned text."""
    columns = ("forwards", "seconds", "peak_mb", "loss_first", "loss_last", "untrained", "held_out", "target_rate")
    seeds = len(result["seeds"])
    lines = [f"ESD on pocket, '{result['concept']}', {result['iterations']} iterations of {result['batch']}, "
             f"mean of {seeds} seeds"]  # fmt: skip
    lines.append("row".ljust(22) + "".join(name.rjust(13) for name in columns))
    for name, row in result["rows"].items():
        lines.append(name.ljust(22) + "".join(f"{row[column]:.5g}".rjust(13) for column in columns))
    if "baseline_over_harvested" in result:
        ratio = result["baseline_over_harvested"]
        lines.append(
            "baseline / harvested".ljust(22) + "".join(str(ratio.get(column, "")).rjust(13) for column in columns)
        )
        apart, low, high = result["held_out_difference"]
        lines.append(f"held out, harvested - baseline: {apart:+.5f} [{low:+.5f}..{high:+.5f}]")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
