"""Contracts of the registered objects. Structural types: a plugin need not import or subclass anything.

Families have a base class with behaviour (`erase_plugins.families.base.Family`); the rest is described here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import Edit
    from erase_plugins.engine.context import RunContext
    from erase_plugins.evaluation.budget import Budget
    from erase_plugins.evaluation.context import SuiteContext
    from erase_plugins.families.base import Family, ModelSpec
    from erase_plugins.types import AttackReport, EditPlan, EraseRequest, EvalReport, RunResult


@runtime_checkable
class Method(Protocol):
    """An eraser. Holds its loss and its schedule, and little else.

    ``needs`` names capabilities of a model (text, denoiser, codec, classifier, language) and ``embedding_map``, what
    only some of them can do: it runs on every model that offers all of them, and what is missing is named at plan time.
    ``produces`` lists delta kinds (lowrank, dense, sparse, rows, contextmap, addon). ``Options`` is a frozen dataclass
    made with `erase_plugins.options.option`. A method of version 0.1 with ``families`` (ids, or "*" with module groups
    in ``groups``) in place of ``needs`` is still understood.

    A guard changes no weights: its ``produces`` is empty, ``level`` is "prompt", "guidance" or "picture" ("weights"
    unless said otherwise), and ``run`` returns a `RunResult` with policies (`erase_plugins.artifacts.policy`), made of
    stages that are registered (`GuardStage`). It may need ``prompts``, which every model that reads text has.

    Six attributes are optional: ``reads_data = True`` (it reads ``data`` and ``label`` of what is forgotten, and the
    data that is retained; others refuse a request with such), ``packages`` (packages, or extras of this package, that
    it needs and that ComfyUI does not bring, such as diffusers),
    ``contract_options`` (options that make the method cheap; the contract suite passes them), ``work_files`` (patterns
    of files it keeps in ``ctx.work`` besides the checkpoint) and ``citation`` (BibTeX of its paper for model cards;
    without it one is made from ``title`` and ``paper``) and ``graph_node = False``
    (ComfyUI cannot carry what it makes, so it has no node there).
    """

    id: str
    title: str
    paper: str
    summary: str
    needs: frozenset[str]
    kinds: frozenset[str]
    produces: frozenset[str]
    Options: type

    def plan(self, request: EraseRequest, info: Any) -> EditPlan:
        """The plan from configuration alone (`ModelSpec`, `TargetInfo` of a text-to-image model).

        It must not need weights and must not have side effects.
        """

    def run(self, plan: EditPlan, target: Any, ctx: RunContext) -> Edit | RunResult:
        """The edit of a loaded `Model`, alone or with what else there is. Leaves the model's weights as they were."""


@dataclass(frozen=True)
class Verdict:
    """Whether a layout can carry an edit: "yes", "lossy" or "no", with the reason."""

    answer: str
    reason: str = ""

    def __bool__(self) -> bool:
        return self.answer != "no"


@runtime_checkable
class Layout(Protocol):
    """A file layout. ``readers`` names the programs that load it (each is run in the tests).

    ``carries`` is optional: the delta kinds that its files hold, and "stand-in" if they hold low-rank changes in the
    place of added modules that come with them. A plan whose edit will hold others (``EditPlan.produces``) is refused
    before it is run; without it only the finished edit tells. ``stems`` is optional too: the layout for which the
    family is asked for names of modules (`Family.stem`); a family that has none is refused before the run as well.
    """

    id: str
    title: str
    readers: tuple[str, ...]

    def accepts(self, edit: Edit, family: Family) -> Verdict:
        """Whether every delta of ``edit`` can be expressed for ``family``."""

    def filename(self, slug: str, family: Family) -> str:
        """File name (or folder name, for peft) for an artifact called ``slug``."""

    def write(self, edit: Edit, family: Family, header: Mapping[str, str], path: Path) -> None:
        """Writes ``edit``; ``header`` is the string metadata every file carries."""

    def sniff(self, keys: Sequence[str], header: Mapping[str, str]) -> bool:
        """Whether a file with these tensor names is of this layout."""

    def read(self, path: Path, family: Family) -> Edit:
        """The edit in a file; inverse of `write`."""


