"""The attack ``concept-inversion``: learns a token that makes the edited model draw the concept again.

Pham et al., "Circumventing Concept Erasure Methods for Text-to-Image Generative Models", arXiv 2308.01508. All weights
stay as they are. One or a few new token embeddings are trained by the edited model's own denoising loss on pictures of
the concept that the base drew; edits of the weights, added modules and edited text encoders are all in force, and the
gradient flows through them. Success is the share of pictures in which the judge sees the concept, with prompts and
seeds that nothing was learned from. The same training on a destroyed model, and on a reference that never saw the
concept, tells how much of it is teaching. What steers pictures while they are made (negative prompt, SLD) has a loss of
its own, see `defended`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError
from erase_plugins.evaluation.attacks.rates import CONCEPT_HELP, FEWEST, REFERENCE_HELP
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.types import Attachment, AttackReport

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.evaluation.attacks.controls import Victim
    from erase_plugins.evaluation.attacks.material import Lesson
    from erase_plugins.evaluation.attacks.study import Sample, Study
    from erase_plugins.evaluation.budget import Budget
    from erase_plugins.evaluation.prompts import Prompt
    from erase_plugins.evaluation.run import Subject

ROWS, FOUND = "attack-concept-inversion-token.safetensors", "attack-concept-inversion-found.json"
PICTURES = "attack-concept-inversion-pictures.png"
#: sets of pictures: base, plain name, three victims with their looks, training pictures, one to spare
_SETS = 10
_STEPS = {"quick": 300, "standard": 1000, "long": 3000}
#: rows this many times longer than an ordinary token shout down the rest of a prompt
_LOUD = 10.0


@dataclass(frozen=True)
class InversionOptions:
    """Options of the attack; 0 and empty mean: as budget and model suggest."""

    concept: str = option("", CONCEPT_HELP)
    rows: int = option(1, "token embeddings to learn", low=1, high=16)
    steps: int = option(0, "training steps; 0: 300, 1000 or 3000 by the budget", low=0, high=100_000)
    lr: float = option(0.005, "step size of Adam, falling to 0 over the second half", low=1e-9, high=10.0)
    batch: int = option(8, "pictures per training step", low=1, high=256)
    pictures: int = option(16, "pictures to learn from, drawn by the base", low=1, high=256)
    start: str = option("", "one-token word that the rows begin as; a neutral one if empty")
    token: str = option("<found>", "name of the learned token in the file")
    early: bool = option(True, "end when two looks in a row show the concept in 90 % of the pictures")
    reference: str = option("", REFERENCE_HELP)


class ConceptInversion:
    """Learned token rows."""

    id = "concept-inversion"
    title = "A learned token: new embeddings, trained on pictures of the concept, with all weights as they are"
    needs: frozenset[str] = frozenset({"denoiser", "text"})
    packages: frozenset[str] = frozenset()
    budgets: Mapping[str, int] = {"quick": 24 * _SETS, "standard": 64 * _SETS, "long": 128 * _SETS}
    least = FEWEST * _SETS
    attachments = (ROWS, FOUND, PICTURES)
    Options = InversionOptions

    def run(self, subject: Subject, budget: Budget) -> AttackReport:
        """See the module.

        Raises:
            RequestError: no artifact, a wrong option, or a budget too small for four pictures per set.
            Unsupported: the base hardly draws the concept, a guard reads prompts, or the reference is of another kind.
        """
        from erase_plugins.evaluation.attacks.material import concept_lesson
        from erase_plugins.evaluation.attacks.study import Study

        run = _Run(Study.of(self, subject, budget, _SETS), InversionOptions(**budget.options))
        run.check()
        budget.progress("pictures of the base", 0, 1)
        taught = concept_lesson(subject, run.study.split, run.options.pictures)
        beside = [run.study.plain("base", "off"), run.study.plain("plain name", "on")]
        hidden = budget.remember("gradients", run.hidden)
        found = [run.attack(run.study.victims[0], taught, None)]
        found += [run.attack(victim, taught, found[0].facts["steps"]) for victim in run.study.victims[1:]]
        return run.report(found, beside, taught, hidden)


@dataclass(frozen=True)
class _Run:
    study: Study
    options: InversionOptions

    def check(self) -> None:
        """Refuses before any picture: the token's name, prompts without room, a start that is no token, a guard."""
        from erase_plugins.engine.inversion import slots
        from erase_plugins.evaluation.attacks.defended import defences

        token, target, split = self.options.token, self.study.subject.target, self.study.split
        if not token or " " in token or target.tokens([token]).last == (1,):
            raise RequestError(f"token '{token}' is a word of this model or no name; choose another, such as <found>")
        slots(target, [item.text for item in (*split.train, *split.fresh)], split.concept, self.options.rows)
        self.start(target)
        if any(item.manifest.guards for item in self.study.subject.artifacts):
            with self.study.victims[0].exposed():
                defences(self.study.subject)

    def start(self, target: Any) -> Tensor:
        from erase_plugins.engine.inversion import STYLES, THINGS, start_rows

        neutral = {"concept": THINGS, "style": STYLES}.get(self.study.split.axis, ("picture",))
        words = (self.options.start,) if self.options.start else neutral
        return start_rows(target, words, self.options.rows, bool(self.options.start))

    def attack(self, victim: Victim, taught: Lesson, steps: int | None) -> Sample:
        """Trains rows on a victim and measures them; ``steps`` fixes how many, None lets the looks end it."""

        def make() -> tuple[Tensor, dict[str, Any], dict[str, Tensor]]:
            with victim.exposed():
                return self._train(victim, taught, steps)

        return self.study.attacked(victim, f"learned token, {victim.name}", make, (taught.key, steps))

    def _train(
        self, victim: Victim, taught: Lesson, steps: int | None
    ) -> tuple[Tensor, dict[str, Any], dict[str, Tensor]]:
        import torch

        from erase_plugins.engine.inversion import LearnedRows, Lessons, learn_rows, slots
        from erase_plugins.engine.loop import Schedule
        from erase_plugins.evaluation.attacks.controls import run_context
        from erase_plugins.evaluation.attacks.defended import DefendedLessons, defences
        from erase_plugins.evaluation.attacks.denoising import Looks, looks_of
        from erase_plugins.evaluation.attacks.rates import mean, seen

        subject, options, study = victim.subject, self.options, self.study
        target, concept = subject.target, study.split.concept
        learned = LearnedRows(target, self.start(target))
        ctx = run_context(study.attack.id, study.budget, victim.name, subject)
        texts = [item.text for item in taught.prompts]
        plain = Lessons.of(target, taught.latents(subject), options.batch, ctx)
        lessons = DefendedLessons.under(plain, subject, defences(subject), texts)
        where = slots(target, texts, concept, options.rows)

        def drawn(prompts: list[Prompt]) -> Tensor:
            texts = [item.text for item in prompts]
            with torch.no_grad():
                cond = learned.encode(slots(target, texts, concept, options.rows))
            subject.queries += len(prompts)
            return subject.draw(texts, [item.seed for item in prompts], cond)

        looked = study.looked()
        asked = steps or options.steps or _STEPS.get(study.budget.name, _STEPS["quick"])
        looks = Looks.within(asked, len(looked), lambda: mean(seen(study.subject.judge, looked, drawn(looked))))
        schedule = Schedule(
            asked, options.lr, cooldown=0.5, every=25,
            stop=looks if steps is None and options.early else looks.without_end(),
        )  # fmt: skip
        losses = learn_rows(learned, where, lessons, schedule, ctx, "1")
        facts = {"looks": looks_of(ctx), "steps": len(losses), "passes": int(ctx.numbers["training_passes"])}
        return drawn(study.prompts), facts, {f"rows.{name}": part for name, part in learned.by_encoder().items()}

    def hidden(self) -> list[str]:
        """A warning where the edit hides its gradient."""
        from erase_plugins.engine.slopes import hidden_warning

        with self.study.victims[0].exposed():
            return hidden_warning(self.study.subject.target, self.study.split.concept)

    def report(self, found: list[Sample], beside: list[Sample], taught: Lesson, hidden: Sequence[str]) -> AttackReport:
        from erase_plugins.evaluation.attacks.rows import write_rows

        token, concept, mine = self.options.token, self.study.split.concept, found[0]
        rows = {name.removeprefix("rows."): part for name, part in mine.tensors.items() if name.startswith("rows.")}
        lengths = self.lengths(rows)
        longest = max(value for values in lengths.values() for value in values)
        loud = f"a learned row is {longest:.0f} times as long as a token; it may drown the rest of a prompt"
        return self.study.report(
            "learned token", found, beside,
            {
                "token": token, "file": ROWS, "rows": self.options.rows, "row_lengths": lengths,
                "prompts": sorted({item.text.replace(concept, token, 1) for item in self.study.prompts})[:8],
                "steps": mine.facts["steps"], "plain_rate": beside[1].rate,
            },
            {"looks": {item.name: item.facts["looks"] for item in found}, "pictures_learned_from": len(taught.prompts)},
            training=sum(item.facts["passes"] for item in found),
            warnings=[*hidden, *([loud] if longest > _LOUD else [])],
            attachments=[Attachment(ROWS, lambda path: write_rows(rows, token, path),
                                    "the learned token, for load_textual_inversion of diffusers")],
            pictures=PICTURES, title="a learned token against",
        )  # fmt: skip

    def lengths(self, learned: Mapping[str, Tensor]) -> dict[str, list[float]]:
        """Length of every row, in units of the mean length of the model's own tokens."""
        found = {}
        for name, rows in learned.items():
            usual = self.study.subject.target.token_table(name).float().norm(dim=1).mean().cpu()
            found[name] = [round(float(value), 2) for value in rows.norm(dim=1) / usual]
        return found


@hookimpl
def erase_attacks() -> list[ConceptInversion]:
    return [ConceptInversion()]
