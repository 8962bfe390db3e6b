"""The contract of judges: the built-in ones keep it, and each rule is noticed when it is broken."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from erase_plugins import hookimpl
from erase_plugins.evaluation.clip_judge import ClipJudge
from erase_plugins.manager import get_manager
from erase_plugins.testing.judges import CHECKS, JudgeContract
from tests.evaluation.conftest import clip_folder  # noqa: F401


class TestBuiltIn(JudgeContract):
    names = ("pocket",)


def test_clip_keeps_it(clip_folder):  # noqa: F811
    """A judge of which the user brings a part."""

    class Opened(JudgeContract):
        def judge(self, name):
            return ClipJudge().opened(str(clip_folder), ["grumpy cat"])

    assert Opened().report("clip") == {}


class Shade:
    """Dark or light, by the mean of a picture; its probabilities are that mean and the rest."""

    id, title, needs = "shade", "Dark or light", frozenset()
    axes = {"concept": ("dark", "light")}
    fingerprint = "shade-1"

    def accepts(self, info):
        return False

    def score(self, images):
        light = images.mean((1, 2, 3))
        return {"concept": torch.stack([1 - light, light], 1)}

    def world(self):
        concepts = tuple(SimpleNamespace(name=name, group="shade", synonyms=()) for name in ("dark", "light"))
        return SimpleNamespace(concepts=concepts, styles=(), backgrounds=())


def failed(**changes):
    item = type("Odd", (Shade,), changes)()
    planted = type("Planted", (), {"erase_judges": hookimpl(lambda self: [item], specname="erase_judges")})()
    with get_manager().temporary(planted, "planted"):
        return JudgeContract().report("shade")


def scored(change):
    return {"score": lambda self, images: {"concept": change(Shade.score(self, images)["concept"], images)}}


def in_place(rows, images):
    images[:1] = images[:1].clamp(max=0.5)
    return rows


def crowded(**more):
    return {"world": lambda self: SimpleNamespace(**{**vars(Shade.world(self)), **more})}


def test_a_good_one_passes():
    assert failed() == {}


BROKEN = {
    "title": ({"title": ""}, "describes_itself", "title"),
    "no axis": ({"axes": {}}, "axes_are_named", "axes is empty"),
    "one label": ({"axes": {"concept": ("dark",)}}, "axes_are_named", "axis concept has the labels ('dark',)"),
    "twice": ({"axes": {"concept": ("dark", "light"), "style": ("dark", "bold")}}, "axes_are_named", "'dark' stands twice"),
    "fingerprint": ({"fingerprint": property(lambda self: str(id(object())) + str(torch.rand(1)))}, "fingerprint_stays", "changes"),
    "axis": ({"score": lambda self, images: {"style": images.mean((1, 2, 3))}}, "scores_are_probabilities", "score gives style"),
    "shape": (scored(lambda rows, _: rows[:, :1]), "scores_are_probabilities", "the shape (4, 1), not (4, 2)"),
    "nan": (scored(lambda rows, _: rows / 0), "scores_are_probabilities", "NaN or infinity"),
    "logits": (scored(lambda rows, _: rows * 9 - 4), "scores_are_probabilities", "outside of 0..1"),
    "sum": (scored(lambda rows, _: rows / 2), "scores_are_probabilities", "1.5000 in sum"),
    "gradients": (scored(lambda rows, _: rows.requires_grad_()), "scores_are_probabilities", "has gradients"),
    "empty": (scored(lambda rows, _: rows if len(rows) else rows[:, :1]), "no_picture_is_no_row", "(0, 1), not (0, 2)"),
    "others": (scored(lambda rows, _: (rows - rows.mean(0)).softmax(-1)), "pictures_stand_alone", "where others are judged"),
    "in place": (scored(in_place), "pictures_stand_alone", "changes the pictures"),
    "changes": ({"generator": torch.Generator().manual_seed(1), "score": lambda self, images: {
        "concept": (Shade.score(self, images)["concept"] + 1e-6 * torch.rand(1, 2, generator=self.generator)).softmax(-1)}}, "answers_are_equal", "asked twice"),
    "seeds": (scored(lambda rows, _: (torch.manual_seed(0), rows)[1]), "answers_are_equal", "global random generators"),
    "answer": ({"accepts": lambda self, info: None}, "every_model_is_answered", "accepts says None of pocket"),
    "no world": (crowded(concepts=()), "world_is_of_its_labels", "neither concepts nor styles"),
    "strange": (crowded(backgrounds=("green",)), "world_is_of_its_labels", "names green, which is a label of no axis"),
    "features": ({"features": lambda self, images: images.mean((1, 2, 3))}, "features_are_rows", "the shape (4,)"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "check", "told"), BROKEN.values(), ids=BROKEN)
def test_broken_rules_are_noticed(changes, check, told):
    found = failed(**changes)
    assert told in found[check], found


def test_every_check_is_seen_to_fail():
    assert {check for _, check, _ in BROKEN.values()} == {check.__name__ for check in CHECKS}