@runtime_checkable
class GuardStage(Protocol):
    """A type of stage of which guards are made; its ``id`` is the ``type`` of stages in policies.

    ``roles`` says in front of what it can stand: "text" (pipelines that read prompts), "language" (language models).
    Optional: ``measured = True`` (its stages hold numbers of the model that they were made on, so that the guard is
    refused on another one), and what ComfyUI takes, where others have no place: ``looker(placing)``, where it looks at
    texts: an object whose ``check(text)`` gives a `erase_plugins.artifacts.keyword_guard.Verdict`; or, where it looks
    at anything else, ``in_graph(placing, model, clip)``, which leaves ComfyUI's MODEL and CLIP (or None) as they are
    and returns those to draw with and a line for the report.
    """

    id: str
    title: str
    roles: frozenset[str]

    def attach(self, placing: Any) -> Sequence[Any]:
        """What is to act around which methods; nothing else may be changed, apart from hooks that ``detach`` takes off.

        Args:
            placing: `erase_plugins.runtime.guardrails.watch.Placing`.

        Returns:
            `erase_plugins.runtime.guardrails.watch.Placed` each.

        Raises:
            CorruptArtifact: the stage lacks something.
            Unsupported: it cannot stand in front of this model.
        """
        ...


@runtime_checkable
class Evaluator(Protocol):
    """What judges, suites and attacks share.

    ``needs`` lists optional extras, checked before work; where ``packages`` lists them, ``needs`` are capabilities of
    the model, as for methods.
    """

    id: str
    title: str
    needs: frozenset[str]


@runtime_checkable
class Judge(Evaluator, Protocol):
    """Looks at what a model makes. ``axes`` maps an axis (concept, style, background) to its labels.

    Six attributes are optional: ``modality`` says what it looks at ("image" unless said otherwise);
    ``complete = True`` says that its world is all that a model it accepts can draw: names outside of it are then
    refused as unknown; ``features(images)`` gives what it looks at as rows (n, d), for suites that compare pictures;
    ``argument`` names what the user has to bring (``--judge clip:FOLDER``), of which ``opened(argument, erased)`` makes
    the judge itself.
    """

    axes: Mapping[str, tuple[str, ...]]
    fingerprint: str

    def accepts(self, info: ModelSpec) -> bool:
        """Whether this judge knows what the model draws."""

    def score(self, images: Tensor) -> Mapping[str, Tensor]:
        """Per axis the probabilities (n, labels) for pictures (n, 3, height, width) in 0..1."""

    def world(self) -> Any:
        """Concepts with groups and synonyms, styles and backgrounds: what suites build prompts from."""


@runtime_checkable
class Suite(Evaluator, Protocol):
    """A set of prompts, subjects and metrics that ends in a report.

    Seven attributes are optional: ``Options``, a frozen dataclass made with `erase_plugins.options.option` (given as
    ``--set name=value``, read in ``ctx.options``); ``resumes = True`` for a suite whose ``ctx.work`` outlives a kill;
    ``needs_judge = False`` for a suite that scores what it sees itself (``subject.judge`` is None);
    ``judge_optional = True`` for one that asks a judge where one knows the model (None elsewhere);
    ``needs_subject = False`` for one that measures no diffusion model (it is run with ``subject=None``, and no model,
    judge or torch is loaded); ``attachments``, the names of files it may attach, so that a file in their way is noticed
    before the work and not after it.
    """

    def run(self, subject: Any, ctx: SuiteContext) -> EvalReport:
        """Measures ``subject`` (see `erase_plugins.evaluation.run.Subject`); files go into ``report.attachments``."""


@runtime_checkable
class Attack(Evaluator, Protocol):
    """Tries to bring back what an edit erased.

    ``budgets`` gives the number of queries (answers of the model that may be looked at) for "quick", "standard" and
    "long". ``least``, optional, is the number without which it cannot run, or a function of the options that are set;
    a smaller budget is refused before anything is drawn. ``Options``, ``needs_judge`` and ``attachments`` are
    optional, as for a suite. ``only_asks = True`` says that it does no more than draw prompts and encode them; such
    attacks also run in ComfyUI. ``needs_weights = True`` refuses guards alone, which edit no weights; ``past_guards``
    names what is done with the model itself, where no guard acts ("gradients"), and the report tells it.
    """

    budgets: Mapping[str, int]

    def run(self, subject: Any, budget: Budget) -> AttackReport:
        """Attacks ``subject`` (see `erase_plugins.evaluation.run.Subject`) within ``budget.queries``.

        The report holds the success with its interval, a control run, and what was found, also as an attached file.
        """
