"""What a check says. No torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

#: order in which checks are reported; the first fault is the first cause
ORDER = (
    "strength", "schema", "finite", "dtype", "keys", "alpha", "files", "text_encoder", "base", "patched", "clip_skip",
    "other_lora", "prompt", "pictures",
)  # fmt: skip


@dataclass(frozen=True)
class Finding:
    """Result of one check: ok, fault, warning or unknown, in plain words, with one command or action that fixes it.

    Text and fix may hold hints, which the command line says in its words and Python in its own.
    """

    check: str
    verdict: str
    text: str
    fix: str = ""

    def to_dict(self, words: Callable[[str], str] = lambda said: said) -> dict[str, str]:
        """JSON-ready form, in the ``words`` of whoever reads it."""
        return {"check": self.check, "verdict": self.verdict, "text": words(self.text), "fix": words(self.fix)}


@dataclass
class Diagnosis:
    """All findings in their order, with numbers and pictures for those who look closer."""

    artifact: str
    model: str
    prompt: str
    findings: list[Finding]
    numbers: dict[str, Any] = field(default_factory=dict)
    manifest: dict[str, Any] = field(default_factory=dict)
    pictures: dict[str, Any] = field(default_factory=dict, repr=False)

    @property
    def cause(self) -> Finding | None:
        """The first fault, else the first warning, else None."""
        for verdict in ("fault", "warning"):
            for item in self.findings:
                if item.verdict == verdict:
                    return item
        return None

    def to_dict(self, words: Callable[[str], str] = lambda said: said) -> dict[str, Any]:
        """JSON-ready form, in the ``words`` of whoever reads it; pictures are left out."""
        cause = self.cause
        return {
            "schema": 1, "artifact": self.artifact, "model": self.model, "prompt": self.prompt,
            "cause": None if cause is None else cause.to_dict(words),
            "findings": [item.to_dict(words) for item in self.findings], "numbers": self.numbers,
        }  # fmt: skip


def ordered(findings: list[Finding]) -> list[Finding]:
    """Findings in the order of likelihood; faults of one check before its good news."""
    rank = {"fault": 0, "warning": 1, "unknown": 2, "ok": 3}
    return sorted(findings, key=lambda item: (ORDER.index(item.check), rank[item.verdict]))
