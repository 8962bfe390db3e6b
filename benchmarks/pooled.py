"""What the pooled row of SDXL still tells where a closed form has taken a concept out of the token rows.

    python -m benchmarks.pooled [--layers 1,2,10] [--side 16] [--draws 4]

SDXL's U-Net at its full widths with random weights and random rows; ``--layers`` are transformer layers a level, all of
them by default (10 GB of memory). Of the change of a prediction from the concept's rows to the guide's, printed is the
share that is left when only the token rows are the guide's and the pooled row is still the concept's, which no closed
form moves. Real weights are not random: the number says that the way exists and how wide it is by shape.
"""

from __future__ import annotations

import argparse
import sys
from typing import Any

TOKENS, POOLED = 2048, 1280


def main() -> None:
    """Prints the share, by noise level."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", default="1,2,10")
    parser.add_argument("--side", type=int, default=16, help="of the latents")
    parser.add_argument("--draws", type=int, default=4)
    given = parser.parse_args()
    unet = denoiser(tuple(int(part) for part in given.layers.split(",")))
    for stamp in (900, 500, 100):
        shares = [left(unet, stamp, given.side, seed) for seed in range(given.draws)]
        sys.stdout.write(f"timestep {stamp}: {100 * sum(shares) / len(shares):.0f} % left\n")
        sys.stdout.flush()


def denoiser(layers: tuple[int, ...]) -> Any:
    """The U-Net with random weights, layer norms and biases as fresh modules have them."""
    import torch
    from diffusers import UNet2DConditionModel

    from benchmarks.full_size import unet_xl

    torch.manual_seed(0)
    config = {**unet_xl().config, "transformer_layers_per_block": layers}
    return UNet2DConditionModel.from_config(config).requires_grad_(False).eval()


def left(unet: Any, stamp: int, side: int, seed: int) -> float:
    """Share of the change that the pooled row alone brings."""
    import torch

    draw = torch.Generator().manual_seed(seed)
    x, rows, pooled = (torch.randn(shape, generator=draw) for shape in
                       ((1, 4, side, side), (2, 77, TOKENS), (2, POOLED)))  # fmt: skip
    ids = torch.tensor([[1024, 1024, 0, 0, 1024, 1024]])

    def predict(tokens: int, own: int) -> Any:
        added = {"text_embeds": pooled[own : own + 1], "time_ids": ids}
        return unet(x, stamp, rows[tokens : tokens + 1], added_cond_kwargs=added, return_dict=False)[0]

    with torch.no_grad():
        concept, guide, mixed = predict(0, 0), predict(1, 1), predict(1, 0)
    return float((mixed - guide).norm() / (concept - guide).norm())


if __name__ == "__main__":
    main()
