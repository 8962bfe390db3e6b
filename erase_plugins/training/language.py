"""The base class of methods that make a language model forget texts. No torch at import.

The total is ``forget_weight`` F + ``retain_weight`` R. F is the method's own; R is the mean negative log-likelihood of
the retained tokens, or the divergence KL(before || now) at their positions. Tokens of prompts and padding count
nowhere. The unchanged model is the same one with the adapters switched off.

A text whose row says how the same would sound of somebody unknown (``unknown``) leaves F once it is as unlikely as that
was at the start, and training ends when all of them are: what never was learned is unlikely, not impossible.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.optimizers import check_optimizer
from erase_plugins.errors import EraseError, RequestError
from erase_plugins.families.capabilities import LANGUAGE
from erase_plugins.families.facts import asked, named, tells_of_others
from erase_plugins.families.scores import Scores
from erase_plugins.families.texts import Pair, Texts, answered, apart, encoded, tokenizer_of
from erase_plugins.hints import Hint
from erase_plugins.options import as_dict
from erase_plugins.training.asked import Asked, ask, divergence
from erase_plugins.training.language_options import LanguageOptions
from erase_plugins.training.likelihood import likelihoods, note_likelihood, rise_of_retained, tell_likelihood
from erase_plugins.training.method import TrainedMethod, TrainingRun
from erase_plugins.training.text_requests import REFUSAL, check_texts
from erase_plugins.training.unknown import Bounds, bounded, by_excess
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.families.base import ModelSpec, ModuleRef

#: rise of the retained negative log-likelihood (nat per token) from which a run warns
_HARM = 0.2
#: bytes that computing blocks again must save before a plan speaks of it
_MUCH = 1 << 30
#: bytes of weights from which it names the smaller type
_LARGE = 8 << 30


@dataclass
class Sets:
    """The texts of a run: what is to go, what is to stay (None: nothing is held), and answers in place of the first.

    ``parts`` are those of what is to go with their bounds (`training.unknown`), None without bounds.
    """

    forget: Texts
    retain: Texts | None
    answers: Texts | None = None
    parts: Texts | None = None


class LanguageMethod(TrainedMethod):
    """A method that trains a language model on texts to forget and texts to retain; it has `forget_loss`."""

    needs: frozenset[str] = frozenset({LANGUAGE})
    packages: frozenset[str] = frozenset({"transformers"})
    kinds: frozenset[str] = frozenset({"fact", "person", "object", "dataset", "behaviour"})
    produces: frozenset[str] = frozenset({"lowrank", "dense"})
    reads_data = True
    #: whether the loss asks how likely a text was before
    compares = False
    #: whether something is said in place of what is forgotten
    answers = False
    #: whether its loss is one of what the model says, so that passes go to its end
    scored: ClassVar[bool] = True
    Options: type = LanguageOptions
    work_files: ClassVar[tuple[str, ...]] = ()
    contract_options: ClassVar[dict[str, Any]] = {"steps": 3, "checkpoint_every": 1}

    @abstractmethod
    def forget_loss(self, run: TrainingRun, forget: Asked, answers: Asked | None) -> Tensor:
        """What makes the model forget: a scalar of a batch, and of its answers where the method has `answers`."""

    def modules(self, info: ModelSpec, options: Any) -> Sequence[ModuleRef]:
        return info.modules(options.modules)

    def settle(self, options: Any, request: EraseRequest, info: ModelSpec) -> Any:
        check_texts(self.id, request, info, self.answers)
        if options.retain_weight > 0 and not request.retain_data and not tells_of_others(request):
            raise RequestError(
                f"{self.id} without texts to retain forgets everything; give some: ",
                Hint("retain", "others.jsonl"),
                " (or set retain_weight=0 if you mean it)",
            )
        return options

    def plan(self, request: EraseRequest, info: ModelSpec) -> EditPlan:
        """The plan with its cost, from configuration alone."""
        from erase_plugins.training.plan import place, seconds_of, trainable, trained_bytes
        from erase_plugins.training.text_memory import batch_of, lengths_of, step_bytes

        request = named(request)
        options = self.resolved(request, info)  # type: ignore[arg-type]  # a language model has no latents
        check_optimizer(options.optimizer, request.device)
        refs = self.modules(info, options)
        values, size = trainable(refs, options.lora_rank), sum(math.prod(ref.shape) for ref in info.refs)
        sets = [lengths_of(request, part, options.max_tokens) for part in self.read(request, options)]
        batches = [batch_of(part, options.batch) for part in sets]
        tokens = sum(sum(length.tokens for length in part) / len(part) * options.batch for part in sets)
        longest = max(length.tokens for part in sets for length in part)
        scored = self.scored or getattr(options, "retain_term", "") == "nll"
        step, less = (
            step_bytes(info, refs, batches, longest, dtype=request.dtype, again=again, scored=scored)
            for again in (options.recompute, True)
        )
        notes = list(self.notes(request, options))
        if step - less > _MUCH:
            notes.append(f"recompute=true takes {(step - less) / 2**30:.1f} GiB less, for about a third more time")
        if request.dtype == "float32" and 4 * size > _LARGE:
            notes.append(f"weights take {4 * size / 2**30:.0f} GiB in float32, and half of it with dtype=bfloat16; "
                         "what is trained stays float32")  # fmt: skip
        return EditPlan(
            request=request, options=as_dict(options), modules=tuple(map(place, refs)), steps=options.steps,
            seconds=seconds_of(3.0 * options.steps * 2.0 * size * tokens, request.device, info.refs),
            memory_bytes=trained_bytes(values, options.optimizer) + step,
            file_bytes=4 * values, notes=tuple(notes), produces=self.made(options),
        )  # fmt: skip

    def read(self, request: EraseRequest, options: Any) -> list[list[Pair]]:
        """The sets of texts that go through the model in every step."""
        try:
            forget, kept = asked(request)
            answers = [answered(forget, REFUSAL)] * self.answers
        except EraseError:  # the run says so; a plan may be made before there are data
            forget, kept, answers = [], [], [[]] * self.answers
        return [forget, *[kept] * (options.retain_weight > 0), *answers]

    def spare(self, run: TrainingRun) -> AbstractContextManager[None]:
        """Inside, blocks are computed again on the way back where that is asked for."""
        from erase_plugins.engine.fact_editing import block_of
        from erase_plugins.training.recomputing import recomputed

        refs = run.target.info.modules("mlp_out") if run.options.recompute else ()
        return recomputed([block_of(run.target, ref) for ref in refs])

    def retain(self, run: TrainingRun) -> None:
        """Nothing of a teacher is stored: what is retained are texts."""

    def prepare(self, run: TrainingRun) -> Sets:
        request, options = run.request, run.options
        run.stack.enter_context(self.spare(run))
        forget, kept = asked(request)
        kept = kept if options.retain_weight > 0 else []
        apart(forget, kept)
        answers = None
        if self.answers:
            said = {item.anchor or REFUSAL for item in request.forget}
            if len(said) > 1:
                raise RequestError(
                    f"{self.id} takes one answer for everything that is forgotten; give ", Hint("to", before="one")
                )
            answers = answered(forget, said.pop())
        tokenizer = tokenizer_of(run.target)

        def read(pairs: Sequence[Pair]) -> Texts:
            return encoded(run.target, tokenizer, pairs, options.max_tokens)

        sets = Sets(read(forget), read(kept) if kept else None, read(answers) if answers else None)
        if cut := sum(part.cut for part in (sets.forget, sets.retain, sets.answers) if part is not None):
            run.ctx.warn(f"{cut} texts are longer than {options.max_tokens} tokens or than the model reads; their ends "
                         "are not trained on")  # fmt: skip
        if run.options.until_unknown:
            # what a model said itself is compared with the same words only, so that every such row is a form of its own
            forms = [pair if pair.ends else replace(pair, prompt=pair.prompt + pair.begun + pair.completion)
                     for pair in forget]  # fmt: skip
            sets.parts = bounded(run, sets.forget, forms, (sets.retain, kept), lambda texts: self._ask(run, texts))
        self._note(run, "before", sets)
        if self.compares:
            sets.forget = self._compared(run, sets.forget)
            sets.parts = None if sets.parts is None else self._compared(run, sets.parts)
            sets.answers = None if sets.answers is None else self._compared(run, sets.answers)
        return sets

    def loss(self, run: TrainingRun, step: int) -> Tensor:
        import torch

        sets, options = run.state, run.options.at(step)
        rows = self._rows(run, "forget", sets.forget, step)
        forget = self._ask(run, sets.forget[rows])
        answers = None if sets.answers is None else self._ask(run, sets.answers[rows])
        kept = None if sets.retain is None else self._ask(
            run, sets.retain[self._rows(run, "retain", sets.retain, step)]
        )  # fmt: skip
        if sets.parts is None or not isinstance(run.carried, Bounds):
            return self.total(run, self.forget_loss(run, forget, answers), kept, options)
        places = torch.cat([rows, rows + len(sets.forget)])
        forget = forget.labelled(sets.parts[places], torch.arange(2 * len(rows), device=rows.device) % len(rows))
        cost, bound = (forget.nll / forget.counts.clamp_min(1)).detach(), sets.parts.bound[places]
        pushing = run.carried.pushing(places, cost, bound)
        pushed, held = 0.0 * forget.mean, options.hold * forget.beyond
        if bool(pushing.any()):
            left = pushing.nonzero()[:, 0]
            left = left[by_excess(cost[left], bound[left])]
            answers = None if answers is None else answers.part(left % len(rows))
            pushed = self.forget_loss(run, forget.part(left), answers)
        return self.total(run, pushed, kept, options) + held

    def total(self, run: TrainingRun, forget: Tensor, kept: Asked | None, options: Any) -> Tensor:
        """Both terms together."""
        if kept is None:
            return options.forget_weight * forget
        if options.retain_term == "nll":
            held = kept.mean
        else:
            before = self.unchanged(run, kept.texts)
            held = divergence(kept.scores, before, kept.texts.labels, options.temperature)
        return options.forget_weight * forget + options.retain_weight * held

    def finish(self, run: TrainingRun) -> Edit:
        self._note(run, "after", run.state)
        numbers, rise = run.ctx.numbers, rise_of_retained(run.ctx)
        tell_likelihood(run.ctx)
        if rise > _HARM:
            run.ctx.warn(
                f"retained texts became less likely by {rise:.2f} nat per token; lower lr or steps, or raise "
                "retain_weight"
            )
        limit = 3 * math.log(run.target.language.words)
        if numbers["forget_nll_after"] > limit:
            run.ctx.warn(
                f"forgotten texts are far less likely than random ones ({numbers['forget_nll_after']:.1f} nat per "
                "token), which gives away what was forgotten; lower lr or steps"
            )
        return super().finish(run)

    def unchanged(self, run: TrainingRun, texts: Texts) -> Scores:
        """What the model without adapters says of texts, without gradients."""
        import torch

        with run.adapters.disabled(), torch.no_grad():
            found = self._ask(run, texts).scores

        def read(states: Tensor) -> Tensor:
            with run.adapters.disabled():
                return found.read(states)

        return replace(found, read=read)

    def _ask(self, run: TrainingRun, texts: Texts) -> Asked:
        return ask(run.target, texts)

    def _rows(self, run: TrainingRun, name: str, texts: Texts, step: int) -> Tensor:
        from erase_plugins.engine.loop import shuffled

        return shuffled(run.ctx, name, len(texts), min(run.options.batch, len(texts)), step).to(texts.ids.device)

    def _compared(self, run: TrainingRun, texts: Texts) -> Texts:
        """The texts with their likelihood under the unchanged model."""
        with run.adapters.disabled():
            return replace(texts, before=likelihoods(run.target, texts, run.options.batch)[0])

    def _note(self, run: TrainingRun, when: str, sets: Sets) -> None:
        for name, texts in (("forget", sets.forget), ("retain", sets.retain)):
            if texts is not None:
                note_likelihood(run.target, run.ctx, name, when, texts, run.options.batch)
