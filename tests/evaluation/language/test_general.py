"""The outside harness for general ability, with a stand-in for it: it is asked twice, and its table is read."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

import erase_plugins as ep
from erase_plugins import extras
from erase_plugins.errors import EraseError, MissingExtra, RequestError
from erase_plugins.families.capabilities import LANGUAGE
from erase_plugins.workflow.models import target_of
from tests import language


@pytest.fixture(scope="module")
def edited(tmp_path_factory):
    """(folder of a tiny model, an artifact that forgets one fact)."""
    folder = language.trained(tmp_path_factory.mktemp("general") / "model", steps=5)
    place = folder.parent
    from erase_plugins.data import DataRef
    from erase_plugins.types import ForgetItem

    data = [language.write(place / f"{name}.jsonl", language.rows(facts)) for name, facts in (
        ("forget", language.FORGET), ("retain", language.RETAIN))]  # fmt: skip
    made = ep.erase(str(folder), [ForgetItem(data=DataRef(str(data[0])))], "npo", keep=[DataRef(str(data[1]))],
                    options={"steps": 2, "batch": 4, "lr": 5e-2, "rank": 2})  # fmt: skip
    return folder, made


@pytest.fixture
def harness(monkeypatch):
    """``lm_eval`` as far as it is used; answers with a number of the weights that it is given."""
    calls = []
    package, models, huggingface = (ModuleType(f"lm_eval{end}") for end in ("", ".models", ".models.huggingface"))

    class HFLM:
        def __init__(self, pretrained, tokenizer, batch_size):
            self.model, self.tokenizer, self.batch = pretrained, tokenizer, batch_size

    def simple_evaluate(model, tasks, **more):
        calls.append((model, tasks, more))
        if "nowhere" in tasks:
            raise ConnectionError("no such task\nand more")
        total = float(sum(part.float().abs().sum() for part in model.model.state_dict().values()))
        return {
            "results": {name: {"alias": name, "acc,none": total, "acc_stderr,none": 0.01, "f1,strict": 0.25,
                               "f1_stderr,strict": "N/A"} for name in tasks},
            "n-samples": {name: {"original": 500, "effective": 20} for name in tasks},
        }  # fmt: skip

    package.simple_evaluate, huggingface.HFLM = simple_evaluate, HFLM
    for module in (package, models, huggingface):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    before = extras.installed
    monkeypatch.setattr(extras, "installed", lambda name: "0.4.9" if name == "lm-eval" else before(name))
    return calls


def test_it_is_asked_with_the_edit_off_and_on(edited, harness):
    folder, made = edited
    host = ep.load(str(folder))
    report = ep.evaluate(host, made, "lm-eval", settings={"tasks": "piqa, sciq", "limit": 20, "shots": 1, "batch": 3})
    assert [row.metric for row in report.rows] == ["piqa_acc", "piqa_f1_strict", "sciq_acc", "sciq_f1_strict"] * 2
    first, second = (report.row("piqa_acc", name) for name in ("base", "edited"))
    assert first.value != second.value
    assert (first.low, first.high, first.n) == pytest.approx((first.value - 0.0196, first.value + 0.0196, 20))
    assert report.row("sciq_f1_strict", "edited").low == 0.25
    model, tasks, more = harness[0]
    assert model.model is target_of(host).network(LANGUAGE)
    assert (tasks, model.batch, more["limit"], more["num_fewshot"]) == (["piqa", "sciq"], 3, 20, 1)


def test_no_limit_asks_everything_and_every_draw_has_the_seed(edited, harness):
    folder, made = edited
    ep.evaluate(str(folder), made, "lm-eval", settings={"tasks": "piqa", "limit": 0}, seed=5)
    for _, _, more in harness:
        assert more["limit"] is None
        assert {value for name, value in more.items() if name.endswith("_seed")} == {5}


def test_what_goes_wrong_is_one_line(edited, harness):
    folder, made = edited
    with pytest.raises(EraseError, match="could not ask nowhere: no such task; look at the names") as told:
        ep.evaluate(str(folder), made, "lm-eval", settings={"tasks": "nowhere"})
    assert "\n" not in str(told.value)
    with pytest.raises(RequestError, match="no task is named"):
        ep.evaluate(str(folder), made, "lm-eval", settings={"tasks": " , "})


@pytest.mark.skipif(extras.installed("lm-eval") is not None, reason="the harness is installed")
def test_without_the_package_it_says_what_to_install(edited):
    with pytest.raises(MissingExtra, match=r"lm-eval"):
        ep.evaluate(str(edited[0]), edited[1], "lm-eval")
