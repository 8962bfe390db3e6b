"""Harvested states of what is held in place, kept on disk for other methods and processes.

The key is made of all that a harvest is given, and of what the denoiser makes of every prompt at one step: each weight,
LoRA and hook that acts on them leaves its mark on those bits. Asking for that costs a twentieth of a harvest.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from erase_plugins.engine import disk_cache
from erase_plugins.engine.activations import looked_at
from erase_plugins.engine.distributed import processes
from erase_plugins.engine.precision import autocast
from erase_plugins.extras import installed
from erase_plugins.families.base import Conditioning

#: raised when the same harvest gives other states
_FORMAT = 1
_FORWARDS, _COUNTER = "forwards", "unet_forwards"
#: tensors of a latent's size that are kept of a state: it, what the denoiser is given, two predictions
_PARTS = 4
_BATCH = 32


def kept_states(
    rollout: Any, scheduler: Any, noise: Tensor, conds: Mapping[str, Conditioning | None],
    picks: Sequence[Sequence[int]], make: Callable[[], dict[str, Tensor]],
) -> dict[str, Tensor]:  # fmt: skip
    """What ``make`` harvests, or what another run harvested of the same; passes are counted either way.

    Args:
        rollout: how trajectories are made (`engine.pools.Rollout`).
        scheduler: with its timesteps set.
        noise: start of each trajectory (n, channels, height, width).
        conds: "prompt" with the prompt of each trajectory, and all others that are asked.
        picks: steps that are kept of each trajectory.
        make: harvests.
    """
    size = 4 * _PARTS * sum(map(len, picks)) * noise[0].numel()
    if disk_cache.folder() is None or size > disk_cache.MOST_BYTES // 4 or processes() > 1:
        return make()
    key, numbers = _key(rollout, scheduler, noise, conds, picks), rollout.ctx.numbers
    found = disk_cache.read(key)
    if found is not None and _FORWARDS in found:
        rollout.ctx.count(_COUNTER, int(found.pop(_FORWARDS)))
        return found
    before = numbers.get(_COUNTER, 0.0)
    made = make()
    disk_cache.write(key, {**made, _FORWARDS: torch.tensor(int(numbers.get(_COUNTER, 0.0) - before))})
    return made


def _key(
    rollout: Any, scheduler: Any, noise: Tensor, conds: Mapping[str, Conditioning | None],
    picks: Sequence[Sequence[int]],
) -> str:  # fmt: skip
    config = json.dumps(dict(scheduler.config), sort_keys=True, default=str)
    facts = (
        _FORMAT, torch.__version__, installed("diffusers"), type(scheduler).__name__, config, rollout.guidance, picks,
        rollout.ctx.precision, str(rollout.target.dtype), noise.device.type,
    )  # fmt: skip
    found = hashlib.sha256(repr(facts).encode())
    tensors = [noise, scheduler.timesteps, *_answers(rollout, scheduler, noise, conds["prompt"])]
    for name, cond in sorted(conds.items()):
        found.update(f"{name} {None if cond is None else (cond.last, cond.parts)}".encode())
        tensors += [] if cond is None else [cond.embeds, *([] if cond.pooled is None else [cond.pooled])]
    for value in tensors:
        wide = value.detach().cpu()
        wide = wide.float() if wide.is_floating_point() else wide
        found.update(str(tuple(wide.shape)).encode() + wide.contiguous().numpy().tobytes())
    return f"states-{found.hexdigest()[:32]}"


@torch.no_grad()
def _answers(rollout: Any, scheduler: Any, noise: Tensor, cond: Any) -> list[Tensor]:
    """What the teacher predicts for every prompt in the middle of the trajectories, from pure noise."""
    target, stamp = rollout.target, scheduler.timesteps[len(scheduler.timesteps) // 2]
    found = []
    with rollout.adapters.disabled():
        batch = min(_BATCH, looked_at(noise.shape))
        for start in range(0, len(noise), batch):
            rows = list(range(start, min(start + batch, len(noise))))
            with autocast(noise.device, rollout.ctx.precision):
                found.append(target.predict(noise[rows].to(target.dtype), stamp.expand(len(rows)), cond[rows]))
    return found
