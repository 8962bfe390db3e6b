"""The attack ``probe``: is the concept still readable in the edited denoiser, by a linear probe on its features?

Two readings. From pictures: noised pictures of the concept and of other things go through the denoiser without any
prompt, and a ridge classifier tells them apart by what the cross-attention layers are given; it is trained anew for
each model and tested on other pictures. By name: a classifier that was trained on the base tells prompts with the
concept from others by the first pass on pure noise; in the edited model it should not recognise the name any more.
Chance is 50 % from pictures. A probe can read what a picture shows also in a model that never saw the concept, so
only what is beyond the control says something about the edit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from erase_plugins.evaluation.attacks.rates import CONCEPT_HELP, FEWEST, REFERENCE_HELP
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.types import AttackReport

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.evaluation.attacks.controls import Victim
    from erase_plugins.evaluation.attacks.material import Lesson
    from erase_plugins.evaluation.attacks.study import Sample, Study
    from erase_plugins.evaluation.budget import Budget
    from erase_plugins.evaluation.run import Subject

FOUND, PICTURES = "attack-probe-found.json", "attack-probe-pictures.png"
#: pictures of the concept and of other things, to learn from and to test with, each with spare; base and plain name
_SETS = 10
BY_NAME, READABLE = "read by its name", "readable_rate"


@dataclass(frozen=True)
class ProbeOptions:
    """Options of the attack."""

    concept: str = option("", CONCEPT_HELP)
    level: float = option(0.6, "how far the pictures are noised, 1 is pure noise", low=0.05, high=0.95)
    reference: str = option("", REFERENCE_HELP)


class Probe:
    """Linear probe on the denoiser's features."""

    id = "probe"
    title = "A linear probe on the denoiser's features: from noised pictures, and by the concept's name"
    needs: frozenset[str] = frozenset({"denoiser", "text"})
    packages: frozenset[str] = frozenset()
    needs_weights = True
    past_guards = "probes"
    budgets: Mapping[str, int] = {"quick": 24 * _SETS, "standard": 64 * _SETS, "long": 192 * _SETS}
    least = FEWEST * _SETS
    attachments = (FOUND, PICTURES)
    Options = ProbeOptions

    def run(self, subject: Subject, budget: Budget) -> AttackReport:
        """See the module.

        Raises:
            RequestError: no artifact, a wrong option, or a budget too small for four pictures per set.
            Unsupported: the base hardly draws the concept, or the reference is of another kind.
        """
        from erase_plugins.evaluation.attacks.study import Study

        run = _Run(Study.of(self, subject, budget, _SETS), ProbeOptions(**budget.options))
        budget.progress("pictures of the base", 0, 1)
        shown = run.pictures()
        beside = [run.study.plain("base", "off"), run.study.plain("plain name", "on")]
        found, given = [], [item.key for pair in shown.values() for item in pair]
        for number, victim in enumerate(run.study.victims):
            budget.progress(f"probe, {victim.name}", number, len(run.study.victims))
            hits = run.study.told(victim, f"pictures-{victim.name}", partial(run.from_pictures, victim, shown), given)
            found.append(run.sample(f"read from pictures, {victim.name}", hits, shown["concept"][1]))
        return run.report(found, beside, run.by_name())


@dataclass(frozen=True)
class _Run:
    study: Study
    options: ProbeOptions

    def pictures(self) -> dict[str, tuple[Lesson, Lesson]]:
        """Pictures of the concept and of other things, each to learn from and to test with."""
        from erase_plugins.evaluation.attacks.material import lesson
        from erase_plugins.evaluation.prompts import quick_prompts

        subject, count = self.study.subject, self.study.images
        found = {}
        for name in ("concept", "other"):
            sets = []
            for seed in (subject.seed + 20, subject.seed + 21):
                if name == "concept":
                    prompts = self.study.split.training(2 * count, seed)
                else:
                    kept = quick_prompts(subject.judge, subject.erased, 2 * count, seed)
                    turns = [item for pair in zip(kept["neighbour"], kept["kept"], strict=False) for item in pair]
                    prompts = (turns or kept["kept"])[: 2 * count]
                what = self.study.split.concept if name == "concept" else "what is kept"
                sets.append(lesson(subject, prompts, count, what))
            found[name] = (sets[0], sets[1])
        return found

    def from_pictures(self, victim: Victim, shown: Mapping[str, tuple[Lesson, Lesson]]) -> list[int]:
        """1 for each test picture that the victim's own probe tells right; those of the concept come first."""
        from erase_plugins.evaluation.attacks.features import Ridge, features

        subject = victim.subject
        read: dict[tuple[str, int], Tensor] = {}
        with victim.exposed():
            for name, pair in shown.items():
                for part, item in enumerate(pair):
                    latents = item.latents(subject)
                    read[name, part] = features(
                        subject.target, latents, [""] * len(latents), self.options.level, subject.seed + part
                    )
        ridge = Ridge(read["concept", 0], read["other", 0])
        return [*ridge.positive(read["concept", 1]), *(1 - hit for hit in ridge.positive(read["other", 1]))]

    def by_name(self) -> dict[str, list[int]]:
        """For base and victims 1 for each test prompt of the concept in which the probe of the base reads it."""
        import torch

        from erase_plugins.evaluation.attacks.controls import BASE, Victim
        from erase_plugins.evaluation.attacks.features import Ridge, features
        from erase_plugins.evaluation.prompts import quick_prompts

        subject, study = self.study.subject, self.study
        others = quick_prompts(subject.judge, subject.erased, study.images, subject.seed + 22)["kept"]
        learned = [item.text for item in study.split.training(study.images, subject.seed)]
        tested = [item.text for item in study.prompts]

        def read(target: Any, texts: list[str], seed: int) -> Tensor:
            blank = torch.zeros(len(texts), *target.info.latent_shape, device=target.device)
            return features(target, blank, texts, 1.0, seed)

        ridge = Ridge(read(subject.target, learned, 1), read(subject.target, [item.text for item in others], 2))

        def hits(victim: Victim) -> list[int]:
            with victim.exposed():
                return ridge.positive(read(victim.subject.target, tested, 3))

        asked = (Victim(BASE, subject), *study.victims)
        return {item.name: study.told(item, f"name-{item.name}", partial(hits, item), [ridge.key]) for item in asked}

    def sample(self, name: str, hits: list[int], shown: Lesson) -> Sample:
        from erase_plugins.evaluation.attacks.study import Sample

        return Sample(name, hits, shown.pictures, {}, {})

    def report(self, found: list[Sample], beside: list[Sample], named: Mapping[str, list[int]]) -> AttackReport:
        import dataclasses

        from erase_plugins.evaluation.attacks.rates import mean, rate

        rates = {name: mean(hits) for name, hits in named.items()}
        report = self.study.report(
            "read from pictures", found, beside, {"level": self.options.level, "read_by_name": rates},
            {"by_name": dict(named)}, pictures=PICTURES, title="a probe in",
            warnings=["chance is 50 %: a probe reads what a noised picture shows, also where it was never learned"],
        )  # fmt: skip
        rows = [rate(READABLE, f"{BY_NAME}, {name}", hits, self.study.subject.seed) for name, hits in named.items()]
        return dataclasses.replace(report, rows=(*report.rows, *rows))


@hookimpl
def erase_attacks() -> list[Probe]:
    return [Probe()]
