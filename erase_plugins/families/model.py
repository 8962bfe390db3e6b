"""A model of any kind: what is known of it from its configuration, and what a method may ask of it once it is loaded.

`ModelSpec` needs no weights, `Model` has them. What only some kinds of model can do (predict noise, classify, continue
a text) is a capability (`families.capabilities`), held under its name: ``model.denoiser``, ``model.classifier``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import Unsupported
from erase_plugins.families.capabilities import (
    CLASSIFIER,
    CODEC,
    DENOISER,
    LANGUAGE,
    TEXT,
    CausalLM,
    Classifier,
    Denoiser,
    ImageCodec,
    TextEncoder,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

    from erase_plugins.artifacts.fingerprint import Fingerprint

#: one linear map of the text rows stands for a change of all projections that read them (separate cross-attention)
EMBEDDING_MAP = "embedding_map"
#: text reaches the denoiser through key and value projections that read nothing else
CROSS_ATTENTION = "cross_attention"
#: kind of a linear layer whose weight is stored (in, out), as the Conv1D of GPT-2
TRANSPOSED = "transposed"


@dataclass(frozen=True)
class ModuleRef:
    """A module with a weight: where it is and what shape it has (out, in[, height, width]; see `TRANSPOSED`)."""

    component: str
    path: str
    kind: str
    shape: tuple[int, ...]
    bias: bool

    @property
    def weight(self) -> str:
        """Name of the weight inside the component."""
        return f"{self.path}.weight"


@dataclass(frozen=True)
class ModelSpec:
    """A model known by its configuration only: enough to plan, no weights.

    Attributes:
        family: that recognised it.
        model: how messages and manifests call it.
        configs: component -> configuration.
        refs: all modules with a weight that can be changed.
        profiles: names of the tables that hold option defaults for it, most specific first.
        roles: capability -> the part or parts of the model that have it; those of the family unless given.
    """

    family: FamilyTraits
    model: str
    configs: Mapping[str, Mapping[str, Any]]
    refs: Sequence[ModuleRef]
    profiles: tuple[str, ...]
    roles: Mapping[str, str | tuple[str, ...]] = field(default_factory=dict, kw_only=True)

    def __post_init__(self) -> None:
        if not self.roles:
            object.__setattr__(self, "roles", dict(self.family.roles))

    @property
    def capabilities(self) -> frozenset[str]:
        """What the model can do: text, denoiser, codec, classifier, language, or a word of the family's own."""
        return frozenset(self.roles)

    @property
    def offers(self) -> frozenset[str]:
        """Capabilities, and what only some models with them can do."""
        return self.capabilities | {name for name in self.family.features if self.supports(name)}

    def components(self, role: str) -> tuple[str, ...]:
        """Names of the parts with a capability.

        Raises:
            Unsupported: the model does not have it.
        """
        if role not in self.roles:
            raise Unsupported(f"{self.model} offers {', '.join(sorted(self.roles))}, no {role}")
        found = self.roles[role]
        return (found,) if isinstance(found, str) else tuple(found)

    def supports(self, need: str) -> bool:
        """Whether the model has a capability, or can do what only some models with it can (``embedding_map``)."""
        if need in self.roles:
            return True
        picker = self.family.groups.get(self.family.features.get(need, ""))
        return picker is not None and any(picker(ref) for ref in self.refs)

    def modules(self, group: str) -> tuple[ModuleRef, ...]:
        """Modules of a named group.

        Raises:
            Unsupported: the family has no such group, or it is empty for this model.
        """
        return self.family.modules(self, group)

    def readers(self) -> tuple[ModuleRef, ...]:
        """Modules for which one linear map of the text rows stands (`EMBEDDING_MAP`).

        Raises:
            Unsupported: the model has none.
        """
        return self.modules(self.family.features.get(EMBEDDING_MAP, EMBEDDING_MAP))

    def facts(self) -> dict[str, Any]:
        """What a manifest says about such a model besides name, family and fingerprint."""
        library = next((config["library"] for config in self.configs.values() if config.get("library")), None)
        found = {"task": self.family.task, "library": library}
        return {name: value for name, value in found.items() if value}


