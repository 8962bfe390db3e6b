"""Guards of an artifact in a graph. Those that look at prompts look at every text that a CLIP is given to encode.

Such a guard sits on the tokenizer of a clone, where clip skip, LoRAs and further nodes leave it. What our own nodes
encode (concepts to erase, pictures to look at) is not looked at. Guards of other packages may say themselves what they
do with MODEL and CLIP (``in_graph``). The built-in ones that steer the guidance have no place here.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from erase_plugins.errors import Blocked, Unsupported

#: whether a node of ours encodes right now
_OWN: ContextVar[bool] = ContextVar("erase_plugins_own_texts", default=False)
#: what else does the work of guards that steer
_INSTEAD = {
    "negative-prompt": "write its text into the negative prompt: '{text}'",
    "sld": "write its text into the negative prompt: '{text}'",
    "safree": "erase the concept, or take a keyword-guard",
    "nag": "take the pack ComfyUI-NAG with this negative prompt: '{text}'",
    "negpip": "take the pack ComfyUI-ppm and write ({text}:-1) into the prompt",
    "refusal-prompt": "it speaks to a language model; take a keyword-guard",
}


@contextmanager
def own_texts() -> Iterator[None]:
    """Inside, no guard looks at what is encoded."""
    token = _OWN.set(True)
    try:
        yield
    finally:
        _OWN.reset(token)


@dataclass(frozen=True)
class Watch:
    """One policy and what looks at texts for it."""

    policy: Any
    seer: Any
    name: str = ""

    def passed(self, text: str) -> str:
        """The text, or the empty one where a hit is drawn as that.

        Raises:
            Blocked: a hit that is blocked.
        """
        verdict = self.seer.check(text)
        if not verdict.hit:
            return text
        if self.policy["action"] == "block":
            raise Blocked(
                f"{self.policy['message']} (the guard '{self.name}' blocks this prompt, {verdict.reason}; write "
                "another one, or take a guard made with action=empty, which draws the empty prompt in its place)"
            )
        if self.policy["action"] == "empty":
            return ""
        logging.getLogger("erase_plugins").warning("a guard was hit: %s", verdict.reason)
        return text


class GuardedTokenizer:
    """A tokenizer of ComfyUI that shows every text to guards first; everything else is the tokenizer's own."""

    def __init__(self, plain: Any, watches: Sequence[Watch]) -> None:
        self.plain, self.watches = plain, tuple(watches)

    def __getattr__(self, name: str) -> Any:
        if name == "plain" or name.startswith("__"):  # asked for while a copy is made
            raise AttributeError(name)
        return getattr(self.plain, name)

    def tokenize_with_weights(self, text: Any, *arguments: Any, **options: Any) -> Any:
        """Tokens of a text that every guard lets through."""
        if not _OWN.get():
            for watch in self.watches:
                text = [watch.passed(part) for part in text] if isinstance(text, list) else watch.passed(text)
        return self.plain.tokenize_with_weights(text, *arguments, **options)


def check_measurable(artifact: Any) -> None:
    """Refuses to measure guards in a graph: what nodes of ours encode is not shown to them.

    Raises:
        Unsupported: says where they are measured.
    """
    if artifact.manifest.guards:
        raise Unsupported(
            f"'{artifact.manifest.name}' is a guard, which stands in front of prompts and not of what this node draws, "
            "so nothing of it would be seen here; measure it with the command 'erase-plugins evaluate'"
        )


def guarded(model: Any, clip: Any, artifact: Any, target: Any, any_base: bool) -> tuple[Any, Any, list[str]]:
    """MODEL and CLIP with the guards of an artifact, and lines for the report; clones where a guard acts on them.

    Args:
        model, clip: with or without other guards; stay as they are.
        artifact: with guards, or without (then MODEL and CLIP themselves come back).
        target: the connected model.
        any_base: allow another text encoder than the one that a guard was calibrated on.

    Raises:
        Unsupported: a guard that has no place in a graph, or no CLIP is connected.
        RequestError: hashed keywords, whose key no graph may hold.
        BaseMismatch, CorruptArtifact, PluginError: as `erase_plugins.runtime.guardrails.attach.attach_guards`.
    """
    from erase_plugins.artifacts.policy import policies
    from erase_plugins.runtime.guardrails.attach import blamed, check_stage, kind_of
    from erase_plugins.runtime.guardrails.watch import Placing

    watches, lines = [], []
    for policy in policies(artifact.manifest):
        for stage in policy["stages"]:
            kind, found, placing = stage["type"], kind_of(stage), Placing(policy, stage, target, 1.0)
            check_stage(artifact.manifest, found, target, any_base)
            if hasattr(found, "in_graph"):
                with blamed(found):
                    model, clip, line = found.in_graph(placing, model, clip)
                lines.append(f"guard of {policy['concept']} ({kind}): {line}")
                continue
            if not hasattr(found, "looker"):
                how = _INSTEAD.get(kind, "erase the concept").format(text=str(stage.get("text", ""))[:200])
                raise Unsupported(f"the guard '{kind}' has no place in ComfyUI; {how}")
            if clip is None:
                raise Unsupported(f"the guard '{kind}' looks at prompts; connect the CLIP of this model")
            with blamed(found):
                watches.append(Watch(policy, found.looker(placing), artifact.manifest.name))
            lines.append(
                f"guard of {policy['concept']} ({kind}, {policy['action']}): looks at every text that the CLIP behind "
                "this node encodes; give negative prompts the CLIP in front of it. Nothing is removed from the weights"
            )
    if watches:
        plain, clip = clip, clip.clone()
        clip.tokenizer = GuardedTokenizer(plain.tokenizer, watches)
    return model, clip, lines
