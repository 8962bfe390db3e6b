"""Image classifiers of timm (extra ``timm``): configuration, modules, weights, labels and pictures.

A folder or Hub repository is what timm's ``save_for_hf`` writes: ``config.json`` and ``model.safetensors``. A live
module is told by its ``pretrained_cfg``; its modules are read off itself, since timm keeps no arguments of a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import HubError, RequestError, Unsupported
from erase_plugins.extras import require
from erase_plugins.families.source import MODEL, Source
from erase_plugins.families.transformers_family import refs_of

if TYPE_CHECKING:
    from torch import nn

    from erase_plugins.families.model import ModuleRef

EXTRA, WEIGHTS = "timm", "model.safetensors"
#: attribute of a module that `opened` made: the arguments of its architecture
ARGUMENTS = "timm_model_args"


def is_timm(config: Mapping[str, Any]) -> bool:
    """Whether a configuration is one of timm."""
    return isinstance(config.get("architecture"), str) and "num_classes" in config and "model_type" not in config


def build(config: Mapping[str, Any]) -> nn.Module:
    """The model of a configuration with weights drawn anew.

    Raises:
        MissingExtra: timm is not installed.
        Unsupported: this timm does not know it, or not with these arguments.
    """
    require((EXTRA,), "a model of timm")
    import timm

    given = {"num_classes": config["num_classes"], **(config.get("model_args") or {})}
    try:
        made: nn.Module = timm.create_model(config["architecture"], pretrained=False, **given)
    except (RuntimeError, TypeError, ValueError, AssertionError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise Unsupported(f"timm does not make '{config['architecture']}': {reason}; update timm") from error
    return made


def opened(source: Source, dtype: str, device: str) -> Any:
    """The model of a folder or a Hub repository, from its safetensors file.

    Raises:
        MissingExtra: timm is not installed.
        RequestError, HubError: there is no such file, or it does not fit.
    """
    require((EXTRA,), "a model of timm")
    import timm
    import torch
    from safetensors import SafetensorError

    from erase_plugins.families.loading import finish

    config = source.configs[MODEL]
    folder = source.folder if source.folder is not None else _fetched(source)
    kind = RequestError if source.folder is not None else HubError
    if not (folder / WEIGHTS).is_file():
        raise kind(f"'{source.name}' has no {WEIGHTS}; pickled weights are not opened, save it with timm's save_for_hf")
    given = dict(config.get("model_args") or {})
    try:
        model: Any = timm.create_model(f"local-dir:{folder}", pretrained=True, **given)
    except (OSError, RuntimeError, TypeError, ValueError, AssertionError, SafetensorError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise kind(f"model '{source.name}' does not load: {reason}") from error
    model.name_or_path = source.location
    setattr(model, ARGUMENTS, given)
    return finish(model.to(getattr(torch, dtype)).train(False), device)


def arguments(model: Any) -> dict[str, Any]:
    """What a loaded module was made with, as far as it is known."""
    import timm.models

    found = dict(getattr(model, ARGUMENTS, None) or {})
    if (recorded := getattr(timm.models, "get_model_args", None)) is not None:  # of timm since 1.0.30
        found = {**recorded(model), **found}
    return found


def _fetched(source: Source) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    try:
        hf_hub_download(source.name, "config.json", revision=source.revision)
        return Path(hf_hub_download(source.name, WEIGHTS, revision=source.revision)).parent
    except LocalEntryNotFoundError as error:
        raise HubError(f"model '{source.name}' is not in the local cache and the Hub cannot be reached") from error
    except EntryNotFoundError as error:
        raise HubError(f"'{source.name}' has no {WEIGHTS}; pickled weights are not opened") from error
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise HubError(f"model '{source.name}' cannot be fetched: {type(error).__name__}") from error


def saved(model: Any, folder: Path) -> None:
    """Writes a module as timm reads it back: ``config.json`` and ``model.safetensors``."""
    from timm.models import save_for_hf

    save_for_hf(model, str(folder), model_args=arguments(model), safe_serialization=True)


@lru_cache(maxsize=32)
def _planned(config: str) -> tuple[ModuleRef, ...]:
    import torch

    with torch.device("meta"):
        return refs_of(build(json.loads(config)))


def planned(config: Mapping[str, Any]) -> tuple[ModuleRef, ...]:
    """All modules of a configuration, without weights."""
    known = {name: config.get(name) for name in ("architecture", "num_classes", "model_args")}
    return _planned(json.dumps(known, sort_keys=True))


def labelled(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with ``id2label`` as those of transformers have it, and the library that loads it.

    By the names in it, else those of ImageNet where timm knows that the model was trained on it, else numbers.
    """
    inner, count = config.get("pretrained_cfg") or config, int(config["num_classes"])
    names = config.get("label_names") or inner.get("label_names")
    told = config.get("label_descriptions") or inner.get("label_descriptions") or {}
    if not names:
        names, told = _imagenet(inner, count)
    if not isinstance(names, Mapping):
        names = dict(enumerate(names))
    numbered = {str(number): str(told.get(name, name)) for number, name in names.items()}
    named = {str(number): numbered.get(str(number), str(number)) for number in range(count)}
    return {**config, "id2label": named, "library": EXTRA}


def _imagenet(inner: Mapping[str, Any], count: int) -> tuple[list[str], Mapping[str, str]]:
    if count >= 1000:
        require((EXTRA,), "a model of timm")
        from timm.data import ImageNetInfo, infer_imagenet_subset

        subset = infer_imagenet_subset({**inner, "num_classes": count})
        info = ImageNetInfo(subset) if subset else None
        if info is not None and info.num_classes() == count:
            names = list(info.label_names())
            return names, {name: info.label_name_to_description(name) for name in names}
    return [str(number) for number in range(count)], {}
