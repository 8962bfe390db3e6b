"""Closed form: one shared solve against a plain per-layer one, at the layer shapes of Stable Diffusion 1.5.

    python -m benchmarks.closed_form [--quick] [--json]

The baseline follows the textbook: for every layer it sums outer products prompt by prompt and inverts. Both run in
float64 on the same random rows and weights; the difference of the edited weights is printed beside the ratio. Absolute
times depend on the machine, ratios less so.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from erase_plugins.artifacts.closed_form import exact_factors, solve_map
from erase_plugins.artifacts.edit import ContextMap, Edit
from erase_plugins.artifacts.ledger import gram
from erase_plugins.artifacts.serialize import edit_to_tensors
from erase_plugins.artifacts.solved import context_edit
from erase_plugins.artifacts.statistics import Member, Statistics

WIDTH = 768
#: output sizes of the 32 key and value projections of Stable Diffusion 1.5
OUTPUTS = (320,) * 10 + (640,) * 10 + (1280,) * 12
LAM = 0.5


def random_rows(concepts: int, tokens: int, seed: int) -> tuple[list[Tensor], list[Tensor]]:
    """Rows of the size that CLIP-L gives (norm about 27), one (tokens, 768) float32 tensor per concept and guide."""
    generator = torch.Generator().manual_seed(seed)
    erased = [torch.randn(tokens, WIDTH, generator=generator) for _ in range(concepts)]
    return erased, [torch.randn(tokens, WIDTH, generator=generator) for _ in range(concepts)]


Rows = Sequence[Tensor]


def baseline(weights: Rows, erased: Rows, guides: Rows, kept: Rows) -> list[Tensor]:
    """Per-layer solve as in the paper: nothing shared between layers."""
    edited = []
    for W in weights:
        left = LAM * W
        right = LAM * torch.eye(WIDTH, dtype=torch.float64)
        for rows, becomes in zip(erased, guides, strict=True):
            c, s = rows.double().T, becomes.double().T
            left = left + (W @ s) @ c.T
            right = right + c @ c.T
        for rows in kept:
            p = rows.double().T
            left = left + (W @ p) @ p.T
            right = right + p @ p.T
        edited.append(left @ torch.linalg.inv(right))
    return edited


def statistics(erased: Sequence[Tensor], guides: Sequence[Tensor], kept: Sequence[Tensor]) -> Statistics:
    """The same problem as the package keeps it."""
    members = {
        f"concept {index:04d}": Member(f"concept {index:04d}", rows, becomes, 1.0)
        for index, (rows, becomes) in enumerate(zip(erased, guides, strict=True))
    }
    keep = {f"kept {index:04d}": rows for index, rows in enumerate(kept)}
    return Statistics(WIDTH, members, keep, 1.0, {"method": "uce", "lam": LAM})


def solve(problem: Statistics) -> tuple[Tensor, Edit]:
    """K and the finished edit."""
    G, X = problem.erased_grams()
    K = solve_map(G, X, problem.kept_gram(), problem.solver["lam"])
    A, B = exact_factors(K)
    return K, context_edit(A, B, problem, "sd1")


def timed(function: Callable[[], Any]) -> tuple[float, Any]:
    """(seconds, result)."""
    started = time.perf_counter()
    result = function()
    return time.perf_counter() - started, result


def difference(found: Sequence[Tensor], expected: Sequence[Tensor]) -> float:
    """Largest relative Frobenius difference over layers."""
    return max(float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True))


def compare(concepts: int, tokens: int, kept_count: int) -> dict[str, Any]:
    """Ours against the baseline for one size, then adding and revoking one concept."""
    generator = torch.Generator().manual_seed(7)
    weights = [torch.randn(size, WIDTH, generator=generator, dtype=torch.float64) / WIDTH**0.5 for size in OUTPUTS]
    erased, guides = random_rows(concepts + 1, tokens, 1)
    kept, _ = random_rows(kept_count, tokens, 2)
    plain_seconds, plain = timed(lambda: baseline(weights, erased[:-1], guides[:-1], kept))
    seconds, (K, edit) = timed(lambda: solve(statistics(erased[:-1], guides[:-1], kept)))
    written_seconds, ours = timed(lambda: [W + W @ K for W in weights])
    row = {
        "concepts": concepts, "rows per concept": tokens, "kept prompts": kept_count,
        "baseline s": plain_seconds, "ours s": seconds, "ratio": plain_seconds / seconds,
        "ratio with all layers written out": plain_seconds / (seconds + written_seconds),
        "difference": difference(ours, plain), "rank": edit.rank, "map bytes": map_bytes(edit),
        "file bytes": file_bytes(edit),
    }  # fmt: skip
    return row | algebra(erased, guides, kept)


def algebra(erased: list[Tensor], guides: list[Tensor], kept: list[Tensor]) -> dict[str, Any]:
    """Adding and revoking one concept against solving everything again."""
    whole = statistics(erased, guides, kept)
    again_seconds, (again_K, _) = timed(lambda: solve(whole))
    smaller = statistics(erased[:-1], guides[:-1], kept)
    _ = smaller.ledgers, smaller.kept_ledger  # an artifact of this size brings its sums along
    name = f"concept {len(erased) - 1:04d}"
    last = Statistics(WIDTH, {name: Member(name, erased[-1], guides[-1], 1.0)}, {}, 1.0, smaller.solver)

    def joint(problem: Statistics) -> Tensor:
        G, X = problem.erased_grams()
        return solve_map(G, X, problem.kept_gram(), LAM)

    add_seconds, (added, add_K) = timed(lambda: _with(lambda: smaller.joined([last]), joint))
    revoke_seconds, (_, revoke_K) = timed(lambda: _with(lambda: added.without([name], keep_them=False), joint))
    never_K = joint(smaller)
    return {
        "again s": again_seconds, "add one s": add_seconds, "add ratio": again_seconds / add_seconds,
        "add exact": bool(torch.equal(add_K, again_K)), "revoke one s": revoke_seconds,
        "revoke ratio": again_seconds / revoke_seconds, "revoke exact": bool(torch.equal(revoke_K, never_K)),
    }  # fmt: skip


def _with(make: Callable[[], Statistics], joint: Callable[[Statistics], Tensor]) -> tuple[Statistics, Tensor]:
    problem = make()
    return problem, joint(problem)


def streamed(concepts: int, tokens: int) -> dict[str, Any]:
    """Very many windowed concepts: rows come and go, only sums stay."""
    G = torch.zeros(WIDTH, WIDTH, dtype=torch.int64)
    X = torch.zeros_like(G)
    generator = torch.Generator().manual_seed(3)
    started = time.perf_counter()
    members = {}
    for index in range(concepts):
        rows, becomes = (torch.randn(tokens, WIDTH, generator=generator) for _ in range(2))
        G += gram(rows)
        X += gram(rows, 1.0, becomes)
        members[f"concept {index:04d}"] = Member(f"concept {index:04d}", None, None, 1.0)
    _, edit = solve(Statistics(WIDTH, members, {}, 1.0, {"method": "uce", "lam": LAM}, sums=(G, X)))
    return {
        "concepts": concepts, "rows per concept": tokens, "ours s": time.perf_counter() - started,
        "rank": edit.rank, "map bytes": map_bytes(edit), "file bytes": file_bytes(edit),
    }  # fmt: skip


def pocket() -> dict[str, Any]:
    """A real erasure on the embedded model: with everything in it, against a per-layer solve of the same rows."""
    import erase_plugins as ep
    from erase_plugins.api import as_target
    from erase_plugins.artifacts.solved import statistics_of

    target = as_target("pocket")
    seconds, artifact = timed(lambda: ep.erase(target, ["pizza", "dog"]))
    problem = statistics_of(artifact.edit)
    weights = [target.weight(ref).double() for ref in target.modules("cross_kv")]
    eye = torch.eye(problem.width, dtype=torch.float64)

    def plain() -> list[Tensor]:
        edited = []
        for W in weights:
            G, X = (sum(part) for part in zip(*(member.grams() for member in problem.members.values()), strict=True))
            G, X = G.double() * 2.0**-34, X.double() * 2.0**-34
            H = problem.kept_gram()
            edited.append((LAM * W + W @ X + W @ H) @ torch.linalg.inv(LAM * eye + G + H))
        return edited

    plain_seconds, expected = timed(plain)
    delta = artifact.edit.deltas["unet"]["context"]
    assert isinstance(delta, ContextMap)
    K = delta.B.double() @ delta.A.double()
    solve_seconds, _ = timed(lambda: solve(problem))
    return {
        "whole run s": seconds, "solve s": solve_seconds, "baseline solve s": plain_seconds,
        "ratio": plain_seconds / solve_seconds,
        "difference (float32 file)": difference([W + W @ K for W in weights], expected),
        "rank": artifact.manifest.rank, "map bytes": map_bytes(artifact.edit), "file bytes": file_bytes(artifact.edit),
    }  # fmt: skip


def map_bytes(edit: Edit) -> int:
    """Bytes of the portable context map in float16."""
    return sum(2 * tensor.numel() for _, _, delta in edit.items() for tensor in delta.tensors().values())


def file_bytes(edit: Edit) -> int:
    """Bytes of our patch file with statistics."""
    tensors, _ = edit_to_tensors(edit)
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the comparison and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 100 concepts")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args(arguments)
    sizes = [(1, 1, 10), (10, 1, 10), (100, 1, 100)] + ([] if given.quick else [(1000, 1, 1000)])
    results: dict[str, Any] = {"sd15": [], "windows": None, "pocket": None}
    for concepts, tokens, kept in sizes:
        results["sd15"].append(compare(concepts, tokens, kept))
        _show(results["sd15"][-1], given.json)
    results["windows"] = streamed(100 if given.quick else 1000, 76)
    results["peak MB without the model"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    _show(results["windows"] | {"peak MB": results["peak MB without the model"]}, given.json)
    results["pocket"] = pocket()
    _show(results["pocket"], given.json)
    if given.json:
        print(json.dumps(results))


def _show(row: dict[str, Any], quiet: bool) -> None:
    if quiet:
        return
    parts = [f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in row.items()]
    print(", ".join(parts), flush=True)


if __name__ == "__main__":
    main()
