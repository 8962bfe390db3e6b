"""The base class of model families, and the records of `families.target` for those who write one.

Everything that is specific to an architecture lives in its family: detection, module groups, encoding, names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from erase_plugins.families.capabilities import CausalLM, Classifier, Denoiser, TextEncoder
from erase_plugins.families.conditioning import Conditioning, Tokens
from erase_plugins.families.model import TRANSPOSED, FamilyTraits, Model, ModelSpec, ModuleRef, Picker
from erase_plugins.families.target import Target, TargetInfo

if TYPE_CHECKING:
    from erase_plugins.families.source import Source
    from erase_plugins.types import EraseRequest

__all__ = [
    "TRANSPOSED",
    "CausalLM",
    "Classifier",
    "Conditioning",
    "Denoiser",
    "Family",
    "Model",
    "ModelSpec",
    "ModuleRef",
    "NameMap",
    "Picker",
    "Target",
    "TargetInfo",
    "TextEncoder",
    "Tokens",
]


@dataclass(frozen=True)
class NameMap:
    """Module path <-> file stem for one layout, both directions. Keys are (component, module path)."""

    to_file: Mapping[tuple[str, str], str]
    from_file: Mapping[str, tuple[str, str]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "from_file", {stem: key for key, stem in self.to_file.items()})


class Family(FamilyTraits):
    """Everything that is specific to one architecture.

    A family of one's own gives ``id``, ``title``, ``components``, ``groups``, `detect`, `info`, and either the name of
    a diffusers class in ``pipeline`` or an `open` of its own. The pipeline has every component as an attribute of that
    name, a ``tokenizer`` beside ``text_encoder`` (``tokenizer_2`` beside ``text_encoder_2`` ...), a ``scheduler`` and
    ``encode_prompt`` as in diffusers; its denoiser is called with latents, timestep and ``encoder_hidden_states``. A
    model of another kind says in ``roles`` what it can do, and `wrap` gives its own `Model`; for models of transformers
    `erase_plugins.families.transformers_family` has both.
    """

    def open(self, source: Source, dtype: str = "float32", device: str = "cpu") -> Any:
        """The pipeline of a model that is given by name, on its device.

        Args:
            source: where the model is; ``source.location`` is what ``from_pretrained`` takes.
            dtype: float32, float16 or bfloat16.
            device: torch device name.

        Raises:
            RequestError, Unsupported, HubError: it does not load.
        """
        from erase_plugins.families.loading import open_diffusers

        return open_diffusers(self.pipeline, source, dtype, device)

    def wrap(self, host: Any, name: str | None = None) -> Model:
        """A host that is loaded already as methods and the runtime see it; nothing in it is changed.

        Args:
            host: what `open` gives: a pipeline, or a model's own module.
            name: how messages and manifests call the model.
        """
        from erase_plugins.families.diffusers_target import DiffusersTarget
        from erase_plugins.families.hosted import HostedModel

        texts = "text" in self.roles and "denoiser" in self.roles
        return DiffusersTarget(host, name, self) if texts else HostedModel(host, name, self)

    def load(self, request: EraseRequest) -> Model:
        """The model of a request with weights."""
        from erase_plugins.families.source import find_source

        source = getattr(request, "source", None) or find_source(request.model, request.revision)
        return self.wrap(self.open(source, request.dtype, request.device), request.model)

    def names(self, layout: str, info: ModelSpec) -> NameMap:
        """File stems of a layout for every module of ``info``."""
        config = info.configs.get(self.denoiser)
        return NameMap(
            {(ref.component, ref.path): self.stem(layout, ref.component, ref.path, config) for ref in info.refs}
        )
