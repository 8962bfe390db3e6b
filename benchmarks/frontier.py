"""Frontier erasers against the procedures of their papers: process time where both run, else counted work.

    python -m benchmarks.frontier [--rows null-space,sae,gloce,slug,ant,guards] [--json]

Shapes of Stable Diffusion 1.5 for the first two rows, with random values: what is timed does not depend on them. Work
of `gloce` and `slug` is what our engine does on small models at the sizes that the paper names, counted while it runs.
The plain side is `benchmarks/plain/frontier.py`. One process, one thread, processor seconds, the quickest of two.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from benchmarks.official import Row, against, line, seconds

#: outputs of the value projections of Stable Diffusion 1.5, and width of its text rows
OUTPUTS = (320,) * 5 + (640,) * 5 + (1280,) * 6
WIDTH = 768
#: width, features and features of a position of SAeUron's autoencoder; positions of a 512 x 512 picture, both halves
SAE = (1280, 20_480, 32)
POSITIONS = 512
#: looks at a weight matrix
LOOKS = 10
TURNS = 2


def main(arguments: list[str] | None = None) -> None:
    """Runs the rows and prints one line for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default=",".join(ROWS))
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    for name in given.rows.split(","):
        for row in ROWS[name]():
            print(json.dumps(row) if given.json else line(row), flush=True)


def quickest(work: Callable[[], Any]) -> float:
    """Processor seconds."""
    return min(seconds(work)[0] for _ in range(TURNS))


def null_space(width: int = WIDTH, outputs: tuple[int, ...] = OUTPUTS) -> Iterator[Row]:
    """From rows to changes of all layers, for one concept among 1,352 retained names and for a hundred among 100."""
    import torch

    from benchmarks.plain import frontier as plain

    drawn = torch.Generator().manual_seed(0)

    def random(*size: int) -> torch.Tensor:
        return torch.randn(*size, generator=drawn)

    weights = [random(size, width) / width**0.5 for size in outputs]
    for concepts, retained, sizes in ((1, 1352, {"tau": 0.1, "rho": 1.0}), (100, 100, {"tau": 1e-4, "rho": 0.05})):
        C, S, N = (random(width, count) for count in (concepts, concepts, 4))
        R = random(width, retained) * torch.logspace(0, -3, width)[:, None]
        rows: dict[str, Any] = {"C": C, "S": S, "R": R, "N": N, "lam": 0.5, **sizes}
        ours, mine = seconds(partial(solved, weights, **rows))
        theirs, changes = seconds(partial(plain.speed, weights, **rows))
        apart = max(float((B @ mine[0] - dW).norm() / dW.norm()) for B, dW in zip(mine[1], changes, strict=True))
        yield against(f"null-space N={concepts}, {len(weights)} layers, the same formula", theirs, ours, apart=apart)
        theirs, _ = seconds(partial(plain.speed, weights, filtered=concepts == 1, augmented=True, **rows))
        yield against(f"null-space N={concepts}, official with its refinement, which ours leaves out", theirs, ours)


def solved(weights: Any, C: Any, S: Any, R: Any, N: Any, tau: float, rho: float, lam: float = 0.5) -> tuple[Any, Any]:
    """Ours: one basis and one solve for all layers; (D, the way of every layer)."""
    import torch

    from erase_plugins.artifacts.free_space import free_basis, free_factors

    C, S, R, N = (part.double() for part in (C, S, R, N))
    n, H = C.shape[1], R @ R.T / R.shape[1]
    basis = free_basis(H, tau / float(H.diagonal().mean()))
    D = free_factors(C.T, torch.ones(n), basis, N @ N.T, n * rho, n / lam)
    return D.to(weights[0]), [W @ (S - C).to(W) for W in weights]


def sae() -> Iterator[Row]:
    """A step of the sampler: two features of one concept behind one block."""
    import torch

    from benchmarks.plain import frontier as plain
    from erase_plugins.engine.sparse_coder import SparseCoder
    from erase_plugins.runtime.sparse_features import SparseFeatures

    width, features, k = SAE
    drawn = torch.Generator().manual_seed(0)
    decode = torch.nn.functional.normalize(torch.randn(features, width, generator=drawn), dim=1)
    coder = SparseCoder(decode, torch.zeros(features), decode, torch.zeros(width))
    h = torch.randn(1, POSITIONS, width, generator=drawn)
    chosen, least = torch.tensor([3, 77]), torch.full((2,), 0.5)
    # what the k largest leave out, for a threshold that leaves out the same
    coder.threshold = float(coder.activations(h[0]).topk(k, dim=1).values[:, -1].median())
    ours = SparseFeatures(coder.parts(chosen, least, -1.0))
    theirs = quickest(lambda: plain.steered(h[0], coder, chosen, least, -1.0, k))
    mine = quickest(lambda: [ours(h) for _ in range(100)]) / 100
    yield against(f"sae, {POSITIONS} positions, {len(chosen)} of {features} features", theirs, mine)


