"""Other views of pictures, for what needs no labels of them."""

from __future__ import annotations

import torch
from torch import Generator, Tensor
from torch.nn.functional import pad


def views(pictures: Tensor, retain: int, generator: Generator) -> list[Tensor]:
    """Pictures (n, channels, height, width) in other views: mirrored, moved, and both.

    They are moved by up to a tenth of their side. In the last view the first ``retain`` are mixed with each other, so
    that what the model says between two of them is held as well.
    """

    def moved(part: Tensor) -> Tensor:
        count, _, height, width = part.shape
        reach = max(1, min(height, width) // 10)
        wide = pad(part, [reach] * 4, mode="replicate")
        down, right = (torch.randint(0, 2 * reach + 1, (count, 1), generator=generator) for _ in range(2))
        rows, columns = down + torch.arange(height), right + torch.arange(width)
        return wide[torch.arange(count)[:, None, None, None], torch.arange(part.shape[1])[:, None, None],
                    rows[:, None, :, None], columns[:, None, None, :]]  # fmt: skip

    mirrored = pictures.flip(-1)
    last, share = moved(mirrored), 0.5 + 0.5 * torch.rand(retain, 1, 1, 1, generator=generator)
    other = pictures[torch.randperm(retain, generator=generator)]
    last[:retain] = share * last[:retain] + (1 - share) * other
    return [mirrored, moved(pictures), last]
