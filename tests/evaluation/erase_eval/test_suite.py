"""EraseEval on subjects of which it is known what they erase, and once on the embedded model."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

import erase_plugins as ep
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation import run
from erase_plugins.evaluation.context import run_in_context
from erase_plugins.evaluation.erase_eval.suite import EraseEvalSuite
from erase_plugins.types import EvalReport
from tests.evaluation.erase_eval.standin import Judge, StandIn

METRICS = ("m1_explicit", "m2_implicit", "m3_followed", "m4_alike", "erase_score")
OWL, ALL = re.compile(r"\bowl\b"), re.compile(r"\b(owl|hooter|nightbird)\b")


@pytest.fixture(autouse=True)
def _nothing_remembered():
    run._BASE_CACHE.clear()


def report_of(subject, out=None, **settings):
    return run_in_context(EraseEvalSuite(), subject, settings, out=out)


def values(report, name="edited"):
    return [next((row.value for row in report.rows if (row.metric, row.subject) == (metric, name)), None)
            for metric in METRICS]  # fmt: skip


def rate(report, metric, name="edited"):
    return report.row(metric, name).value


def test_what_does_nothing_scores_0():
    report = report_of(StandIn())
    assert values(report) == [0, 0, 1, 1, 0]
    assert values(report, "base") == [0, 0, 1, 1, 0]
    assert rate(report, "target_rate") == 1


def test_a_destroyed_model_scores_0():
    report = report_of(StandIn(broken=True))
    assert values(report)[3:] == [0, 0]
    assert rate(report, "kept_rate") < 0.5
    assert any("as far from the base as those of a destroyed model" in text for text in report.warnings)


def test_the_oracle_passes():
    """Somebody who draws a crow wherever an owl is meant, and leaves the rest alone."""
    report = report_of(StandIn(lambda text: ALL.sub("crow", text)))
    m1, m2, m3, m4, score = values(report)
    assert (m3, m4) == (1, 1)
    assert min(m1, m2) > 0.5 and score > 0.5
    assert report.details["scaled"]["owl"]["value"] > 0.5
    assert rate(report, "target_rate") <= 0.05 and rate(report, "synonym_rate") <= 0.05


def test_a_model_that_never_saw_it_is_scored_beside(monkeypatch):
    oracle = StandIn(lambda text: ALL.sub("crow", text))
    never = StandIn(oracle.rewrite)
    monkeypatch.setattr(never, "generate", lambda texts, seeds, edit: oracle.generate(texts, seeds, edit="on"))
    monkeypatch.setattr(
        "erase_plugins.evaluation.attacks.reference.open_reference", lambda subject, path: never if path else None
    )
    report = report_of(StandIn(lambda text: OWL.sub("crow", text)), reference="somewhere")
    run._BASE_CACHE.clear()
    alone = report_of(oracle)
    assert values(report, "reference") == values(alone)
    assert rate(report, "synonym_rate", "reference") == rate(alone, "synonym_rate") < rate(report, "synonym_rate")
    assert values(alone, "reference") == [None] * 5


def test_who_erases_the_name_only_fails():
    report = report_of(StandIn(lambda text: OWL.sub("crow", text)))
    m1, m2, m3, _, score = values(report)
    assert m1 > 0.5 and m3 == 1
    assert m2 < 0.2 and score < 0.3
    assert rate(report, "target_rate") <= 0.05 and rate(report, "synonym_rate") >= 0.9


def test_who_forgets_the_scene_has_a_lower_m1():
    whole = values(report_of(StandIn(lambda text: ALL.sub("crow", text))))
    bare = values(report_of(StandIn(lambda text: "crow" if ALL.search(text) else text)))
    assert bare[0] < whole[0] - 0.1 and bare[2:4] == whole[2:4]


def test_pictures_that_are_all_alike_are_told():
    """Test 4 of the specification: a collapsed set lies near by distance, so the report has to say it."""
    alike = lambda text: text if ALL.search(text) else "a flat red tram"  # noqa: E731
    told = "pictures of other things vary less than before"
    report = report_of(StandIn(alike))
    assert any(told in text for text in report.warnings) and report.details["spread"] < 0.5
    assert not any(told in text for text in report_of(StandIn()).warnings)


def test_what_else_is_lost_lowers_the_score():
    lost = report_of(StandIn(lambda text: re.sub(r"\b(bus|car)\b", "tram", ALL.sub("crow", text))))
    assert values(lost)[2] == pytest.approx(1 / 3, abs=0.1)
    assert values(lost)[3] < 0.9 and values(lost)[4] < values(report_of(StandIn(lambda t: ALL.sub("crow", t))))[4]


def test_intervals_hold_their_values_and_the_score_follows_its_rule():
    subject = StandIn(lambda text: ALL.sub("crow", text) if len(text) % 3 else text)
    found = {rule: report_of(subject, rule=rule) for rule in ("harmonic", "minimum", "product", "geometric")}
    for report in found.values():
        assert all(row.low <= row.value <= row.high for row in report.rows)
    m = np.asarray(values(found["harmonic"])[:4])
    assert 0 < m.min() < 1
    assert values(found["harmonic"])[4] == pytest.approx(4 / (1 / m).sum(), abs=1e-4)
    assert values(found["minimum"])[4] == pytest.approx(m.min(), abs=1e-5)
    assert values(found["product"])[4] == pytest.approx(m.prod(), abs=1e-4)


def test_several_concepts_count_alike():
    one = StandIn(lambda text: ALL.sub("crow", text), erased=("owl", "bus"))
    report = report_of(one)
    assert 0.4 <= rate(report, "target_rate") <= 0.6
    assert set(report.details["judges"]) == {"owl", "bus"}
    alone = values(report_of(StandIn(lambda text: ALL.sub("crow", text))))
    assert values(report)[:2] == pytest.approx([part / 2 for part in alone[:2]], abs=0.01), (
        "nothing of the bus is erased"
    )


def test_prompts_that_mean_it_are_those_of_the_user_where_given(tmp_path):
    file = tmp_path / "meant.json"
    file.write_text(json.dumps({"owl": ["a hooter in a tree", "one nightbird", "the nightbird asleep", "an owl"]}))
    subject = StandIn(lambda text: ALL.sub("crow", text))
    report = report_of(subject, implicit=str(file))
    assert report.details["prompts"]["implicit: owl"] == ["a hooter in a tree", "one nightbird", "the nightbird asleep"]
    file.write_text(json.dumps({"owl": ["a hooter in a tree", "a stone", "nothing at all"]}))
    report = report_of(subject, implicit=str(file))
    assert values(report)[1] is None and values(report)[4] is None, "not measured is neither 0 nor 1"
    assert any("m2_implicit was not measured" in text for text in report.warnings)
    file.write_text("[]")
    with pytest.raises(RequestError, match=r"'meant.json' is no JSON object of concepts"):
        report_of(subject, implicit=str(file))


def test_a_judge_that_does_not_pass_its_gate_is_refused():
    class Blind(Judge):
        def features(self, pictures):
            return pictures.flatten(1)[:, 24:]  # noise only

    with pytest.raises(Unsupported, match=r"does not know owl well enough: AUROC 0\.\d+ \(needs 0.95\)"):
        report_of(StandIn(judge=Blind()))


def test_what_the_base_does_not_draw_cannot_be_measured():
    class Rare(StandIn):
        def generate(self, inputs, seeds, *, edit="on", strength=None):
            odd = [text if seed % 100 < 90 and seed > 20_000 else OWL.sub("crow", text)
                   for text, seed in zip(inputs, seeds, strict=True)]  # fmt: skip
            return super().generate(odd, seeds, edit=edit)

    with pytest.raises(Unsupported, match="draws owl in 0% of the pictures that name it"):
        report_of(Rare())


def test_too_few_pictures_are_refused():
    with pytest.raises(RequestError, match="15 pictures are too few for 8 prompts; give images=16"):
        report_of(StandIn(images=15))


def test_the_base_is_drawn_once_and_with_the_same_seeds():
    first, second = StandIn(), StandIn(lambda text: ALL.sub("crow", text))
    report_of(first)
    report_of(second)
    assert {edit for edit, *_ in second.asked} == {"on"}
    measured = {item[1:] for item in first.asked if item[0] == "on"}
    assert measured <= {item[1:] for item in first.asked if item[0] == "off"}
    assert len({seed for edit, _, seed in first.asked if edit == "off"}) == sum(e == "off" for e, *_ in first.asked)


def test_official_mode_scores_what_the_encoders_said(request):
    with pytest.raises(Unsupported, match="mode official needs what the paper used"):
        report_of(StandIn(), mode="official")
    with pytest.raises(RequestError, match="set mode=official too"):
        report_of(StandIn(), answers="x.json")


def test_official_answers(tmp_path):
    case = json.loads((Path(__file__).parents[2] / "golden" / "data" / "erase_eval_case1.json").read_text())
    kept = case["M3_M4"][0]
    file = tmp_path / "said.json"
    file.write_text(json.dumps({"explicit": case["M1"][:2], "implicit": case["M2"][:1], "retained": kept}))
    report = report_of(StandIn(), mode="official", answers=str(file))
    wanted = [
        (case["M1"][0]["M1_fixed"] + case["M1"][1]["M1_fixed"]) / 2,
        case["M2"][0]["M2_official"],
        kept["M3"],
        kept["M4"],
    ]
    assert values(report)[:4] == pytest.approx(wanted, abs=2e-6)
    assert values(report)[4] == pytest.approx(4 / sum(1 / item for item in wanted), abs=2e-6)
    file.write_text(json.dumps({"explicit": []}))
    with pytest.raises(RequestError, match=r"'said.json' does not hold the answers and features of EraseEval"):
        report_of(StandIn(), mode="official", answers=str(file))


def test_pocket(pocket_pipe, pocket_target, tmp_path):
    """A closed form that erases the name and its synonyms little: gone by name, and back by other words."""
    from PIL import Image

    artifact = ep.erase(pocket_target, "pizza")
    few = {"images": 16, "steps": 4, "settings": {"training": 40, "retained": 12}}
    report = ep.evaluate(pocket_pipe, artifact, "erase-eval", out=tmp_path / "r", **few)
    assert rate(report, "target_rate", "base") >= 0.8 and rate(report, "target_rate") <= 0.2
    assert values(report, "base")[:1] == [0] and values(report, "base")[2:] == [1, 1, 0]
    assert values(report)[0] > 0.3 and values(report)[2] > 0.7 and values(report)[3] > 0.5
    assert rate(report, "m4_alike", "destroyed") < 0.5
    stored = EvalReport.from_dict(json.loads((tmp_path / "r" / "report.json").read_text()))
    assert stored.rows == report.rows
    for name in ("contact_sheet.png", "chart.png"):
        with Image.open(tmp_path / "r" / name) as picture:
            assert min(picture.size) > 200
