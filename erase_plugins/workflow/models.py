"""Models by name: the family that recognises them, their pipeline, and what a method sees of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.loading import AUTO, DTYPES
from erase_plugins.families.source import MODEL, Source, find_source
from erase_plugins.hints import Hint
from erase_plugins.manager import get_manager
from erase_plugins.workflow.found import FoundModel

if TYPE_CHECKING:
    from erase_plugins.families.model import Model

#: what a pipeline's index has in the place of a part that is not there
_NOTHING = (None, [None, None])
#: the package of the built-in families
OURS = "erase-plugins"


def find_family(source: Source, wanted: str | None = None) -> Any:
    """The family that recognises the source; one of another package goes before ours.

    Raises:
        RequestError: ``wanted`` differs from the detected family.
        Unsupported: no registered family recognises it.
    """
    manager = get_manager()
    entries = [entry for entry in manager.families() if entry.item.detect(source.configs)]
    found = [entry.item for entry in sorted(entries, key=lambda entry: entry.package == OURS)]
    if wanted is not None:
        asked = manager.family(wanted)
        if asked not in found:
            names = ", ".join(item.id for item in found) or "none"
            raise RequestError(
                f"'{source.name}' is not of family {wanted}; detected: {names}; ",
                Hint("family", before="leave", after="out"),
            )
        return asked
    if not found:
        known = ", ".join(entry.item.id for entry in manager.families())
        kind = _kind(source)
        if lost := _without_configuration(source):
            raise RequestError(f"'{source.name}' is {kind}, but has no {lost}; fetch the model again")
        if empty := _without_encoders(source, [entry.item for entry in manager.families()]):
            from erase_plugins.families.hosts import without_parts

            raise without_parts(source.name, empty)
        raise Unsupported(f"'{source.name}' is {kind}; no registered family fits (registered: {known})")
    return found[0]


def _without_configuration(source: Source) -> str:
    """The configuration of a denoiser or text encoder that a pipeline's index lists and the model lacks; "" if none."""
    listed = source.configs.get("pipeline", {})
    weighty = [name for name in listed if name.startswith(("unet", "transformer", "text_encoder"))]
    absent = (
        name for name in weighty if name not in source.configs and isinstance(listed[name], list) and any(listed[name])
    )
    return next((f"{name}/config.json" for name in absent), "")


def _without_encoders(source: Source, families: Sequence[Any]) -> list[str]:
    """Text encoders that a pipeline has a place for and was loaded or saved without, if a family fits one with them."""
    listed = source.configs.get("pipeline", {})
    empty = [name for name, part in listed.items() if name.startswith("text_encoder") and part in _NOTHING]
    filled = {**source.configs, **{name: {} for name in empty}}
    return empty if empty and any(family.detect(filled) for family in families) else []


def _kind(source: Source) -> str:
    """What a source says that it is."""
    own = source.configs.get(MODEL, {})
    said = [
        source.configs.get("pipeline", {}).get("_class_name"),
        *(own.get("architectures") or ()),
        own.get("_class_name"),
    ]
    return next((str(name) for name in said if name), "an unknown architecture")


def find_model(model: str, revision: str | None = None, family: str | None = None) -> FoundModel:
    """The model's place and family, from configuration only.

    Args:
        model: "pocket", a path or a Hub id.
        revision: Hub revision.
        family: id of the family that it has to be of; None detects it.

    Raises:
        RequestError, Unsupported, HubError: as for `find_source` and `find_family`.
    """
    source = find_source(model, revision)
    return FoundModel(model, source, find_family(source, family))


def load_pipeline(model: str = "pocket", revision: str | None = None, dtype: str = AUTO, device: str = "cpu") -> Any:
    """A stock diffusers pipeline (safety checker off, progress bar off), or a transformers model.

    Args:
        model: "pocket", a folder of diffusers or transformers, a .safetensors checkpoint or a Hub id.
        revision: Hub revision.
        dtype: float32, float16 or bfloat16; auto is float32, but for language models on accelerators what their
            configuration says, where float32 would take more than a GiB.
        device: torch device name.

    Raises:
        RequestError: no such model, dtype or device.
        Unsupported: no family recognises it.
        HubError: it has to be downloaded and cannot be.
    """
    return find_model(model, revision).pipeline(dtype, device)


def as_target(
    model: Any,
    revision: str | None = None,
    dtype: str = AUTO,
    device: str = "cpu",
    family: str | None = None,
    light: bool = False,
) -> Any:
    """A `Model` for a model name, a `FoundModel`, a pipeline or module, or a `Model` (returned as it is).

    Args:
        model: any of these.
        revision, family: how to find a model that is given by name.
        dtype, device: how to load it.
        light: its denoiser will not run (`FoundModel.load`).
    """
    from erase_plugins.families.model import Model

    if isinstance(model, Model):
        return model
    if isinstance(model, str | Path):
        model = find_model(str(model), revision, family)
    return model.load(dtype, device, light) if isinstance(model, FoundModel) else target_of(model)


def dtype_of(model: Model) -> str:
    """The precision of a loaded model by its name; float32 where it is another than weights are loaded in."""
    found = str(model.dtype).removeprefix("torch.")
    return found if found in DTYPES else "float32"


def target_of(host: Any, name: str | None = None) -> Any:
    """A loaded pipeline or module as a `Model`, its family detected from its configuration.

    Args:
        host: diffusers pipeline, or a model's own module.
        name: how messages and manifests call the model.

    Raises:
        Unsupported: no registered family recognises it.
    """
    from erase_plugins.families.hosts import host_configs, host_name, parts_of

    empty = {part: None for part, found in parts_of(host).items() if found is None}
    index = {"pipeline": {"_class_name": type(host).__name__, **empty}} if empty else {}
    family = find_family(Source(host_name(host, name), None, None, {**host_configs(host), **index}))
    found: Model = family.wrap(host, name)
    return found
