"""What counts, on detections written by hand; the judge, with a detector that finds what the test painted."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError
from types import SimpleNamespace

import erase_nudenet
import pytest
import torch
from erase_nudenet import ALL, CLASSES, LEAST, NOTHING, STRICT, NudeNetJudge, OpenedNudeNet, counts, shown

import erase_plugins as ep
from erase_plugins.errors import RequestError
from erase_plugins.testing.judges import JudgeContract

pytest_plugins = ["erase_plugins.testing.fixtures"]

FOUND = [
    {"class": "FEMALE_BREAST_EXPOSED", "score": 0.61, "box": [1, 2, 3, 4]},
    {"class": "FEMALE_BREAST_EXPOSED", "score": 0.6, "box": [5, 2, 3, 4]},
    {"class": "FEMALE_BREAST_COVERED", "score": 0.99, "box": [1, 2, 3, 4]},
    {"class": "FACE_FEMALE", "score": 0.95, "box": [1, 2, 3, 4]},
    {"class": "FEET_EXPOSED", "score": 0.8, "box": [1, 2, 3, 4]},
    {"class": "BELLY_EXPOSED", "score": 0.3, "box": [1, 2, 3, 4]},
]


class Stub:
    """Finds a breast in blue pictures and feet in green ones; the score is how blue or green they are."""

    def __init__(self):
        self.given = []

    def detect(self, array):
        self.given.append(array)
        blue, green, _ = array.reshape(-1, 3).mean(0) / 255
        boxes = (("FEMALE_BREAST_EXPOSED", blue), ("FEET_EXPOSED", green))
        return [{"class": name, "score": float(score), "box": [0, 0, 1, 1]} for name, score in boxes if score > LEAST]


def opened(name="strict", threshold=0.6):
    return OpenedNudeNet(Stub(), "stub", "nudity", CLASSES[name], threshold)


def painted(*colours):
    """One plain picture (3, 8, 8) for each (red, green, blue)."""
    return torch.tensor(colours)[:, :, None, None].expand(-1, 3, 8, 8)


class TestNudeNet(JudgeContract):
    names = ("nudenet",)

    def judge(self, name):
        return opened()


def test_only_listed_classes_above_the_threshold_are_counted():
    assert counts(FOUND, STRICT, 0.6) == {**dict.fromkeys(STRICT, 0), "FEMALE_BREAST_EXPOSED": 1}
    assert {name: n for name, n in counts(FOUND, ALL, 0.25).items() if n} == {
        "FEMALE_BREAST_EXPOSED": 2, "BELLY_EXPOSED": 1, "FEET_EXPOSED": 1,
    }  # fmt: skip
    assert not any(counts(FOUND[1:4], ALL, 0.6).values())
    assert (len(STRICT), len(ALL), len(set(ALL))) == (5, 9, 9)
    assert all(name.endswith("_EXPOSED") for name in ALL)


@pytest.mark.parametrize("threshold", [0.2, 0.45, 0.6])
def test_a_picture_shows_it_exactly_where_a_box_counts(threshold):
    scores = [0.21, threshold - 1e-9, threshold, threshold + 1e-9, 0.5, 0.61, 0.99]
    told = [[{"class": STRICT[0], "score": score}] for score in sorted(scores)]
    found = [shown(item, STRICT, threshold) for item in told]
    assert [value > 0.5 for value in found] == [any(counts(item, STRICT, threshold).values()) for item in told]
    assert found == sorted(found)
    assert min(found) >= 0
    assert max(found) <= 1
    assert shown([], STRICT, threshold) == shown(FOUND[2:], STRICT, threshold) == 0.0


def test_the_best_label_follows_the_classes_and_colours_arrive_as_they_are():
    pictures = painted((0.0, 0.0, 0.9), (0.9, 0.0, 0.0), (0.0, 0.9, 0.0), (0.0, 0.0, 0.5))
    best = {
        name: [judge.axes["concept"][place] for place in judge.score(pictures)["concept"].argmax(-1)]
        for name, judge in (("strict", opened()), ("all", opened("all")), ("low", opened("strict", 0.45)))
    }
    assert best["strict"] == ["nudity", NOTHING, NOTHING, NOTHING]
    assert best["all"] == ["nudity", NOTHING, "nudity", NOTHING]
    assert best["low"] == ["nudity", NOTHING, NOTHING, "nudity"]
    judge = opened()
    judge.score(pictures[:1])
    (array,) = judge._detector.given
    assert (array.dtype.name, array.shape, array[0, 0].tolist()) == ("uint8", (8, 8, 3), [230, 0, 0])  # blue first


def test_what_decides_a_count_is_in_the_fingerprint():
    judges = [opened(), opened("all"), opened("strict", 0.45), OpenedNudeNet(Stub(), "newer", "nudity", STRICT, 0.6)]
    assert len({judge.fingerprint for judge in judges}) == 4
    assert opened().fingerprint == judges[0].fingerprint


@pytest.fixture
def installed(monkeypatch):
    """Function that puts a package nudenet of a version in place; None takes it away."""

    def put(number, folder=None):
        def version(name):
            if name == "nudenet" and number is None:
                raise PackageNotFoundError(name)
            return number

        monkeypatch.setattr(erase_nudenet, "version", version)
        module = folder and SimpleNamespace(NudeDetector=Stub, __file__=str(folder / "__init__.py"))
        monkeypatch.setitem(sys.modules, "nudenet", module)

    return put


@pytest.mark.parametrize(
    ("number", "told"),
    [(None, "AGPL-3.0 and not installed"), ("2.0.9", "not of 2.0.9"), ("3.4.2", "nudenet 3.4.2 does not start")],
)
def test_without_the_package_one_line_says_how_to_get_it(installed, number, told):
    installed(number)
    with pytest.raises(RequestError) as caught:
        NudeNetJudge().opened("strict", ["nudity"])
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(": pip install 'nudenet>=3.4,<4' onnxruntime")


def test_it_opens_with_the_hash_of_the_weights(installed, tmp_path):
    installed("3.4.2", tmp_path)
    marks = []
    for weights in (b"one", b"two"):
        (tmp_path / "320n.onnx").write_bytes(weights)
        judge = NudeNetJudge().opened("all,0.45", ["nudity"])
        marks.append(judge.fingerprint)
    assert marks[0] != marks[1]
    assert (judge.classes, judge.threshold) == (ALL, 0.45)


@pytest.mark.parametrize(
    ("argument", "erased", "told"),
    [
        ("nine", ["nudity"], "knows no classes 'nine'; write nudenet:strict or nudenet:all"),
        ("strict,much", ["nudity"], "threshold 'much' is no number"),
        ("strict,0.1", ["nudity"], "threshold '0.1' is no number from 0.2"),
        ("strict,nan", ["nudity"], "threshold 'nan' is no number"),
        ("strict,1", ["nudity"], "to below 1"),
        ("strict", ["nudity", "owl"], "looks for one concept, not 2"),
    ],
)
def test_other_requests_are_refused(argument, erased, told):
    with pytest.raises(RequestError, match=told):
        NudeNetJudge().opened(argument, erased)


def test_a_suite_takes_it(installed, erase_tiny_sd1, tmp_path):
    installed("3.4.2", tmp_path)
    pipe = erase_tiny_sd1
    artifact = ep.erase(pipe, "nudity", "uce", options={"vocabulary": 0})
    report = ep.evaluate(pipe, artifact, "quick", judge="nudenet:strict", images=2, out=tmp_path / "report")
    assert (report.judge, report.erased) == ("nudenet", ("nudity",))
    assert {row.metric for row in report.rows} >= {"target_rate", "kept_rate"}
    assert report.details["prompts"]["kept"][0] == f"a {NOTHING}"
    with pytest.raises(RequestError, match=r"needs strict\|all: nudenet:strict\|all"):
        ep.evaluate(pipe, artifact, "quick", judge="nudenet", images=2)
