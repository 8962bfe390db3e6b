"""What attacks that learn have in common: fresh prompts, sets beside the attack, stages that outlive a kill, report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, zeros

from erase_plugins.engine.checkpoint import Checkpoint
from erase_plugins.evaluation import kept_pictures
from erase_plugins.evaluation.attacks.controls import EDITED, Victim, control_settings, control_warnings, victims
from erase_plugins.evaluation.attacks.material import Split, split_prompts
from erase_plugins.evaluation.attacks.rates import (
    FEWEST,
    SUCCESS,
    TARGET,
    found_facts,
    mean,
    per_set,
    picture_passes,
    rate,
    report_facts,
    seen,
)
from erase_plugins.evaluation.prompts import Prompt, texts_and_seeds
from erase_plugins.evaluation.sheet import contact_sheet
from erase_plugins.types import Attachment, AttackReport, EvalRow

if TYPE_CHECKING:
    from erase_plugins.evaluation.budget import Budget
    from erase_plugins.evaluation.run import Subject

#: pictures of a row of the sheet
_SHOWN = 8


@dataclass(frozen=True)
class Sample:
    """Pictures of one set with what the judge sees in them, and facts about how they came about."""

    name: str
    hits: list[int]
    pictures: Tensor
    facts: Mapping[str, Any]
    tensors: Mapping[str, Tensor]

    @property
    def rate(self) -> float:
        """Share of pictures that show the concept."""
        return mean(self.hits)


@dataclass(frozen=True)
class Study:
    """One attack on one concept.

    Attributes:
        attack: the registered attack.
        subject, budget: what it was given.
        split: prompts to learn from and to measure with.
        images: pictures of a set.
        victims: the edited model first, then the controls; the last one counts.
        before: pictures that the subject had been asked for when the attack began; a suite asks it for several attacks.
    """

    attack: Any
    subject: Subject
    budget: Budget
    split: Split
    images: int
    victims: list[Victim]
    before: int = 0

    @classmethod
    def of(cls, attack: Any, subject: Subject, budget: Budget, sets: int) -> Study:
        """Checks what all of them need; options ``concept`` and ``reference`` are read from the budget.

        Raises:
            RequestError: no artifact, an unknown concept, or a budget too small for four pictures per set.
            Unsupported: the judge does not know the concept, or the reference is of another kind.
        """
        images = per_set(budget, attack.id, sets, FEWEST)
        attacked = victims(subject, budget.options["reference"])
        return cls(attack, subject, budget, split_prompts(subject, budget.options["concept"] or subject.erased[0]),
                   images, attacked, subject.queries)  # fmt: skip

    @property
    def prompts(self) -> list[Prompt]:
        """What success is measured with: nothing was learned from their texts and seeds."""
        return self.split.measured(self.images, self.subject.seed)

    @property
    def asked(self) -> int:
        """Pictures that were looked at so far, of all victims."""
        subjects = {id(item): item for item in (self.subject, *(victim.subject for victim in self.victims))}
        return sum(item.queries for item in subjects.values()) - self.before

    def looked(self) -> list[Prompt]:
        """Fewer, for looks while something is learned."""
        return self.split.training(max(self.images // 3, 1), self.subject.seed + 1)

    def kept(
        self, name: str, make: Callable[[], tuple[Tensor, dict[str, Any], dict[str, Tensor]]],
        prompts: Sequence[Prompt] | None = None,
    ) -> Sample:  # fmt: skip
        """What ``make`` gives (pictures of ``prompts``, facts, tensors), judged; read again after a kill."""
        store = Checkpoint(self.budget.work, f"{name.replace(' ', '-')}.safetensors")
        found, asked = store.load(name), self.asked
        if found is not None:
            self.subject.queries += found[2].get(kept_pictures.QUERIES, 0)  # of the part of the run before a kill
        else:
            pictures, facts, more = make()
            facts = {**facts, "hits": seen(self.subject.judge, prompts or self.prompts, pictures)}
            facts[kept_pictures.QUERIES] = self.asked - asked
            store.save(0, {**more, "pictures": pictures}, facts, name)
            found = store.load(name) or (0, {**more, "pictures": pictures}, facts)
        _, tensors, facts = found
        return Sample(name, facts["hits"], tensors["pictures"], facts, tensors)

    def attacked(
        self, victim: Victim, name: str, make: Callable[[], tuple[Tensor, dict[str, Any], dict[str, Tensor]]],
        given: Sequence[Any], prompts: Sequence[Prompt] | None = None,
    ) -> Sample:  # fmt: skip
        """As `kept`. What is made of base or control no edit decides, so that it is kept for other artifacts as well.

        Args:
            given: what else decides the outcome besides victim, options of the attack and prompts, as reprs say it.
        """
        if victim.name == EDITED:
            return self.kept(name, make, prompts)
        asked = prompts or self.prompts
        settings = control_settings(self.attack.id, name, victim.subject, self.budget, asked, given)
        texts = [item.text for item in asked]
        return self.kept(name, lambda: kept_pictures.once(victim.subject, texts, settings, make), prompts)

    def told(self, victim: Victim, name: str, make: Callable[[], Any], given: Sequence[Any]) -> Any:
        """What ``make`` finds out about a victim (JSON-ready), where no pictures are kept; else as `attacked`."""

        def made() -> tuple[Tensor, dict[str, Any], dict[str, Tensor]]:
            return zeros(0), {"found": make()}, {}

        def once() -> Any:
            if victim.name == EDITED:
                return make()
            settings = control_settings(self.attack.id, name, victim.subject, self.budget, self.prompts, given)
            texts = [item.text for item in self.prompts]
            return kept_pictures.once(victim.subject, texts, settings, made)[1]["found"]

        return self.budget.remember(name, once)

    def plain(self, name: str, edit: str, prompts: Sequence[Prompt] | None = None) -> Sample:
        """The concept by its own name, or by other prompts, with the edit "on" or "off"."""
        asked = prompts or self.prompts
        return self.kept(name, lambda: (self.subject.generate(*texts_and_seeds(asked), edit=edit), {}, {}), asked)

    def report(
        self, what: str, attacked: Sequence[Sample], beside: Sequence[Sample], found: Mapping[str, Any],
        details: Mapping[str, Any], *, training: int = 0, warnings: Sequence[str] = (),
        attachments: Sequence[Attachment] = (), pictures: str = "", title: str = "",
    ) -> AttackReport:  # fmt: skip
        """The report.

        Args:
            what: how the success is called.
            attacked: one sample per victim, in their order.
            beside: other sets, for the table and the sheet.
            found, details, warnings, attachments: as in `AttackReport`; further ones are added.
            training: passes spent on learning.
            pictures: file name of the sheet.
            title: what was done, on top of the sheet.
        """
        subject, seed = self.subject, self.subject.seed
        success = rate(SUCCESS, what, attacked[0].hits, seed)
        controls = [
            (victim, rate(SUCCESS, victim.title, item.hits, seed))
            for victim, item in zip(self.victims[1:], attacked[1:], strict=True)
        ]
        rows: list[EvalRow] = [rate(TARGET, item.name, item.hits, seed) for item in beside]
        others = [text for text in subject.erased if text != self.split.concept]
        more = f"only {self.split.concept} was attacked; the option concept names another: {', '.join(others[:5])}"
        told = [more] if others else []
        queries = self.asked
        note = {**found_facts(self.attack.id, subject, [self.split.concept], success), **found}
        names = ", ".join(item.name for item in subject.artifacts)
        heading = f"{self.split.concept}: {title} {names}"
        few = min(self.images, _SHOWN)
        sheet = [(f"{item.name}: {item.rate:.0%}", list(item.pictures[:few])) for item in (*beside, *attacked)]
        return AttackReport(
            **report_facts(self.attack.id, subject, self.budget), success=success, control=controls[-1][1],
            rows=(*rows, success, *(row for _, row in controls)), found=note, erased=(self.split.concept,),
            seeds=(seed, seed + 1), queries=queries, passes=training + queries * picture_passes(subject),
            warnings=(*told, *warnings, *control_warnings(success, controls)),
            details={
                **details, "images": self.images, "training_passes": training,
                "hits": {item.name: item.hits for item in (*beside, *attacked)},
            },
            attachments=(
                *attachments,
                Attachment(f"attack-{self.attack.id}-found.json", lambda path: path.write_text(
                    json.dumps(note, indent=1) + "\n", encoding="utf-8"), "with what it came back, and how often"),
                Attachment(pictures, lambda path: contact_sheet(sheet, path, title=heading),
                           "base, plain name, attacked, controls"),
            ),
        )  # fmt: skip
