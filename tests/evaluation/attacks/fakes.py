"""A subject whose pictures are numbers: what a prompt shows is a rule of the test, and nothing is drawn."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.budget import Budget
from erase_plugins.pocket.judge import PocketJudge
from erase_plugins.pocket.world import pocket_world

#: what the file of found things of every attack begins with
FACTS = ["attack", "model", "artifacts", "erased", "strength", "sampler_steps", "guidance", "success_rate"]


class Judge:
    """Sees the label whose number is in the first pixel, in 1/200."""

    id, fingerprint = "fake", "0"
    axes = PocketJudge().axes

    def accepts(self, info):
        return True

    def world(self):
        return pocket_world()

    def score(self, pictures):
        seen = (pictures[:, 0, 0, 0] * 200).round().long()
        return {
            axis: torch.nn.functional.one_hot(seen.clamp(max=len(labels) - 1), len(labels)).float()
            for axis, labels in self.axes.items()
        }


class Subject:
    """``rule(text, edit)`` says what is shown."""

    def __init__(self, rule, erased=("owl",), seed=0, tokens=32):
        self.rule, self.erased, self.seed = rule, list(erased), seed
        self.judge, self.artifacts = Judge(), []
        self.model, self.strength, self.steps, self.guidance, self.queries = "fake", 1.0, 8, 4.0, 0
        self.asked, self.pipe = [], SimpleNamespace()  # nothing tells its weights, so nothing is kept of it
        self.target = SimpleNamespace(
            info=SimpleNamespace(tokens=tokens), pieces=lambda text: tuple(text.split()), device="cpu"
        )

    def generate(self, inputs, seeds, *, edit="on", strength=None):
        self.queries += len(inputs)
        self.asked.append((edit, tuple(inputs), tuple(seeds)))
        labels = self.judge.axes["concept"]
        shown = [labels.index(self.rule(text, edit) or "nothing") / 200 for text in inputs]
        return torch.tensor(shown)[:, None, None, None].expand(-1, 3, 8, 8)


def budget_of(folder, queries, name="custom", seed=0, **options):
    folder.mkdir(exist_ok=True)
    return Budget(seed=seed, device="cpu", work=folder, options=options, name=name, queries=queries)


def no_pieces(text):
    raise Unsupported("no tokenizer")
