"""A model that was found and recognised once: what a plan, a run and a measurement open it from."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from erase_plugins.errors import RequestError
from erase_plugins.families.loading import AUTO, DTYPES, is_accelerator
from erase_plugins.families.source import Source, public_name


@dataclass(frozen=True)
class Wanted:
    """What `Family.load` is told: which model to load, and the source that was found for it."""

    model: str
    revision: str | None
    dtype: str
    device: str
    source: Source | None = None
    light: bool = False


#: transformers and diffusers switch off the making of weights for the whole process while they load: a model that
#: another thread loads meanwhile would have none
_LOADING = threading.RLock()
#: called with every pipeline or module that was loaded
LOADED: list[Callable[[Any], object]] = []


@dataclass(frozen=True)
class FoundModel:
    """Where a model is and which family it is of; no weights yet.

    Attributes:
        name: as the user gave it.
        source: its place and configuration.
        family: the family that recognised it, or that the user insisted on.
    """

    name: str
    source: Source
    family: Any

    @cached_property
    def info(self) -> Any:
        """`ModelSpec` from configuration only."""
        return self.family.info(public_name(self.name), self.source.configs)

    def precision(self, dtype: str = AUTO, device: str = "cpu") -> str:
        """The precision to load in: the one that is named, for "auto" the family's on accelerators, else float32.

        Raises:
            RequestError: unknown dtype.
        """
        if dtype != AUTO:
            _check_dtype(dtype)
            return dtype
        return self.family.precision(self.source.configs) if is_accelerator(device) else "float32"

    def load(self, dtype: str = AUTO, device: str = "cpu", light: bool = False) -> Any:
        """The loaded model as its family's `Model`.

        Args:
            dtype, device: how to load it.
            light: its denoiser will not run; a family may leave it in its files.

        Raises:
            RequestError: unknown dtype or device, or what is missing.
            Unsupported, HubError: it does not load.
        """
        dtype = self.precision(dtype, device)
        with _LOADING:
            model = self.family.load(Wanted(self.name, self.source.revision, dtype, device, self.source, light))
        _tell(model.host)
        return model

    def pipeline(self, dtype: str = AUTO, device: str = "cpu") -> Any:
        """The loaded pipeline; raises what `load` raises."""
        dtype = self.precision(dtype, device)
        with _LOADING:
            pipe = self.family.open(self.source, dtype, device)
        _tell(pipe)
        return pipe


def _tell(host: Any) -> None:
    for listener in LOADED:
        listener(host)


def _check_dtype(dtype: str) -> None:
    if dtype not in DTYPES:
        raise RequestError(f"unknown dtype '{dtype}'; choose one of {', '.join((AUTO, *DTYPES))}")
