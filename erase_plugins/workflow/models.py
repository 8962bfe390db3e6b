"""Models by name: the family that recognises them, their pipeline, and what a method sees of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.loading import DTYPES
from erase_plugins.families.source import MODEL, Source, find_source, public_name
from erase_plugins.manager import get_manager

if TYPE_CHECKING:
    from erase_plugins.families.model import Model


def find_family(source: Source, wanted: str | None = None) -> Any:
    """The family that recognises the source.

    Raises:
        RequestError: ``wanted`` differs from the detected family.
        Unsupported: no registered family recognises it.
    """
    manager = get_manager()
    found = [entry.item for entry in manager.families() if entry.item.detect(source.configs)]
    if wanted is not None:
        asked = manager.family(wanted)
        if asked not in found:
            names = ", ".join(item.id for item in found) or "none"
            raise RequestError(f"'{source.name}' is not of family {wanted}; detected: {names}; leave --family out")
        return asked
    if not found:
        known = ", ".join(entry.item.id for entry in manager.families())
        kind = _kind(source)
        raise Unsupported(f"'{source.name}' is {kind}; no registered family fits (registered: {known})")
    return found[0]


def _kind(source: Source) -> str:
    """What a source says that it is."""
    own = source.configs.get(MODEL, {})
    said = [
        source.configs.get("pipeline", {}).get("_class_name"),
        *(own.get("architectures") or ()),
        own.get("_class_name"),
    ]
    return next((str(name) for name in said if name), "an unknown architecture")


def plan_info(request: Any) -> Any:
    """`ModelSpec` of a request from configuration only."""
    source = find_source(request.model, request.revision)
    return find_family(source, request.family).info(public_name(request.model), source.configs)


def load_pipeline(
    model: str = "pocket", revision: str | None = None, dtype: str = "float32", device: str = "cpu"
) -> Any:
    """A stock diffusers pipeline (safety checker off, progress bar off), or a transformers model.

    Args:
        model: "pocket", a folder of diffusers or transformers, a .safetensors checkpoint or a Hub id.
        revision: Hub revision.
        dtype: one of float32, float16, bfloat16.
        device: torch device name.

    Raises:
        RequestError: no such model, dtype or device.
        Unsupported: no family recognises it.
        HubError: it has to be downloaded and cannot be.
    """
    if dtype not in DTYPES:
        raise RequestError(f"unknown dtype '{dtype}'; choose one of {', '.join(DTYPES)}")
    source = find_source(model, revision)
    return find_family(source).open(source, dtype, device)


def as_target(model: Any, **options: Any) -> Any:
    """A `Model` for a model name, a pipeline or module, or a `Model` (returned as it is)."""
    from erase_plugins.families.model import Model

    if isinstance(model, Model):
        return model
    if isinstance(model, str | Path):
        return _load(str(model), **options)
    return target_of(model)


def _load(model: str, revision: str | None = None, dtype: str = "float32", device: str = "cpu") -> Any:
    """The model as its family loads it, which may have a `Target` of its own."""
    if dtype not in DTYPES:
        raise RequestError(f"unknown dtype '{dtype}'; choose one of {', '.join(DTYPES)}")
    request = Wanted(model, revision, dtype, device)
    return find_family(find_source(model, revision)).load(request)


@dataclass(frozen=True)
class Wanted:
    """The part of a request that says which model to load."""

    model: str
    revision: str | None
    dtype: str
    device: str


def target_of(host: Any, name: str | None = None) -> Any:
    """A loaded pipeline or module as a `Model`, its family detected from its configuration.

    Args:
        host: diffusers pipeline, or a model's own module.
        name: how messages and manifests call the model.

    Raises:
        Unsupported: no registered family recognises it.
    """
    from erase_plugins.families.hosts import host_configs, host_name

    family = find_family(Source(host_name(host, name), None, None, host_configs(host)))
    found: Model = family.wrap(host, name)
    return found
