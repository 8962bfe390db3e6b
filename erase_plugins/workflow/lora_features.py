"""The closed form for layers that read no text, on what they read where the concept is named and where it is not.

A "down" factor A of such a layer gets A (I - P) with P = e G (lam I + e G + H)^-1, as layers that read text do, but G
and H are means of x x^T over the layer's own inputs at states that the model draws: with prompts that name the concept
and with those that must stay. A layer whose inputs tell both apart is taken off the concept's directions alone; one
that cannot tell is weakened by e / (1 + e). Inputs are kept as a sample of rows, so that memory does not grow with the
square of their width: for a LoRA on all of SDXL's layers the means would take 20 GB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import ceil

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.closed_form import solve_in_span

#: (component, key of an edit)
Place = tuple[str, str]
#: rows of a layer that are kept for each kind of prompt, about
ROWS = 512
#: ridge term, in units of the system's mean diagonal
_LAM_SHARE = 1e-4


class Inputs:
    """A sample of what modules read, (rows, in) float32 on the CPU for each of them.

    Args:
        modules: those to listen to; the channels are the inputs of a convolution.
        generator: picks the rows.
    """

    def __init__(self, modules: Mapping[Place, nn.Module], generator: torch.Generator) -> None:
        self.modules, self.generator = modules, generator
        self._rows: dict[Place, list[Tensor]] = {}

    @contextmanager
    def listening(self, states: int) -> Iterator[None]:
        """Inside, about `ROWS` of all inputs are kept, the same number of each of so many states."""
        each = ceil(ROWS / max(states, 1))
        hooks = [
            module.register_forward_pre_hook(self._keeping(place, module, each))
            for place, module in self.modules.items()
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()

    def _keeping(self, place: Place, module: nn.Module, each: int) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
        def keep(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
            x = given[0].detach()
            x = x.movedim(1, -1) if isinstance(module, nn.Conv2d) else x
            x = x.reshape(len(x), -1, x.shape[-1])
            chosen = torch.randint(x.shape[1], (min(each, x.shape[1]),), generator=self.generator)
            rows = x[:, chosen.to(x.device)].flatten(0, 1).float().cpu()
            self._rows.setdefault(place, []).append(rows)

        return keep

    def rows(self, place: Place) -> Tensor | None:
        """(rows, in) of one module; None where it was not called."""
        found = self._rows.get(place)
        return torch.cat(found) if found else None


def taken_off(A: Tensor, named: Tensor, kept: Tensor, erase: float) -> Tensor:
    """A "down" factor (rank, in, ...) float64 that answers less to named rows, and to kept ones as before.

    Args:
        A: as it was.
        named, kept: (rows, in) what the layer reads where the concept is named, and where it is not.
        erase: e, how much the former count against the latter.

    Raises:
        NotFiniteError: the system is not solvable.
    """
    weights = [torch.full((len(rows),), scale / len(rows)).double() for rows, scale in ((named, erase), (kept, 1.0))]
    size = sum(
        float(rows.double().square().sum() * weight[0]) for rows, weight in zip((named, kept), weights, strict=True)
    )
    if not size > 0:
        return A.double()
    lam = _LAM_SHARE * size / named.shape[1]
    down, up = solve_in_span(named, torch.zeros_like(named), weights[0], kept, weights[1], lam)
    old = A.double()
    return old + torch.einsum("rk...,ki->ri...", torch.einsum("ri...,ik->rk...", old, up), down)