class Model(ABC):
    """A loaded model. Tensors live here; nothing in the model is changed by asking."""

    info: ModelSpec
    #: what the user gave: a pipeline, or the model's own module
    host: Any = None

    @property
    def family(self) -> FamilyTraits:
        """The family that knows this model."""
        return self.info.family

    def modules(self, group: str) -> tuple[ModuleRef, ...]:
        """Modules of a named group, as in `ModelSpec.modules`."""
        return self.info.modules(group)

    def readers(self) -> tuple[ModuleRef, ...]:
        """Modules for which one linear map of the text rows stands, as in `ModelSpec.readers`."""
        return self.info.readers()

    def columns(self, ref: ModuleRef) -> slice:
        """Which columns of a text row (`TextEncoder.rows`) a reader takes."""
        return self.family.columns(self.info, ref)

    @abstractmethod
    def weight(self, ref: ModuleRef) -> Tensor:
        """Effective weight, detached; do not write to it."""

    def base_weight(self, ref: ModuleRef) -> Tensor:
        """Weight without the edits that are applied at the moment; the effective one where the host cannot tell."""
        return self.weight(ref)

    def check_readable(self) -> None:  # noqa: B027  # most hosts can read theirs
        """Refuses a model whose weights a method cannot read.

        Raises:
            Unsupported: quantised, or not loaded.
        """

    def check_complete(self) -> None:  # noqa: B027  # most hosts are
        """Refuses a host that was loaded without a part that it answers with.

        Raises:
            Unsupported: says which part.
        """

    @abstractmethod
    def module(self, ref: ModuleRef) -> nn.Module:
        """The live module (training methods attach their deltas here)."""

    def own_parameters(self) -> tuple[nn.Parameter, ...]:
        """Parameters that take no gradient while changes beside them are trained."""
        return tuple(part for ref in self.info.refs for part in self.module(ref).parameters(recurse=False))

    @abstractmethod
    def fingerprint(self) -> Mapping[str, Fingerprint]:
        """Fingerprint per component that can be edited."""

    @property
    @abstractmethod
    def device(self) -> Any:
        """Device on which the model computes."""

    @property
    @abstractmethod
    def dtype(self) -> Any:
        """Dtype in which the model computes."""

    @property
    def text(self) -> TextEncoder:
        """Prompts to text rows; raises `Unsupported` where the model has no text encoder."""
        found: TextEncoder = self._capable(TEXT, TextEncoder)
        return found

    @property
    def denoiser(self) -> Denoiser:
        """Predictions of noise; raises `Unsupported` where the model makes none."""
        found: Denoiser = self._capable(DENOISER, Denoiser)
        return found

    @property
    def codec(self) -> ImageCodec:
        """Pictures to latents; raises `Unsupported` where the model has no picture encoder."""
        found: ImageCodec = self._capable(CODEC, ImageCodec)
        return found

    @property
    def classifier(self) -> Classifier:
        """Scores of pictures; raises `Unsupported` where the model classifies nothing."""
        found: Classifier = self._capable(CLASSIFIER, Classifier)
        return found

    @property
    def language(self) -> CausalLM:
        """Scores of texts; raises `Unsupported` where the model is no language model."""
        found: CausalLM = self._capable(LANGUAGE, CausalLM)
        return found

    def _capable(self, role: str, kind: Any) -> Any:
        """This model itself, if it keeps the contract of a capability."""
        self.info.components(role)
        if not isinstance(self, kind):
            raise Unsupported(f"{self.info.model} has no {role} on this host")
        return self


Picker = Callable[[ModuleRef], bool]


