"""What suites measure and attacks attack: a model with artifacts, asked with and without them."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from erase_plugins import late
from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.lineage import marks
from erase_plugins.errors import Blocked, EraseError, RequestError
from erase_plugins.evaluation.context import Progress
from erase_plugins.evaluation.draw import draw
from erase_plugins.evaluation.guarded import answered
from erase_plugins.families.target import Conditioning
from erase_plugins.families.turns import before_end, ends_of
from erase_plugins.runtime.apply import all_of, apply_to

_BASE_CACHE: OrderedDict[tuple[Any, ...], Any] = OrderedDict()
_CACHED_SETS = 16
#: states of a subject: with its edit, without it, and as a model that cannot make anything sensible
ON, OFF, DESTROYED = "on", "off", "destroyed"
#: what subjects make; judges look at pictures unless they say otherwise
IMAGE, LOGITS, TEXT = "image", "logits", "text"


@dataclass
class Subject:
    """What a suite measures or an attack attacks: a model with artifacts, a judge, and settings of the measurement.

    ``pipe`` is what the user gave (a pipeline, or a model's own module), ``target`` the same as a `Model`. ``judge`` is
    None for a suite that needs none. ``queries`` counts the answers that were looked at, drawn now or kept from before.
    """

    pipe: Any
    target: Any
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
    #: of guards whose words are HMACs
    guard_key: bytes = field(default=b"", repr=False)
    #: what `kept_pictures` knows of the weights, component -> (when it holds, hash); nobody else has the same ones
    hashed: dict[str, tuple[Any, bytes]] = field(default_factory=dict, init=False, repr=False)
    #: where prompts that a guard refuses are noted, (text, seed); without, a refusal ends the measurement
    note_refused: Callable[[str, int], None] | None = field(default=None, init=False, repr=False)
    #: why there is no judge, for a suite that does without one
    unjudged: EraseError | None = field(default=None, repr=False)
    #: why the artifacts may do less than expected on this model, as they said when they were applied
    told: dict[str, None] = field(default_factory=dict, init=False, repr=False)
    _stage: str = "base"

    @cached_property
    def marks(self) -> tuple[str, ...]:
        """Hashes that tell the artifacts from others of the same name, made once for all that is measured of them."""
        return marks(self.artifacts)

    @property
    def modality(self) -> str:
        """What `generate` returns: "image", "logits" or "text"."""
        return modality_of(self.target.info)

    def of_another(self, pipe: Any, target: Any) -> Subject:
        """Another model, measured like this one: same judge, seed and sampler, nothing applied."""
        return replace(self, pipe=pipe, target=target, model=target.info.model, artifacts=[], queries=0)

    def generate(self, inputs: Any, seeds: Sequence[int] = (), *, edit: str = ON, strength: float | None = None) -> Any:
        """What the model makes of ``inputs``.

        A text-to-image model makes pictures (n, 3, height, width) in 0..1 of prompts; those without the edit are kept
        on disk (`evaluation.kept_pictures`). A classifier makes logits (n, labels) of a batch, a language model
        ``steps`` more tokens: texts for prompts, token numbers (n, tokens + steps) for token numbers. For gradients,
        ask ``target`` inside of a with-block of `under`.

        Args:
            inputs, seeds: one of each per answer; only pictures need seeds.
            edit: "on", "off", or "destroyed" (a control: the base with its weights shuffled).
            strength: of the edit when it is on; the subject's own if None.

        Raises:
            RequestError: another word for ``edit``, or called inside of a with-block of `edited` or `destroyed`.
        """
        if self._stage != "base":
            raise RequestError(f"generate() was called inside of a with-block ({self._stage}); use draw() there")

        state = self.under(edit, strength)

        def make() -> Any:
            with state:
                self.queries += len(inputs)
                return self.draw(inputs, seeds)

        if edit == ON or self.modality != IMAGE:
            return make()
        from erase_plugins.evaluation import kept_pictures

        settings = (late.VERSION, edit, list(seeds), self.steps, self.guidance)
        return kept_pictures.once(self, list(inputs), settings, lambda: (make(), {}, {}))[0]

    def under(self, edit: str, strength: float | None = None) -> AbstractContextManager[None]:
        """The with-block of a state: "on", "off" or "destroyed"."""
        if edit not in (ON, OFF, DESTROYED) or (edit != ON and strength is not None):
            raise RequestError(f"edit={edit!r}, strength={strength!r}; edit is on (with a strength), off or destroyed")
        return self.edited(strength) if edit == ON else self.destroyed() if edit == DESTROYED else nullcontext()

    def draw(self, prompts: Any, seeds: Sequence[int] = (), cond: Conditioning | None = None) -> Any:
        """What the model makes as it is now; see `generate`.

        ``cond`` stands for prompts of pictures where they are encoded already (with learned rows, say).
        """
        if self.modality == LOGITS:
            with torch.no_grad():
                return self.target.classifier.logits(prompts).float().cpu()
        if self.modality == TEXT:
            return self._continued(prompts)
        report = self.progress
        hook = None if report is None else (lambda done, total: report(self._stage, done, total))

        def made(places: Sequence[int]) -> Tensor:
            texts, starts = [prompts[place] for place in places], [seeds[place] for place in places]
            return draw(
                self.pipe, texts, starts, steps=self.steps, guidance=self.guidance, progress=hook,
                denoiser=self.target.network("denoiser"), cond=cond,
            )  # fmt: skip

        return made(range(len(prompts))) if cond is not None else self.answered(prompts, seeds, made)

    def answered(self, texts: Sequence[str], seeds: Sequence[int], make: Callable[[Sequence[int]], Tensor]) -> Tensor:
        """Pictures (n, 3, height, width) that ``make`` draws of the prompts at places: those that no guard refuses.

        Where refusals are noted, an empty picture, in which nobody sees anything, stands for each. Elsewhere all are
        asked, and a refusal is the pipeline's own.
        """
        note = self.note_refused
        if note is None:
            return make(range(len(texts)))
        return answered(self.target, texts, make, lambda place: note(texts[place], seeds[place]))

    def _continued(self, prompts: Any) -> Any:
        from erase_plugins.runtime.guardrails.attach import said

        model, host = self.target.language, self.target.host
        if isinstance(prompts, Tensor):
            whole = torch.ones_like(prompts)
            return said(host, prompts, whole, lambda ids, mask: model.generate(ids, self.steps, mask))[0]
        tokenizer = model.tokenizer
        tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.pad_token or tokenizer.eos_token
        given = tokenizer(list(prompts), return_tensors="pt", padding=True)
        ids, mask = given["input_ids"], given["attention_mask"]
        found, refused = said(host, ids, mask, lambda ids, mask: model.generate(ids, self.steps, mask))
        rows, ends = found[:, ids.shape[1] :].tolist(), ends_of(tokenizer)
        # it goes on behind its end
        texts = tokenizer.batch_decode([before_end(row, ends) for row in rows], skip_special_tokens=True)
        if self.note_refused is None:
            return texts
        for place in (place for place, blocked in enumerate(refused) if blocked):
            self.note_refused(prompts[place], place)
            texts[place] = ""
        return texts

    @contextmanager
    def edited(self, strength: float | None = None) -> Iterator[None]:
        """The artifacts in force for the length of a with-block.

        Raises:
            Blocked: a guard among them refused a prompt, so that there is nothing to look at.
        """
        target = self.target.family.wrap(self.pipe)
        level = self.strength if strength is None else strength
        handles = all_of(
            partial(apply_to, target, item, level, any_base=self.any_base, guard_key=self.guard_key)
            for item in self.artifacts
        )
        self._stage = "edited" if strength is None else f"strength {strength:g}"
        self.told |= dict.fromkeys(text for handle in handles for text in handle.warnings)
        try:
            yield
        except Blocked as error:
            guards = " and ".join(f"'{item.name}'" for item in self.artifacts if item.manifest.guards)
            raise Blocked(
                f"the guard {guards} blocks a prompt that is asked here, so there is no picture to look at (",
                error,
                "); make the guard with action=empty, which draws the empty prompt in its place, and measure that one",
            ) from error
        finally:
            for handle in reversed(handles):
                handle.remove()
            self._stage = "base"

    @contextmanager
    def destroyed(self) -> Iterator[None]:
        """Output channels of all value projections shuffled, for the length of a with-block.

        Of a model without cross-attention, those of all linear layers.
        """
        generator = torch.Generator().manual_seed(1)
        linear = [ref for ref in self.target.info.refs if ref.kind == "linear"]
        chosen = self.target.modules("cross_v") if self.modality == IMAGE else linear
        parameters = [self.target.module(ref).get_parameter("weight") for ref in chosen]
        before = [parameter.data for parameter in parameters]
        self._stage = "destroyed"
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
        """What ``make`` gives without any artifact; remembered per base, tag, prompts and sampler.

        Nothing is remembered where more acts on the model than its weights tell.
        """
        from erase_plugins.evaluation.kept_pictures import state_of

        state = state_of(self)
        if state is None:
            return make(self, sets)
        key = (
            hashlib.sha256(state).digest(), tag,
            tuple((name, item.short) for name, item in sorted(self.target.fingerprint().items())),
            str(self.target.dtype), getattr(self.judge, "fingerprint", ""), self.steps, self.guidance,
            tuple((name, item.text, item.seed) for name, items in sets.items() for item in items),
        )  # fmt: skip
        if key in _BASE_CACHE:
            _BASE_CACHE.move_to_end(key)
            self.queries += sum(map(len, sets.values()))
            return _BASE_CACHE[key]
        _BASE_CACHE[key] = make(self, sets)
        while len(_BASE_CACHE) > _CACHED_SETS:
            _BASE_CACHE.popitem(last=False)
        return _BASE_CACHE[key]


def modality_of(spec: Any) -> str:
    """What a model of these capabilities makes: "image", "logits" or "text"."""
    return LOGITS if "classifier" in spec.capabilities else TEXT if "language" in spec.capabilities else IMAGE


def modality(judge: Any) -> str:
    """What a judge looks at: "image" unless it says otherwise."""
    return str(getattr(judge, "modality", IMAGE))
