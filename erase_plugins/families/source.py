"""Finds a model: the embedded one, a folder, a single-file checkpoint or a Hub repository. Reads configuration only."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase_plugins.errors import CorruptArtifact, HubError, RequestError, Unsupported

POCKET, POCKET_CLASSIFIER, POCKET_FLOW = "pocket", "pocket-classifier", "pocket-flow"
POCKET_NATURAL = "pocket-natural"
POCKET_LM, POCKET_LM_RETAINED = "pocket-lm", "pocket-lm-retained"
#: embedded models and their folders
EMBEDDED = {
    POCKET: "model", POCKET_CLASSIFIER: "classifier", POCKET_FLOW: "flow", POCKET_NATURAL: "natural",
    POCKET_LM: "language", POCKET_LM_RETAINED: "language_retained",
}  # fmt: skip
#: an embedded model -> the same one that never saw a part of its data
TWINS = {POCKET_LM: POCKET_LM_RETAINED}
#: the only part of a model that is no pipeline
MODEL = "model"
_INDEX, _CONFIG = "model_index.json", "config.json"
#: files of weights that diffusers and transformers look for
_SHARDS = ".safetensors.index.json"
_WEIGHTS = re.compile(r"(?:diffusion_pytorch_model|model)(?:-\d+-of-\d+)?\.safetensors")
#: files of weights that are not opened
_PICKLED = re.compile(r"(?:diffusion_pytorch_model|pytorch_model)[\w.-]*\.bin")
_NETWORKS = ("unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3", "vae")
_COMPONENTS = (*_NETWORKS, "scheduler")
#: endings of what lies beside weights and holds none; a family of another package may call its weights anything else
_TEXTS = frozenset({"", ".json", ".jsonl", ".txt", ".md", ".model", ".jinja", ".py", ".png", ".jpg", ".yaml", ".yml"})


@dataclass(frozen=True)
class Source:
    """Where a model is. ``folder`` is None for a Hub repository that is not on disk."""

    name: str
    folder: Path | None
    file: Path | None
    configs: Mapping[str, Mapping[str, Any]]
    revision: str | None = None

    @property
    def location(self) -> str:
        """What diffusers' from_pretrained is given."""
        return str(self.folder) if self.folder is not None else self.name


def hub_id(model: str) -> tuple[str, str | None]:
    """A model's name and its revision, also where timm's writing is used: hf-hub:OWNER/NAME@REVISION."""
    for scheme in ("hf-hub:", "hf_hub:"):
        if model.startswith(scheme):
            name, _, revision = model.removeprefix(scheme).partition("@")
            return name, revision or None
    return model, None


def public_name(model: str) -> str:
    """How manifests, reports and messages call a model: a Hub id as it is, a path without the user's folders."""
    model, _ = hub_id(model)
    plain = model.replace("\\", "/").rstrip("/")
    local = plain.count("/") != 1 or plain.startswith((".", "/", "~")) or Path(model).exists()
    return plain.rsplit("/", 1)[-1] if local else model


def pocket_folder(model: str = POCKET) -> Path:
    """Folder of an embedded model.

    ``pocket`` draws, ``pocket-natural`` draws the same and understands free phrasing, ``pocket-flow`` draws the same as
    a flow transformer, ``pocket-classifier`` tells what is drawn, ``pocket-lm`` knows invented people, and
    ``pocket-lm-retained`` is the same model trained without twelve of them.
    """
    from erase_plugins.families.assembled import whole

    return whole(Path(__file__).resolve().parent.parent / "pocket" / EMBEDDED[model])


def find_source(model: str, revision: str | None = None) -> Source:
    """The model's place and configuration; no weights are read or downloaded.

    Raises:
        RequestError: nothing there.
        HubError: the Hub cannot be asked, or does not know the repository.
    """
    model, named = hub_id(model)
    if named is not None and revision not in (None, named):
        raise RequestError(f"'{model}' is asked for at revision {named} and at {revision}; name one")
    revision = revision or named
    if model in EMBEDDED:
        folder = pocket_folder(model)
        if not folder.is_dir():
            raise RequestError(f"this installation has no '{model}'; python -m tools.pocket.train in a clone makes it")
        return _folder_source(folder, model)
    path = Path(model)
    if path.is_dir():
        return _folder_source(path, path.name)
    if path.is_file():
        return _file_source(path)
    if path.suffix in (".safetensors", ".ckpt") or model.count("/") != 1 or model.startswith((".", "/", "~")):
        embedded = ", ".join(f"'{name}'" for name in EMBEDDED)
        raise RequestError(
            f"no model at '{path.name}'; give {embedded}, a model folder of diffusers or transformers, a .safetensors "
            "checkpoint, or a Hub id"
        )
    return _hub_source(model, revision)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RequestError(f"cannot read the configuration {path.parent.name}/{path.name}: {error}") from error
    if not isinstance(data, dict):
        raise RequestError(f"the configuration {path.parent.name}/{path.name} is not a JSON object")
    return data


