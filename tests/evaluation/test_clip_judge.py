"""Zero-shot CLIP as a judge: on a tiny model whose answers are known from transformers' own pass."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.evaluation.clip_judge import ClipJudge
from erase_plugins.evaluation.prompts import SETS, quick_prompts
from erase_plugins.workflow.measure import find_judge


@pytest.fixture
def folder(clip_folder):
    return clip_folder


def test_it_says_what_transformers_says(folder):
    from transformers import CLIPModel, CLIPTokenizer
    from transformers.image_utils import OPENAI_CLIP_MEAN, OPENAI_CLIP_STD

    judge = ClipJudge().opened(str(folder), ["grumpy cat"])
    pictures = torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    mean, spread = (torch.tensor(item).view(3, 1, 1) for item in (OPENAI_CLIP_MEAN, OPENAI_CLIP_STD))
    captions = [f"a picture of a {label}" for label in judge.axes["concept"]]
    given = CLIPTokenizer.from_pretrained(folder)(captions, padding=True, return_tensors="pt")
    with torch.no_grad():
        wanted = CLIPModel.from_pretrained(folder)(
            input_ids=given["input_ids"],
            attention_mask=given["attention_mask"],
            pixel_values=(pictures - mean) / spread,
        )
    found = judge.score(pictures)
    assert torch.allclose(found["concept"], wanted.logits_per_image.softmax(-1), atol=1e-5)
    assert torch.allclose(judge.features(pictures), wanted.image_embeds, atol=1e-5)
    assert {axis: part.shape[1] for axis, part in found.items()} == {
        axis: len(item) for axis, item in judge.axes.items()
    }


def test_its_world_holds_what_was_erased_and_things_to_compare_with(folder):
    judge = ClipJudge().opened(str(folder), ["grumpy cat"])
    sets = quick_prompts(judge, ["grumpy cat"], 4, 0)
    assert set(sets) == set(SETS) and [len(sets[name]) for name in SETS] == [4, 0, 0, 4]
    assert all("grumpy cat" in item.text for item in sets["target"])
    assert len(quick_prompts(judge, ["dog"], 4, 0)["neighbour"]) == 4
    assert judge.fingerprint != ClipJudge().opened(str(folder), ["dog"]).fingerprint


def test_a_model_that_no_judge_knows_can_be_measured_with_it(folder, tiny_sd1):
    report = ep.evaluate(tiny_sd1(), [], erased=["grumpy cat"], judge=f"clip:{folder}", images=1, steps=1)
    assert report.judge == "clip" and report.judge_hash
    assert report.row("target_rate", "edited").value == report.row("target_rate", "base").value


@pytest.mark.parametrize(
    ("name", "told"),
    [("clip", "judge clip needs FOLDER: clip:FOLDER"), ("pocket:x", "judge pocket takes nothing behind ':'")],
)
def test_arguments(name, told):
    with pytest.raises(RequestError, match=told):
        find_judge(name)
    with pytest.raises(UnknownName, match="did you mean 'clip'"):
        find_judge("clp:x")


def test_a_folder_without_clip_is_one_line(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match="judge clip: 'empty' holds no CLIP model") as refused:
        ClipJudge().opened(str(tmp_path / "empty"), [])
    assert str(tmp_path) not in str(refused.value)
