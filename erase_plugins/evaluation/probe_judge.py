"""A probe that is trained on pictures of the user's own, as a judge: ``--judge probe:FOLDER``.

FOLDER holds ``with`` (pictures that show the concept, for example those the base drew before the erasure), ``without``
(pictures that do not; what resembles the concept is worth most), and ``clip``, a CLIP model as transformers saves it,
on whose features the probe is trained. Whether the concept is there, the probe says; what else there is, CLIP does. The
probe is refused unless it tells pictures that were held out apart.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError
from erase_plugins.evaluation.clip_judge import ClipJudge, OpenedClip
from erase_plugins.hookspecs import hookimpl

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.evaluation.erase_eval.probe import Probe

_PICTURES = (".png", ".jpg", ".jpeg", ".webp")


class ProbeJudge(ClipJudge):
    """The entry in the registry; `opened` trains the judge."""

    id = "probe"
    title = "Probe trained on your own pictures (probe:FOLDER)"

    def score(self, images: Tensor) -> Mapping[str, Tensor]:
        raise RequestError("judge probe needs pictures; name them as probe:FOLDER")

    def opened(self, argument: str, erased: Sequence[str]) -> OpenedProbe:
        """The judge, trained on the pictures of a folder.

        Args:
            argument: folder with ``with``, ``without`` and ``clip``.
            erased: the concept that the pictures are about; one.

        Raises:
            RequestError: several concepts, or a part of the folder is missing.
            Unsupported: the probe does not pass its gate.
        """
        from erase_plugins.evaluation.erase_eval.look import features_of
        from erase_plugins.evaluation.erase_eval.probe import fit_probe

        folder = Path(argument)
        if len(erased) != 1:
            raise RequestError(f"judge probe knows one concept, not {len(erased)}; measure them one by one")
        files = {name: _files(folder, name) for name in ("with", "without")}
        clip = super().opened(str(folder / "clip"), erased)
        features = {name: features_of(clip, _read(part)) for name, part in files.items()}
        groups = {name: list(range(len(part))) for name, part in files.items()}
        probe = fit_probe(
            features["with"], features["without"], features["without"][:0],
            [groups["with"], groups["without"], []], erased[0],
        )  # fmt: skip
        return OpenedProbe(clip._model, clip._tokenizer, erased[0], probe)


class OpenedProbe(OpenedClip):
    """CLIP with a probe for one concept in front of it."""

    id, title = ProbeJudge.id, ProbeJudge.title

    def __init__(self, model: Any, tokenizer: Any, concept: str, probe: Probe) -> None:
        super().__init__(model, tokenizer, (concept,))
        self._probe, self._axis = probe, "style" if concept in self.axes["style"] else "concept"
        self._place = self.axes[self._axis].index(concept)

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Hash of probe, model and words."""
        return hashlib.sha256((super().fingerprint + self._probe.fingerprint).encode()).hexdigest()[:16]

    def score(self, images: Tensor) -> Mapping[str, Tensor]:
        """The best label of the axis is the concept where the probe sees it, and never where it does not."""
        import torch

        found = dict(super().score(images))
        rows = found[self._axis].clone()
        sees = torch.tensor(self._probe.present(self.features(images).double().numpy()))
        rows[:, self._place] = 0
        rows = rows / rows.sum(1, keepdim=True).clamp_min(1e-12)
        told = torch.tensor(self._probe.probability(self.features(images).double().numpy()), dtype=rows.dtype)
        share = torch.where(sees, told.clamp_min(0.501), torch.zeros_like(told))
        rows = rows * (1 - share)[:, None]
        rows[:, self._place] = share
        found[self._axis] = rows
        return found


def _files(folder: Path, name: str) -> list[Path]:
    try:
        found = sorted(item for item in (folder / name).iterdir() if item.suffix.lower() in _PICTURES)
    except OSError:
        found = []
    if not found:
        raise RequestError(
            f"judge probe: '{folder.name}' has no pictures in '{name}'; it needs with/ and without/ (PNG, JPEG or "
            "WebP) and clip/, a CLIP model"
        )
    return found


def _read(files: Sequence[Path]) -> Tensor:
    """Pictures (n, 3, 224, 224) in 0..1: cut to a square, since they need not be of one size."""
    import numpy as np
    import torch
    from PIL import Image, ImageOps

    rows = []
    for file in files:
        try:
            with Image.open(file) as picture:
                square = ImageOps.fit(picture.convert("RGB"), (224, 224), Image.Resampling.BICUBIC)
        except (OSError, ValueError) as error:
            raise RequestError(f"judge probe: '{file.name}' is no picture that can be read") from error
        rows.append(torch.from_numpy(np.asarray(square, dtype=np.float32) / 255).permute(2, 0, 1))
    return torch.stack(rows)


@hookimpl
def erase_judges() -> list[ProbeJudge]:
    return [ProbeJudge()]
