"""What a safetensors file is that we did not write: kind, base family, and whether it can become an artifact.

Everything is decided from the header: names, shapes and metadata. No tensor is read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.header import Header, read_header
from erase_plugins.artifacts.manifest import HEADER_KEY, LAYOUT_KEY, Manifest, slug
from erase_plugins.hints import CONVERT_BASE, Command, Hint, Sentence


@dataclass(frozen=True)
class Kind:
    """One kind of file. ``how`` says what `convert` needs: nothing, a base model, or why it cannot be converted."""

    id: str
    title: str
    match: Callable[[Header], bool]
    convertible: bool
    how: str


_DENOISER = re.compile(
    r"^(unet\.)?(down_blocks|mid_block|up_blocks|conv_in|conv_norm_out|conv_out|time_embedding|add_embedding)\."
)
_ENCODER = re.compile(r"^(text_encoder\.)?(text_model\.)?(encoder\.layers|embeddings|final_layer_norm)\b")
_DIFFUSERS = re.compile(r"^(unet|transformer|text_encoder(_2)?)\..+\.lora_[AB]\.weight$")
_OLD = re.compile(r"_lora\.(down|up)\.weight$|\.lora(_linear_layer)?\.(down|up)\.weight$")
_LYCORIS = (".lokr_w1", ".lokr_w2", ".lokr_w1_a", ".hada_w1_a", ".oft_blocks", ".oft_diag", ".dora_scale")
#: what stands behind a module's name in such a file
_LYCORIS_PART = re.compile(r"\.(lokr_(w[12]|t2)(_[ab])?|hada_(w[12]_[ab]|t[12])|oft_(blocks|diag)|dora_scale|rescale)$")


def _any(header: Header, test: Callable[[str], Any]) -> bool:
    return any(test(name) for name in header.tensors)


def _kohya(header: Header) -> bool:
    return _any(header, lambda name: name.startswith("lora_") and name.endswith(".lora_down.weight"))


def _says(header: Header, *words: str) -> bool:
    """Whether the metadata, our own entries aside, mentions one of the words."""
    text = " ".join(f"{key} {value[:4000]}" for key, value in header.metadata.items() if "erase_plugins" not in key)
    return any(word in text.lower() for word in words)


def _weights(header: Header) -> bool:
    """Whether every name is a plain parameter."""
    return bool(header.tensors) and all(name.endswith((".weight", ".bias", "position_ids")) for name in header.tensors)


def _denoiser_weights(header: Header) -> bool:
    return _weights(header) and all(_DENOISER.match(name) for name in header.tensors)


def _slider_prompts(header: Header) -> bool:
    return _kohya(header) and _says(header, "prompts", "leco", "slider")


#: the first kind that matches wins
KINDS = (
    Kind("ours", "an erase-plugins file", lambda h: HEADER_KEY in h.metadata, True, "any layout that can carry it"),
    Kind("lycoris", "a LyCORIS or DoRA adapter (LoKr, LoHa, OFT, DoRA)",
         lambda h: _any(h, lambda n: n.endswith(_LYCORIS)), False,
         "it is not a plain LoRA; resize it to a LoRA with its own tools first"),
    Kind("diff", "a Kohya-style full patch (.diff)",
         lambda h: _any(h, lambda n: n.startswith("lora_") and n.endswith((".diff", ".diff_b"))), True,
         Sentence(Command("convert a patch", "convert --layout patch keeps it; --layout kohya with --rank"),
                  " makes a LoRA")),
    Kind("spm", "an SPM eraser (rank-1 LoRA with a prompt gate)",
         lambda h: _kohya(h) and _says(h, "spm", "semi-permeable"), True,
         "convert keeps the weight change; the gate by prompt similarity is lost, so it acts on every prompt"),
    Kind("leco", "a LECO or concept slider LoRA in Kohya naming", _slider_prompts, True, "convert to any layout"),
    Kind("kohya", "a LoRA in Kohya naming", _kohya, True, "convert to any layout"),
    Kind("peft", "a peft adapter_model",
         lambda h: _any(h, lambda n: n.startswith("base_model.model.") and ".lora_" in n), True,
         "convert to any layout; adapter_config.json must lie beside it"),
    Kind("diffusers", "a LoRA in diffusers naming", lambda h: _any(h, _DIFFUSERS.match), True, "convert to any layout"),
    Kind("old-diffusers", "a LoRA in the naming of older diffusers versions", lambda h: _any(h, _OLD.search), True,
         "convert to any layout"),
    Kind("checkpoint", "a full checkpoint",
         lambda h: _any(h, lambda n: n.startswith("model.diffusion_model.")), False,
         Sentence("it is a base model: ", Hint("model", before="give it as"))),
    Kind("unet", "a complete diffusers denoiser", lambda h: _denoiser_weights(h) and len(h.tensors) > 250, True,
         Sentence(CONVERT_BASE, " subtracts the base: exact low rank where there is one, dense otherwise")),
    Kind("delta", "a concept-ablation delta (weight changes to be added)",
         lambda h: _denoiser_weights(h) and _says(h, "delta", "ablation"), True,
         Sentence(CONVERT_BASE, " keeps the changes as they are; the base tells their names and shapes")),
    Kind("esd", "absolute weights of an erased denoiser (as ESD and UCE write them)", _denoiser_weights, True,
         Sentence(CONVERT_BASE, " subtracts the base: exact low rank where there is one, dense otherwise")),
    Kind("text-encoder", "a complete text encoder (as AdvUnlearn writes it)",
         lambda h: _weights(h) and all(_ENCODER.match(n) for n in h.tensors), True,
         Sentence(CONVERT_BASE, " subtracts the base; layer norms and embeddings are dense, so layout patch")),
    Kind("embedding", "a textual inversion embedding",
         lambda h: 0 < len(h.tensors) <= 3 and all(len(e.shape) == 2 for e in h.tensors.values()), False,
         "it adds a word and erases nothing"),
)  # fmt: skip
_UNKNOWN = Kind("unknown", "of unknown content", lambda header: True, False, "nothing here knows its names")


def classify(header: Header) -> Kind:
    """The kind of a file."""
    return next((kind for kind in KINDS if kind.match(header)), _UNKNOWN)


def describe_foreign(header: Header) -> str:
    """One line: what it is and what can be done with it."""
    kind = classify(header)
    first = ascii(next(iter(sorted(header.tensors)), "nothing"))[:80]
    return Sentence(f"it is {kind.title} ({len(header.tensors)} tensors, first {first}); ", kind.how)


def context_width(header: Header) -> int | None:
    """Width of the text embedding rows, from any key projection of cross-attention."""
    for name, entry in sorted(header.tensors.items()):
        if _LYCORIS_PART.search(name) and not re.search(r"hada_w[12]_b$", name):
            continue  # no side of such a part is as wide as the rows
        part = re.search(r"attn2[._](?:processor\.)?to_[kv](?:_lora)?\.?(.*)$", name)
        if part and len(entry.shape) == 2 and not re.search(r"lora_up|lora_B|up\.weight|bias", part[1]):
            return entry.shape[1]
    return None


def guess_family(header: Header, families: Iterable[Any]) -> Any:
    """The family a file is for: metadata first, then names and widths; None if nothing tells."""
    by_id = {item.id: item for item in families}
    said = header.metadata.get("ss_base_model_version", "")
    if header.metadata.get("ss_v2") == "True" or said.startswith(("sd_v1", "sd_v2")):
        return by_id.get("sd1")
    for family in by_id.values():
        if said and family.base_version and said.split("_v")[0] == family.base_version.split("_v")[0]:
            return family
    architecture = header.metadata.get("modelspec.architecture", "").split("/")[0]
    for family in by_id.values():
        if architecture and architecture == family.modelspec.split("/")[0]:
            return family
    if _any(header, lambda name: name.startswith("transformer.")):
        return by_id.get(_flow(header))
    second = ("lora_te2_", "text_encoder_2.", "conditioner.embedders.1")
    sgm = _any(header, lambda name: re.match(r"lora_unet_(input_blocks|middle_block|output_blocks)_", name))
    deep = _any(header, lambda name: re.search(r"transformer_blocks[._][2-9]", name))
    width = context_width(header)
    if width == 2048 or deep or _any(header, lambda name: name.startswith(second)) or (sgm and width is None):
        return by_id.get("sdxl")
    if _any(header, lambda name: name.startswith("lora_transformer_")):
        return None  # a flow transformer as OneTrainer names it, which nothing here reads
    if _first_of_several(header):
        return by_id.get("sdxl")
    return by_id.get("sd1") if _components(header) else None


def _flow(header: Header) -> str:
    """Id of the family of a LoRA of a flow transformer, which two name their modules alike: by blocks, then widths."""
    if _any(header, lambda name: ".single_transformer_blocks." in name):
        return "flux"
    widths = {
        entry.shape[-1] for name, entry in header.tensors.items() if re.search(r"\.to_[qkv]\.lora_A\.weight$", name)
    }
    return "flux" if widths == {3072} else "sd3" if widths and widths <= {1536, 2432} else ""


def _evidence(header: Header) -> str:
    said = header.metadata.get("ss_base_model_version")
    if said:
        return f"metadata says {said[:40]}"
    width = context_width(header)
    names = {768: "Stable Diffusion 1.x", 1024: "Stable Diffusion 2.x", 2048: "Stable Diffusion XL"}
    if width:
        return f"context width {width}" + (f" ({names[width]})" if width in names else "")
    if _first_of_several(header):
        return "names only: an encoder called lora_te1, the first of several; SD3 and FLUX have such a one, too"
    return "names only"


def _first_of_several(header: Header) -> bool:
    """Whether there is the first text encoder of a model that has more than one, and no denoiser beside it."""
    return bool(header.tensors) and all(name.startswith("lora_te1_") for name in header.tensors)


def foreign_manifest(path: Path, header: Header, family: Any, edit: Any) -> Manifest:
    """A manifest for a file without ours: only what the header says, nothing invented."""
    kind, meta = classify(header), header.metadata
    title = meta.get("modelspec.title") or meta.get("ss_output_name") or path.stem
    prediction = "v_prediction" if meta.get("modelspec.prediction_type") == "v" else "epsilon"
    return Manifest(
        name=slug(path.stem),
        method={"id": "foreign", "title": kind.title, "source": kind.id},
        concepts=(),
        base={
            "model": _short(meta.get("ss_sd_model_name") or "unknown"),
            "family": family.id,
            "prediction": prediction,
            "width": context_width(header),
        },
        kinds=tuple(sorted(edit.kinds)),
        rank=edit.rank,
        modules=len(edit),
        notes=(f"read from {kind.title}: {_short(title)}; what it erases is not recorded in the file",),
    )


def _short(text: str) -> str:
    """Printable end of a text that may be somebody's path."""
    plain = "".join(letter for letter in text if letter.isprintable())
    return re.split(r"[\\/]", plain)[-1][:80] or "unknown"


