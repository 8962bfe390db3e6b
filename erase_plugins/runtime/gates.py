"""Gates at run time: how far a prompt opens each gate. What lies behind them is in `runtime.gated_changes`.

The gate reads the prompt embeddings that the denoiser is given, before any context map. Where it knows what names its
concept, and the prompt's token numbers are known (`runtime.prompts`), it is at least as open as the share of a name's
words in the prompt (SPM's token overlap). All edits read the same embeddings and add to the module's output on their
own: sum_i g_i U_i D_i, no square, no cross terms.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from erase_plugins.artifacts.edit import AddOn
from erase_plugins.artifacts.gated import LISTS, Names, gate_list
from erase_plugins.errors import Unsupported
from erase_plugins.runtime.integrity import check_hung
from erase_plugins.runtime.prompts import PromptMemory

MEASURES = ("probe", "cosine")
#: what is said once where a gate cannot look for its concept's name
UNKNOWN = (
    "the text encoder of this pipeline did not encode these prompts while the artifact was applied (prompt embeddings "
    "given, or changed since); its gate judges them by their embeddings alone and may stay shut although a prompt "
    "names the concept"
)
_REMEMBERED = 512


def gate_values(context: Tensor, embeddings: Tensor, config: Mapping[str, Any]) -> Tensor:
    """How far each sample opens the most open gate of an edit, (batch,) float32 in 0..1.

    Args:
        context: text embeddings as the denoiser receives them (batch, tokens, dim).
        embeddings: (n, tokens, dim), from the gate add-on.
        config: of the gate add-on, see `artifacts.gated`.
    """
    return gate_table(context, embeddings, config).amax(1)


def gate_table(context: Tensor, embeddings: Tensor, config: Mapping[str, Any]) -> Tensor:
    """How far each sample opens each gate, (batch, gates) float32 in 0..1; arguments as in `gate_values`.

    A context of several encoded prompts one after the other opens a gate as far as the most open of them.
    """
    return Thresholds(embeddings, config).table(context)


class Thresholds:
    """The embeddings of an edit's gates and what opens them, as tensors on the device of the last context."""

    def __init__(self, embeddings: Tensor, config: Mapping[str, Any]) -> None:
        self.window = int(config.get("window", 0))
        self.probe = config.get("measure", "cosine") == "probe"
        self.embeddings = embeddings.to(torch.float32)
        self.offsets, self.low, self.high = (
            torch.tensor(config.get(name, default), dtype=torch.float32)
            for name, default in (("offsets", 0.0), ("low", 0.0), ("high", 1.0))
        )
        self.numbers = torch.tensor(config.get("gates") or [0] * len(embeddings))
        self.count = int(self.numbers.max()) + 1

    def table(self, context: Tensor) -> Tensor:
        """As `gate_table`."""
        if self.embeddings.device != context.device:
            for name in ("embeddings", "offsets", "low", "high", "numbers"):
                setattr(self, name, getattr(self, name).to(context.device))
        with torch.autocast(context.device.type, enabled=False):
            windows = split_windows(context.float(), self.window or context.shape[1])
            score = (_probe if self.probe else _cosine)(windows, self.embeddings) + self.offsets
            opened = ((score - self.low) / (self.high - self.low)).clamp(0.0, 1.0).amax(1)
            table = opened.new_zeros(len(opened), self.count)
            return table.scatter_reduce(1, self.numbers.expand(len(opened), -1), opened, "amax")


def split_windows(context: Tensor, window: int) -> Tensor:
    """(batch, windows, tokens, dim): prompts that were encoded one by one; a length that does not fit is one window."""
    batch, tokens, width = context.shape
    return context.reshape(batch, -1, window if window and tokens % window == 0 else tokens, width)


def _probe(windows: Tensor, embeddings: Tensor) -> Tensor:
    """Mean row without the start token times the detector row: (batch, windows, n)."""
    return windows[:, :, 1:].mean(2) @ embeddings[:, 0].T


def _cosine(windows: Tensor, embeddings: Tensor) -> Tensor:
    """Cosine of the flattened embeddings, over the tokens that both have: (batch, windows, n)."""
    tokens = min(windows.shape[2], embeddings.shape[1])
    prompts, stored = windows[:, :, :tokens].flatten(2), embeddings[:, :tokens].flatten(1)
    return functional.normalize(prompts, dim=-1) @ functional.normalize(stored, dim=-1).T


def check_gate(addon: AddOn) -> None:
    """Refuses a gate that cannot be evaluated.

    Raises:
        Unsupported: says what is wrong.
    """
    embeddings, config = addon.weights.get("embeddings"), addon.config
    if set(addon.weights) != {"embeddings"} or embeddings is None or embeddings.ndim != 3:
        raise Unsupported("a gate add-on needs exactly one tensor, embeddings (n, tokens, dim)")
    if config.get("measure", "cosine") not in MEASURES:
        raise Unsupported(f"unknown gate measure '{config.get('measure')}'; known: {', '.join(MEASURES)}")
    for name in LISTS:
        value = config.get(name)
        listed = isinstance(value, list) and len(value) == len(embeddings)
        if value is not None and not (listed and all(isinstance(item, int | float) for item in value)):
            raise Unsupported(f"a gate with {len(embeddings)} embeddings needs as many numbers in '{name}'")
    if any(number < 0 or number != int(number) for number in config.get("gates") or ()):
        raise Unsupported("gate numbers must be whole and not negative")
    limits = zip(config.get("low") or [0.0], config.get("high") or [1.0], strict=False)
    if any(not low < high for low, high in limits):
        raise Unsupported("a gate needs low < high")
    names = config.get("names")
    if names is not None and not (isinstance(names, list) and len(names) >= max(gate_list(addon)) + 1):
        raise Unsupported("a gate add-on needs a list of phrases for each gate in 'names'")
    phrases = [phrase for item in names or () for phrase in _list(item)]
    numbers = [number for phrase in phrases for word in _list(phrase) for number in _list(word)]
    if any(isinstance(number, bool) or not isinstance(number, int) for number in numbers):
        raise Unsupported("names of a gate are phrases of words of token numbers")


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list):
        raise Unsupported("names of a gate are phrases of words of token numbers")
    return value


