"""ACE as its paper describes it: a fresh student rollout for every state, teacher and student asked prompt by prompt.

    python -m benchmarks.plain.ace [--concept pizza]

prints passes of both procedures and, with ``--run``, trains the plain one on the embedded model.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from typing import Any

#: options of our side of the comparison: the paper holds no words in place
COMPARED = {"keep_words": 0}


def forwards(options: Mapping[str, Any], halves: bool = True) -> dict[str, int]:
    """Passes in samples for the options of an ACE plan; a rollout stops at a random step, half way on average.

    Args:
        options: of a plan.
        halves: ask every prediction with both halves of a guidance of 1, whose empty half cancels, as the official code
            does; False counts the predictions that the losses need.
    """
    states = options["iterations"] * options["batch"]
    asked = (2 + options["prior_batch"]) * (2 if halves else 1)
    return {"preparation": 0, "training": states * (options["steps"] - 1 + 2 * asked)}


def ours(options: Mapping[str, Any]) -> dict[str, int]:
    """Passes of this package for the same options, words held in place left out."""
    kept = min(options["harvest"], options["steps"])
    asked = 2 + options["prior_batch"]
    return {
        "preparation": options["trajectories"] * (2 * options["steps"] + kept * options["prior_batch"]),
        "training": options["iterations"] * options["batch"] * asked,
    }


def run(target: Any, concept: str, options: Mapping[str, Any], seed: int = 0) -> tuple[int, list[float]]:
    """Trains the pipeline's denoiser in place, one state at a time, as published but for the wasted empty halves.

    LoRA factors are merged by parametrisation written out here, so nothing of the engine is used.

    Returns:
        Passes in samples and the loss of every iteration.
    """
    import copy

    import torch
    from torch.nn import functional
    from torch.nn.utils import parametrize

    class Delta(torch.nn.Module):
        def __init__(self, weight: torch.Tensor, generator: torch.Generator) -> None:
            super().__init__()
            rank, width = options["rank"], weight[0].numel()
            self.up = torch.nn.Parameter(torch.zeros(weight.shape[0], rank))
            self.down = torch.nn.Parameter(torch.randn((rank, width), generator=generator) / width**0.5)

        def forward(self, weight: torch.Tensor) -> torch.Tensor:
            return weight + (options["alpha"] / options["rank"]) * (self.up @ self.down).reshape(weight.shape)

    student = target.pipe.unet.requires_grad_(False)
    teacher = copy.deepcopy(student)
    generator = torch.Generator().manual_seed(seed)
    modules = [student.get_submodule(ref.path) for ref in target.modules("transformer")]
    trained = []
    for module in modules:
        delta = Delta(module.weight, generator)
        parametrize.register_parametrization(module, "weight", delta)
        trained += [delta.up, delta.down]
    optimizer = torch.optim.Adam(trained, lr=options["lr"])
    priors = list(options["priors"]) or [word for word in target.vocabulary()[:30] if word != concept]
    rows = target.encode(["", concept, *priors]).embeds
    scheduler = target.scheduler(options["steps"])
    count, losses = 0, []

    def ask(model: Any, x: torch.Tensor, stamp: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        nonlocal count
        count += 1
        with torch.autocast("cpu", torch.bfloat16):
            return model(x, stamp, encoder_hidden_states=row[None], return_dict=False)[0].float()

    for _ in range(options["iterations"]):
        total = torch.zeros(())
        for _ in range(options["batch"]):
            stop = int(torch.randint(options["steps"], (1,), generator=generator))
            chosen = torch.randint(len(priors), (options["prior_batch"],), generator=generator).tolist()
            x = torch.randn((1, *target.info.latent_shape), generator=generator)
            with torch.no_grad():
                for stamp in scheduler.timesteps[:stop]:
                    null, cond = ask(student, x, stamp, rows[0]), ask(student, x, stamp, rows[1])
                    x = scheduler.step(null + options["guidance"] * (cond - null), stamp, x).prev_sample
                stamp = scheduler.timesteps[stop]
                null, cond = ask(teacher, x, stamp, rows[0]), ask(teacher, x, stamp, rows[1])
                held = [ask(teacher, x, stamp, rows[2 + place]) for place in chosen]
            shift = options["eta_null"] * (cond - null) - options["eta_prior"] * sum(other - null for other in held)
            pairs = [
                (0, null + shift, options["null_weight"]),
                (1, null - options["eta"] * (cond - null), options["erase_weight"]),
                *(
                    (2 + place, other, options["prior_weight"] / len(held))
                    for place, other in zip(chosen, held, strict=True)
                ),
            ]
            for row, wanted, weight in pairs:
                total = total + weight * functional.mse_loss(ask(student, x, stamp, rows[row]), wanted)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(float(total.detach()) / options["batch"])
    for module in modules:
        parametrize.remove_parametrizations(module, "weight")  # merged: a plain denoiser again
    return count, losses


def main() -> None:
    """Prints the comparison."""
    from erase_plugins.api import plan

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--concept", default="pizza")
    parser.add_argument("--run", action="store_true", help="train the plain procedure on the embedded model")
    given = parser.parse_args()
    options = dict(plan("pocket", given.concept, "ace").options)
    for name, counts in (("plain", forwards(options)), ("ours", ours(options))):
        sys.stdout.write(f"{name:6} {counts} total {sum(counts.values())}\n")
    if given.run:
        import erase_plugins as ep
        from erase_plugins.workflow.models import target_of

        target = target_of(ep.load("pocket"), "pocket")
        count, losses = run(target, given.concept, options)
        sys.stdout.write(f"ran    {count} passes, loss {losses[0]:.4f} to {losses[-1]:.4f}\n")


if __name__ == "__main__":
    main()
