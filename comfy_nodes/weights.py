"""Weights of a loaded ComfyUI model, with and without the patches that hang on it. The model is never loaded for it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from .row_maps import carried

#: a patched weight is rounded to these as every file of a model is, and no more
_BAKES = ("torch.float32", "torch.float16", "torch.bfloat16")


class PatchedWeights:
    """Parameters of a ModelPatcher by their full key. A map of text rows that they carry is told by `row_maps.seen`.

    Args:
        patcher: MODEL, or the patcher of a CLIP.
        prefix: only keys with this prefix.
    """

    def __init__(self, patcher: Any, prefix: str = "") -> None:
        self.patcher = patcher
        try:
            self._patches = patcher.get_key_patches(prefix or None)
        except AttributeError:  # GGUF lists weights that are only there to count memory
            self._patches = _listed(patcher, prefix)
        found = carried(patcher)
        for key in () if found is None else found.loaded_keys & self._patches.keys():
            self._patches[key] = self._patches[key][:-1]

    def __contains__(self, key: str) -> bool:
        return key in self._patches

    def __iter__(self) -> Any:
        return iter(self._patches)

    def base(self, key: str) -> Tensor:
        """Weight without any patch, in its stored dtype (descaled where it is stored scaled)."""
        weight = self._patches[key][0][0]
        return self._plain(key) if _quantised(weight) else weight.detach()

    def sample(self, key: str) -> tuple[tuple[int, ...], Tensor]:
        """Shape and middle value of a weight without any patch, for a fingerprint.

        No number (NaN) where it is kept in few bits, as in GGUF and fp8 files: it is not that of the file in 16 bits,
        and no sign of another model either.
        """
        import torch

        weight = self._patches[key][0][0].detach()
        shape = tuple(weight.shape)
        if kept_by_module(weight):
            weight = weight.as_subclass(torch.Tensor)
        if _quantised(weight) or tuple(weight.shape) != shape:
            return shape, torch.tensor(float("nan"))
        return shape, weight.reshape(-1)[weight.numel() // 2]

    def stored(self, key: str) -> Tensor:
        """Weight as it is stored."""
        return self._patches[key][0][0].detach()

    def effective(self, key: str) -> Tensor:
        """Weight in float32 with all patches and wrappers, as the model uses it."""
        value = self._plain(key)
        patches = self._patches[key][1:]
        if patches:
            import comfy.lora

            value = comfy.lora.calculate_weight(patches, value, key)
        for wrapper in getattr(self.patcher, "weight_wrapper_patches", {}).get(key, ()):
            value = wrapper(value)
        return value

    def _plain(self, key: str) -> Tensor:
        """A copy without any patch in float32, whatever the weight is stored as."""
        import torch

        weight, convert = self._patches[key][0]
        if kept_by_module(weight):
            module = self.patcher.model.get_submodule(key.rpartition(".")[0])
            if not hasattr(module, "get_weight"):  # a parameter by itself, which is never packed
                return weight.to(torch.float32, copy=True).as_subclass(torch.Tensor)
            hangs, weight.patches = weight.patches, []  # while the model is loaded they hang here, too
            try:
                return module.get_weight(weight, torch.float32).to(torch.float32, copy=True)
            finally:
                weight.patches = hangs
        return convert(weight.detach().to(torch.float32, copy=True), inplace=True).float()

    def effective_rows(self, key: str, rows: Tensor) -> Tensor:
        """Some rows of `effective`; the whole weight is only copied where something hangs on it."""
        weight, hangs = self._patches[key][0][0], self._patches[key][1:]
        if hangs or _quantised(weight) or getattr(self.patcher, "weight_wrapper_patches", {}).get(key):
            return self.effective(key)[rows.cpu()]
        return weight.detach()[rows.to(weight.device)].float()


def kept_by_module(weight: Any) -> bool:
    """Whether only its module can read a weight, as those of GGUF files: it adds patches at every use, exactly."""
    return hasattr(weight, "tensor_type")


def _quantised(weight: Any) -> bool:
    return not weight.is_floating_point() or weight.element_size() < 2 or not _ordinary(weight)


def _ordinary(weight: Any) -> bool:
    return type(weight).__name__ in ("Tensor", "Parameter")


def _listed(patcher: Any, prefix: str) -> dict[str, list[Any]]:
    """What `get_key_patches` gives, of the weights that are there."""
    found = dict(patcher.model.named_buffers()) | dict(patcher.model.named_parameters())
    patches, backup = patcher.patches, patcher.backup
    return {
        key: [(backup[key].weight if key in backup else value, lambda item, **_: item), *patches.get(key, ())]
        for key, value in found.items()
        if key.startswith(prefix)
    }


def unbaked(weights: Iterable[Tensor]) -> str:
    """Why a change of these weights, as they are stored, cannot be part of them; empty if it can."""
    for weight in weights:
        kind = str(weight.dtype)
        if kept_by_module(weight):
            return "the weights are those of a GGUF file, which nothing here writes; load the model in 16 bit for that"
        if kind not in _BAKES or not _ordinary(weight):
            name = kind.removeprefix("torch.") if kind not in _BAKES else type(weight).__name__
            return f"the weights are stored as {name}, which would round it away; load the model in 16 bit for that"
    return ""
