"""What the base, the destroyed model and a reference draw, kept on disk for other processes and later sessions.

Entries are named by a hash of all that decides them: every bit of the weights, prompts, seeds, sampler, judge, kind of
device, model of accelerator and library versions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.artifacts.names import LEDGER
from erase_plugins.engine import disk_cache
from erase_plugins.engine.precision import accelerator_name, computes_half
from erase_plugins.errors import EraseError
from erase_plugins.families.hosts import parts_of
from erase_plugins.runtime.patcher import checksum

_FACTS, _PICTURES = "facts", "pictures"
#: fact of what was kept: how many pictures were asked for
QUERIES = "queries"
#: of weights that nothing says were written every 127th value is read again: several of each row of a usual table
_GLANCE = 127
#: attributes of a module that say how it computes
_SIMPLE = (bool, int, float, str)


def key_of(subject: Any, texts: list[str], settings: Any) -> str | None:
    """Name of what is drawn for ``texts``; None where more acts than the weights tell, or nothing is kept.

    Args:
        subject: a `evaluation.run.Subject`.
        texts: all prompts.
        settings: whatever else decides the pictures, with a repr that says it.
    """
    if disk_cache.folder() is None or (state := state_of(subject)) is None:
        return None
    import diffusers

    half = computes_half(str(subject.target.device))  # decides what is drawn in (`evaluation.draw`)
    found = hashlib.sha256(f"3 {torch.__version__} {diffusers.__version__} {half} {settings!r}".encode())
    found.update(accelerator_name(subject.target.device).encode())
    try:
        ids = subject.target.tokens(texts).ids
    except EraseError:  # no text encoder, or a prompt that only a pipeline shortens
        return None
    for name in sorted(ids):
        found.update(name.encode() + ids[name].cpu().contiguous().numpy().tobytes())
    found.update(state)
    return f"drawn-{found.hexdigest()[:32]}"


def state_of(subject: Any) -> bytes | None:
    """Tells every bit of a model and its noise schedule; None where more acts than the weights tell (hooks, adapters).

    Args:
        subject: a `evaluation.run.Subject`.
    """
    parts = _networks(subject.pipe)
    if not parts or acts_more(subject.pipe):
        return None
    scheduler = getattr(subject.pipe, "scheduler", None)
    found = b"" if scheduler is None else json.dumps(dict(scheduler.config), sort_keys=True, default=str).encode()
    for name in sorted(parts):
        bits = _bits(subject.hashed, name, parts[name])
        if bits is None:
            return None
        found += bits + _form(parts[name]).encode()
    return found


def acts_more(pipe: Any) -> bool:
    """Whether more acts on a model than its own weights: edits, guards, adapters such as a live LoRA, or hooks."""
    parts = _networks(pipe).values()
    return any(
        hasattr(part, LEDGER) or getattr(part, "peft_config", None)
        or any(child._forward_hooks or child._forward_pre_hooks or "forward" in vars(child) for child in part.modules())
        for part in parts
    )  # fmt: skip


def _form(part: nn.Module) -> str:
    """What a part computes with its weights, as far as classes, numbers and words of its modules say it.

    Attention processors are exchanged, and FreeU is switched on, without a change of any weight.
    """
    found = []
    for path, child in part.named_modules():
        owners = [child, *([child.processor] if hasattr(child, "processor") else [])]
        for owner in owners:
            told = {key: value for key, value in sorted(vars(owner).items()) if type(value) in _SIMPLE}
            found.append(f"{path} {type(owner).__module__}.{type(owner).__qualname__} {told}")
    return "\n".join(found)


def _networks(pipe: Any) -> dict[str, nn.Module]:
    return {name: part for name, part in parts_of(pipe).items() if isinstance(part, nn.Module)}


def _bits(known: dict[str, tuple[Any, bytes]], name: str, part: nn.Module) -> bytes | None:
    """Tells every bit of a part's weights; None where they do not lie there as they are (quantised or offloaded).

    Args:
        known: what was told before. It holds while the same memory holds the weights, PyTorch counted no write, and
            samples of all weights are what they were, for what is written past its counter (through ``.data``).
            A write past it that leaves every 127th value as it was is not seen before the next process.
        name: of the part.
        part: the module.
    """
    weights = sorted(part.state_dict().items())
    if any(type(value) is not Tensor or value.device.type == "meta" for _, value in weights):
        return None
    glance = [
        (value.data_ptr(), 0 if value.is_inference() else value._version, _told(place, value, _GLANCE))
        for place, value in weights
    ]
    if name not in known or known[name][0] != glance:
        known[name] = glance, "".join(f"{name}.{_told(place, value)}\n" for place, value in weights).encode()
    return known[name][1]


def _told(place: str, value: Tensor, step: int = 1) -> str:
    counts = value.numel() and value.element_size() in (1, 2, 4, 8)
    bits = checksum(value.reshape(-1)[::step] if step > 1 else value) if counts else 0
    return f"{place} {tuple(value.shape)} {value.dtype} {value.device.type} {bits}"


def once(
    subject: Any,
    texts: Sequence[str],
    settings: Any,
    make: Callable[[], tuple[Tensor, dict[str, Any], dict[str, Tensor]]],
) -> tuple[Tensor, dict[str, Any], dict[str, Tensor]]:
    """Pictures (n, 3, height, width), facts and further tensors that ``make`` gives, or gave before; see `key_of`.

    What was asked for them counts as a query either way, so that a report does not say less because of what is kept.
    """
    key, asked = key_of(subject, list(texts), settings), subject.queries
    if (found := None if key is None else _read(key)) is not None:
        tensors, facts = found
        subject.queries += facts.get(QUERIES, len(texts))
        return tensors.pop(_PICTURES).float(), facts, tensors
    pictures, facts, more = make()
    facts = {**facts, QUERIES: subject.queries - asked}
    if key is not None:
        small = pictures.half()  # enough for what a model in half precision drew
        _write(key, {**more, _PICTURES: small if torch.equal(small.float(), pictures) else pictures}, facts)
    return pictures, facts, more


def _read(key: str) -> tuple[dict[str, Tensor], dict[str, Any]] | None:
    found = disk_cache.read(key)
    if found is None or not {_FACTS, _PICTURES} <= found.keys():
        return None
    facts: dict[str, Any] = json.loads(bytes(found.pop(_FACTS).tolist()))
    return found, facts


def _write(key: str, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
    """Keeps them, unless they would drive out what else is kept."""
    if sum(value.numel() * value.element_size() for value in tensors.values()) <= disk_cache.MOST_BYTES // 4:
        text = torch.tensor(list(json.dumps(facts).encode()), dtype=torch.uint8)
        disk_cache.write(key, {_FACTS: text, **tensors})
