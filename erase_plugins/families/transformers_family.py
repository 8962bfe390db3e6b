"""Families of transformers models: the host is the model's own module. A family says which, and its groups."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import HubError, RequestError, Unsupported
from erase_plugins.families.base import TRANSPOSED, Family, ModelSpec, ModuleRef
from erase_plugins.families.source import MODEL, Source

if TYPE_CHECKING:
    from erase_plugins.families.model import Model


#: capability -> pipeline tag of the Hub
TASKS = {"classifier": "image-classification", "language": "text-generation"}


class TransformersFamily(Family):
    """Models of transformers, detected by the architecture in their ``config.json``.

    A family of one's own gives ``id``, ``title``, ``architectures``, ``groups`` and ``roles``:
    ``{"classifier": "model"}`` for image classifiers, ``{"language": "model"}`` for causal language models.

    Attributes:
        architectures: names of the model classes of transformers.
    """

    components = (MODEL,)
    layouts = ("patch", "peft")
    architectures: tuple[str, ...] = ()
    roles: Mapping[str, str | tuple[str, ...]]

    @property
    def task(self) -> str:  # type: ignore[override]  # follows from the roles
        """Pipeline tag of the Hub."""
        return next((TASKS[role] for role in self.roles if role in TASKS), "")

    def detect(self, configs: Mapping[str, Mapping[str, Any]]) -> bool:
        return bool(set(configs.get(MODEL, {}).get("architectures") or ()) & set(self.architectures))

    def info(self, model: str, configs: Mapping[str, Mapping[str, Any]]) -> ModelSpec:
        config = {name: value for name, value in configs[MODEL].items() if name != "_name_or_path"}
        refs = _refs(self._architecture(config), json.dumps(config, sort_keys=True))
        return ModelSpec(self, model, configs, refs, (*self.profiles(configs), self.id))

    def profiles(self, configs: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
        """Names, besides ``id``, of the tables with option defaults for a model; see ``presets``."""
        return ()

    def _architecture(self, config: Mapping[str, Any]) -> str:
        return next(name for name in config["architectures"] if name in self.architectures)

    def open(self, source: Source, dtype: str = "float32", device: str = "cpu") -> Any:
        import torch

        from erase_plugins.families.loading import without_bars
        from erase_plugins.families.notices import without_notices

        cls = _class(self._architecture(source.configs[MODEL]))
        try:
            with without_bars(), without_notices():
                model = cls.from_pretrained(
                    source.location, revision=source.revision, use_safetensors=True, dtype=getattr(torch, dtype)
                )
        except (OSError, ValueError) as error:
            message = str(error).splitlines()[0] if str(error) else type(error).__name__
            kind = HubError if source.folder is None else RequestError
            raise kind(f"model '{source.name}' does not load: {message}") from error
        try:
            return model.to(device).train(False)
        except (RuntimeError, AssertionError) as error:
            raise RequestError(f"device '{device}' cannot be used here: {str(error).splitlines()[0]}") from error

    def wrap(self, host: Any, name: str | None = None) -> Model:
        from erase_plugins.families.hosted import HostedModel
        from erase_plugins.families.transformers_model import HostedCausalLM, HostedClassifier

        if "language" in self.roles:
            return HostedCausalLM(host, name, self)
        return HostedClassifier(host, name, self) if "classifier" in self.roles else HostedModel(host, name, self)


def _class(architecture: str) -> Any:
    from erase_plugins.families.notices import without_notices

    with without_notices():  # of quantizers, which transformers loads where they are installed
        import transformers

        found = getattr(transformers, architecture, None)
    if found is None:
        raise Unsupported(f"this transformers has no {architecture}; update transformers")
    return found


@lru_cache(maxsize=32)
def _refs(architecture: str, config: str) -> tuple[ModuleRef, ...]:
    """All linear, convolution and embedding modules of an architecture, from its configuration."""
    import torch

    cls = _class(architecture)
    with torch.device("meta"):
        return refs_of(cls(cls.config_class(**json.loads(config))))


def refs_of(module: Any) -> tuple[ModuleRef, ...]:
    """All linear, convolution and embedding modules below a module."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    kinds = {nn.Linear: "linear", nn.Conv2d: "conv", nn.Embedding: "embedding", Conv1D: TRANSPOSED}
    found = []
    for path, child in module.named_modules():
        kind = next((label for cls, label in kinds.items() if isinstance(child, cls)), None)
        if kind is not None:
            found.append(
                ModuleRef(MODEL, path, kind, tuple(child.weight.shape), getattr(child, "bias", None) is not None)
            )
    return tuple(found)
