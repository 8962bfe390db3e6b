"""The suite ``lm-eval``: general ability by EleutherAI's lm-evaluation-harness, with the edit off and on.

The harness is an outside package (``pip install 'erase-plugins[lm-eval]'``) with its own tasks, which it downloads the
first time; this file hands it the model and its tokenizer and reads its table. What it says of an edited model is how
much else was lost, nothing about what was forgotten.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.errors import EraseError, RequestError
from erase_plugins.extras import require
from erase_plugins.hints import Setting
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.types import EvalReport, EvalRow

if TYPE_CHECKING:
    from erase_plugins.evaluation.context import SuiteContext
    from erase_plugins.evaluation.run import Subject

#: half the width of a 95 % interval, in standard errors
_WIDTH = 1.96


@dataclass(frozen=True)
class GeneralOptions:
    """Which tasks of the harness, and how much of each."""

    tasks: str = option("arc_easy,hellaswag,lambada_openai", "tasks of the harness, with commas between them")
    limit: int = option(200, "questions of a task; 0: all", low=0, high=10_000_000)
    shots: int = option(0, "solved examples in front of every question", low=0, high=64)
    batch: int = option(8, "questions at a time", low=1, high=65_536)


class GeneralSuite:
    """How able a language model is otherwise."""

    id = "lm-eval"
    title = "General ability of a language model (lm-evaluation-harness, an outside package)"
    needs: frozenset[str] = frozenset({"language"})
    packages: frozenset[str] = frozenset({"lm-eval"})
    needs_judge = False
    past_guards = "likelihoods"
    Options = GeneralOptions
    attachments: tuple[str, ...] = ()

    def run(self, subject: Subject, ctx: SuiteContext) -> EvalReport:
        """Asks the harness twice.

        Raises:
            MissingExtra: the harness is not installed.
            RequestError: no task is named.
            EraseError: the harness fails, as without a connection to load a task from.
        """
        from erase_plugins.families.capabilities import LANGUAGE
        from erase_plugins.families.texts import tokenizer_of

        require(self.packages, "suite lm-eval")
        options = GeneralOptions(**ctx.options)
        tasks = [name.strip() for name in options.tasks.split(",") if name.strip()]
        if not tasks:
            raise RequestError("no task is named; say ", Setting("tasks", "arc_easy,hellaswag"))
        model, tokenizer = subject.target.network(LANGUAGE), tokenizer_of(subject.target)
        rows: list[EvalRow] = []
        for number, (name, state) in enumerate((("base", "off"), ("edited", "on"))):
            ctx.progress(name, number, 2)
            with subject.under(state):
                rows += table(name, asked(model, tokenizer, tasks, options, ctx.seed))
        return EvalReport(
            suite=self.id, model=subject.model, rows=tuple(rows), artifacts=tuple(a.name for a in subject.artifacts),
            erased=tuple(subject.erased), strength=subject.strength, seeds=(ctx.seed,),
        )  # fmt: skip


def asked(model: Any, tokenizer: Any, tasks: list[str], options: GeneralOptions, seed: int) -> Mapping[str, Any]:
    """What ``lm_eval.simple_evaluate`` says of a loaded model.

    Raises:
        EraseError: it failed; says why in one line.
    """
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM

    try:
        found = simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, batch_size=options.batch), tasks=tasks,
            num_fewshot=options.shots, limit=options.limit or None, random_seed=seed, numpy_random_seed=seed,
            torch_random_seed=seed, fewshot_random_seed=seed, bootstrap_iters=0,
        )  # fmt: skip
    except Exception as error:  # the harness and what it downloads with have errors of every kind
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise EraseError(
            f"lm-eval could not ask {', '.join(tasks)}: {told[0]}; look at the names (lm-eval ls tasks) and load "
            "the tasks once while there is a connection"
        ) from error
    return found


def table(subject: str, found: Mapping[str, Any]) -> list[EvalRow]:
    """A row for every task and number of the harness's table; 95 % intervals where it gives a standard error."""
    rows, counts = [], found.get("n-samples", {})
    for task, numbers in found["results"].items():
        for key, value in numbers.items():
            metric, _, way = key.partition(",")
            if metric.endswith("_stderr") or isinstance(value, bool) or not isinstance(value, int | float) or not way:
                continue
            error = numbers.get(f"{metric}_stderr,{way}", 0.0)
            width = _WIDTH * error if isinstance(error, int | float) else 0.0
            name = f"{task}_{metric}" if way == "none" else f"{task}_{metric}_{way}"
            size = int(counts.get(task, {}).get("effective", 0))
            rows.append(EvalRow(name, subject, float(value), float(value - width), float(value + width), size))
    return rows


@hookimpl
def erase_suites() -> list[GeneralSuite]:
    return [GeneralSuite()]
