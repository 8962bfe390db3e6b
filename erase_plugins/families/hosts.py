"""Hosts: what a user has in hand. A pipeline holds its networks by name; a single module is its own only network."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from erase_plugins.errors import Unsupported
from erase_plugins.families.source import MODEL, public_name

_STOCK = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae", "scheduler")


def part_of(host: Any, component: str) -> Any:
    """A part of a pipeline by its name, None if it has none; a single module is its own part under any name."""
    return host if isinstance(host, nn.Module) else getattr(host, component, None)


def parts_of(host: Any) -> dict[str, Any]:
    """All parts of a host by name."""
    return {MODEL: host} if isinstance(host, nn.Module) else dict(getattr(host, "components", {}))


def check_parts(host: Any, name: str, names: Iterable[str]) -> None:
    """Refuses a pipeline that has a place for a part that is needed now, and nothing in it.

    Args:
        host: the pipeline.
        name: how messages call the model.
        names: of the parts.

    Raises:
        Unsupported: says which are missing, and what to do.
    """
    if lost := [part for part in names if getattr(host, part, host) is None]:
        raise without_parts(name, lost)


def without_parts(name: str, lost: Sequence[str]) -> Unsupported:
    """The error for a model ``name`` whose parts ``lost`` are None."""
    return Unsupported(
        f"'{name}' has no {' and no '.join(lost)} (None in its place); load or save the pipeline with "
        f"{'it' if len(lost) == 1 else 'them'}, then try again"
    )


def encoding_of(pipe: Any) -> Any:
    """A pipeline's own ``encode_prompt``: a guard looks at what is asked for, not at what is computed with the model.

    Raises:
        Unsupported: a pipeline that is put together of blocks, which encodes prompts in the middle of a run only.
    """
    found = getattr(pipe, "encode_prompt", None)
    if found is None:
        kind = type(pipe).__name__
        raise Unsupported(
            f"a {kind} does not encode prompts by itself; erase on a {kind.replace('Modular', '')} of the same parts, "
            "then apply the artifact to this one"
        )
    return getattr(found, "own", found)


def offload_groups(module: nn.Module) -> Iterator[Any]:
    """Groups of modules that diffusers' group offloading brings to a device for every pass; none without it."""
    for item in module.modules():
        registry = vars(item).get("_diffusers_hook")
        group = getattr(registry and registry.get_hook("group_offloading"), "group", None)
        if group is not None:
            yield group


def host_configs(host: Any) -> dict[str, Mapping[str, Any]]:
    """Configurations of the parts of a loaded model, as `find_source` would read them from disk."""
    if isinstance(host, nn.Module):
        name = type(host).__name__
        return {MODEL: {**_config(host), "_class_name": name, "architectures": [name]}}
    configs: dict[str, Mapping[str, Any]] = {}
    for component in dict.fromkeys([*_STOCK, *getattr(host, "components", ())]):
        part = getattr(host, component, None)
        if getattr(part, "config", None) is None:
            continue
        data = _config(part)
        if not component.startswith(("text_encoder", "vae", "scheduler")):
            data = {**data, "_class_name": type(part).__name__}
        if component.startswith("text_encoder"):
            data = {**data, "architectures": [type(part).__name__]}
        configs[component] = data
    return configs


def _config(part: Any) -> dict[str, Any]:
    config = getattr(part, "config", None)
    if config is None and isinstance(found := getattr(part, "pretrained_cfg", None), Mapping):  # timm's
        config = {"architecture": found.get("architecture"), "num_classes": part.num_classes, "pretrained_cfg": found}
    if config is None:
        return {}
    data = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    return {key: value for key, value in _named(data).items() if _jsonable(value)}


def _named(data: dict[Any, Any]) -> dict[Any, Any]:
    """With labels by number as text, as a file has them."""
    labels = data.get("id2label")
    return {**data, "id2label": {str(number): name for number, name in labels.items()}} if labels else data


def _jsonable(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_jsonable(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and _jsonable(item) for key, item in value.items())
    return value is None or isinstance(value, str | int | float | bool)


def host_name(host: Any, name: str | None) -> str:
    """How messages and manifests call a host."""
    plain = "model" if isinstance(host, nn.Module) else "pipeline"
    return public_name(name or str(getattr(host, "name_or_path", "") or plain))
