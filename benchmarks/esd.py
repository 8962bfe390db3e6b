"""ESD here against a plain textbook loop, on the embedded model: forward passes, seconds, memory, erasure.

    python -m benchmarks.esd [--quick] [--concept pizza] [--iterations 200 --batch 1 --steps 20] [--json]

The baseline is written straight from the paper: two denoisers, and for every training sample a fresh
trajectory rolled out to a random step, then three predictions (empty, concept, student). It trains the same modules
with the same target, learning rate, batch and number of steps. Ours runs with the preservation term off in the
comparison, so that both do the same job; the row "defaults" adds what a user gets. Each row runs in its own process.
"held out" is the mean loss of the trained change on states of the unedited model that no row has trained on: 64 fresh
trajectories, one state each, all sampler steps alike; the same states for every row.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from typing import Any

ROWS = ("baseline", "harvested", "defaults")
#: prompts that the compared rows train on
PROMPTS = ("{}", "a {}")
#: states of the held-out loss
HELD_OUT = 64
TEMPLATES = ("a {}", "a {} on a blue background", "a noto {}", "a twemoji {} on a white background")


def main() -> None:
    """Runs the rows and prints the table, or one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concept", default="pizza")
    parser.add_argument("--images", type=int, default=32, help="pictures judged per row")
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, help="sampler steps; those of pocket if left out")
    parser.add_argument("--trajectories", type=int, help="harvested trajectories; the default if left out")
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--quick", action="store_true", help="fewer iterations and pictures; checks that it runs")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--row", choices=ROWS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.quick:
        given.iterations, given.images = min(given.iterations, 12), min(given.images, 8)
    if given.row:
        sys.stdout.write(json.dumps(measure(given)) + "\n")
        return
    rows = {name: in_own_process(name, given) for name in given.rows.split(",")}
    ratio = {
        key: round(rows["baseline"][key] / rows["harvested"][key], 2)
        for key in ("forwards", "seconds", "peak_mb", "held_out")
        if {"baseline", "harvested"} <= set(rows)
    }
    result = {"concept": given.concept, "iterations": given.iterations, "batch": given.batch, "rows": rows,
              "baseline_over_harvested": ratio}  # fmt: skip
    sys.stdout.write(json.dumps(result) + "\n" if given.json else table(result))


def in_own_process(name: str, given: argparse.Namespace) -> dict[str, Any]:
    """One row, with a peak memory of its own."""
    command = [sys.executable, "-m", "benchmarks.esd", "--row", name, "--concept", given.concept]
    for key in ("images", "iterations", "batch", "seed"):
        command += [f"--{key}", str(getattr(given, key))]
    for key in ("steps", "trajectories"):
        command += [f"--{key}", str(getattr(given, key))] if getattr(given, key) is not None else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
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
    fewer = {"trajectories": given.trajectories} if given.trajectories else {}
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
        "held_out": round(held_out_loss(target, held), 5),
        "target_rate": judged(pipe, given.concept, given.images),
    }


def held_out(target: Any, given: argparse.Namespace) -> tuple[Any, Any, Any]:
    """(states, prompts, wanted predictions) of the unedited model that no row trains on."""
    import torch

    from erase_plugins.api import plan
    from erase_plugins.engine.trajectories import harvest, start_noise
    from erase_plugins.methods.esd import esd_target

    options = plan("pocket", given.concept, "esd").options
    steps = given.steps or options["steps"]
    scheduler, draw = target.scheduler(steps), torch.Generator().manual_seed(424_242)
    prompts = [PROMPTS[place % len(PROMPTS)].format(given.concept) for place in range(HELD_OUT)]
    cond, picks = target.encode(prompts), [[place // len(PROMPTS) % steps] for place in range(HELD_OUT)]
    noise = start_noise(target, scheduler, HELD_OUT, draw)
    states = harvest(target, scheduler, noise, cond, target.encode([""]), picks, guidance=options["guidance"])
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

    Samples are rolled out one at a time, as published. LoRA factors are merged into the weights by parametrisation
    written out here, so nothing of the engine is used.
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

    for _ in range(given.iterations):
        total = torch.zeros(())
        for _ in range(given.batch):
            stop = int(torch.randint(options["steps"], (1,), generator=generator))
            row = 1 + int(torch.randint(2, (1,), generator=generator))
            pair = embeds[[0, row]]
            x = torch.randn((1, *target.info.latent_shape), generator=generator)
            with torch.no_grad():
                for stamp in scheduler.timesteps[:stop]:
                    null, cond = ask(teacher, torch.cat([x, x]), stamp, pair).chunk(2)
                    x = scheduler.step(null + options["guidance"] * (cond - null), stamp, x).prev_sample
                stamp = scheduler.timesteps[stop]
                null, cond = ask(teacher, torch.cat([x, x]), stamp, pair).chunk(2)
            out = ask(student, x, stamp, pair[1:])
            total = total + functional.mse_loss(out, null - options["eta"] * (cond - null)) / given.batch
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
    lines = [f"ESD on pocket, '{result['concept']}', {result['iterations']} iterations of {result['batch']}"]
    lines.append("row".ljust(22) + "".join(name.rjust(13) for name in columns))
    for name, row in result["rows"].items():
        lines.append(name.ljust(22) + "".join(str(row[column]).rjust(13) for column in columns))
    ratio = result["baseline_over_harvested"]
    lines.append("baseline / harvested".ljust(22) + "".join(str(ratio.get(column, "")).rjust(13) for column in columns))
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
