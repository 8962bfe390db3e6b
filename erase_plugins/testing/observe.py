"""What the checks look at: weights bit by bit, module structure, predictions, global state."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

_PROMPTS = ("a picture of a pizza", "", "a red house")


@dataclass(frozen=True)
class Snapshot:
    """Weights and structure of a pipeline at one moment."""

    tensors: Mapping[str, Tensor]
    structure: tuple[str, ...]

    def difference(self, other: Snapshot) -> str:
        """First difference in words; empty if all bits agree."""
        import torch

        if self.structure != other.structure:
            odd = sorted(set(self.structure) ^ set(other.structure))
            return f"module structure changed: {odd[0] if odd else 'order'}"
        for name in sorted(set(self.tensors) | set(other.tensors)):
            mine, theirs = self.tensors.get(name), other.tensors.get(name)
            if mine is None or theirs is None:
                return f"{name} appeared or vanished"
            if mine.dtype != theirs.dtype or mine.shape != theirs.shape or not torch.equal(mine, theirs):
                return f"{name} changed"
        return ""


def snapshot(pipe: Any) -> Snapshot:
    """Copies of every parameter and buffer, and per module its class, mode and hooks."""
    from torch import nn

    from erase_plugins.families.hosts import parts_of

    tensors, structure = {}, []
    for key, part in parts_of(pipe).items():
        if not isinstance(part, nn.Module):
            continue
        for name, tensor in part.state_dict().items():
            tensors[f"{key}.{name}"] = tensor.detach().clone()
        for name, parameter in part.named_parameters():
            structure.append(f"{key}.{name} trainable {parameter.requires_grad} grad {parameter.grad is not None}")
        for name, module in part.named_modules():
            hooks = len(module._forward_hooks) + len(module._forward_pre_hooks) + len(module._backward_hooks)
            label = f"{type(module).__qualname__} training {module.training} hooks {hooks}"
            structure.append(f"{key}.{name} {label}")
    return Snapshot(tensors, tuple(structure))


def predictions(pipe: Any, prompts: tuple[str, ...] = _PROMPTS) -> Tensor:
    """What a model predicts for fixed inputs.

    A denoiser's output (2 * prompts, channels, height, width) for fixed noise at an early and a late step; the logits
    of a classifier or language model.
    """
    import torch

    from erase_plugins.workflow.models import target_of

    target = target_of(pipe)
    if "denoiser" not in target.info.capabilities:
        return _logits(target)
    cond = target.encode(prompts)
    noise = torch.Generator().manual_seed(7)
    latents = torch.randn((len(prompts), *target.info.latent_shape), generator=noise).to(target.device, target.dtype)
    with torch.no_grad():
        return torch.cat([target.predict(latents, step, cond) for step in (100, 800)]).float()


def applied_predictions(pipe: Any, artifact: Any, strength: float = 1.0) -> Tensor:
    """`predictions` with an artifact applied; the pipeline is restored."""
    from erase_plugins.workflow.applying import apply

    with apply(pipe, artifact, strength):
        return predictions(pipe)


def _logits(target: Any) -> Tensor:
    """Logits for fixed inputs: pictures of noise, or token numbers."""
    import torch

    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        if "classifier" in target.info.capabilities:
            model = target.classifier
            found: Tensor = model.logits(torch.randn(4, *model.input_shape, generator=draw))
        else:
            found = target.language.logits(torch.randint(0, target.language.words, (3, 7), generator=draw))
    return found.float()


def global_random_state() -> tuple[Any, ...]:
    """State of the process-wide random generators, comparable."""
    import numpy as np
    import torch

    kind, keys, *rest = np.random.get_state()
    return (random.getstate(), kind, tuple(keys), tuple(rest), torch.get_rng_state().numpy().tobytes())


@contextmanager
def global_seed(seed: int) -> Iterator[None]:
    """Sets every process-wide generator for a with-block and restores them afterwards."""
    import numpy as np
    import torch

    saved = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(saved[0])
            np.random.set_state(saved[1])


@contextmanager
def no_network() -> Iterator[None]:
    """Any connection attempt inside the with-block fails at once."""
    import socket

    def refuse(*_args: Any, **_kwargs: Any) -> Any:
        raise OSError("the contract suite allows no network")

    before = socket.socket.connect
    socket.socket.connect = refuse  # type: ignore[method-assign]
    try:
        yield
    finally:
        socket.socket.connect = before  # type: ignore[method-assign]


def files_below(folder: Path) -> frozenset[str]:
    """Relative names of all files below a folder."""
    return frozenset(item.relative_to(folder).as_posix() for item in folder.rglob("*") if item.is_file())