def inspect_file(path: str | Path, families: Iterable[Any]) -> dict[str, Any]:
    """What a safetensors file is, for which base, whether and how it can be converted. Reads the header only.

    Args:
        path: a .safetensors file.
        families: that it may be for.

    Returns:
        JSON-ready: kind, title, family, evidence, components, modules, rank, dtypes, tensors, bytes, convertible, how,
        needs_base, says (selected metadata), manifest (ours, if it holds one).

    Raises:
        CorruptArtifact: not a sound safetensors file.
    """
    file = Path(path)
    header = read_header(file)
    kind = classify(header)
    family = guess_family(header, families)
    ranks = _ranks(header)
    found = {
        "schema": 1,
        "file": file.name,
        "kind": kind.id,
        "title": kind.title,
        "family": None if family is None else family.id,
        "evidence": _evidence(header),
        "components": _components(header),
        "modules": len({_module(name) for name in header.tensors}),
        "rank": max(ranks.values(), default=0),
        "one_rank": len(set(ranks.values())) <= 1,
        "dtypes": sorted({entry.dtype for entry in header.tensors.values()}),
        "tensors": len(header.tensors),
        "bytes": file.stat().st_size,
        "convertible": kind.convertible,
        "needs_base": CONVERT_BASE in getattr(kind.how, "parts", ()),
        "how": kind.how,
        "says": {key: _short(header.metadata[key]) for key in sorted(_TOLD & set(header.metadata))},
    }
    return {**found, **_own(header)}


