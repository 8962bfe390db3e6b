"""What all guards share: a plan without modules, and a result that is a policy and no edit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from erase_plugins.artifacts import policy
from erase_plugins.errors import RequestError
from erase_plugins.families.capabilities import DENOISER, LANGUAGE, TEXT
from erase_plugins.options import as_dict, option, resolve
from erase_plugins.types import KINDS, EditPlan, EraseRequest, RunResult

if TYPE_CHECKING:
    from erase_plugins.engine.context import RunContext
    from erase_plugins.families.base import ModelSpec

MESSAGE = "this cannot be answered"


@dataclass(frozen=True)
class LookingOptions:
    """Options of guards that look at prompts."""

    action: str = option("block", "what a hit does: a refusal, a picture of the empty prompt, or a warning only",
                         choices=("block", "empty", "flag"))  # fmt: skip
    message: str = option(MESSAGE, "what is answered in the place of what was blocked")

    def check(self, info: ModelSpec) -> None:
        """Raises `RequestError` for what this model cannot do."""
        if self.action == "empty" and LANGUAGE in info.roles:
            raise RequestError("action=empty draws the empty prompt, and this model answers in text; take action=block")


class Guardrail:
    """Base of the guards.

    Attributes:
        level: what it acts on, "prompt" or "guidance".
    """

    id: str
    level = "prompt"
    needs: frozenset[str] = frozenset({"prompts"})
    packages: frozenset[str] = frozenset({"transformers"})
    kinds: frozenset[str] = frozenset(KINDS)
    produces: frozenset[str] = frozenset()
    Options: type
    contract_options: ClassVar[dict[str, Any]] = {}

    def plan(self, request: EraseRequest, info: ModelSpec) -> EditPlan:
        """The plan from configuration alone."""
        options = resolve(self.Options, request.options, getattr(info, "profiles", ()))
        request = self.prepared(request, options, info)
        return EditPlan(request=request, options=as_dict(options), steps=1, seconds=0.0, memory_bytes=0, file_bytes=0,
                        warnings=(policy.NOTHING_REMOVED,))  # fmt: skip

    def prepared(self, request: EraseRequest, options: Any, info: ModelSpec) -> EraseRequest:
        """The request as the manifest is to name it; refuses what this model cannot have."""
        return request

    def run(self, plan: EditPlan, target: Any, ctx: RunContext) -> RunResult:
        """The policy of all concepts."""
        ctx.start(1)
        found = self.policies(plan.request, self.Options(**plan.options), target, ctx)
        ctx.step(1, 1)
        return RunResult(None, guards=tuple(found))

    def policies(self, request: EraseRequest, options: Any, target: Any, ctx: RunContext) -> Sequence[dict[str, Any]]:
        """Policies, JSON-ready."""
        raise NotImplementedError


class Steering(Guardrail):
    """Base of the guards that steer a picture in the making: one stage for all concepts, and no prompt is a hit."""

    level = "guidance"
    needs = frozenset({DENOISER, TEXT})
    packages = frozenset({"diffusers", "transformers"})

    def policies(self, request: EraseRequest, options: Any, target: Any, ctx: RunContext) -> Sequence[dict[str, Any]]:
        """One policy with one stage."""
        texts = names(request)
        stage = {"type": self.id, **self.stage(texts, request, options, target, ctx)}
        return [policy.make(texts[0], [stage], "flag")]

    def stage(
        self, texts: list[str], request: EraseRequest, options: Any, target: Any, ctx: RunContext
    ) -> dict[str, Any]:
        """What the stage is told besides its type, JSON-ready.

        Args:
            texts: all names and phrasings.
            request, options, target, ctx: as for `policies`.
        """
        return {"text": ", ".join(texts)}


def names(request: EraseRequest) -> list[str]:
    """All names and phrasings of what is guarded."""
    return list(dict.fromkeys(text for item in request.forget for text in (item.text, *item.prompts) if text.strip()))