def _folder_source(folder: Path, name: str) -> Source:
    if not (folder / _INDEX).is_file():
        if (folder / _CONFIG).is_file():
            _check_weights(folder, folder.resolve().name, needed=True)
            return Source(name, folder, None, {MODEL: _read(folder / _CONFIG)})
        raise RequestError(
            f"'{folder.resolve().name}' has no {_INDEX} and no {_CONFIG}; "
            "give a model folder of diffusers or transformers"
        )
    configs = {"pipeline": _read(folder / _INDEX)}
    listed = [name for name, entry in configs["pipeline"].items() if isinstance(entry, list) and name.isidentifier()]
    for component in dict.fromkeys([*_COMPONENTS, *listed]):
        file = folder / component / ("scheduler_config.json" if component == "scheduler" else _CONFIG)
        if file.is_file():
            configs[component] = _read(file)
            needed = component in _NETWORKS and component in listed and any(configs["pipeline"][component])
            _check_weights(folder / component, folder.resolve().name, f"{component}/", needed=needed)
    return Source(name, folder, None, configs)


def _check_weights(folder: Path, model: str, inside: str = "", *, needed: bool = False) -> None:
    """Refuses weights that came in part or not at all: loading says that seconds later, and not which file is wrong.

    Headers are read only. Variants, which are not loaded unless asked for, may be mere pointers to what lies elsewhere.

    Args:
        folder: where they lie.
        model: its name.
        inside: of which part they are, with a slash behind it.
        needed: refuse a folder without any, or with pickled ones only, too.
    """
    from erase_plugins.artifacts.header import read_header

    for file in sorted(folder.glob("*.safetensors")):
        if _WEIGHTS.fullmatch(file.name) and file.is_file():
            try:
                read_header(file)
            except CorruptArtifact as error:
                raise RequestError(f"model '{model}' is damaged: {inside}", error) from error
    for index in sorted(folder.glob(f"*{_SHARDS}")):
        whole = index.name.removesuffix(_SHARDS) + ".safetensors"
        if _WEIGHTS.fullmatch(whole) and not (folder / whole).exists():
            places = _read(index).get("weight_map")
            names = sorted({str(name) for name in places.values()}) if isinstance(places, dict) else []
            if absent := [name for name in names if not (folder / name).exists()]:
                told = f"{inside}{absent[0]} is not there ({len(absent)} of {len(names)} files)"
                raise RequestError(f"model '{model}' is incomplete: {told}; fetch it again")
    files = [file for file in folder.iterdir() if not file.is_dir()] if needed else []
    pickled = next((file.name for file in files if _PICKLED.fullmatch(file.name)), "")
    if pickled and not any(folder.glob("*.safetensors")):
        wanted = "diffusion_pytorch_model" if pickled.startswith("diffusion") else "model"
        raise RequestError(
            f"'{inside.removesuffix('/') or model}' has no {wanted}.safetensors; pickled weights are not opened, save "
            "the model as safetensors first"
        )
    if needed and all(file.suffix.lower() in _TEXTS for file in files):
        raise RequestError(f"model '{model}' is incomplete: no file of weights in {inside or 'it'}; fetch it again")


def _file_source(path: Path) -> Source:
    from erase_plugins.artifacts.header import read_header

    if path.suffix != ".safetensors":
        raise Unsupported(
            f"'{path.name}' is not a safetensors file; pickled checkpoints are not opened, convert it first"
        )
    header = read_header(path)
    shapes = {name: tuple(entry.shape) for name, entry in header.tensors.items()}
    return Source(path.stem, None, path, {"checkpoint": {"shapes": shapes, "metadata": dict(header.metadata)}})


def _hub_source(model: str, revision: str | None) -> Source:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    def fetch(name: str) -> Mapping[str, Any]:
        return _read(Path(hf_hub_download(model, name, revision=revision)))

    try:
        try:
            configs = {"pipeline": fetch(_INDEX)}
        except EntryNotFoundError as error:
            if isinstance(error, LocalEntryNotFoundError):
                raise
            configs = {MODEL: fetch(_CONFIG), "pipeline": {}}
        for component in _COMPONENTS:
            if any(configs["pipeline"].get(component) or ()):  # a part that is left out is listed as [null, null]
                name = "scheduler_config.json" if component == "scheduler" else _CONFIG
                configs[component] = fetch(f"{component}/{name}")
    except LocalEntryNotFoundError as error:
        raise HubError(f"model '{model}' is not in the local cache and the Hub cannot be reached") from error
    except (EntryNotFoundError, HfHubHTTPError) as error:
        raise HubError(f"the Hub has no usable model '{model}': {str(error).splitlines()[0]}") from error
    except (OSError, ValueError) as error:
        raise HubError(f"model '{model}' cannot be fetched: {type(error).__name__}") from error
    return Source(model, None, None, configs, revision)


def resolved_revision(model: str, revision: str | None = None) -> str | None:
    """The commit that a Hub model was loaded from, as the client's cache knows it; else the revision that was named.

    A branch moves on; the commit says for good which weights were used.
    """
    model, named = hub_id(model)
    revision = revision or named
    if model in EMBEDDED or public_name(model) != model or model.count("/") != 1:
        return revision
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(model, _INDEX, revision=revision)
    if not isinstance(found, str):
        found = try_to_load_from_cache(model, _CONFIG, revision=revision)
    return Path(found).parent.name if isinstance(found, str) else revision
