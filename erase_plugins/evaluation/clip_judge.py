"""Zero-shot CLIP as a judge, for models that no other judge knows: ``--judge clip:FOLDER``.

FOLDER is a CLIP model as transformers saves it, or a Hub id in the client's cache. What it is asked about is the erased
concept among everyday things, so that a measurement has something to compare with. It errs more often than a judge
that was trained for a model; the suite erase-eval puts a trained probe on its features and refuses one that errs.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.families.base import TargetInfo

_GROUPS = {
    "animal": ("dog", "cat", "horse", "owl", "elephant", "fish", "rabbit", "spider"),
    "food": ("pizza", "apple", "bread", "cake", "banana", "soup"),
    "vehicle": ("car", "bicycle", "airplane", "boat", "train", "bus"),
    "thing": ("chair", "clock", "lamp", "book", "guitar", "umbrella", "cup", "telephone"),
    "place": ("mountain", "beach", "forest", "church", "bridge", "castle"),
    "nature": ("rose", "tree", "moon", "cloud", "waterfall", "mushroom"),
}
_SYNONYMS = {
    "dog": ("puppy", "hound"), "cat": ("kitten", "feline"), "car": ("automobile", "sedan"), "boat": ("ship", "vessel"),
    "airplane": ("jet", "aircraft"), "bicycle": ("bike", "two-wheeler"), "telephone": ("phone", "handset"),
    "horse": ("pony", "stallion"), "castle": ("fortress", "stronghold"), "church": ("chapel", "cathedral"),
    "cup": ("mug", "goblet"), "tree": ("oak", "pine"), "rabbit": ("bunny", "hare"),
}  # fmt: skip
_STYLES = ("photograph", "painting", "sketch")
_BACKGROUNDS = ("white", "red", "blue", "green")
_CAPTIONS = {"concept": "a picture of a {}", "style": "a {}", "background": "a {} background"}


@dataclass(frozen=True)
class Thing:
    """Something that can be drawn."""

    name: str
    group: str
    synonyms: tuple[str, ...] = ()


@dataclass(frozen=True)
class Things:
    """Everyday things and what was erased: what suites build prompts from."""

    concepts: tuple[Thing, ...]
    styles: tuple[str, ...] = _STYLES
    backgrounds: tuple[str, ...] = _BACKGROUNDS


class ClipJudge:
    """The entry in the registry; `opened` makes the judge."""

    id = "clip"
    title = "Zero-shot CLIP of your own (clip:FOLDER)"
    needs: frozenset[str] = frozenset()
    axes: Mapping[str, tuple[str, ...]] = {}
    fingerprint = ""
    #: what stands behind the colon
    argument = "FOLDER"

    def accepts(self, info: TargetInfo) -> bool:
        """Never of itself: it has to be asked for."""
        return False

    def score(self, images: Tensor) -> Mapping[str, Tensor]:
        raise RequestError("judge clip needs a CLIP model; name it as clip:FOLDER")

    def world(self) -> Any:
        return Things(())

    def opened(self, argument: str, erased: Sequence[str]) -> OpenedClip:
        """The judge with a model.

        Args:
            argument: folder or Hub id.
            erased: concepts that it is asked about besides everyday things.

        Raises:
            RequestError: no CLIP model there.
        """
        from transformers import AutoTokenizer, CLIPModel

        try:
            model = CLIPModel.from_pretrained(argument, local_files_only=True, use_safetensors=True)
            tokenizer = AutoTokenizer.from_pretrained(argument, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise RequestError(
                f"judge clip: '{argument.rstrip('/').split('/')[-1]}' holds no CLIP model that transformers loads "
                f"({type(error).__name__}); give a folder with config, weights (safetensors) and tokenizer"
            ) from error
        return OpenedClip(model.train(False), tokenizer, tuple(erased))


class OpenedClip(ClipJudge):
    """A CLIP model that is asked which of its words fits a picture best."""

    def __init__(self, model: Any, tokenizer: Any, erased: tuple[str, ...]) -> None:
        self._model, self._tokenizer = model, tokenizer
        known = {
            name: Thing(name, group, _SYNONYMS.get(name, ())) for group, names in _GROUPS.items() for name in names
        }
        new = {name: Thing(name, "erased") for name in erased if name not in (*known, *_STYLES)}
        self._things = Things((*known.values(), *new.values()))
        self.axes = {
            "concept": tuple(item.name for item in self._things.concepts), "style": _STYLES, "background": _BACKGROUNDS
        }  # fmt: skip

    def world(self) -> Things:
        return self._things

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Hash of its weights and words."""
        return self._hash

    @cached_property
    def _hash(self) -> str:
        digest = hashlib.sha256(repr(sorted(self.axes.items())).encode())
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    @cached_property
    def _texts(self) -> dict[str, Any]:
        import torch

        found = {}
        with torch.no_grad():
            for axis, labels in self.axes.items():
                captions = [_CAPTIONS[axis].format(label) for label in labels]
                given = self._tokenizer(captions, padding=True, truncation=True, return_tensors="pt")
                output = self._model.text_model(input_ids=given["input_ids"], attention_mask=given["attention_mask"])
                rows = self._model.text_projection(output.pooler_output)
                found[axis] = rows / rows.norm(dim=-1, keepdim=True)
        return found

    def features(self, images: Tensor) -> Tensor:
        """Unit image embeddings (n, d)."""
        import torch
        from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

        if not len(images):  # the vision model cannot take none
            return images.new_zeros(0, self._model.config.projection_dim)
        size = self._model.config.vision_config.image_size
        rows = []
        with torch.no_grad():
            for part in images.float().cpu().split(16):
                shown = torch.nn.functional.interpolate(part, (size, size), mode="bicubic", antialias=True).clamp(0, 1)
                mean, spread = (torch.tensor(item).view(3, 1, 1) for item in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
                output = self._model.vision_model(pixel_values=(shown - mean) / spread)
                rows.append(self._model.visual_projection(output.pooler_output))
        found = torch.cat(rows)
        return found / found.norm(dim=-1, keepdim=True)

    def score(self, images: Tensor) -> Mapping[str, Tensor]:
        rows, scale = self.features(images), self._model.logit_scale.exp().detach()
        return {axis: (scale * rows @ texts.T).softmax(-1) for axis, texts in self._texts.items()}


@hookimpl
def erase_judges() -> list[ClipJudge]:
    return [ClipJudge()]
