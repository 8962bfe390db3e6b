"""What looks at pictures for the suite ``standard-metrics``: CLIP, the network of LPIPS and Inception.

Nothing of them is part of this package. CLIP is read from a folder or the Hub client's cache; the other two come from
where torchmetrics takes them, which is PyTorch's own cache after the first time.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from erase_plugins.errors import MissingExtra, RequestError

EXTRA = "metrics"
SUITE = "standard-metrics"
_AT_ONCE = 16


@contextmanager
def opening(what: str, metrics: str, how: str) -> Iterator[None]:
    """One line for weights that are not there, whatever the reader raises.

    Args:
        what: is opened.
        metrics: cannot be measured without it.
        how: to get it.
    """
    try:
        yield
    except ImportError as error:
        raise MissingExtra(f"suite {SUITE}", EXTRA) from error
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise RequestError(
            f"{what} cannot be opened ({type(error).__name__}); {how}, or leave {metrics} out of the option metrics"
        ) from error


def as_bytes(pictures: Tensor) -> Tensor:
    """Pictures in 0..1 as the encoders were trained to see them, in 0..255."""
    return (pictures * 255).round().clamp(0, 255).to(torch.uint8)


class Features(nn.Identity):
    """Stands for an encoder where torchmetrics asks for one: features are made once, and given instead of pictures."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.num_features = count


class Clip(nn.Module):
    """A CLIP model whose features are plain rows, in every version of transformers."""

    def __init__(self, place: str, device: str) -> None:
        super().__init__()
        name = place.rstrip("/").split("/")[-1]
        how = "give the option clip a folder with config, weights (safetensors), tokenizer and image processor"
        with opening(f"the CLIP model '{name}'", "clip and cmmd", how):
            from transformers import CLIPImageProcessor, CLIPModel, CLIPProcessor, CLIPTokenizer

            self.clip = CLIPModel.from_pretrained(place, local_files_only=True, use_safetensors=True).train(False)
            tokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)
            images = CLIPImageProcessor.from_pretrained(place, local_files_only=True)
            self.processor = CLIPProcessor(images, tokenizer)
        self.config, self.device = self.clip.config, device
        self.to(device)

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Rows of preprocessed pictures."""
        return self.clip.visual_projection(self.clip.vision_model(pixel_values=pixel_values).pooler_output)

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Rows of tokenized texts."""
        found = self.clip.text_model(input_ids=input_ids, attention_mask=attention_mask)
        return self.clip.text_projection(found.pooler_output)

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """Rows (n, d) of pictures in 0..1."""
        rows = []
        for part in as_bytes(pictures).split(_AT_ONCE):
            shown = self.processor.image_processor(images=list(part), return_tensors="pt")["pixel_values"]
            rows.append(self.get_image_features(shown.to(self.device)).float().cpu())
        return torch.cat(rows)

    @torch.no_grad()
    def scores(self, pictures: Tensor, texts: Sequence[str]) -> list[float]:
        """CLIP score of every picture with its text, by torchmetrics: 100 x cosine, 0 where that is negative."""
        from torchmetrics.multimodal import CLIPScore

        metric = CLIPScore(lambda: (self, self.processor))
        found = []
        for picture, text in zip(as_bytes(pictures), texts, strict=True):
            metric.reset()
            metric.update(picture.to(self.device), text)
            found.append(float(metric.compute()))
        return found

    def fingerprint(self) -> str:
        """Hash of its weights."""
        digest = hashlib.sha256()
        for name, tensor in sorted(self.clip.state_dict().items()):
            digest.update(name.encode() + tensor.float().cpu().numpy().tobytes())
        return digest.hexdigest()[:16]


class Lpips:
    """LPIPS between pictures, by torchmetrics."""

    def __init__(self, network: Any, device: str) -> None:
        how = f"torchvision fetches its {network} network when it is used online for the first time"
        with opening(f"LPIPS ({network})", "lpips", how):
            from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

            self.metric = LearnedPerceptualImagePatchSimilarity(network, normalize=True).to(device)
        self.device = device

    @torch.no_grad()
    def distances(self, first: Tensor, second: Tensor) -> list[float]:
        """Of every pair of pictures in 0..1."""
        pairs = zip(first.clamp(0, 1).split(1), second.clamp(0, 1).split(1), strict=True)
        return [float(self.metric(a.to(self.device), b.to(self.device))) for a, b in pairs]


class Inception:
    """Features of the network that FID and KID are named after, as torchmetrics reads it."""

    def __init__(self, device: str) -> None:
        how = "torch-fidelity fetches its weights when it is used online for the first time, or set features=clip"
        with opening("Inception", "fid and kid", how):
            from torchmetrics.image.fid import FrechetInceptionDistance

            self.network: Any = FrechetInceptionDistance(2048).inception.to(device)
        self.device = device

    @torch.no_grad()
    def features(self, pictures: Tensor) -> Tensor:
        """Rows (n, 2048) of pictures in 0..1."""
        parts = as_bytes(pictures).split(_AT_ONCE)
        return torch.cat([self.network(part.to(self.device)).float().cpu() for part in parts])