def named(ids: tuple[int, ...], phrases: Names) -> float:
    """Largest share of a phrase's words that a prompt has, 0 to 1; a word's tokens must follow each other."""
    best = 0.0
    for phrase in phrases:
        found = sum(_holds(ids, tuple(word)) for word in phrase)
        best = max(best, found / len(phrase) if phrase else 0.0)
    return best


def _holds(ids: tuple[int, ...], word: tuple[int, ...]) -> bool:
    return bool(word) and any(ids[place : place + len(word)] == word for place in range(len(ids) - len(word) + 1))


class GateReader:
    """The gates of one edit and component, as far as the prompts of the current pass open them.

    Args:
        addon: the gate.
        prompts: what the text encoder has encoded lately; None: embeddings alone decide.

    Attributes:
        table: (batch, gates) of the current pass.
        active: whether any gate is open for any sample.
        open: (gates,), which are; on the CPU.
        reading: another number whenever the table is another one.
    """

    def __init__(self, addon: AddOn, prompts: PromptMemory | None = None) -> None:
        check_gate(addon)
        self.addon = addon
        self.prompts = prompts
        self._shares: dict[tuple[int, ...], list[float]] = {}
        self.count = max(gate_list(addon)) + 1
        self.thresholds = Thresholds(addon.weights["embeddings"], addon.config)
        self.table = torch.zeros(1, self.count)
        self.open = torch.zeros(self.count, dtype=torch.bool)
        self.active = False
        self.reading = 0
        self._read_last: tuple[Any, ...] = ()

    def read(self, context: Tensor) -> None:
        """Sets the table for text embeddings as the denoiser receives them (batch, tokens, dim).

        The same tensor, unchanged, is read once: a picture's steps share it. One whose gradient is asked for is read
        every time: an attack has to see the gate, and what a pass has left for its gradient is gone after it.
        """
        seen = 0 if self.prompts is None else self.prompts.changes
        tracked = not (context.requires_grad or context.is_inference() or torch.compiler.is_compiling())
        now = (context, context._version, seen) if tracked else ()
        if now and self._read_last and now[0] is self._read_last[0] and now[1:] == self._read_last[1:]:
            return
        self.table = self.thresholds.table(context)
        if self.prompts is not None:
            self.table = torch.maximum(self.table, self.by_name(context).to(self.table))
        self.open = (self.table > 0).any(0).cpu()
        self.active = bool(self.open.any())
        self.reading += 1
        self._read_last = now

    def by_name(self, context: Tensor) -> Tensor:
        """Shares of names in the prompts that a context was made of, (batch, gates); warns once of unknown prompts."""
        assert self.prompts is not None
        windows = split_windows(context, int(self.addon.config.get("window", context.shape[1])))
        batch, many = windows.shape[:2]
        table = torch.zeros(batch, self.count)
        found = self.prompts.find(windows.flatten(0, 1), context)
        for place, prompts in enumerate(found):
            for ids in prompts:
                table[place // many] = torch.maximum(table[place // many], torch.tensor(self._share(ids)))
        unknown = [place for place, prompts in enumerate(found) if not prompts]
        # zeros are what pipelines of some families give where there is no negative prompt
        if unknown and not self.prompts.told and bool(windows.flatten(0, 1)[unknown].any()):
            self.prompts.told = True
            warnings.warn(UNKNOWN, stacklevel=2)
        return table

    def _share(self, ids: tuple[int, ...]) -> list[float]:
        if ids not in self._shares:
            if len(self._shares) > _REMEMBERED:
                self._shares.clear()
            self._shares[ids] = [named(ids, phrases) for phrases in self.addon.config["names"][: self.count]]
        return self._shares[ids]


class AttachedGate(GateReader):
    """Gates that read the prompts before every pass of a denoiser."""

    def __init__(self, denoiser: nn.Module, addon: AddOn, encoder: nn.Module | None = None) -> None:
        super().__init__(addon)
        if encoder is not None and addon.config.get("names"):
            self.prompts = PromptMemory.of(encoder)
        self.strength = 0.0  # the changes behind the gate have their own
        # before context maps, whenever those were attached: gates judge the prompt as it was encoded
        self.handle = denoiser.register_forward_pre_hook(self._read, with_kwargs=True, prepend=True)

    def keep(self, owner: nn.Module) -> None:
        """Checks before a pass that this one will be read.

        Raises:
            PipelineChanged: the gate was taken off.
        """
        check_hung(self.handle, owner._forward_pre_hooks, "the gate")

    def _read(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.read(kwargs["encoder_hidden_states"] if "encoder_hidden_states" in kwargs else args[2])

    def detach(self) -> None:
        """Restores the denoiser and the text encoder."""
        self.handle.remove()
        if self.prompts is not None:
            self.prompts.leave()
            self.prompts = None
