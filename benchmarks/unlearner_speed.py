"""A step of GS-LoRA and GS-LoRA++ against the plain loop of its description, and a whole run on digits.

Part of `benchmarks.unlearners`. Both sides get the same pictures, rows, first values and options; their losses are
compared step by step. Both take turns at pieces of a few steps, timed in processor time of one core; the fastest piece
of each side counts, since a busy machine slows the others.
"""

from __future__ import annotations

import copy
import threading
import time
from collections.abc import Callable
from typing import Any

METHODS = ("gs-lora", "gs-lora-plus")
FORGET = ("three", "eight")
#: steps of a piece, pieces of each side
STEPS, TURNS = 5, 60


def step_times(folder: str, method: str, steps: int = STEPS, turns: int = TURNS) -> dict[str, Any]:
    """``plain`` and ``ours`` in milliseconds a step (the best piece of each), and ``difference`` of the losses."""
    import torch

    import erase_plugins as ep
    from benchmarks.plain import gs_lora as plain
    from erase_plugins.engine.context import RunContext
    from erase_plugins.engine.loop import shuffled, train
    from erase_plugins.manager import get_manager
    from erase_plugins.workflow.models import as_target

    target, runner = as_target(folder), get_manager().method(method)
    total = steps * turns
    options = {"warmup": 1, "epochs": total, "epoch_steps": 1, "views": 0}
    request = ep.plan(folder, list(FORGET), method, kind="class", options=options).request
    run = runner.begin(runner.plan(request, target.info), target, RunContext(method))
    with runner.prepared(run):
        own, sets = run.state.own, run.state
        pools = {
            "retain": (sets.retain.pictures, sets.retain.labels),
            "forget": (sets.forget.pictures, sets.forget.labels),
        }
        rows = {
            name: [
                shuffled(run.ctx, name, len(labels), min(run.options.batch, len(labels)), step) for step in range(total)
            ]
            for name, (_, labels) in pools.items()
        }
        told = (
            None
            if own.wanted is None
            else dict(zip(pools, own.wanted.split([len(sets.retain), len(sets.forget)]), strict=True))
        )
        near = None if own.prototypes is None else dict(enumerate(own.prototypes))
        start = {slot.ref.path: (slot.A.detach(), slot.B.detach(), slot.scale) for slot in run.adapters.slots}
        network = plain.with_lora(copy.deepcopy(target.network("classifier")), start)
        for part in network.modules():
            part.__dict__.pop("forward", None)
        schedule = run.options.schedule()
        best, losses = in_turns(steps, {
            "plain": lambda tick: plain.train(network, pools, rows, run.options, near, told, tick),
            "ours": lambda tick: train(run.ctx, run.adapters, timed(runner, run, tick), schedule, "speed"),
        })  # fmt: skip
    gaps = [abs(a - b) / max(abs(b), 1.0) for a, b in zip(losses["ours"], losses["plain"], strict=True)]
    return {**{name: 1000 * value for name, value in best.items()}, "difference": max(gaps), "torch": torch.__version__}


def in_turns(
    steps: int, sides: dict[str, Callable[[Callable[[int], None]], list[float]]]
) -> tuple[dict[str, float], dict[str, list[float]]]:  # fmt: skip
    """Runs two loops that take turns after ``steps`` steps: best seconds a step of each, and what each returned.

    Args:
        steps: of a turn.
        sides: loops by name; each calls what it is given with the number of every step before the step.
    """
    best, returned, errors = dict.fromkeys(sides, float("inf")), {}, []
    turns = {name: threading.Semaphore(0) for name in sides}
    other = dict(zip(sides, reversed(sides), strict=True))

    def side(name: str) -> None:
        began = 0.0

        def tick(step: int) -> None:
            nonlocal began
            if step % steps == 0:
                if step:
                    best[name] = min(best[name], (time.thread_time() - began) / steps)
                    turns[other[name]].release()
                    turns[name].acquire()
                began = time.thread_time()

        turns[name].acquire()
        try:
            returned[name] = sides[name](tick)
        except BaseException as error:
            errors.append(error)
        turns[other[name]].release()

    threads = [threading.Thread(target=side, args=(name,)) for name in sides]
    for thread in threads:
        thread.start()
    turns[next(iter(sides))].release()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]
    return best, returned


def timed(runner: Any, run: Any, tick: Any) -> Any:
    """The loss of a step, with a stamp before it."""

    def loss(step: int) -> Any:
        tick(step)
        return runner.loss(run, step)

    return loss


def whole(folder: str) -> dict[str, float]:
    """Seconds and accuracies of a whole run on digits with the method's defaults."""
    import erase_plugins as ep

    began = time.process_time()
    made = ep.erase(folder, list(FORGET), "gs-lora", kind="class")
    numbers, options = made.manifest.extra["numbers"], made.manifest.options
    return {"seconds": time.process_time() - began, "steps": float(options["epochs"] * options["epoch_steps"]),
            "forget": numbers["forget_accuracy_after"], "retain": numbers["retain_accuracy_after"]}  # fmt: skip


def run(folder: Any, tell: Any) -> dict[str, Any]:
    """Measures all of it; nothing is kept, since the numbers of one run belong together."""
    found: dict[str, Any] = {}
    for method in METHODS:
        tell(f"steps of {method}")
        found[method] = step_times(str(folder), method)
    tell("gs-lora on digits")
    return {"steps": found, "whole": whole(str(folder))}


def page(done: dict[str, Any]) -> list[str]:
    """Lines of the page."""
    end = done["whole"]
    lines = [
        "## Speed of GS-LoRA",
        "",
        "A training step on digits (48 pictures to retain, 48 to forget) against the plain loop of the method's "
        "description (`benchmarks/plain/gs_lora.py`).",
        "",
        "- *Plain*: loaders, two forward passes, factors beside each layer, group norms by name, prototypes picture by "
        "picture.",
        "- *Ours*: one pass for both sides that begins behind what comes before the first edited layer and computes "
        "only the positions that are read.",
        "- Both get the same rows, first values and options, and take turns; the losses of all steps agree to the "
        "stated share.",
        f"- Times are processor time of one core, the best of {TURNS} pieces of {STEPS} steps.",
        "",
        "| method | plain, ms a step | ours, ms a step | times faster | losses differ by |",
        "|---|---|---|---|---|",
    ]
    for method, row in done["steps"].items():
        lines.append(
            f"| {method} | {row['plain']:.1f} | {row['ours']:.1f} | {row['plain'] / row['ours']:.2f} | "
            f"{row['difference']:.0e} |"
        )
    return [
        *lines,
        "",
        f"`gs-lora` from request to artifact, three and eight forgotten with its defaults ({end['steps']:.0f} steps): "
        f"{end['seconds']:.1f} s of one core. Of held-out threes and eights "
        f"{100 * end['forget']:.1f} % are still known, of the others {100 * end['retain']:.1f} %.",
        "",
    ]
