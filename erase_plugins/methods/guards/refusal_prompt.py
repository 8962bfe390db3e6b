"""Refusal prompt: a system message that tells a language model what not to speak about, and what to say instead.

It is set by the chat template, or as text before the question where there is none. A model follows it as far as it
follows any instruction; whoever owns the prompt can take it out. Small models without instruction tuning ignore it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from erase_plugins.artifacts import policy
from erase_plugins.families.capabilities import LANGUAGE
from erase_plugins.hookspecs import hookimpl
from erase_plugins.methods.guards.guardrail import Guardrail, names
from erase_plugins.options import option
from erase_plugins.types import EraseRequest

if TYPE_CHECKING:
    from erase_plugins.engine.context import RunContext


@dataclass(frozen=True)
class RefusalOptions:
    """Options of the refusal prompt."""

    message: str = option("I cannot help with that.", "the sentence that the model is to say instead")


class RefusalPrompt(Guardrail):
    """A system message before every question."""

    id = "refusal-prompt"
    title = "Refusal prompt"
    paper = "https://arxiv.org/abs/2403.03329"
    summary = "guard, no erasure: a system message that tells a language model to decline the topic"
    needs = frozenset({LANGUAGE})
    Options = RefusalOptions

    def policies(
        self, request: EraseRequest, options: RefusalOptions, target: Any, ctx: RunContext
    ) -> Sequence[dict[str, Any]]:
        topics = names(request)
        text = (
            f"Do not speak about {', '.join(topics)}. If you are asked about it, say exactly: {options.message} "
            "Answer everything else normally."
        )
        return [policy.make(topics[0], [{"type": self.id, "text": text}], "block", options.message)]


@hookimpl
def erase_methods() -> list[RefusalPrompt]:
    return [RefusalPrompt()]
