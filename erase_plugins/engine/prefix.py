"""What a network computes before the first module in training, once for every input instead of in every step.

The weights before that module do not change, and neither do its inputs. One pass finds the outermost modules that are
done when the first trained one begins; their outputs are kept for all inputs, and a step puts the rows of its batch in
their place. Outputs that nothing reads any more are found by leaving them out, and not kept. Where an output is no
tensor with a row per input, where scores would not stay the same, or where more than ``limit`` bytes would be kept,
there is no prefix, and steps run the whole network.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

LIMIT = 512 * 2**20
_BATCH = 256
Run = Callable[[Tensor], Tensor]


class Prefix:
    """Outputs of the modules before the first trained one; made by `Prefix.of`.

    Args:
        kept: module -> outputs (n, ...) for all inputs, or a scalar-like (1, ...) where nothing reads them.
        tuples: modules that give a tuple; its first entry is kept, and a step finds None behind it.
        pictures: (n, ...) the inputs.
    """

    def __init__(self, kept: Mapping[nn.Module, Tensor], tuples: Collection[nn.Module], pictures: Tensor) -> None:
        self.kept, self.tuples, self.pictures = dict(kept), set(tuples), pictures

    @staticmethod
    def of(
        network: nn.Module, trained: Collection[nn.Module], run: Run, pictures: Tensor, limit: int = LIMIT
    ) -> Prefix | None:  # fmt: skip
        """The prefix of a network for some inputs, None where there is none.

        Args:
            network: whose modules are looked at.
            trained: modules that change.
            run: scores (n, ...) of inputs, through the network.
            pictures: all inputs that a step may ask for.
            limit: bytes that may be kept.
        """
        if len(pictures) < 2:
            return None
        few = pictures[:2]
        with torch.no_grad():
            done = _done(network, trained, run, few)
            outputs, tuples = _outputs(done, run, few)
            if not done or len(outputs) < len(done):
                return None
            try:
                kept = {module: out[:1] for module, out in outputs.items()}
                needed, wanted = [], run(few)
                for module in done:  # a random output instead: does anything read it?
                    trial = {**outputs, module: torch.full_like(outputs[module], 7.0)}
                    with _replaced(trial, tuples):
                        if not torch.equal(run(few), wanted):
                            needed.append(module)
                if sum(outputs[module].nbytes for module in needed) * len(pictures) > limit * len(few):
                    return None
                parts: dict[nn.Module, list[Tensor]] = {module: [] for module in needed}
                for some in pictures.split(_BATCH):
                    for module, out in _outputs(needed, run, some)[0].items():
                        parts[module].append(out)
                made = Prefix(kept | {module: torch.cat(part) for module, part in parts.items()}, tuples, pictures)
                rows = torch.arange(min(len(pictures), 8))
                with made.at(rows) as blank:
                    found = run(blank)
            except (RuntimeError, TypeError, ValueError):  # a network that wants more of an output than its rows
                return None
            return made if torch.allclose(found, run(pictures[rows]), rtol=1e-5, atol=1e-5) else None

    @contextmanager
    def at(self, rows: Tensor) -> Iterator[Tensor]:
        """Inside, the network computes the inputs with these numbers; gives the batch to call it with."""
        count, outputs = len(rows), {}
        for module, part in self.kept.items():
            kept = len(part) == len(self.pictures)
            outputs[module] = part.index_select(0, rows) if kept else part.expand(count, *part.shape[1:])
        with _replaced(outputs, self.tuples):
            yield self.pictures[:1].expand(count, *self.pictures.shape[1:])


@contextmanager
def shadowed(forwards: Mapping[nn.Module, Callable[..., Any]]) -> Iterator[None]:
    """Inside, the modules have these ``forward``."""
    before: dict[nn.Module, Any] = {module: module.__dict__.get("forward") for module in forwards}
    for module, forward in forwards.items():
        module.forward = forward
    try:
        yield
    finally:
        for module, old in before.items():
            if old is None:
                del module.__dict__["forward"]
            else:
                module.forward = old


def _replaced(outputs: Mapping[nn.Module, Tensor], tuples: Collection[nn.Module]) -> Any:
    """A context in which the modules give these outputs."""

    def giving(out: Any) -> Callable[..., Any]:
        return lambda *args, **kwargs: out

    return shadowed({module: giving((out, None) if module in tuples else out) for module, out in outputs.items()})


def _done(network: nn.Module, trained: Collection[nn.Module], run: Run, few: Tensor) -> list[nn.Module]:
    """Outermost modules that are done when the first trained one begins, in the order of their calls."""
    ended: list[nn.Module] = []
    calls: dict[nn.Module, int] = {}
    begun = False

    def begin(module: nn.Module, _args: Any) -> None:
        nonlocal begun
        begun = begun or module in trained
        calls[module] = calls.get(module, 0) + 1

    def end(module: nn.Module, _args: Any, _out: Any) -> None:
        if not begun:
            ended.append(module)

    hooks = [hook for module in network.modules() for hook in
             (module.register_forward_pre_hook(begin), module.register_forward_hook(end))]  # fmt: skip
    try:
        run(few)
    finally:
        for hook in hooks:
            hook.remove()
    if not begun:
        return []
    inner = {child for module in ended for child in module.modules() if child is not module}
    # a module that is called more than once, such as a dropout that a block shares, has more than one output
    return [module for module in ended if module not in inner and calls[module] == 1]


def _outputs(
    modules: Collection[nn.Module], run: Run, pictures: Tensor
) -> tuple[dict[nn.Module, Tensor], set[nn.Module]]:  # fmt: skip
    """Outputs with a row per input by module, and which of the modules give them as the first entry of a tuple."""
    found: dict[nn.Module, Tensor] = {}
    tuples = set()

    def end(module: nn.Module, _args: Any, out: Any) -> None:
        if isinstance(out, tuple) and out:
            tuples.add(module)
            out = out[0]
        if isinstance(out, Tensor) and out.ndim and len(out) == len(pictures):
            found[module] = out.detach()

    hooks = [module.register_forward_hook(end) for module in modules]
    try:
        run(pictures)
    finally:
        for hook in hooks:
            hook.remove()
    return found, tuples
