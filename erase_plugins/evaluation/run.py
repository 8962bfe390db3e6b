"""What suites measure and attacks attack: a model with artifacts, drawn with and without them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.errors import RequestError
from erase_plugins.evaluation.context import Progress
from erase_plugins.evaluation.draw import draw
from erase_plugins.families.diffusers_target import DiffusersTarget
from erase_plugins.families.target import Conditioning
from erase_plugins.runtime.apply import all_of, apply_to

_BASE_CACHE: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
_CACHED_SETS = 16
#: states of a subject: with its edit, without it, and as a model that cannot make anything sensible
ON, OFF, DESTROYED = "on", "off", "destroyed"
#: what subjects make and judges look at unless they say otherwise
IMAGE = "image"


@dataclass
class Subject:
    """What a suite measures or an attack attacks: a model with artifacts, a judge, and settings of the measurement.

    ``judge`` is None for a suite that needs none. ``queries`` counts what `generate` was asked for.
    """

    #: what `generate` returns: "image", later "text" or "logits"
    modality: ClassVar[str] = IMAGE
    pipe: Any
    target: DiffusersTarget
    model: str
    artifacts: list[Artifact]
    judge: Any
    erased: list[str]
    strength: float = 1.0
    images: int = 32
    seed: int = 0
    steps: int = 8
    guidance: float = 4.0
    any_base: bool = False
    progress: Progress | None = None
    drawn: Any = field(default=None, repr=False)
    queries: int = 0
    _stage: str = "base"

    def generate(
        self, inputs: Sequence[str], seeds: Sequence[int], *, edit: str = ON, strength: float | None = None
    ) -> Tensor:
        """What the model makes of ``inputs``: pictures (n, 3, height, width) in 0..1 from a text-to-image model.

        Args:
            inputs, seeds: one of each per answer.
            edit: "on", "off", or "destroyed" (a control: the base with its value projections shuffled).
            strength: of the edit when it is on; the subject's own if None.

        Raises:
            RequestError: another word for ``edit``, or called inside of a with-block of `edited` or `destroyed`.
        """
        if self._stage != "base":
            raise RequestError(f"generate() was called inside of a with-block ({self._stage}); use draw() there")
        with self.under(edit, strength):
            self.queries += len(inputs)
            return self.draw(inputs, seeds)

    def under(self, edit: str, strength: float | None = None) -> AbstractContextManager[None]:
        """The with-block of a state: "on", "off" or "destroyed"."""
        if edit not in (ON, OFF, DESTROYED) or (edit != ON and strength is not None):
            raise RequestError(f"edit={edit!r}, strength={strength!r}; edit is on (with a strength), off or destroyed")
        return self.edited(strength) if edit == ON else self.destroyed() if edit == DESTROYED else nullcontext()

    def draw(self, prompts: Sequence[str], seeds: Sequence[int], cond: Conditioning | None = None) -> Tensor:
        """Pictures of the pipeline as it is now, (n, 3, height, width) in 0..1.

        ``cond`` stands for the prompts where they are encoded already (with learned rows, say).
        """
        report = self.progress
        hook = None if report is None else (lambda done, total: report(self._stage, done, total))
        return draw(
            self.pipe,
            prompts,
            seeds,
            steps=self.steps,
            guidance=self.guidance,
            progress=hook,
            denoiser=self.target.denoiser,
            cond=cond,
        )

    @contextmanager
    def edited(self, strength: float | None = None) -> Iterator[None]:
        """The artifacts in force for the length of a with-block."""
        self._stage = "edited" if strength is None else f"strength {strength:g}"
        target = DiffusersTarget(self.pipe, None, self.target.family)
        level = self.strength if strength is None else strength
        handles = all_of(partial(apply_to, target, item, level, any_base=self.any_base) for item in self.artifacts)
        try:
            yield
        finally:
            for handle in reversed(handles):
                handle.remove()
            self._stage = "base"

    @contextmanager
    def destroyed(self) -> Iterator[None]:
        """Output channels of all value projections shuffled, for the length of a with-block."""
        self._stage = "destroyed"
        generator = torch.Generator().manual_seed(1)
        parameters = [self.target.module(ref).get_parameter("weight") for ref in self.target.modules("cross_v")]
        before = [parameter.data for parameter in parameters]
        try:
            for parameter, weight in zip(parameters, before, strict=True):
                order = torch.randperm(weight.shape[0], generator=generator)
                parameter.data = weight[order].contiguous()
            yield
        finally:
            for parameter, weight in zip(parameters, before, strict=True):
                parameter.data = weight
            self._stage = "base"

    def remembered(self, sets: Any, make: Callable[[Subject, Any], Any], tag: str) -> Any:
        """What ``make`` gives without any artifact; remembered per base, tag, prompts and sampler."""
        key = (
            tag,
            tuple((name, item.short) for name, item in sorted(self.target.fingerprint().items())),
            str(self.target.dtype), getattr(self.judge, "fingerprint", ""), self.steps, self.guidance,
            tuple((name, item.text, item.seed) for name, items in sets.items() for item in items),
        )  # fmt: skip
        if key in _BASE_CACHE:
            _BASE_CACHE.move_to_end(key)
            return _BASE_CACHE[key]
        _BASE_CACHE[key] = make(self, sets)
        while len(_BASE_CACHE) > _CACHED_SETS:
            _BASE_CACHE.popitem(last=False)
        return _BASE_CACHE[key]


def modality(judge: Any) -> str:
    """What a judge looks at: "image" unless it says otherwise."""
    return str(getattr(judge, "modality", IMAGE))
