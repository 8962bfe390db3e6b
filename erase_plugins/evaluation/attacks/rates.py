"""What attacks count, and what they call it: pictures in which the judge sees what their prompt names."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from erase_plugins.evaluation.budget import check_size
from erase_plugins.evaluation.guarded import labels_of
from erase_plugins.types import EvalRow

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.evaluation.budget import Budget
    from erase_plugins.evaluation.prompts import Prompt
    from erase_plugins.evaluation.run import Subject

#: metrics of all attacks: how often a set shows the concept, how often in the base, and the one that counts
TARGET, BASE, SUCCESS = "target_rate", "base_rate", "attack_success_rate"
#: the row of the concept's own name
PLAIN = "plain name"
#: in whom there is nothing to find: a model with shuffled value projections, and one that never saw the concept
DESTROYED, REFERENCE = "destroyed", "reference"
#: fewer than this many usable pictures say too little
FEWEST = 4
#: options that several attacks have say the same
CONCEPT_HELP = "erased concept that is attacked; the first that the artifacts name if empty"
REFERENCE_HELP = "folder of a model that never saw the concept; it becomes the control"


def seen(judge: Any, prompts: Sequence[Prompt], pictures: Tensor) -> list[int]:
    """For each picture (n, 3, height, width) 1 where the judge sees what its prompt names on its axis, else 0.

    Nothing is seen in a picture that stands for a refused prompt, whatever a judge calls it.
    """
    return [item.shown(labels) for labels, item in zip(labels_of(judge, pictures), prompts, strict=True)]


def mean(values: Sequence[float]) -> float:
    """Share of ones; 0 of nothing."""
    return sum(values) / len(values) if values else 0.0


def rate(metric: str, subject: str, values: Sequence[int], seed: int, note: str = "") -> EvalRow:
    """A share with its 95 % bootstrap interval, and what has to be said of it."""
    from erase_plugins.evaluation.bootstrap import mean_interval

    value, low, high = (round(number, 6) for number in mean_interval(list(values), seed))
    return EvalRow(metric, subject, value, low, high, len(values), note)


def per_set(budget: Budget, attack: str, sets: int, least: int = 1) -> int:
    """Pictures per set that a budget allows.

    Raises:
        RequestError: fewer than ``least``.
    """
    check_size(attack, budget.queries, sets * least)
    return budget.queries // sets


def picture_passes(subject: Subject) -> int:
    """Passes through the denoiser for one picture: one per step where guidance is a network input, as in FLUX."""
    from erase_plugins.families.flow import is_packed

    part = getattr(subject.target, "network", None)  # a host may have its own way to draw, and none of these
    network = None if part is None else part("denoiser")
    distilled = network is not None and (is_packed(network) or bool(getattr(network.config, "time_cond_proj_dim", 0)))
    return subject.steps * (2 if subject.guidance > 1 and not distilled else 1)


def control_row(kind: str) -> str:
    """How tables call a control: ``kind`` is "destroyed" or "reference"."""
    return f"control: {kind} model"


def report_facts(attack: str, subject: Subject, budget: Budget) -> dict[str, Any]:
    """What every `AttackReport` says about its run."""
    return {
        "attack": attack, "model": subject.model, "budget": budget.name,
        "artifacts": tuple(item.name for item in subject.artifacts), "strength": subject.strength,
        "judge": subject.judge.id, "judge_hash": subject.judge.fingerprint,
    }  # fmt: skip


def found_facts(attack: str, subject: Subject, erased: Sequence[str], success: EvalRow) -> dict[str, Any]:
    """What ``attack-NAME-found.json`` of every attack begins with: what was attacked, drawn how, how often it came."""
    return {
        "attack": attack, "model": subject.model, "artifacts": [item.name for item in subject.artifacts],
        "erased": list(erased), "strength": subject.strength, "sampler_steps": subject.steps,
        "guidance": subject.guidance, "success_rate": success.value,
    }  # fmt: skip
