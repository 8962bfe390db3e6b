"""One function of a pipeline or model behind which guards stand; the class stays as it is, and so do the weights."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from erase_plugins.errors import PipelineChanged

if TYPE_CHECKING:
    from torch import Tensor


#: the functions that guards stand around
ENCODE, GENERATE, DONE = "encode_prompt", "generate", "maybe_free_model_hooks"


class Stage(Protocol):
    """What acts around a call while its strength is not 0. ``looks``: at what is asked, and may refuse it."""

    strength: float
    looks: bool

    def before(self, given: dict[str, Any]) -> dict[str, Any]:
        """Arguments of the call, by name, as they are to be; may refuse the call."""

    def after(self, given: dict[str, Any], result: Any) -> Any:
        """The result as it is to be; ``given`` is what `before` was given."""

    def detach(self) -> None:
        """Takes off whatever hangs on modules."""


class Quiet:
    """A stage that changes nothing; others say what they do. ``idle``: it warns at most, whatever is asked."""

    strength, looks, idle = 1.0, False, False

    def before(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments as they are."""
        return given

    def after(self, given: dict[str, Any], result: Any) -> Any:
        """The result as it is."""
        return result

    def detach(self) -> None:
        """Nothing hangs anywhere."""


class Guiding(Quiet):
    """A stage that steers a picture in the making, whatever the prompt; here for those who draw no whole picture.

    Outside of pictures the model predicts as if the stage were not there.
    """

    def negative_text(self, text: str) -> str:
        """The negative prompt, from the one that is there already (or an empty one)."""
        return text

    def led(self, null: Tensor, asked: Tensor, ask: Callable[[str], Tensor], step: Tensor) -> Tensor:
        """What guidance takes in the place of the prediction for the prompt; gradients go to ``asked``.

        Args:
            null, asked: predictions (n, channels, height, width) for the negative prompt and the prompt.
            ask: the prediction for another text.
            step: of the sampler, from 0, that the predictions stand for, (n, 1, 1, 1).
        """
        return asked

    def passing(self, rows: int) -> AbstractContextManager[None]:
        """The with-block of a pass of so many rows, all of them asked for."""
        return nullcontext()


class End(Quiet):
    """Tells a stage that the pipeline has finished."""

    def __init__(self, tell: Callable[[], None]) -> None:
        self.tell = tell

    def before(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments as they are."""
        self.tell()
        return given


@dataclass(frozen=True)
class Placing:
    """A stage of a guard that is to stand in front of a model.

    Attributes:
        policy: the guard's policy; ``stage`` is one of its stages.
        target: the loaded model; its ``host`` is the pipeline or module that the user has in hand.
        strength: 0 is off.
        key: of words that are hashed; empty without.
    """

    policy: Mapping[str, Any]
    stage: Mapping[str, Any]
    target: Any
    strength: float
    key: bytes = b""


#: (object, name of its method, what acts around that method, a `Stage`)
Placed = tuple[Any, str, Any]


class Watch:
    """In the place of a method of one object; what was there comes back with the last stage.

    Attributes:
        own: the method itself, without guards.
        stages: from the outermost inwards.
    """

    def __init__(self, owner: Any, name: str) -> None:
        self.owner, self.name = owner, name
        self.before: Any = vars(owner).get(name)
        self.own = getattr(owner, name)
        self.stages: list[Any] = []
        self.__signature__ = inspect.signature(self.own)
        vars(owner)[name] = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the method with what the stages make of the arguments, and hands back what they make of the result."""
        active = [stage for stage in self.stages if stage.strength != 0.0]
        return self._through(active, named(self.__signature__, args, kwargs)) if active else self.own(*args, **kwargs)

    def _through(self, stages: list[Any], given: dict[str, Any]) -> Any:
        if not stages:
            return self.own(**given)
        return stages[0].after(given, self._through(stages[1:], stages[0].before(given)))

    def enter(self, stage: Any) -> None:
        """Takes a stage in: those that look stand outside of those that steer."""
        self.stages = sorted([*self.stages, stage], key=lambda item: not item.looks)

    def leave(self, stage: Any) -> None:
        """Takes a stage away; with the last one the object is what it was."""
        self.stages = [item for item in self.stages if item is not stage]
        if self.stages or vars(self.owner).get(self.name) is not self:
            return
        if self.before is None:
            del vars(self.owner)[self.name]
        else:
            vars(self.owner)[self.name] = self.before


def named(signature: inspect.Signature, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """All arguments by name, with the defaults of those that were left out."""
    bind = signature.bind
    bound = bind(*args, **kwargs)
    bound.apply_defaults()
    found: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = signature.parameters[name].kind
        found |= value if kind is inspect.Parameter.VAR_KEYWORD else {name: value}
    return found


def watch(owner: Any, name: str) -> Watch:
    """The watch on a method of an object; a new one if there is none."""
    found = vars(owner).get(name)
    return found if isinstance(found, Watch) else Watch(owner, name)


class AttachedGuard:
    """A stage in force, as the ledger of a component knows it."""

    def __init__(self, watched: Watch, stage: Any) -> None:
        self.watched, self.stage = watched, stage
        watched.enter(stage)

    @property
    def strength(self) -> float:
        """0 switches it off; anything else has it in force."""
        found: float = self.stage.strength
        return found

    @strength.setter
    def strength(self, value: float) -> None:
        self.stage.strength = value

    def keep(self, _owner: Any) -> None:
        """Checks before a pass that the guard is in place.

        Raises:
            PipelineChanged: what it stands in front of was put back by something else.
        """
        if self.watched.name not in vars(self.watched.owner):
            raise PipelineChanged(f"the guard around {self.watched.name} was taken off; remove() it and apply it again")

    def detach(self) -> None:
        """Takes the stage off."""
        self.stage.detach()
        self.watched.leave(self.stage)
