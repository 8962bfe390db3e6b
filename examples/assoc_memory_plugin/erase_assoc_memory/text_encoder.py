"""The guard on the embeddings of a model's own text encoder: it also finds names that mean nearly the same."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from erase_assoc_memory.coding import Rows, WindowEncoder

_BATCH = 64


class PipelineEncoder(WindowEncoder):
    """Rows of the end token, from the first text encoder of a diffusers pipeline.

    Args:
        pipe: has ``tokenizer`` and ``text_encoder`` (CLIP); what `erase_plugins.load` returns.
    """

    directions = 8
    tau = 0.65

    def __init__(self, pipe: Any) -> None:
        self.tokenizer, self.encoder = pipe.tokenizer, pipe.text_encoder
        weight = next(iter(self.encoder.parameters())).detach().float().cpu().numpy()
        self.dim = int(self.encoder.config.hidden_size)
        # embeddings of another encoder, or of a fine-tuned one, have nothing to do with the stored codes
        digest = hashlib.sha256(np.ascontiguousarray(weight[::97]).tobytes()).hexdigest()[:12]
        self.id = f"text-encoder-{self.dim}-{digest}"
        self._known: dict[str, Rows] = {}

    def embed(self, windows: Sequence[str]) -> Rows:
        new = [window for window in dict.fromkeys(windows) if window not in self._known]
        for first in range(0, len(new), _BATCH):
            part = new[first : first + _BATCH]
            self._known.update(zip(part, self._encode(part), strict=True))
        found = np.stack([self._known[window] for window in windows])
        if len(self._known) > 50_000:
            self._known.clear()
        return found

    def _encode(self, texts: list[str]) -> Rows:
        import torch

        found = self.tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self.tokenizer.model_max_length,
            return_tensors="pt",
        )
        ids = found.input_ids.to(next(iter(self.encoder.parameters())).device)
        with torch.no_grad():
            hidden = self.encoder(ids)[0]
        first_end = (ids == self.tokenizer.eos_token_id).int().argmax(1)
        return np.asarray(hidden[torch.arange(len(ids)), first_end].float().cpu().numpy(), np.float32)
