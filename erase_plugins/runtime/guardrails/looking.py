"""Guards that look at prompts: by keyword, or by the model's own embeddings."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from typing import Any, Protocol

from erase_plugins.artifacts.keyword_guard import KeywordGuard, Verdict
from erase_plugins.artifacts.policy import unpacked
from erase_plugins.errors import Blocked, CorruptArtifact, RequestError
from erase_plugins.families.sentences import Remembered, score
from erase_plugins.hints import Hint
from erase_plugins.runtime.guardrails.watch import Quiet

GUARD_KEY = Hint("guard-key", "FILE")
#: what pipelines call their prompts; what is named in a negative prompt is not asked for
PROMPTS = ("prompt", "prompt_2", "prompt_3")


class Looker(Protocol):
    """Looks at one text."""

    def check(self, text: str) -> Verdict:
        """Whether it is hit."""


class ByEmbedding:
    """Looks at the meaning that the model itself gives a text.

    Raises:
        CorruptArtifact: no anchors, of another width, not of unit length, or no usable threshold.
    """

    def __init__(self, policy: Mapping[str, Any], stage: Mapping[str, Any], target: Any) -> None:
        self.concept, self.action = policy["concept"], policy["action"]
        self.target = target
        self.center, self.anchors = unpacked(stage.get("center")), unpacked(stage.get("anchors"))
        self.tau = tau = stage.get("tau", 0.0)
        sound = isinstance(tau, float) and -1.0 < tau < 1.0 and self.center.ndim == 1
        sound = sound and self.anchors.ndim == 2 and self.anchors.shape[0] > 0
        if not sound or self.anchors.shape[1:] != self.center.shape:
            raise CorruptArtifact("the guard has no usable anchors or threshold")
        if not bool(((self.anchors.norm(dim=-1) - 1.0).abs() < 1e-3).all()):
            raise CorruptArtifact("the anchors of the guard are not of unit length")

    def check(self, text: str) -> Verdict:
        """Whether the text, or a row of words in it, is closer to an anchor than the threshold."""
        hit = score(self.target, text, self.center, self.anchors) >= self.tau
        return Verdict(hit, self.concept, self.action, f"{self.concept}: embedding" if hit else "")


def remembering(seer: Looker) -> Looker:
    """The same looker for texts that share parts, as question and answer do: the model reads each part once."""
    if not isinstance(seer, ByEmbedding):
        return seer
    found = copy.copy(seer)
    found.target = Remembered(seer.target)
    return found


def by_keyword(policy: Mapping[str, Any], stage: Mapping[str, Any], key: bytes) -> KeywordGuard:
    """Looks for the words of a stage.

    Raises:
        RequestError: they are hashed and no key was given.
    """
    found = KeywordGuard.from_policy({**policy, "stages": [stage]}, key)
    if found.private and not key:
        raise RequestError("the words of this guard are HMACs: give the file with their key: ", GUARD_KEY)
    return found


class PromptStage(Quiet):
    """Looks at every prompt before the text encoder of a pipeline does.

    Attributes:
        report: verdicts of the last call, for hits only.
    """

    looks = True

    def __init__(self, policy: Mapping[str, Any], seer: Looker, strength: float) -> None:
        self.policy, self.seer, self.strength = policy, seer, strength
        self.report: list[Verdict] = []

    @property
    def idle(self) -> bool:  # type: ignore[override]
        """Whether nothing is refused."""
        return bool(self.policy["action"] == "flag")

    def refuses(self, text: str) -> bool:
        """Whether nothing would be drawn of this prompt."""
        return self.policy["action"] == "block" and self.seer.check(text).hit

    def before(self, given: dict[str, Any]) -> dict[str, Any]:
        """The arguments; a prompt that is hit is empty where the policy says so.

        Raises:
            Blocked: a prompt is hit, or there is none to look at (embeddings in its place); nothing was drawn.
        """
        action, self.report = self.policy["action"], []
        columns = {name: listed(given[name]) for name in PROMPTS if given.get(name) is not None}
        if not columns and given.get("prompt_embeds") is not None:
            if action == "flag":
                return given
            raise Blocked(f"the guard of {self.policy['concept']} cannot read prompt_embeds; give the prompt as text")
        verdicts = {name: [self.seer.check(text) for text in texts] for name, texts in columns.items()}
        self.report = [verdict for column in verdicts.values() for verdict in column if verdict.hit]
        if not self.report:
            return given
        if action == "block":
            raise Blocked(f"{self.policy['message']} ({self.report[0].reason})")
        if action == "flag":
            warnings.warn(f"a guard was hit: {self.report[0].reason}", stacklevel=5)
            return given
        count = max(map(len, columns.values()))
        hit = {place for column in verdicts.values() for place, verdict in enumerate(column) if verdict.hit}
        emptied: dict[str, Any] = {
            name: [("" if place in hit else texts[place % len(texts)]) for place in range(count)]
            for name, texts in columns.items()
        }
        single = {name for name in columns if isinstance(given[name], str)}
        return given | {name: texts[0] if name in single else texts for name, texts in emptied.items()}


def listed(value: Any) -> list[str]:
    """A prompt or several as a list."""
    return [value] if isinstance(value, str) else [str(item) for item in value]
