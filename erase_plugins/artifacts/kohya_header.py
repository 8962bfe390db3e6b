"""Header entries that user interfaces read: sd-scripts ``ss_*`` and ModelSpec 1.0.1."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts.manifest import HEADER_KEY, slug

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.artifacts.family_names import FamilyNames

USAGE = (
    "no trigger word; always on. Weight 1 as evaluated, usable {low:g} to {high:g}; "
    "a negative weight strengthens the concept"
)


def manifest_of(header: Mapping[str, str]) -> dict[str, Any]:
    """Our manifest as a dictionary; empty if the header has none."""
    try:
        data = json.loads(header.get(HEADER_KEY, "{}"))
    except (ValueError, RecursionError):
        return {}
    return data if isinstance(data, dict) else {}


def base_version(family: FamilyNames, manifest: Mapping[str, Any], edit: Edit) -> tuple[str, str]:
    """sd-scripts base version and ModelSpec architecture; the 2.x models share a family with 1.x."""
    base = manifest.get("base") or {}
    wide = base.get("width") == 1024 or any(
        key.endswith("attn2.to_k.weight") and next(iter(delta.tensors().values())).shape[-1] == 1024
        for _, key, delta in edit.items()
    )
    if not wide or family.base_version != "sd_v1":
        return family.base_version, family.modelspec
    if base.get("prediction") == "v_prediction":
        return "sd_v2_v", "stable-diffusion-v2-768-v/lora"
    return "sd_v2", "stable-diffusion-v2-512/lora"


def kohya_header(
    tensors: Mapping[str, Tensor], edit: Edit, family: FamilyNames, header: Mapping[str, str]
) -> dict[str, str]:
    """``ss_*`` and ``modelspec.*`` entries of a Kohya file.

    Args:
        tensors: as they are written; hashed without the header.
        edit: what is in them.
        family: decides the base version, by which user interfaces filter.
        header: entries common to all files; the manifest in it is used where present.
    """
    from erase_plugins.artifacts.tensors import tensor_hash

    manifest = manifest_of(header)
    version, architecture = base_version(family, manifest, edit)
    texts = [str(item.get("text", "")) for item in manifest.get("concepts") or () if isinstance(item, Mapping)]
    what = ", ".join(texts) or "a concept"
    method = (manifest.get("method") or {}).get("title") or (manifest.get("method") or {}).get("id") or "unknown"
    base = manifest.get("base") or {}
    strength = {"low": 0.0, "high": 1.2, **(manifest.get("strength") or {})}
    digest = tensor_hash(tensors)
    title = manifest.get("name") or f"erase_{slug(what)}"
    usage = USAGE.format(low=float(strength["low"]), high=float(strength["high"]))
    found = {
        "ss_v2": str(version.startswith("sd_v2")),
        "ss_base_model_version": version,
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(edit.rank),
        "ss_network_alpha": str(edit.rank),
        "ss_network_args": "{}",
        "ss_output_name": title,
        "ss_sd_model_name": str(base.get("model") or ""),
        "ss_training_comment": f"erases {what} ({method}); {usage}",
        "sshs_model_hash": digest,
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.architecture": architecture,
        "modelspec.implementation": "https://github.com/Stability-AI/generative-models"
        if version.startswith("sdxl")
        else "diffusers",
        "modelspec.title": f"Erase {what}",
        "modelspec.description": f"Removes {what} from {base.get('model') or family.title} ({method}). {usage}.",
        "modelspec.date": str(manifest.get("created") or ""),
        "modelspec.hash_sha256": f"0x{digest}",
        "modelspec.usage_hint": usage,
        "modelspec.tags": "concept-erasure,erase-plugins,lora",
        "modelspec.prediction_type": "v" if base.get("prediction") == "v_prediction" else "epsilon",
    }
    return {key: value for key, value in found.items() if value}
