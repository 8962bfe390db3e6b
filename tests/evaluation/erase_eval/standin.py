"""A world of six things, a judge of it, and subjects that "draw" feature vectors: what is erased is known exactly."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from erase_plugins.evaluation.run import Subject
from erase_plugins.pocket.world import World, WorldConcept

NAMES = {"owl": ("hooter", "nightbird"), "crow": ("rook",), "robin": ("redbreast",), "bus": ("coach",),
         "car": ("auto",), "tram": ("trolley",)}  # fmt: skip
STYLES, BACKGROUNDS = ("flat", "round", "wild"), ("red", "blue", "green", "grey")


class Judge:
    id, title, needs, fingerprint, modality = "standin", "Stand-in", frozenset(), "0", "image"
    axes = {"concept": (*NAMES, "nothing"), "style": STYLES, "background": BACKGROUNDS}

    def world(self):
        concepts = tuple(
            WorldConcept(name, "bird" if place < 3 else "vehicle", "", also)
            for place, (name, also) in enumerate(NAMES.items())
        )
        return World(concepts, STYLES, BACKGROUNDS, {}, dict.fromkeys(STYLES, ()), dict.fromkeys(BACKGROUNDS, ()))

    def features(self, pictures):
        return pictures.flatten(1)[:, :24]

    def score(self, pictures):
        rows, found, start = self.features(pictures), {}, 0
        for axis, labels in self.axes.items():
            found[axis] = rows[:, start : start + len(labels)].softmax(-1)
            start += len(labels)
        return found


def drawn(text, seed):
    """A picture (3, 4, 4) whose first values say what is on it, with noise of its seed."""
    noise = 0.15 * torch.randn(48, generator=torch.Generator().manual_seed(seed))
    words, start = set(text.split()), 0
    meant = [name for name, also in NAMES.items() if words & {name, *also}] or ["nothing"]
    for labels, chosen in ((Judge.axes["concept"], meant), (STYLES, words), (BACKGROUNDS, words)):
        for place, label in enumerate(labels):
            noise[start + place] += 2.0 * (label in chosen)
        start += len(labels)
    return noise.view(3, 4, 4)


class StandIn(Subject):
    """Draws ``rewrite(text)`` where the edit is on; ``broken`` draws noise."""

    def __init__(self, rewrite=lambda text: text, images=32, broken=False, judge=None, erased=("owl",)):
        target = SimpleNamespace(fingerprint=dict, dtype="float32", device="cpu", pieces=lambda name: ())
        super().__init__(
            SimpleNamespace(components={"unet": torch.nn.Identity()}),
            target,
            "stand-in",
            [],
            judge or Judge(),
            list(erased),
            images=images,
        )
        self.rewrite, self.broken, self.asked = rewrite, broken, []

    def generate(self, inputs, seeds, *, edit="on", strength=None):
        self.asked += [(edit, text, seed) for text, seed in zip(inputs, seeds, strict=True)]
        if edit == "destroyed" or (edit == "on" and self.broken):
            return torch.stack([torch.randn(3, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        texts = [self.rewrite(text) if edit == "on" else text for text in inputs]
        return torch.stack([drawn(*pair) for pair in zip(texts, seeds, strict=True)])
