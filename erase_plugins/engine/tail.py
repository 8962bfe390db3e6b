"""What a network computes for positions that nobody reads, left out.

Many classifiers of pictures read the first position of the last block alone. Behind the last module that mixes
positions (an attention) every other position is computed for nothing; there a step computes the first one only. Such
modules are found by trying: with noise in all other positions of its output the scores stay as they are to the last
bit, and the module makes of the first position what it makes of it among all. A sum with a residual of all positions
broadcasts the first one, and what stands in the others has no meaning, which is why no one may read them. Where a
caller counts the positions, as an attention does with its queries, it is given the first one as often, and the
attention answers one query instead of as many equal ones.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode

from erase_plugins.engine.prefix import Run, shadowed

#: modules in a row of which all positions are read (keys and values of an attention are two): so are those before
_ENOUGH = 3


class Tail:
    """Modules that are asked for the first position only; made by `Tail.of`.

    Args:
        modules: module -> whether its caller counts the positions.
        network: holds the callers.
    """

    def __init__(self, modules: Mapping[nn.Module, bool], network: nn.Module) -> None:
        self.modules = dict(modules)
        counted = {module for module, counted in self.modules.items() if counted}
        self.callers = [outer for outer in network.modules() if counted.intersection(outer.children())]

    @staticmethod
    def of(network: nn.Module, run: Run, pictures: Tensor) -> Tail:
        """The outermost such modules of a network; none where all positions are read.

        Args:
            network: whose modules are looked at.
            run: scores (n, ...) of inputs, through the network.
            pictures: some inputs.
        """
        few, found = pictures[:2], Tail({}, network)
        with torch.no_grad():
            ended, wanted, read = _ended(network, run, few), run(few), 0
            for module, shape in reversed(ended):
                if any(module is inner for outer in found.modules for inner in outer.modules()):
                    continue
                with shadowed({module: _with_noise(module.forward)}):
                    read = 0 if torch.equal(run(few), wanted) else read + 1
                if read == _ENOUGH:
                    break
                if read:
                    continue
                if _by_position(module, torch.randn(shape, generator=_noise()).to(wanted)):
                    tries = (Tail({**found.modules, module: counted}, network) for counted in (False, True))
                    found = next((made for made in tries if made._keeps(run, few, wanted)), found)
        return found

    def _keeps(self, run: Run, few: Tensor, wanted: Tensor) -> bool:
        try:
            with self.in_force():
                return torch.allclose(run(few), wanted, rtol=1e-5, atol=1e-5)
        except (RuntimeError, TypeError, ValueError):  # a caller counts the positions
            return False

    @contextmanager
    def in_force(self) -> Iterator[None]:
        """Inside, the modules compute the first position only."""
        found = {module: _first(module.forward, counted) for module, counted in self.modules.items()}
        found |= {caller: _asked_once(caller.forward) for caller in self.callers}
        with shadowed(found):
            yield


def _noise() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def _first(forward: Callable[..., Any], counted: bool) -> Callable[..., Any]:
    def first(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = forward(x[:, :1].contiguous(), *args, **kwargs)
        return out.expand(-1, x.shape[1], -1) if counted else out

    return first


class _SameQueries(TorchFunctionMode):
    """Inside, an attention with equal queries answers the first one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        answer = _answer(*args, **given) if func is scaled_dot_product_attention else None
        return func(*args, **given) if answer is None else answer


def _answer(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, dropout_p: float = 0.0,
    is_causal: bool = False, scale: float | None = None, **other: Any,
) -> Tensor | None:  # fmt: skip
    """The answer to equal queries, the first one expanded; None where they differ or something else is asked for."""
    if (
        query.shape[-2] < 2
        or query.stride(-2)
        or attn_mask is not None
        or dropout_p
        or is_causal
        or any(other.values())
    ):
        return None
    scale = query.shape[-1] ** -0.5 if scale is None else scale
    share = ((query[..., :1, :] * key).sum(-1, keepdim=True) * scale).softmax(-2)
    return (share * value).sum(-2, keepdim=True).expand(*query.shape[:-1], value.shape[-1])


def _asked_once(forward: Callable[..., Any]) -> Callable[..., Any]:
    def asked(*args: Any, **kwargs: Any) -> Any:
        with _SameQueries():
            return forward(*args, **kwargs)

    return asked


def _with_noise(forward: Callable[..., Any]) -> Callable[..., Any]:
    def noisy(*args: Any, **kwargs: Any) -> Tensor:
        out: Tensor = forward(*args, **kwargs)
        noise = torch.randn(out.shape, generator=_noise()).to(out)
        return torch.cat([out[:, :1], noise[:, 1:]], dim=1)

    return noisy


def _by_position(module: nn.Module, x: Tensor) -> bool:
    """Whether a module makes of the first position alone what it makes of it among others."""
    try:
        return torch.allclose(module(x)[:, :1], module(x[:, :1]), rtol=1e-5, atol=1e-6)
    except (RuntimeError, TypeError, ValueError):
        return False


def _ended(network: nn.Module, run: Run, few: Tensor) -> list[tuple[nn.Module, torch.Size]]:
    """Modules called once, from (n, positions, values) to such, in the order of their ends, and what they take."""
    ended: list[tuple[nn.Module, torch.Size]] = []
    calls: dict[nn.Module, int] = {}

    def end(module: nn.Module, args: Any, out: Any) -> None:
        calls[module] = calls.get(module, 0) + 1
        given: Any = args[0] if args else None
        if not (isinstance(given, Tensor) and isinstance(out, Tensor) and given.ndim == out.ndim == 3):
            return
        if given.shape[1] == out.shape[1] > 1:
            ended.append((module, given.shape))

    hooks = [module.register_forward_hook(end) for module in network.modules()]
    try:
        run(few)
    finally:
        for hook in hooks:
            hook.remove()
    return [(module, shape) for module, shape in ended if calls[module] == 1]