_TOLD = {
    "ss_base_model_version", "ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_output_name",
    "modelspec.title", "modelspec.architecture", "modelspec.license",
}  # fmt: skip


def _own(header: Header) -> dict[str, Any]:
    text = header.metadata.get(HEADER_KEY)
    if text is None:
        return {}
    manifest = Manifest.from_json(text)
    return {
        "family": manifest.family,
        "evidence": "our manifest",
        "layout": header.metadata.get(LAYOUT_KEY),
        "manifest": json.loads(manifest.to_json()),
    }


def _module(name: str) -> str:
    return re.sub(
        r"\.(lora_(down|up|A|B)(\.\w+)?\.weight|lora(_linear_layer)?\.(down|up)\.weight|alpha|diff|diff_b|weight|bias)$",
        "", re.sub(r"_lora\.(down|up)\.weight$", "", _LYCORIS_PART.sub("", name)),
    )  # fmt: skip


def _ranks(header: Header) -> Mapping[str, int]:
    down = re.compile(r"(lora_down|lora_A(\.\w+)?|lora(_linear_layer)?\.down|_lora\.down)\.weight$")
    return {name: entry.shape[0] for name, entry in header.tensors.items() if entry.shape and down.search(name)}


_COMPONENT_PREFIXES = (
    ("unet", ("lora_unet_", "unet.", "model.diffusion_model.", "down_blocks.", "mid_block.", "up_blocks.", "conv_")),
    ("text_encoder_2", ("lora_te2_", "text_encoder_2.", "conditioner.embedders.1.")),
    ("text_encoder", ("lora_te_", "lora_te1_", "text_encoder.", "cond_stage_model.", "conditioner.embedders.0.",
                      "text_model.", "encoder.layers.")),
    ("transformer", ("transformer.",)),
    ("vae", ("first_stage_model.",)),
)  # fmt: skip


def _components(header: Header) -> list[str]:
    plain = [name.removeprefix("base_model.model.") for name in header.tensors]
    return [label for label, starts in _COMPONENT_PREFIXES if any(name.startswith(starts) for name in plain)]
