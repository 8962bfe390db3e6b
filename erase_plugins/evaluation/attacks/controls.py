"""Whom an attack attacks: the edited model, and with the same means models in which there is nothing to find."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from erase_plugins import late
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.precision import AUTO, FULL, settled
from erase_plugins.errors import RequestError
from erase_plugins.evaluation.attacks.rates import DESTROYED, REFERENCE, control_row
from erase_plugins.evaluation.attacks.reference import open_reference
from erase_plugins.evaluation.prompts import Prompt, texts_and_seeds
from erase_plugins.types import EvalRow, Event

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.evaluation.budget import Budget
    from erase_plugins.evaluation.run import Subject

EDITED, BASE = "edited", "base"
#: what a control shows more often than this is said in a warning
_TEACHES = 0.1


@dataclass(frozen=True)
class Victim:
    """A model under attack: "edited", "destroyed" (value projections shuffled) or "reference" (never saw it).

    "base" is the subject without its edit, where an attack does to it what it does to the others.
    """

    name: str
    subject: Subject

    @property
    def state(self) -> str:
        """Of the subject: "on", "destroyed" or "off"."""
        return {EDITED: "on", DESTROYED: "destroyed"}.get(self.name, "off")

    @contextmanager
    def exposed(self) -> Iterator[None]:
        """In the state in which it is attacked."""
        with self.subject.under(self.state):
            yield

    def pictures(self, prompts: Sequence[Prompt]) -> Tensor:
        """What it draws: (n, 3, height, width) in 0..1."""
        made: Tensor = self.subject.generate(*texts_and_seeds(prompts), edit=self.state)
        return made

    @property
    def title(self) -> str:
        """How tables call it as a control."""
        return self.name if self.name == EDITED else control_row(self.name)


def victims(subject: Subject, reference: str) -> list[Victim]:
    """The edited model, the destroyed one, and the reference where the user gave one; the last is the control.

    Raises:
        RequestError: the subject has no artifact.
        Unsupported: the reference is a model of another kind.
    """
    if not subject.artifacts:
        raise RequestError("this attack attacks an edit, and learns from what the base draws; name an artifact")
    found, never = [Victim(EDITED, subject), Victim(DESTROYED, subject)], open_reference(subject, reference)
    return found if never is None else [*found, Victim(REFERENCE, never)]


def control_warnings(success: EvalRow, controls: list[tuple[Victim, EvalRow]]) -> list[str]:
    """What must be said about a success of the attack where nothing can be found."""
    told = []
    for victim, row in controls:
        if row.value > _TEACHES:
            told.append(
                f"the same attack also succeeds on the {victim.name} model ({row.value:.0%}): that much of it is "
                f"brought in, not found; the excess is {max(success.value - row.value, 0):.0%}"
            )
    if REFERENCE not in [victim.name for victim, _ in controls]:
        told.append(
            "no reference was given: a destroyed model is a weak control, since it may have lost what teaching needs; "
            "the option reference names a model that never saw the concept"
        )
    return told


def control_settings(
    attack: str, name: str, owner: Subject, budget: Budget, prompts: Sequence[Prompt], given: Sequence[object]
) -> tuple[object, ...]:
    """What decides the outcome of an attack on a model that no edit touches, besides model and texts, as reprs say it.

    Args:
        attack: its id.
        name: of the outcome.
        owner: whose pictures they are.
        budget: of the run.
        prompts: what is drawn.
        given: what else decides it.
    """
    options, judge = dict(budget.options), owner.judge
    options.pop("reference", None)  # its weights are in the key
    return (
        late.VERSION, attack, name, sorted(options.items()), budget.name, [item.seed for item in prompts],
        owner.seed, owner.steps, owner.guidance, judge.id, judge.fingerprint, *given,
    )  # fmt: skip


def run_context(attack: str, budget: Budget, stage: str, subject: Subject) -> RunContext:
    """Services of the training loop for one stage: resumes from the attack's own folder, reports to the user."""
    work = budget.work / stage.replace(" ", "-")
    work.mkdir(exist_ok=True)

    def listen(event: Event) -> None:
        if event.kind == "step":
            budget.progress(f"{stage}: learning", event.done, event.total)

    device = subject.target.device
    return RunContext(
        attack, budget.seed, device, work=work, resume=True, listeners=(listen,),
        precision=settled(AUTO, device) if device.type == "cuda" else FULL,
    )  # fmt: skip
