"""Loads diffusers pipelines: the embedded model, folders, single files, Hub repositories."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from erase_plugins.errors import HubError, RequestError, Unsupported
from erase_plugins.families.importing import without_collections
from erase_plugins.families.notices import without_notices
from erase_plugins.families.source import Source

DTYPES = ("float32", "float16", "bfloat16")
#: stands for the precision that fits device, model and method
AUTO = "auto"
#: kinds of devices that compute in half precision as well as in float32
ACCELERATORS = frozenset({"cuda", "xpu"})


def is_accelerator(device: str) -> bool:
    """Whether weights may be loaded in half precision on a device where nobody says otherwise."""
    return device.split(":")[0] in ACCELERATORS


def check_device(device: str) -> None:
    """Refuses what names no device; whether it is there is seen when something is loaded on it.

    Raises:
        RequestError: no device of torch's.
    """
    import torch

    try:
        torch.device(device)
    except RuntimeError as error:
        raise RequestError(f"'{device}' is no device; give cpu, cuda, cuda:1, mps ...") from error


def open_diffusers(name: str, source: Source, dtype: str, device: str) -> Any:
    """A pipeline of a diffusers class by its name; off its safety checker and progress bar."""
    import diffusers
    import torch

    with without_notices(), without_collections():
        cls = getattr(diffusers, name, None)
    if cls is None:
        raise Unsupported(f"this diffusers has no pipeline '{name}'; update diffusers, or the package of the family")
    options = {"dtype": getattr(torch, dtype)}
    with without_bars(), without_notices(), without_collections():
        pipe = _from_file(cls, source, options) if source.file is not None else _from_pretrained(cls, source, options)
    pipe.set_progress_bar_config(disable=True)
    return finish(pipe, device)


def finish(part: Any, device: str) -> Any:
    """A pipeline or a part of it on its device.

    Raises:
        RequestError: the device cannot be used.
    """
    try:
        return part.to(device)
    except (RuntimeError, AssertionError) as error:
        raise RequestError(f"device '{device}' cannot be used here: {str(error).splitlines()[0]}") from error


@contextmanager
def without_bars() -> Iterator[None]:
    """Loading bars of diffusers and transformers off; a model loads in a second or shows its own download bar."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    before = transformers_logging.is_progress_bar_enabled()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        diffusers_logging.enable_progress_bar()
        if before:
            transformers_logging.enable_progress_bar()


def _from_pretrained(cls: Any, source: Source, options: dict[str, Any]) -> Any:
    extra = absent(source) | ({"safety_checker": None} if cls.__name__ == "StableDiffusionPipeline" else {})
    try:
        return cls.from_pretrained(source.location, revision=source.revision, use_safetensors=True, **extra, **options)
    except (OSError, ValueError) as error:
        message = str(error).splitlines()[0] if str(error) else type(error).__name__
        kind = HubError if source.folder is None else RequestError
        raise kind(f"model '{source.name}' does not load: {message}") from error


def absent(source: Source) -> dict[str, None]:
    """Parts that a model says it has not, as ``from_pretrained`` has to be told of those that are not optional (T5)."""
    index = source.configs.get("pipeline", {})
    return {name: None for name, entry in index.items() if isinstance(entry, list) and not any(entry)}


def _from_file(cls: Any, source: Source, options: dict[str, Any]) -> Any:
    try:
        pipe = cls.from_single_file(str(source.file), **options)
    except (OSError, ValueError) as error:
        raise Unsupported(
            f"checkpoint '{source.name}' needs its family's configuration and tokenizer from the Hub cache: "
            f"{str(error).splitlines()[0]} Load it once with the Hub in reach; or give a diffusers folder, which holds "
            "them"
        ) from error
    _refuse_gaps(pipe, source.name)
    return pipe


def _refuse_gaps(pipe: Any, name: str) -> None:
    """Refuses a file that lacks weights: diffusers leaves those on the device "meta" and says nothing (0.35 to 0.42).

    Raises:
        Unsupported: names the parts, and how much each lacks.
    """
    lacking = []
    for part, module in pipe.components.items():
        weights = list(module.parameters()) if hasattr(module, "parameters") else []
        if gaps := sum(weight.is_meta for weight in weights):
            lacking.append(f"{part} ({gaps} of {len(weights)} weights)")
    if lacking:
        raise Unsupported(
            f"checkpoint '{name}' does not hold all of the model; missing: {', '.join(lacking)}. Give a file with text "
            "encoders and VAE in it, or a diffusers folder"
        )
