"""A calibration says what was measured and nothing of the user's, and a run takes from it the options that it has."""

from __future__ import annotations

import json

import pytest
import torch

from erase_plugins.engine.own_preset import load_preset
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.manager import get_manager
from erase_plugins.types import Concept, EraseRequest
from erase_plugins.workflow import calibrate as module
from erase_plugins.workflow.calibrate import calibrate, captions, concepts, padding, preset, save
from erase_plugins.workflow.first_steps import first_steps
from erase_plugins.workflow.models import target_of
from erase_plugins.workflow.run import make_plan


def methods(*names):
    return [get_manager().method(name) for name in names]


@pytest.mark.parametrize("model", ["sd1", "sdxl"])
def test_tiny_models_are_measured_without_a_word_of_the_user(model, tiny_sd1, tiny_sdxl, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_GATE_WORDS", 20)
    target = target_of({"sd1": tiny_sd1, "sdxl": tiny_sdxl}[model](), "/home/ada/secret model")
    found = calibrate(target, methods("uce", "esd", "gs-lora"), quick=True)
    save(found, tmp_path / "c.json")
    text = (tmp_path / "c.json").read_text()
    assert json.loads(text) == found
    assert not {"ada", "secret"} & set(text.replace("/", " ").split())
    assert set(found["methods"]) == {"uce", "esd"}  # the other needs a classifier
    assert found["methods"]["esd"]["seconds_per_step"] > 0
    assert found["methods"]["uce"]["empty_prompt"] >= 0
    assert "empty_prompt" not in found["methods"]["esd"]  # not finished
    assert not any("stopped" in row for row in found["methods"].values())
    assert len(found["neighbours"]) == 30
    assert all(len(row["closest"]) >= 9 and len(row["near"]) >= 2 for row in found["neighbours"].values())
    for measure in ("probe", "cosine"):
        assert found["gates"][measure]["named"] == sorted(found["gates"][measure]["named"])


def test_numbers_of_padding_are_those_of_the_rows(pocket_target):
    names = ["", *concepts()]
    cond = pocket_target.encode(names)
    found = padding(pocket_target)
    rows, last = cond.embeds.double(), cond.last
    wanted = sum(
        float(torch.cosine_similarity(rows[n, last[n] + 1], rows[n, last[n] + 3], dim=0)) for n in range(1, len(names))
    )
    assert found["cosine_to_end_row"][0] == 1
    assert found["cosine_to_end_row"][2] == pytest.approx(wanted / 30, abs=2e-5)
    assert found["norms"]["start"] == pytest.approx(float(rows[:, 0].norm(dim=1).mean()), abs=1e-3)


def test_captions_are_five_to_sixty_tokens_and_half_name_the_concept(pocket_target):
    texts, named = captions(pocket_target, 40, "dog")
    assert sum(named) == 20
    assert all(("dog" in text.split()) is name for text, name in zip(texts, named, strict=True))
    assert len({len(text.split()) for text in texts}) > 8
    assert captions(pocket_target, 40, "dog") == (texts, named)


def test_a_method_that_takes_too_long_is_stopped_and_says_so(pocket_target):
    found = first_steps(pocket_target, *methods("esd"), quick=False, limit=0.01)
    assert found["stopped"] == "after 0.01 s"
    assert found["planned"]["seconds"] > 0


def test_a_model_without_text_is_refused(pocket_target, monkeypatch):
    monkeypatch.setattr(type(pocket_target.info), "supports", lambda _self, name: name != "text")
    with pytest.raises(Unsupported, match="has no text"):
        calibrate(pocket_target, [])


MEASURED = {
    "padding": {"cosine_of_first_rows_to_mean": {"1": 0.99, "2": 0.9995, "3": 0.9999}},
    "model": {"tokens": 77},
    "neighbours": {str(n): {"same": 0.95, "near": [0.5, 0.6, 0.7]} for n in range(30)},
    "gates": {"probe": {"named": [0.6, 0.8, 1.0], "others": [-0.2, 0.0, 0.4]}},
}


def test_options_follow_where_cases_can_be_told_apart():
    assert preset(MEASURED) == {
        "vocabulary_tail": 2, "near": 0.825, "alias_threshold": 0.825, "gate_low": 0.4, "gate_high": 0.6
    }  # fmt: skip
    blurred = {str(n): {"same": 0.6, "near": [0.5, 0.6, 0.7]} for n in range(30)}
    other = {"probe": {"named": [0.3, 0.8, 1.0], "others": [-0.2, 0.0, 0.4]}}
    assert preset({**MEASURED, "neighbours": blurred, "gates": other, "model": {"tokens": 32}}) == {}


def test_its_file_is_a_preset_for_every_method(pocket_target, tmp_path):
    file = tmp_path / "c.json"
    save({"kind": "calibration", "preset": {"near": 0.77, "gate_low": 0.1, "gate_high": 0.2}}, file)
    own = load_preset(file)

    def planned(method, **options):
        extra = {"preset": own.to_dict()}
        return make_plan(
            EraseRequest("pocket", (Concept("dog"),), method, options=options, extra=extra), pocket_target.info
        )

    assert planned("uce").options["near"] == 0.77
    assert planned("spm").options["gate_low"] == 0.1
    assert planned("uce", near=0.9).options["near"] == 0.9
    assert any("c.json sets near=0.77" in note for note in planned("uce").notes)
    for text in ('{"kind": "report"}', "[1]", "{", '{"kind": "calibration", "preset": {"near": [1]}}'):
        file.write_text(text)
        with pytest.raises(RequestError, match="is no calibration"):
            load_preset(file)
    save({"kind": "calibration", "preset": {"near": 7}}, file, force=None)
    with pytest.raises(RequestError, match="near"):
        load_preset(file).check(get_manager().method("uce"), ())
