"""Is a pipeline below an applied edit still as the edit left it?

Identity alone does not tell: peft fuses a LoRA through ``parameter.data``, which leaves the parameter object, its
memory and ``Tensor._version`` as they were. So the contents of the tensors that an edit wrote, and of no others, are
compared by a checksum whenever those tensors are about to be written again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.errors import PipelineChanged
from erase_plugins.families.hosts import offload_groups
from erase_plugins.plain_text import an
from erase_plugins.runtime.patcher import Record

#: fused projections of diffusers' attention modules, and the layers whose weights they hold one below the other
_FUSED = {
    "to_qkv": ("to_q", "to_k", "to_v"),
    "to_kv": ("to_k", "to_v"),
    "to_added_qkv": ("add_q_proj", "add_k_proj", "add_v_proj"),
}
PROJECTIONS = frozenset(part for parts in _FUSED.values() for part in parts)


def check_hung(handle: Any, hooks: Mapping[int, Any], what: str) -> None:
    """Refuses a pass without a hook that was taken off by something else."""
    if handle.id not in hooks:
        raise PipelineChanged(f"{what} was taken off the model by something else; remove() the edit and apply it again")


def problem(record: Record, live: Mapping[str, nn.Parameter], contents: bool = True) -> str:
    """Why a change cannot be taken off or set anew exactly, with the next step; empty if it can.

    Args:
        record: of the changed parameter.
        live: canonical names to parameters that are in the component now.
        contents: also where the tensor holds something else than what was written.
    """
    now = live.get(record.key)
    if now is None:
        return "is not in the model any more; load the pipeline again"
    if now.device.type == "meta":
        return "is offloaded and not here now; call pipe.remove_all_hooks() first"
    data = now.data
    if type(data) is not Tensor or not data.is_floating_point():
        kind = type(data).__name__ if type(data) is not Tensor else str(data.dtype).removeprefix("torch.")
        return f"was replaced by {an(kind)} tensor, as quantising does; load the pipeline again"
    if data.shape != record.original.shape:
        return (
            f"is {tuple(data.shape)} now, not {tuple(record.original.shape)}; take out what was added since first "
            "(pipe.unload_textual_inversion(), for instance)"
        )
    if contents and not record.holds(data):
        return "was changed by something else since; undo that first (pipe.unfuse_lora(), for instance)"
    return ""


def check_records(
    what: str,
    records: Iterable[Record],
    live: Mapping[str, nn.Parameter],
    module: nn.Module,
    contents: bool = True,
) -> None:
    """Refuses to go on where a component's changed parameters are not as they were left.

    Args:
        what: what was asked, for the message.
        records: of the parameters concerned.
        live, contents: see `problem`.
        module: the component.

    Raises:
        PipelineChanged: names the first parameter and what to do; nothing was changed.
    """
    found = []
    records = list(records)
    for record in records:
        text = problem(record, live, contents)
        if text:
            found.append(f"{record.component} {record.key} {text}")
    if not found and records and kept_elsewhere(module):
        found.append(
            f"{records[0].component} takes its weights from copies that group offloading keeps; load the "
            "pipeline again, apply, and enable group offloading after that"
        )
    for fused, parts, name in fused_projections(module, (record.key for record in records)):
        if contents and not found and not holds_parts(fused, parts):
            found.append(f"{name} no longer holds its layers' weights; call unfuse_qkv_projections() first")
    if found:
        more = f" ({len(found) - 1} more like it)" if len(found) > 1 else ""
        raise PipelineChanged(f"{what}: {found[0]}{more}; nothing was changed")
    for record in records:
        record.adopt(live[record.key])


def kept_elsewhere(module: nn.Module) -> bool:
    """Whether diffusers' group offloading brings weights back from copies of its own, past what is written here."""
    return any(
        getattr(group, "cpu_param_dict", None) or getattr(group, "offload_to_disk_path", None)
        for group in offload_groups(module)
    )


def fused_projections(module: nn.Module, keys: Iterable[str]) -> Iterator[tuple[nn.Module, list[nn.Module], str]]:
    """Fused projections in use that hold a copy of one of these parameters, with the layers that they were made of."""
    for path in sorted({key.rsplit(".", 2)[0] for key in keys if key.count(".") > 1}):
        try:
            attention: Any = module.get_submodule(path)
        except AttributeError:
            continue
        if not is_fused(attention):
            continue
        for name, parts in _FUSED.items():
            fused = getattr(attention, name, None)
            if isinstance(fused, nn.Module) and all(hasattr(attention, part) for part in parts):
                layers = [getattr(attention, part) for part in parts]
                yield fused, [getattr(layer, "base_layer", layer) for layer in layers], f"{path}.{name}"


def is_fused(attention: Any) -> bool:
    """Whether an attention module computes with fused projections now, past its single layers."""
    # the older class never takes its flag back, but gets another processor; the newer one keeps its processor
    past = hasattr(attention, "unfuse_projections") or "Fused" in type(getattr(attention, "processor", None)).__name__
    return past and bool(getattr(attention, "fused_projections", False))


def copy_fused(module: nn.Module, keys: Iterable[str]) -> None:
    """Writes the layers' weights into the fused projections that were made of them."""
    for fused, parts, _ in fused_projections(module, keys):
        for name, joined in _joined(fused, parts):
            fused.get_parameter(name).data.copy_(joined)


def holds_parts(fused: nn.Module, parts: list[nn.Module]) -> bool:
    """Whether a fused projection holds its layers' weights, one below the other."""
    plain = all(type(item.get_parameter("weight").data) is Tensor for item in (fused, *parts))
    return plain and all(fused.get_parameter(name).data.equal(joined) for name, joined in _joined(fused, parts))


def _joined(fused: nn.Module, parts: list[nn.Module]) -> Iterator[tuple[str, Tensor]]:
    for name, _ in fused.named_parameters(recurse=False):
        yield name, torch.cat([part.get_parameter(name).data for part in parts])
