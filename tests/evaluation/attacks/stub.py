"""A tiny random model with a judge that sees what it is told to see: attacks run through in a second."""

from __future__ import annotations

from types import SimpleNamespace

import torch

import erase_plugins as ep
from erase_plugins.evaluation.run import Subject
from erase_plugins.workflow.models import target_of

CONCEPTS = [SimpleNamespace(name=name, group="animal", synonyms=()) for name in ("owl", "cat", "dog")]
AXES = {"concept": ("owl", "cat", "dog", "nothing"), "style": ("noto", "fluent"), "background": ("red", "blue")}


class StubJudge:
    """Sees in every picture the concept whose number ``sees`` gives for it (by default the first, an owl)."""

    id, title, needs, fingerprint, axes = "stub", "Stub", frozenset(), "0", AXES

    def __init__(self, sees=lambda picture: 0):
        self.sees = sees

    def accepts(self, info):
        return True

    def world(self):
        return SimpleNamespace(
            concepts=CONCEPTS, styles=AXES["style"], backgrounds=AXES["background"], style_synonyms={},
            concept=lambda name: next(item for item in CONCEPTS if item.name == name),
            group=lambda name: tuple(CONCEPTS),
        )  # fmt: skip

    def score(self, images):
        concept = torch.zeros(len(images), len(AXES["concept"]))
        for place, picture in enumerate(images):
            concept[place, self.sees(picture)] = 1
        return {
            "concept": concept,
            **{axis: torch.ones(len(images), len(AXES[axis])) for axis in ("style", "background")},
        }


def only_the_base_shows_it(monkeypatch, subject) -> None:
    """Draws black without the edit and undestroyed, white otherwise: for a judge that tells these two apart."""
    drawn = subject.draw

    def shown(prompts, seeds, cond=None):
        return torch.full_like(drawn(prompts, seeds, cond), 0.0 if subject._stage == "base" else 1.0)

    monkeypatch.setattr(subject, "draw", shown)


def tiny_subject(pipe, sees=lambda picture: 0, **more) -> Subject:
    """The pipeline with an edit that erases "owl" (in memory; give ``artifacts`` for another)."""
    target = target_of(pipe, "tiny")
    artifacts = more.pop("artifacts", None) or [ep.erase(target, "owl", "uce", options={"vocabulary": 0})]
    return Subject(
        pipe, target, "tiny", artifacts, StubJudge(sees), ["owl"], steps=2, **{"guidance": 2.0, **more}
    )  # fmt: skip
