"""A probe on the user's own pictures: it sees what they show, and is refused where it cannot tell."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation.probe_judge import ProbeJudge
from tests.evaluation.test_clip_judge import folder as clip  # noqa: F401


def picture(red, seed):
    """Noise, with a red upper half or without."""
    array = np.random.default_rng(seed).integers(60, 200, (40, 40, 3))
    if red:
        array[:20] = (250, 5, 5)
    return array.astype(np.uint8)


def write(place, name, reds, start=0):
    (place / name).mkdir(parents=True)
    for number, red in enumerate(reds):
        Image.fromarray(picture(red, start + number)).save(place / name / f"{number}.png")


@pytest.fixture
def own(clip, tmp_path):  # noqa: F811
    (tmp_path / "clip").symlink_to(clip)
    return tmp_path


def tensor(red, seed):
    return torch.from_numpy(picture(red, seed) / 255.0).float().permute(2, 0, 1)


def test_it_sees_what_the_pictures_show(own):
    write(own, "with", [True] * 20)
    write(own, "without", [False] * 20, 100)
    judge = ProbeJudge().opened(str(own), ["red roof"])
    fresh = torch.stack([tensor(bool(number % 2), 500 + number) for number in range(8)])
    scores = judge.score(fresh)["concept"]
    best = [judge.axes["concept"][index] for index in scores.argmax(1).tolist()]
    assert [name == "red roof" for name in best] == [False, True] * 4
    assert torch.allclose(scores.sum(1), torch.ones(8), atol=1e-5) and bool((scores >= 0).all())
    again = ProbeJudge().opened(str(own), ["red roof"])
    assert again.fingerprint == judge.fingerprint


def test_pictures_that_do_not_differ_are_refused(own):
    write(own, "with", [False] * 20)
    write(own, "without", [False] * 20, 100)
    with pytest.raises(Unsupported, match=r"does not know red roof well enough: AUROC 0\.\d+ \(needs 0.95\)"):
        ProbeJudge().opened(str(own), ["red roof"])


def test_what_is_missing_is_named(own):
    with pytest.raises(RequestError, match="has no pictures in 'with'; it needs with/ and without/"):
        ProbeJudge().opened(str(own), ["red roof"])
    write(own, "with", [True] * 3)
    write(own, "without", [False] * 3)
    with pytest.raises(Unsupported, match="too few pictures to train a judge for red roof"):
        ProbeJudge().opened(str(own), ["red roof"])
    with pytest.raises(RequestError, match="knows one concept, not 2"):
        ProbeJudge().opened(str(own), ["red roof", "owl"])
    (own / "with" / "0.png").write_text("no picture")
    with pytest.raises(RequestError, match=r"'0\.png' is no picture that can be read"):
        ProbeJudge().opened(str(own), ["red roof"])
