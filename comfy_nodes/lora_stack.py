"""LORA_STACK of other packs: a list of (file in models/loras, model strength, clip strength)."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Any

from erase_plugins.errors import ArtifactError, BaseMismatch, RequestError

from . import host

Row = tuple[str, float, float]


def read_stack(stack: Any) -> tuple[Row, ...]:
    """The rows of a LORA_STACK; "None" entries of stackers are left out.

    Raises:
        RequestError: not a list of (name, model strength, clip strength).
    """
    rows = []
    for item in stack or ():
        try:
            name, model, clip = item
            row = (str(name), float(model), float(clip))
        except (TypeError, ValueError):
            raise RequestError(
                f"lora_stack holds {str(item)[:60]!r}; each entry must be (file name, model strength, clip strength)"
            ) from None
        if row[0] not in ("None", ""):
            rows.append(row)
    return tuple(rows)


def put_on(model: Any, clip: Any, rows: Sequence[Row]) -> tuple[Any, Any, list[str]]:
    """Clones of MODEL and CLIP with the LoRAs, as the stock loader does it, and a line about each.

    Raises:
        ArtifactError: no such file in models/loras (with the nearest name).
        BaseMismatch: a file fits nothing of the model.
    """
    lines = []
    for name, strength, strength_clip in rows:
        path = host.lora_path(name)
        if path is None:
            near = get_close_matches(name, host.lora_names(), n=1)
            hint = f"; the nearest is '{near[0]}'" if near else ""
            raise ArtifactError(f"no LoRA '{name[:80]}' in models/loras{hint}")
        if strength == 0 and (clip is None or strength_clip == 0):
            lines.append(f"LoRA {name}: off")
            continue
        model, clip, count = _load(model, clip, path, strength, strength_clip)
        if not count:
            raise BaseMismatch(f"LoRA '{name}' fits nothing of this model; it was made for another architecture")
        lines.append(f"LoRA {name}: patched {count} weights, strength {strength:g}, on the text {strength_clip:g}")
    return model, clip, lines


def _load(model: Any, clip: Any, path: Any, strength: float, strength_clip: float) -> tuple[Any, Any, int]:
    import comfy.sd
    import comfy.utils

    weights = comfy.utils.load_torch_file(str(path), safe_load=True)
    before = _count(model) + _count(getattr(clip, "patcher", None))
    done, text = comfy.sd.load_lora_for_models(model, clip, weights, strength, strength_clip)
    return done, text, _count(done) + _count(getattr(text, "patcher", None)) - before


def _count(patcher: Any) -> int:
    return sum(len(patches) for patches in getattr(patcher, "patches", {}).values())


def kohya_file(artifact: Any) -> str | None:
    """Name in models/loras of the file that holds this artifact for the stock loader; None if there is none."""
    from erase_plugins.artifacts.store import file_hash

    listed = {name: host.lora_path(name) for name in host.lora_names()}
    if artifact.path is not None and artifact.path.is_file():
        return next((name for name, path in listed.items() if path == artifact.path), None)
    for item in artifact.manifest.files:
        path = listed.get(item.name) if item.layout == "kohya" else None
        if path is not None and file_hash(path) == item.sha256:
            return item.name
    return None