class FamilyTraits(ABC):
    """What is specific to one architecture, except how its models are loaded; see `families.base.Family`."""

    id: str
    title: str
    components: tuple[str, ...]
    groups: Mapping[str, Picker]
    #: the component whose projections read the text rows, in a text-to-image model
    denoiser: str = "unet"
    #: file layouts that an artifact gets unless asked otherwise; empty: those of `artifacts.artifact.DEFAULT_LAYOUTS`
    layouts: tuple[str, ...] = ()
    #: the Hub's name for what the models do, for cards; empty: text-to-image
    task: str = ""
    #: what only some models can do, and the module group that shows it
    features: Mapping[str, str] = MappingProxyType({EMBEDDING_MAP: "cross_kv", CROSS_ATTENTION: "cross_kv"})
    #: diffusers class of the pipeline
    pipeline: str = ""
    #: whether a text row depends only on the rows before it
    causal: bool = False
    #: what brings text to the denoiser beside the rows that `EMBEDDING_MAP` stands for; empty: nothing
    beside_rows: str = ""
    #: whether the denoiser's context begins with the rows of the first text encoder
    clip_rows: bool = True
    #: kinds of model, besides ``id``, that `info` may name in ``profiles``; presets have tables for them
    presets: tuple[str, ...] = ()
    #: last names of the modules of kind `TRANSPOSED`, for files that hold every linear map as (out, in)
    transposed: frozenset[str] = frozenset()
    #: text encoders with a projection, whose live module still has a ``text_model`` child in transformers 5
    projected: tuple[str, ...] = ("text_encoder_2",)
    #: ModelSpec architecture and sd-scripts base version, for file headers
    modelspec: str = ""
    base_version: str = ""
    #: name of the version in A1111's side files, by context width (0: any)
    ui_versions: Mapping[int, str] = MappingProxyType({})

    @property
    def roles(self) -> Mapping[str, str | tuple[str, ...]]:
        """Capability -> the part or parts of a model that have it; a text-to-image model unless a family says more.

        ``{"classifier": "model"}`` is a family of classifiers, ``{"language": "model"}`` one of language models.
        """
        encoders = tuple(name for name in self.components if name.startswith("text_encoder"))
        return {DENOISER: self.denoiser, **({TEXT: encoders} if encoders else {})}

    @property
    def offers(self) -> frozenset[str]:
        """Capabilities of the family's models, and what at least some of them can do."""
        return frozenset(self.roles) | {name for name, group in self.features.items() if group in self.groups}

    @abstractmethod
    def detect(self, configs: Mapping[str, Mapping[str, Any]]) -> bool:
        """Whether a model with these component configurations belongs here."""

    @abstractmethod
    def info(self, model: str, configs: Mapping[str, Mapping[str, Any]]) -> ModelSpec:
        """The model as known from its configuration, without weights."""

    def precision(self, configs: Mapping[str, Mapping[str, Any]], adapted: bool = False) -> str:
        """In what precision a model's weights are loaded on an accelerator where nobody says otherwise.

        Args:
            configs: of the model's parts.
            adapted: whether they stay as they are below a change in float32 that is trained; half of the memory is
                worth it there.
        """
        return "bfloat16" if adapted and {DENOISER, TEXT} & set(self.roles) else "float32"

    def stem(self, layout: str, component: str, path: str, config: Mapping[str, Any] | None = None) -> str:
        """Name of a module in files of ``layout``; ``config`` of the denoiser where the numbering depends on it.

        Raises:
            Unsupported: the family has no names for this layout.
        """
        raise Unsupported(f"family {self.id} has no names for layout {layout}")

    def locate(self, layout: str, stem: str, config: Mapping[str, Any] | None = None) -> tuple[str, str] | None:
        """(component, module path) of a file name, inverse of `stem`; None if it is not of this family."""
        raise Unsupported(f"family {self.id} has no names for layout {layout}")

    def encode_ids(self, pipe: Any, ids: Mapping[str, Tensor]) -> tuple[Tensor, Tensor | None]:
        """Context (prompts, tokens, width) and pooled embedding of a diffusers pipeline for token numbers.

        Args:
            pipe: the pipeline.
            ids: text encoder -> (prompts, tokens).

        Raises:
            Unsupported: the family does not know how.
        """
        raise Unsupported(f"family {self.id} cannot run its text encoders on token numbers")

    def columns(self, info: ModelSpec, ref: ModuleRef) -> slice:
        """Which columns of a text row a reader takes; all, unless rows of several readers lie side by side."""
        return slice(None)

    def spare_encoders(self, info: ModelSpec) -> tuple[str, ...]:
        """Text encoders that this model may be without and still reads prompts."""
        return ()

    def padding(self, info: ModelSpec) -> tuple[int, ...]:
        """Lengths to which prompts are padded for an encoder without a mask, whose rows `TextEncoder.rows` lists."""
        return ()

    def places(self, info: ModelSpec) -> Mapping[str, int]:
        """Path of a layer of the denoiser -> places (of the picture, of the text) at which it computes for one sample.

        From it plans know what a pass takes; empty where nobody knows.
        """
        return {}

    def other_values(self, info: ModelSpec) -> int:
        """Numbers in parts of the model that cannot be edited but take memory when prompts are encoded."""
        return 0

    def text_layers(self, info: ModelSpec, component: str) -> int:
        """How many layers of a text encoder the denoiser's context passes through.

        Raises:
            Unsupported: no such text encoder.
        """
        raise Unsupported(f"family {self.id} has no trainable text encoder {component}")

    def modules(self, info: ModelSpec, group: str) -> tuple[ModuleRef, ...]:
        """Modules of a named group; see `ModelSpec.modules`."""
        if group not in self.groups:
            raise Unsupported(
                f"family {self.id} has no module group '{group}'; it offers {', '.join(sorted(self.groups))}"
            )
        found = tuple(ref for ref in info.refs if self.groups[group](ref))
        if not found:
            raise Unsupported(f"{info.model} has no modules in group '{group}' of family {self.id}")
        return found
