"""Opens a pipeline whose denoiser stays in its files: a method that reads two matrices of it needs no memory for it.

Tensors of safetensors files are mapped; a page is read when it is looked at. The denoiser keeps the precision of its
files and is not meant to be run.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from erase_plugins.artifacts.header import read_header
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.families.loading import absent, finish, open_diffusers, without_bars
from erase_plugins.families.notices import without_notices
from erase_plugins.families.skeleton import skeleton
from erase_plugins.families.source import Source

#: bytes of a text encoder's files
_LARGE = 64 << 20
#: attribute of a denoiser that is not meant to be run, so that its precision does not matter
ONLY_READ = "erase_plugins_only_read"
_STEMS = {"transformer": "diffusion_pytorch_model", "text_encoder": "model"}


def open_mapped(family: Any, source: Source, dtype: str, device: str) -> Any:
    """The pipeline of a folder or Hub repository with a mapped denoiser.

    A large text encoder that is stored in 16 bits is loaded in bfloat16, others in ``dtype``.

    Raises:
        RequestError, Unsupported, HubError: it does not load.
    """
    import diffusers
    import torch

    cls = getattr(diffusers, family.pipeline)
    if source.file is not None:
        return open_diffusers(family.pipeline, source, dtype, device)
    with without_bars(), without_notices():
        folder = source.folder or Path(cls.download(source.name, revision=source.revision, use_safetensors=True))
        try:
            denoiser = mapped(folder / family.denoiser, source.configs[family.denoiser])
        except FileNotFoundError:
            return open_diffusers(family.pipeline, source, dtype, device)
        kinds = {"default": getattr(torch, dtype)}
        for name in family.encoders:
            if large_in_half(folder / name):
                kinds[name] = torch.bfloat16
        try:
            pipe = cls.from_pretrained(str(folder), dtype=kinds, **{**absent(source), family.denoiser: denoiser})
        except (OSError, ValueError) as error:
            raise RequestError(f"model '{source.name}' does not load: {str(error).splitlines()[0]}") from error
    for name in family.encoders:
        if (part := getattr(pipe, name, None)) is not None:
            finish(part, device)
    return pipe


def mapped(folder: Path, config: Any) -> Any:
    """A network of diffusers whose parameters are mapped from the safetensors files of its folder.

    Raises:
        FileNotFoundError: no such files.
        Unsupported: they do not hold the network.
    """
    import torch
    from safetensors import safe_open

    with torch.device("meta"):
        network = skeleton("transformer", config)
    tensors: dict[str, Any] = {}
    for file in weight_files(folder, _STEMS["transformer"]):
        with safe_open(file, "pt", device="cpu") as opened:
            tensors |= {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    missing = sorted(name for name, _ in network.named_parameters() if name not in tensors)
    if missing:
        raise Unsupported(f"the files in '{folder.name}' lack {missing[0]} and {len(missing) - 1} other weights")
    network.load_state_dict(tensors, strict=False, assign=True)
    setattr(network, ONLY_READ, True)
    return network.requires_grad_(False).train(False)


def weight_files(folder: Path, stem: str) -> list[Path]:
    """The safetensors file of a part of a pipeline, or its shards.

    Raises:
        FileNotFoundError: none.
    """
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / Path(name).name for name in sorted(set(names))]
    if not single.is_file():
        raise FileNotFoundError(str(single))
    return [single]


def large_in_half(folder: Path) -> bool:
    """Whether a text encoder's files hold 16-bit numbers, and so many that twice the memory would matter."""
    try:
        files = weight_files(folder, _STEMS["text_encoder"])
    except FileNotFoundError:
        return False
    header = read_header(files[0])
    half = any(entry.dtype in ("F16", "BF16") for entry in header.tensors.values())
    return half and sum(file.stat().st_size for file in files) > _LARGE
