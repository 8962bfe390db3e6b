"""Folders of bottleneck erasers as Receler's official code writes them, read on request only (`convert`).

``eraser_weights.pt`` is a pickle: {place: {"down.weight", "down.bias", "up.weight", "up.bias"}}. It is read by torch's
restricted reader, which makes tensors and plain containers and calls nothing else. A place names a transformer without
its block number ("down_blocks.0.attentions.1"), so models with several blocks in one transformer cannot be told.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import AddOn, Delta, Edit
from erase_plugins.artifacts.manifest import Manifest, slug
from erase_plugins.artifacts.strict_json import parse
from erase_plugins.artifacts.tensors import all_finite
from erase_plugins.errors import CorruptArtifact, Unsupported
from erase_plugins.hints import Command, Sentence

WEIGHTS, CONFIG = "eraser_weights.pt", "eraser_config.json"
TITLE = "a folder of Receler's erasers"
#: the official code trains Stable Diffusion 1.x
FAMILY = "sd1"
_PLACE = re.compile(r"^((down|up)_blocks\.\d{1,2}\.attentions\.\d{1,2}|mid_block\.attentions\.0)$")
_NAMES = {"down.weight": "down", "down.bias": "bias", "up.weight": "up", "up.bias": "up_bias"}
_MOST_BYTES = 2**30
#: earlier versions of the restricted reader could be tricked into running code
_SOUND_TORCH = (2, 6)


def is_eraser_folder(place: Path) -> bool:
    """Whether a folder holds the two official files."""
    return (place / WEIGHTS).is_file() and (place / CONFIG).is_file()


def eraser_facts(place: Path) -> dict[str, Any]:
    """JSON-ready description from the configuration; the weights are not opened.

    Raises:
        CorruptArtifact: the configuration is damaged.
        Unsupported: another type of eraser.
    """
    return {
        "path": place.name, "kind": "erasers", "title": TITLE, "family": FAMILY, "components": ["unet"],
        "rank": _rank(place), "bytes": (place / WEIGHTS).stat().st_size, "convertible": True, "needs_base": False,
        "how": Sentence(
            Command("convert --layout patch", "convert --layout patch"),
            "; the weights are a pickle, opened by convert only and for its tensors only",
        ),
    }  # fmt: skip


def read_eraser_folder(place: Path, family: str | None = None) -> Artifact:
    """The erasers as an artifact of add-ons.

    Args:
        place: folder.
        family: family asked for.

    Raises:
        Unsupported: another family than that of Stable Diffusion 1.x, another type, or a torch that is too old.
        CorruptArtifact: damaged, something else than tensors in it, or shapes that do not fit; says where.
    """
    if family not in (None, FAMILY):
        raise Unsupported(
            f"'{place.name}' is {TITLE}: its names leave out the transformer's block number, so it is for family "
            f"{FAMILY} only, not {family}"
        )
    rank = _rank(place)
    group: dict[str, Delta] = {}
    for where, state in _tensors(place / WEIGHTS).items():
        if not isinstance(where, str) or not _PLACE.match(where):
            raise CorruptArtifact(
                f"{WEIGHTS}: '{str(where)[:80]}' is no transformer of a Stable Diffusion 1.x denoiser"
            )
        group[f"{where}.transformer_blocks.0.attn2"] = _eraser(where, state, rank)
    if not group:
        raise CorruptArtifact(f"{WEIGHTS}: there is no eraser in it")
    edit = Edit(FAMILY, {"unet": group})
    manifest = Manifest(
        name=slug(place.name) or "erasers",
        method={"id": "foreign", "title": TITLE, "source": "erasers"},
        concepts=(),
        base={"model": "unknown", "family": FAMILY, "prediction": "epsilon"},
        kinds=tuple(sorted(edit.kinds)),
        rank=rank,
        modules=len(edit),
        notes=(f"read from {TITLE}; what it erases is not recorded in it",),
    )
    return Artifact(manifest, edit)


def _rank(place: Path) -> int:
    try:
        with (place / CONFIG).open("rb") as file:
            data = parse(file.read(65_536).decode())
        kind, rank = data["eraser_type"], data["eraser_rank"]
    except (OSError, UnicodeDecodeError, ValueError, KeyError, TypeError, RecursionError):
        raise CorruptArtifact(f"{CONFIG}: no JSON object with eraser_type and eraser_rank") from None
    if kind != "adapter":
        raise Unsupported(f"{CONFIG}: erasers of type '{str(kind)[:40]}' are not known, only adapter")
    if type(rank) is not int or not 1 <= rank <= 4096:
        raise CorruptArtifact(f"{CONFIG}: eraser_rank is {str(rank)[:40]}, not a whole number of at least 1")
    return rank


def _tensors(path: Path) -> Mapping[Any, Any]:
    """What the restricted reader makes of the file."""
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < _SOUND_TORCH:
        raise Unsupported(f"reading {path.name} safely takes torch 2.6 or newer, this is {torch.__version__}")
    if path.stat().st_size > _MOST_BYTES:
        raise CorruptArtifact(f"{path.name}: larger than any set of erasers, not opened")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # the reader's errors have no common class; their texts suggest to switch it off
        raise CorruptArtifact(f"{path.name}: damaged, or it holds something else than tensors; not opened") from None
    if not isinstance(found, dict):
        raise CorruptArtifact(f"{path.name}: no table of erasers")
    return found


def _eraser(where: str, state: Any, rank: int) -> AddOn:
    if not isinstance(state, dict) or set(state) != set(_NAMES) or not all(map(_numbers, state.values())):
        raise CorruptArtifact(f"{WEIGHTS}: {where} needs {', '.join(_NAMES)} of finite numbers, nothing else")
    dim = state["up.bias"].numel()
    shapes = {"down.weight": (rank, dim), "down.bias": (rank,), "up.weight": (dim, rank), "up.bias": (dim,)}
    for name, shape in shapes.items():
        if tuple(state[name].shape) != shape:
            raise CorruptArtifact(
                f"{WEIGHTS}: {where} {name} has shape {tuple(state[name].shape)}, eraser_rank {rank} asks for {shape}"
            )
    weights = {own: state[name].float().contiguous().clone() for name, own in _NAMES.items()}
    return AddOn("bottleneck", weights, {"activation": "gelu"})


def _numbers(value: Any) -> bool:
    return (
        isinstance(value, Tensor)
        and value.layout == torch.strided
        and value.is_floating_point()
        and all_finite(value.float())
    )
