"""The base class of methods that train, and what their losses are given. No torch at import."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.engine.erasing import all_phrases, resolved
from erase_plugins.engine.optimizers import check_optimizer
from erase_plugins.options import as_dict
from erase_plugins.training.options import TrainingOptions, check_templates, revive
from erase_plugins.types import EditPlan, EraseRequest

if TYPE_CHECKING:
    from torch import Tensor

    from erase_plugins.artifacts.edit import ContextMap, Edit
    from erase_plugins.engine.adapters import Trainable
    from erase_plugins.engine.context import RunContext
    from erase_plugins.engine.loop import Carried, Turn
    from erase_plugins.engine.pools import Part, Pool, Rollout
    from erase_plugins.engine.stopping import Stop
    from erase_plugins.families.base import Conditioning, ModuleRef, Target, TargetInfo
    from erase_plugins.training.rounds import Rounds


@dataclass(frozen=True)
class Cost:
    """What a run asks of the model.

    Attributes:
        forwards: samples through it before and beside the training steps.
        batch: samples of a training step, forward and backward.
        states: states that are stored.
        prompts: prompts through the text encoder; one that is trained on counts three times.
        texts: prompts of a training step that go through a text encoder with gradients.
    """

    forwards: float
    batch: int
    states: int
    prompts: float = 0.0
    texts: int = 0


@dataclass
class TrainingRun:
    """One run of a trained method, as its `TrainedMethod.prepare` and `TrainedMethod.loss` see it.

    Attributes:
        plan, target, ctx: as `run` is given them.
        request: what is asked; a method may complete it.
        options: of the class ``Options`` of the method; they and the plan's steps may change in
            `TrainedMethod.prepare`.
        key: identifies the run, for what is kept on disk.
        refs: modules that may change, as planned.
        phrases: everything that stands for an erased concept; `TrainedMethod.prepare` may add to it.
        adapters: what is trained (`engine.adapters.Trainable`); attached from `TrainedMethod.prepare` on.
        state: what `TrainedMethod.prepare` returned.
        statistics, closed: sums and edit of a closed form before the training (`training.staged`).
        retained: teacher states of what must stay; None if nothing is held.
        carried: what the loss changes from step to step besides the adapters; saved with every checkpoint.
        stop: what may end training early, in place of what the options say.
        stack: contexts that stay open until the run ends.
    """

    plan: EditPlan
    target: Target
    ctx: RunContext
    request: EraseRequest
    options: Any
    key: str
    refs: Sequence[ModuleRef]
    phrases: list[str]
    adapters: Any = None
    state: Any = None
    statistics: Any = None
    closed: Any = None
    retained: Pool | None = None
    carried: Carried | None = None
    stop: Stop | None = None
    stack: ExitStack = field(default_factory=ExitStack)

    @cached_property
    def rollout(self) -> Rollout:
        """How trajectories are made."""
        return self.options.rollout_on(self.target, self.adapters, self.ctx)

    @property
    def change(self) -> ContextMap:
        """The map of text rows that the closed form before the training has solved for."""
        from erase_plugins.artifacts.edit import CONTEXT, ContextMap

        (found,) = [delta for _, key, delta in self.closed.items() if key == CONTEXT]
        assert isinstance(found, ContextMap)
        return found

    def mapped(self, cond: Conditioning) -> Conditioning:
        """Prompts as the model after the closed form sees them."""
        from erase_plugins.training.embedding_map import mapped

        return mapped(cond, self.change)

    def prompts(self) -> list[str]:
        """The prompt of each trajectory: every template with every phrase, as often as ``trajectories`` asks."""
        once = [template.format(phrase) for template in self.options.templates for phrase in self.phrases]
        return once * -(-self.options.trajectories // len(once))

    def pool(self, name: str, prompts: Sequence[str], watch: Mapping[str, Sequence[str]] | None = None) -> Pool:
        """Teacher states along trajectories towards ``prompts``; see `engine.pools.Rollout.pool`."""
        return self.rollout.pool(name, prompts, self.key, watch)

    def rounds(self) -> Rounds | None:
        """Tokens that are learned against the student meanwhile; None without ``adversarial_rounds``."""
        from erase_plugins.training.rounds import Rounds, Search

        if not self.options.adversarial_rounds:
            return None
        search = Search(self.rollout, self.options, self.request.concepts, self.options.templates, self.key)
        return Rounds(search, self.plan.steps)

    def retain(self, step: int, seen: Callable[[Conditioning], Conditioning] | None = None) -> list[Part]:
        """The term of a loss that holds what must stay; empty if nothing is held.

        Args:
            step: number of the training step.
            seen: how the student sees a prompt; None: as it is.
        """
        from erase_plugins.engine.pools import Part

        if self.retained is None:
            return []
        states, cond = self.retained.batch(self.options.keep_batch, step)
        cond = cond if seen is None else seen(cond)
        return [Part(states, cond, states.predictions["prompt"], self.options.keep_weight)]

    def mean_squares(self, parts: Sequence[Any]) -> Tensor:
        """Sum over the parts (states, prompts, wanted predictions, weight); see `engine.pools.mean_squares`."""
        from erase_plugins.engine import pools

        return pools.mean_squares(self.target, [pools.Part(*part) for part in parts], self.ctx, self.adapters)


class TrainedMethod(ABC):
    """A method that trains. It has `modules` and `loss`, and what else its paper says.

    Everything else has a meaning of its own that a method may replace: `settle` (what is refused), `prepare` (pools,
    caches), `trainable` (another form of change), `trajectories` and `cost` (the estimate), `edit`, `finish`.
    """

    id: str
    title: str
    paper: str
    summary: str
    needs: frozenset[str] = frozenset({"denoiser", "text", "cross_attention"})
    kinds: frozenset[str] = frozenset({"object", "style", "person", "explicit"})
    produces: frozenset[str] = frozenset({"lowrank", "dense"})
    packages: frozenset[str] = frozenset()
    citation: str = ""
    Options: type = TrainingOptions
    work_files: ClassVar[tuple[str, ...]] = ("states-*.safetensors",)
    #: whether a large denoiser computes its blocks again on the way back (`training.recomputing`); for losses whose
    #: passes with gradients all see the trained change as it is when gradients are taken
    recomputes: ClassVar[bool] = False
    #: whether weights that are not trained may be loaded in bfloat16 where nobody says otherwise
    half_weights: ClassVar[bool] = True
    contract_options: ClassVar[dict[str, Any]] = {
        "iterations": 3, "trajectories": 2, "harvest": 2, "steps": 4, "keep_words": 2, "keep_batch": 1,
        "checkpoint_every": 1,
    }  # fmt: skip

    # ---- what a method says --------------------------------------------------------------------------------------

    @abstractmethod
    def modules(self, info: TargetInfo, options: Any) -> Sequence[ModuleRef]:
        """Where the method may write; linear layers and convolutions unless `trainable` takes others."""

    @abstractmethod
    def loss(self, run: TrainingRun, step: int) -> Tensor:
        """The scalar that step number ``step`` makes smaller; draws at random from ``run.ctx.generator(name)`` only."""

    def prepare(self, run: TrainingRun) -> Any:
        """What the loss needs, kept in ``run.state``: teacher states along trajectories towards every prompt."""
        return run.pool("erase", run.prompts())

    def settle(self, options: Any, request: EraseRequest, info: TargetInfo) -> Any:
        """The options with what follows from the request filled in.

        Raises:
            RequestError: what cannot be trained; names the option.
        """
        check_templates(options.templates)
        return options.settled(request)

    def steps(self, request: EraseRequest, options: Any) -> int:
        """Number of training steps."""
        return int(options.iterations)

    def trajectories(self, request: EraseRequest, options: Any) -> int:
        """Number of trajectories towards what is erased, for the estimate."""
        prompts = len(options.templates) * len(all_phrases(request))
        return prompts * -(-int(options.trajectories) // prompts)

    def cost(self, request: EraseRequest, options: Any) -> Cost:
        """What the run asks of the denoiser, for the estimate."""
        kept = options.kept(request)
        rolled = self.trajectories(request, options) + kept
        batch = options.batch + options.keep_batch * (kept > 0)
        return Cost(2.0 * options.steps * rolled, batch, rolled * options.harvest)

    def searches(self, request: EraseRequest, options: Any) -> bool:
        """Whether words to hold are looked for among all that the text encoder knows, for the estimate."""
        return int(getattr(options, "keep_words", 0)) > 0 and float(getattr(options, "keep_weight", 1.0)) > 0

    def values(self, refs: Sequence[ModuleRef], request: EraseRequest, options: Any) -> int:
        """Number of trained values, for the estimate."""
        from erase_plugins.training.plan import trainable

        return trainable(refs, rank_of(options))

    def notes(self, request: EraseRequest, options: Any) -> Sequence[str]:
        """What the user is told along with the plan."""
        return ()

    def made(self, options: Any) -> tuple[str, ...]:
        """Delta kinds that the edit holds for certain (`EditPlan.produces`); none where `trainable` is another form."""
        if not self.produces <= {"lowrank", "dense"}:
            return ()
        return ("dense",) if rank_of(options) is None and "dense" in self.produces else ("lowrank",)

    def warnings(self, request: EraseRequest, info: TargetInfo, options: Any) -> Sequence[str]:
        """Why the result may not be what is meant, as far as a plan can know."""
        many = len(request.concepts)
        if many <= 5 or "iterations" in request.options:
            return ()
        return (f"{many} concepts share {options.iterations} iterations; raise iterations if any survives",)

    def trainable(self, run: TrainingRun) -> Trainable:
        """What is trained: low-rank changes of ``run.refs``, or full ones."""
        from erase_plugins.engine.adapters import STARTS, Adapters

        options = run.options
        scale, start = getattr(options, "scale", 1.0), getattr(options, "start", STARTS[0])
        return Adapters(run.target, run.refs, rank_of(options), scale, run.ctx.generator("adapters"), start)

    def retain(self, run: TrainingRun) -> Pool | None:
        """Teacher states of what must stay, asked after `prepare`; None if nothing is held."""
        return run.options.holding(run.rollout, run.request, run.phrases, run.options.templates, run.key)

    def turn(self, run: TrainingRun) -> Turn | None:
        """What changes the gradients of a step; None: nothing does."""
        return None

    def edit(self, run: TrainingRun) -> Edit:
        """The edit of what is trained as it is now; a judge may look at it in between."""
        return run.adapters.edit()

    def finish(self, run: TrainingRun) -> Edit:
        """The edit of a finished training."""
        return self.edit(run)

    # ---- what follows --------------------------------------------------------------------------------------------

    def resolved(self, request: EraseRequest, info: TargetInfo) -> Any:
        """All options of a request, checked."""
        return self.settle(resolved(self.Options, request, info), request, info)

    def plan(self, request: EraseRequest, info: TargetInfo) -> EditPlan:
        """The plan with its cost, from configuration alone."""
        from erase_plugins.training import plan as training_plan

        options = training_plan.computed(self.resolved(request, info), request.device)
        training_plan.check_trainable(self.id, info)
        check_optimizer(options.optimizer, request.device)
        refs, steps, cost = self.modules(info, options), self.steps(request, options), self.cost(request, options)
        return EditPlan(
            request=request,
            options=as_dict(options),
            modules=tuple(map(training_plan.place, refs)),
            steps=steps,
            warnings=tuple(self.warnings(request, info, options)),
            notes=tuple(self.notes(request, options)),
            produces=self.made(options),
            **training_plan.estimate(
                info, request, self.values(refs, request, options), forwards=cost.forwards, iterations=steps,
                batch=cost.batch, states=cost.states, prompts=cost.prompts, texts=cost.texts,
                searches=self.searches(request, options), again=self.recomputes, precision=options.precision,
                optimizer=options.optimizer,
            ),
        )  # fmt: skip

    def run(self, plan: EditPlan, target: Target, ctx: RunContext) -> Edit:
        """Trains as planned, from the last checkpoint if asked, and gives the edit."""
        return self.train(self.begin(plan, target, ctx))

    def begin(self, plan: EditPlan, target: Target, ctx: RunContext) -> TrainingRun:
        """A run as it is before the training."""
        from erase_plugins.engine.precision import settled
        from erase_plugins.engine.runner import plan_key
        from erase_plugins.training.plan import place

        options, planned = revive(self.Options, plan.options), set(plan.modules)
        refs = [ref for ref in self.modules(target.info, options) if place(ref) in planned]
        ctx.precision = settled(options.precision, ctx.device)
        return TrainingRun(
            plan, target, ctx, plan.request, options, plan_key(plan), refs, all_phrases(plan.request)
        )  # fmt: skip

    @contextmanager
    def prepared(self, run: TrainingRun) -> Iterator[TrainingRun]:
        """Inside, the changes are attached and everything is there that `loss` needs."""
        from erase_plugins.training.recomputing import recomputing

        run.adapters = self.trainable(run)
        with run.adapters, run.stack:
            network = getattr(run.target, "network", None)  # a host's own denoiser has its own ways to save memory
            if self.recomputes and network is not None:
                run.stack.enter_context(recomputing(network("denoiser")))
            run.state = self.prepare(run)
            run.retained = self.retain(run)
            yield run

    def train(self, run: TrainingRun) -> Edit:
        """Trains ``run`` and gives its edit."""
        from erase_plugins.engine.loop import Scale, train

        planned = run.plan.steps
        run.ctx.start(planned)
        with self.prepared(run):
            if run.plan.steps != planned:  # what was prepared says how many steps there are
                run.ctx.start(run.plan.steps)
            schedule = replace(run.options.schedule(), iterations=run.plan.steps)
            schedule = schedule if run.stop is None else replace(schedule, stop=run.stop)
            schedule = replace(schedule, scaled=Scale.of(run.target) is not None)
            train(
                run.ctx, run.adapters, lambda step: self.loss(run, step), schedule, run.key, run.carried,
                lambda: self.edit(run), self.turn(run),
            )  # fmt: skip
            return self.finish(run)


def rank_of(options: Any) -> int | None:
    """LoRA rank; None trains full weights."""
    return options.lora_rank if hasattr(options, "lora_rank") else options.rank
