"""The suite ``erase-eval``: three questions, four metrics, one score that is low where one of them is low.

M1: is a prompt that names the concept still followed, apart from the concept? M2: the same for prompts that mean it
without naming it. M3, M4: are other prompts followed as before, and do their pictures look as before? This is the
offline form: a judge trained on the base's own pictures stands for the language and vision models of the paper, so the
numbers are not comparable with published ones, only with those of the same judge, prompts and seeds.

Only pictures whose original shows the concept count, so an edit that does nothing scores exactly 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.types import EvalReport

if TYPE_CHECKING:
    from erase_plugins.evaluation.context import SuiteContext
    from erase_plugins.evaluation.erase_eval.look import Seen
    from erase_plugins.evaluation.erase_eval.probe import Probe
    from erase_plugins.evaluation.erase_eval.prompts import Asked
    from erase_plugins.evaluation.prompts import Prompt
    from erase_plugins.evaluation.run import Subject

#: names of `metrics.RULES`, which imports numpy
RULES = ("harmonic", "geometric", "product", "minimum")
#: a base that draws the concept less often makes erasure unmeasurable
DRAWN = 0.6
#: pictures of the destroyed model
_CONTROL = 32
_OFFICIAL = (
    "mode official needs what the paper used, and none of it is installed with this package: prompts by GPT-4o, "
    "PaliGemma-3B and a captioning model as judges, ModernBERT and EVA02-L-14-336 as encoders; give what they said "
    "as the option answers (docs/evaluation.md), or leave mode out"
)


@dataclass(frozen=True)
class Options:
    """Options of the suite."""

    rule: str = option("harmonic", "how the four metrics become one score", choices=RULES)
    retained: int = option(64, "prompts about other things", low=8, high=30_000)
    training: int = option(128, "pictures of the base that train the judge of a concept", low=40, high=2_000)
    implicit: str = option("", "JSON file: concept -> prompts that mean it without naming it")
    mode: str = option(
        "offline", "official scores what the encoders of the paper said", choices=("offline", "official")
    )
    reference: str = option("", "folder of a model that never saw the concept; it is scored beside the others")
    answers: str = option("", "JSON file with what the encoders of the paper said; for mode official")


class EraseEvalSuite:
    """See the module."""

    id = "erase-eval"
    title = "EraseEval (scene kept, meant without naming, other prompts; one score; offline)"
    needs: frozenset[str] = frozenset({"denoiser", "text"})
    packages: frozenset[str] = frozenset()
    Options = Options
    attachments = ("contact_sheet.png", "chart.png")

    def run(self, subject: Subject, ctx: SuiteContext) -> EvalReport:
        """See the module.

        Raises:
            Unsupported: the base hardly draws the concept, or the judge does not pass its gate.
            RequestError: too few pictures, or no such reference.
        """
        from erase_plugins.evaluation.attacks.reference import open_reference
        from erase_plugins.evaluation.erase_eval.look import look
        from erase_plugins.evaluation.erase_eval.prompts import make_prompts, read_implicit
        from erase_plugins.evaluation.erase_eval.report import make_report

        options = ctx.options
        if options["mode"] == "official":
            return _official(subject, options)
        if options["answers"]:
            raise RequestError("answers belong to mode official; set mode=official too")
        twin = open_reference(subject, options["reference"])
        asked = make_prompts(
            subject.judge, subject.erased, images=subject.images, training=options["training"],
            retained=options["retained"], seed=subject.seed, implicit=read_implicit(options["implicit"]),
            pieces={name: _pieces(subject, name) for name in subject.erased},
        )  # fmt: skip
        base = subject.remembered(_of_the_base(asked), partial(look, edit="off"), "erase-eval")
        probes = {name: _probe(asked, base, name) for name in subject.erased}
        _drawn_at_all(base, probes)
        edited = look(subject, asked.measured)
        control = subject.remembered(
            {"retained": asked.measured["retained"][:_CONTROL]}, partial(look, edit="destroyed"), "erase-eval-destroyed"
        )
        subject.drawn = {"base": base, "edited": edited, "destroyed": control}
        never = twin.remembered(asked.measured, partial(look, edit="off"), "erase-eval-reference") if twin else None
        return make_report(self.id, subject, asked, probes, base, edited, control, options, never)


def _of_the_base(asked: Asked) -> dict[str, list[Prompt]]:
    """All sets that are drawn without the edit."""
    train = {f"train: {name}: {turn}": part for name, parts in asked.train.items() for turn, part in enumerate(parts)}
    return {**train, **asked.measured, "reference": asked.reference}


def _probe(asked: Asked, base: Seen, name: str) -> Probe:
    import numpy as np

    from erase_plugins.evaluation.erase_eval.probe import fit_probe

    parts = asked.train[name]
    empty = np.zeros((0, next(iter(base.features.values())).shape[1]))
    features = [base.features.get(f"train: {name}: {turn}", empty) for turn in range(len(parts))]
    texts: dict[str, int] = {}
    groups = [[texts.setdefault(item.text, len(texts)) for item in part] for part in parts]
    return fit_probe(features[0], features[1], features[2], groups, name)


def _drawn_at_all(base: Seen, probes: Mapping[str, Probe]) -> None:
    for name, probe in probes.items():
        seen = probe.present(base.features[f"explicit: {name}"])
        if sum(seen) < DRAWN * len(seen):
            raise Unsupported(
                f"the base draws {name} in {sum(seen) / len(seen):.0%} of the pictures that name it (needs "
                f"{DRAWN:.0%}); erasing it cannot be measured"
            )


def _pieces(subject: Subject, name: str) -> list[str]:
    try:
        return [piece for piece in subject.target.pieces(name) if piece]
    except Unsupported:  # this host does not show its tokenizer
        return []


def _official(subject: Subject, options: Mapping[str, Any]) -> EvalReport:
    if not options["answers"]:
        raise Unsupported(_OFFICIAL)
    from erase_plugins.evaluation.erase_eval.official import score_answers

    return score_answers(subject, options["answers"], options["rule"])


@hookimpl
def erase_suites() -> list[EraseEvalSuite]:
    return [EraseEvalSuite()]