def gloce() -> Iterator[Row]:
    """Samples through the denoiser for one concept and for ten of a kind."""
    import erase_plugins as ep
    from benchmarks.plain import frontier as plain
    from erase_plugins.engine.words import listed
    from erase_plugins.methods.gloce import GLoCEOptions
    from erase_plugins.testing.tiny import tiny_sd1
    from erase_plugins.workflow.models import target_of

    target, names = target_of(tiny_sd1(), "tiny"), [*listed()["animals"]]
    options = {name: getattr(GLoCEOptions(), name) for name in ("anchors", "guidance", "seeds", "steps", "templates")}
    for count in (1, 10):
        artifact = ep.erase(target, names[:count], "gloce", options={**options, "target_rank": 2})
        passes = artifact.manifest.extra["numbers"]["unet_forwards"]
        yield against(f"gloce, passes for {count} concepts", plain.gloce_passes(count), passes)


def slug() -> Iterator[Row]:
    """Pictures through a small classifier of digits, for the same weight matrices and ten looks at each."""
    import tempfile
    from pathlib import Path

    import erase_plugins as ep
    from benchmarks.plain import frontier as plain
    from tests import classifiers

    with tempfile.TemporaryDirectory() as place:
        folder = classifiers.small(Path(place) / "model")
        with seen() as sizes:
            ep.erase(str(folder), "three", "slug", kind="class")
    _, _, *sizes = sizes[:-2]  # before and after; the first of the rest asks whether there is anything to do
    forget, retain = min(sizes), max(sizes)
    layers = sizes[1:].count(forget) // LOOKS
    ours = forget + retain + sum(sizes)
    yield against(f"slug, pictures for {layers} matrices, {forget} to forget and {retain} to retain",
                  plain.slug_pictures(forget, retain, layers, LOOKS), ours)  # fmt: skip


@contextmanager
def seen() -> Iterator[list[int]]:
    """Numbers of pictures whose labels are asked for, in turn."""
    from erase_plugins.families import labelled

    sizes: list[int] = []
    hits = labelled.hits

    def counted(model: Any, part: Any, batch: int = 256) -> Any:
        sizes.append(len(part))
        return hits(model, part, batch)

    labelled.hits = counted
    try:
        yield sizes
    finally:
        labelled.hits = hits


def ant() -> Iterator[Row]:
    """Passes of ESD's course ANT for the iterations of the paper."""
    from benchmarks.plain import frontier as plain
    from erase_plugins.methods.esd import ESD, ESDOptions
    from erase_plugins.types import Concept, EraseRequest

    options = ESDOptions(course="ant", iterations=250, batch=1, steps=50, templates=("{}",), keep_words=0)
    request = EraseRequest(model="", concepts=(Concept("owl"),), method="esd")
    cost = ESD().cost(request, options)
    ours = cost.forwards + options.iterations * cost.batch
    yield against("esd course=ant, passes of 250 iterations without the official mask",
                  plain.ant_passes({**vars(options)}), ours)  # fmt: skip


def guards() -> Iterator[Row]:
    """What is asked of the model beside drawing: values of the concept, and texts."""
    from benchmarks.plain import frontier as plain

    yield against("adavd, value projections of the concept for ten pictures of 30 steps",
                  10 * plain.values_recorded(len(OUTPUTS), 30), len(OUTPUTS))  # fmt: skip
    yield against("semantic-surgery, texts encoded for 100 prompts, one concept", plain.texts_encoded(100, 1), 3)


ROWS: dict[str, Callable[[], Iterator[Row]]] = {
    "null-space": null_space, "sae": sae, "gloce": gloce, "slug": slug, "ant": ant, "guards": guards,
}  # fmt: skip


if __name__ == "__main__":
    main()
