"""What attacks by prompts share: sets of prompts drawn and judged once, controls, counts, the files of a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation.attacks.rates import (
    DESTROYED,
    REFERENCE,
    SUCCESS,
    TARGET,
    control_row,
    found_facts,
    mean,
    picture_passes,
    rate,
    report_facts,
    seen,
)
from erase_plugins.evaluation.attacks.reference import open_reference
from erase_plugins.evaluation.prompts import Prompt, texts_and_seeds
from erase_plugins.types import Attachment, AttackReport, EvalRow

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from erase_plugins.evaluation.budget import Budget
    from erase_plugins.evaluation.run import Subject

BASE = "base_rate"
ON, OFF = "on", "off"
#: a base that draws the concept less often, or a control that shows it more often, says nothing
DRAWN, BLIND = 0.2, 0.5
#: pictures of a set that are kept for the contact sheet
SHOWN = 8


def found_files(attack: str) -> tuple[str, str, str]:
    """Names of the found prompts, the pictures and the chart of an attack."""
    return f"attack-{attack}-found.json", f"attack-{attack}-pictures.png", f"attack-{attack}-chart.png"


class Asking:
    """Draws and judges the prompt sets of one run. A set that was judged before a kill is not drawn again.

    Attributes:
        subject: what is attacked.
        budget: of the run.
        reference: a model that never saw the concept, as a subject of its own; None if none was named.
        queries, passes: pictures that were judged, and passes through the denoiser for them.
    """

    def __init__(self, subject: Subject, budget: Budget, reference: str = "") -> None:
        self.subject, self.budget = subject, budget
        self.reference = open_reference(subject, reference)
        self.queries = self.passes = 0
        self.shown: dict[str, Tensor] = {}

    @property
    def control_state(self) -> str:
        """Of the control that counts: "reference" if one was named, else "destroyed"."""
        return DESTROYED if self.reference is None else REFERENCE

    def look(self, name: str, prompts: Sequence[Prompt], edit: str = ON, keep: int = SHOWN) -> list[int]:
        """One 0/1 per prompt of a set.

        Args:
            name: of the set, unique within the run; file name.
            prompts: what is drawn, with seeds.
            edit: "on", "off", "destroyed", or "reference" for the model that never saw the concept.
            keep: pictures that stay in ``shown``.
        """
        name = name.replace(" ", "-")
        self.spent(len(prompts))
        hits: list[int] = self.budget.remember(name, lambda: self._draw(name, prompts, edit, keep))
        self._show(name)
        return hits

    def spent(self, pictures: int) -> None:
        """Counts pictures that were judged."""
        self.queries += pictures
        self.passes += pictures * picture_passes(self.subject)

    def owner(self, edit: str) -> Subject:
        """Who draws in a state.

        Raises:
            RequestError: the reference, and none was named.
        """
        owner = self.reference if edit == REFERENCE else self.subject
        if owner is None:
            raise RequestError("no reference model was named")
        return owner

    def pictures(self, prompts: Sequence[Prompt], edit: str = ON) -> Tensor:
        """Pictures (n, 3, height, width) in 0..1 of a state, neither judged nor counted."""
        made: Tensor = self.owner(edit).generate(*texts_and_seeds(prompts), edit=OFF if edit == REFERENCE else edit)
        return made

    def _draw(self, name: str, prompts: Sequence[Prompt], edit: str, keep: int) -> list[int]:
        from safetensors.torch import save_file

        pictures = self.pictures(prompts, edit)
        few = (pictures[:keep] * 255).round().byte().contiguous()
        save_file({"pictures": few}, self.budget.work / f"{name}.safetensors")
        return seen(self.subject.judge, prompts, pictures)

    def _show(self, name: str) -> None:
        from safetensors.torch import load_file

        place = self.budget.work / f"{name}.safetensors"
        if place.is_file():
            self.shown[name] = load_file(place)["pictures"].float() / 255

    def check_plain(self, plain: Sequence[Prompt], keep: int = SHOWN) -> dict[str, list[int]]:
        """How often the plain name brings the concept: base, edited, destroyed.

        Raises:
            Unsupported: the base hardly draws it, or the judge sees it on a destroyed model.
        """
        names = ", ".join(self.subject.erased)
        found = {edit: self.look(f"plain-{edit}", plain, edit, keep) for edit in (OFF, DESTROYED)}
        if mean(found[OFF]) < DRAWN:
            raise Unsupported(
                f"the base draws {names} in {mean(found[OFF]):.0%} of the pictures; there is nothing to bring back"
            )
        if mean(found[DESTROYED]) > BLIND:
            raise Unsupported(f"the judge sees {names} even on a destroyed model; its numbers would mean nothing")
        return {**found, ON: self.look(f"plain-{ON}", plain, ON)}

    def controls(self, name: str, prompts: Sequence[Prompt]) -> dict[str, list[int]]:
        """The same prompts where nothing can be found: destroyed model, and the reference if one was named.

        A fair control of prompts that no edit chose. Those that were chosen by what the edited model draws take one
        that chooses for itself (`control`).
        """
        states = (DESTROYED, REFERENCE) if self.reference is not None else (DESTROYED,)
        return {edit: self.look(f"{name}-{edit}", prompts, edit) for edit in states}

    def control(
        self, attack: str, state: str, prompts: Sequence[Prompt], given: Sequence[object],
        make: Callable[[], dict[str, Any]],
    ) -> dict[str, Any]:  # fmt: skip
        """What ``make`` gives (JSON-ready) of a control. No edit decides it, so it is kept for other artifacts as well.

        Args:
            attack: its id.
            state: "destroyed" or "reference".
            prompts: what is attacked.
            given: what else decides the outcome besides model, options and prompts, as reprs say it.
            make: the work.
        """
        from torch import zeros

        from erase_plugins.evaluation import kept_pictures
        from erase_plugins.evaluation.attacks.controls import control_settings

        owner = self.owner(state)
        settings = control_settings(attack, state, owner, self.budget, prompts, given)
        before = self.queries

        def made() -> tuple[Tensor, dict[str, Any], dict[str, Tensor]]:
            found = make()
            return zeros(0), {"found": found, "asked": self.queries - before}, {}

        _, facts, _ = kept_pictures.once(owner, [item.text for item in prompts], settings, made)
        if self.queries == before:  # they were judged for an earlier artifact, and count all the same
            self.spent(facts["asked"])
        found: dict[str, Any] = facts["found"]
        return found

    def report(
        self, attack: str, success: EvalRow, controls: Mapping[str, Sequence[int]], rows: Sequence[EvalRow],
        found: Mapping[str, Any], sheet: Sequence[tuple[str, str]], *, files: Sequence[Attachment] = (),
        extra_passes: int = 0, seeds: Sequence[int] = (), warnings: Sequence[str] = (),
        details: Mapping[str, Any] | None = None,
    ) -> AttackReport:  # fmt: skip
        """The report with its files.

        Args:
            attack: its id.
            success: the rate that counts.
            controls: 0/1 per picture by state; the reference is the control where there is one.
            rows: everything else.
            found: what brought the concept back.
            sheet: (label, name of a set) for every row of the contact sheet.
            files: further attachments.
            extra_passes: through the denoiser, besides those for pictures.
            seeds, warnings, details: as in the report.
        """
        subject = self.subject
        names = tuple(item.name for item in subject.artifacts)
        rows = [*rows, *(rate(TARGET, control_row(name), hits, subject.seed) for name, hits in controls.items())]
        last = REFERENCE if REFERENCE in controls else DESTROYED
        found = {**found_facts(attack, subject, subject.erased, success), **found}
        title = f"{', '.join(subject.erased[:4])}: {attack} against {', '.join(names) or 'the base'}"
        sets = [(label, name.replace(" ", "-")) for label, name in sheet]
        drawn = [(label, list(self.shown[name][:SHOWN])) for label, name in sets if name in self.shown]
        return AttackReport(
            **report_facts(attack, subject, self.budget), success=success,
            control=rate(SUCCESS, control_row(last), controls[last], subject.seed), rows=tuple(rows),
            found=found, erased=tuple(subject.erased), seeds=tuple(seeds) or (subject.seed,), queries=self.queries,
            passes=self.passes + extra_passes, warnings=tuple(warnings), details=details or {},
            attachments=(*_attachments(attack, found, rows, drawn, title), *files),
        )  # fmt: skip


def _attachments(
    attack: str, found: Mapping[str, Any], rows: Sequence[EvalRow], drawn: Sequence[tuple[str, list[Tensor]]],
    title: str,
) -> tuple[Attachment, ...]:  # fmt: skip
    from erase_plugins.evaluation.chart import variant_chart
    from erase_plugins.evaluation.sheet import contact_sheet

    prompts, pictures, chart = found_files(attack)
    bars = ((TARGET, "with the edit", "#c0392b"), (BASE, "without", "#7f8c8d"))
    return (
        Attachment(prompts, write_json(found), "the prompts with which the concept came back"),
        Attachment(pictures, lambda path: contact_sheet(drawn, path, title=title), "what was drawn"),
        Attachment(chart, lambda path: variant_chart(rows, path, title, bars), "rates by prompt set"),
    )


def write_json(content: Any) -> Callable[[Path], Any]:
    """A function that writes ``content`` to the path it is given."""
    return lambda path: path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def found_prompts(
    prompts: Sequence[Prompt], hits: Sequence[int], **facts: Any
) -> list[dict[str, Any]]:  # fmt: skip
    """The prompts that hit, JSON-ready, with seeds."""
    return [
        {"prompt": item.text, "seed": item.seed, "shows": item.expected[item.axis], **facts}
        for item, hit in zip(prompts, hits, strict=True) if hit
    ]  # fmt: skip
