"""Editing by mutual self-attention (MasaCtrl, Cao et al., arXiv 2304.08465).

A picture is inverted by DDIM with its caption. Then two pictures are drawn side by side from its noise, one by the
caption and one by the prompt of the edit; from some step and layer on, the self-attention of the second reads the keys
and values of the first, so that it keeps the picture's look while the prompt moves what is shown.

Differs from the official code: keys and values are made the source's by giving their layers the source's inputs, which
leaves the attention itself, adapters on it and hooks in it alone; the settings are those of the editing benchmark of
ACE (guidance 10), on as many steps as the attack is given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.attacks.inverting import inverted
from erase_plugins.families.diffusers_target import PIXELS, without_overflow

if TYPE_CHECKING:
    from erase_plugins.evaluation.run import Subject
    from erase_plugins.families.conditioning import Conditioning

#: first step, and share of the self-attention layers in front of the first one, that share keys and values
FIRST_STEP, FIRST_LAYER = 4, 10 / 16
#: pictures per pass
_BATCH = 16
#: blocks of a denoiser in the order of a pass
_ORDER = ("down_blocks", "mid_block", "up_blocks")


@torch.no_grad()
def masactrl(
    subject: Subject, prompts: Sequence[str], pictures: Tensor, captions: Sequence[str], *, steps: int, scale: float
) -> Tensor:
    """Pictures (n, 3, height, width) in 0..1, edited towards the prompts by the model as it is now.

    Args:
        subject: the model; what is on stays on.
        prompts: what each picture shall become.
        pictures: to begin from.
        captions: what they show.
        steps: of the inversion, and of drawing.
        scale: guidance of drawing; the inversion has none.

    Raises:
        Unsupported: the denoiser has no self-attention of its own, or no noise schedule that DDIM fits.
    """
    from erase_plugins.evaluation.attacks.material import encoded_now

    layers = self_attention(subject)
    made = []
    for start in range(0, len(pictures), _BATCH):
        part = slice(start, start + _BATCH)
        source, edit = (encoded_now(subject.target, list(texts[part])) for texts in (captions, prompts))
        empty = encoded_now(subject.target, [""] * len(captions[part]))
        generator = torch.Generator().manual_seed(subject.seed)
        clean = subject.target.latents(2 * pictures[part] - 1, generator)
        noise = inverted(subject, clean, source, steps)
        made.append(_drawn(subject, layers, noise, (empty, source, edit), steps, scale))
    return torch.cat(made)


def self_attention(subject: Subject) -> list[nn.Module]:
    """Self-attention layers of the denoiser in the order of a pass.

    Raises:
        Unsupported: it has none that reads the picture alone.
    """
    from erase_plugins.families.capabilities import DENOISER

    names = [
        (place, name)
        for name, module in subject.target.network(DENOISER).named_modules()
        for place, block in enumerate(_ORDER)
        if name.startswith(block) and name.endswith("attn1") and hasattr(module, "to_k")
    ]
    if not names:
        raise Unsupported(f"{subject.model} has no self-attention on pictures alone, which MasaCtrl edits by")
    network = subject.target.network(DENOISER)
    return [network.get_submodule(name) for _, name in sorted(names, key=lambda item: item[0])]


def _drawn(
    subject: Subject, layers: Sequence[nn.Module], noise: Tensor, conds: tuple[Conditioning, ...], steps: int,
    scale: float,
) -> Tensor:  # fmt: skip
    """The second of the pictures that are drawn side by side."""
    from erase_plugins.engine.trajectories import join

    empty, source, edit = conds
    schedule = subject.target.scheduler(steps)
    latents, shared = torch.cat([noise, noise]), list(layers[int(len(layers) * FIRST_LAYER) :])
    halves = [join([empty, empty]), join([source, edit])]
    for number, step in enumerate(schedule.timesteps):
        with reading_the_source(shared if number >= FIRST_STEP else ()):
            plain, asked = (subject.target.predict(latents, step, cond) for cond in halves)
        latents = schedule.step(plain + scale * (asked - plain), step, latents).prev_sample
    return decoded(subject, latents[len(noise) :])


@contextmanager
def reading_the_source(layers: Sequence[Any]) -> Iterator[None]:
    """Inside, the second half of every batch has keys and values of the first half in these layers."""

    def swap(_module: nn.Module, given: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        rows, *rest = given
        source = rows[: len(rows) // 2]
        return (torch.cat([source, source]), *rest)

    hooks = [getattr(layer, name).register_forward_pre_hook(swap) for layer in layers for name in ("to_k", "to_v")]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def decoded(subject: Subject, latents: Tensor) -> Tensor:
    """Pictures (n, 3, height, width) in 0..1."""
    vae = subject.pipe.vae
    shift = getattr(vae.config, "shift_factor", None) or 0.0
    size = subject.target.picture_size()
    with without_overflow(vae):
        rows = (latents / vae.config.scaling_factor + shift).to(vae.dtype)
        some = rows.split(max(PIXELS // (size[0] * size[1]), 1))
        found = torch.cat([vae.decode(part, return_dict=False)[0] for part in some])
    return (found / 2 + 0.5).clamp(0, 1).float().cpu()
