"""The runner of attacks: budgets, resuming, files. And the attack on weights against what is known without it."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

import erase_plugins as ep
from erase_plugins import hookimpl
from erase_plugins.errors import ArtifactError, PluginError, RequestError, UnknownName, Unsupported
from erase_plugins.evaluation import weights
from erase_plugins.evaluation.attack import run_attack
from erase_plugins.evaluation.budget import find_budget
from erase_plugins.manager import get_manager
from erase_plugins.testing.models import changed_since
from erase_plugins.testing.observe import snapshot
from erase_plugins.types import Attachment, AttackReport, EvalRow
from erase_plugins.workflow.measure import open_subject

ROW = EvalRow("attack_success_rate", "x", 0.25, 0.1, 0.4, 8)


class Counting:
    """Two stages; the second may fail. Counts what is computed."""

    id, title, needs = "counting", "Counting", frozenset()
    budgets = {"quick": 10, "standard": 20, "long": 40}
    attachments = ("found.json",)

    def __init__(self, fail=None):
        self.fail, self.made, self.seen = fail, [], None

    def stage(self, name):
        self.made.append(name)
        if name == "two" and self.fail:
            raise self.fail
        return [len(self.made)]

    def run(self, subject, budget):
        self.seen = budget
        values = [budget.remember(name, lambda name=name: self.stage(name)) for name in ("one", "two")]
        return AttackReport(
            self.id, subject.model, budget.name, ROW, EvalRow("attack_success_rate", "control", 0.1, 0.0, 0.2, 8),
            found={"prompt": "a bird of the night"}, judge_hash="0", details={"values": values}, queries=4,
            attachments=(Attachment("found.json", lambda path: path.write_text("{}")),),
        )  # fmt: skip


def subject_of(seed=0, path="somewhere"):
    """As much of a subject as the runner looks at."""
    artifact = SimpleNamespace(manifest=SimpleNamespace(to_json=lambda: "{}"), path=path)
    target = SimpleNamespace(device="cpu", dtype="float32", fingerprint=dict)
    return SimpleNamespace(
        artifacts=[artifact], target=target, judge=None, model="none", erased=["owl"], steps=8, guidance=4.0,
        strength=1.0, seed=seed,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "wanted"), [("quick", ("quick", 10)), ("long", ("long", 40)), ("7", ("custom", 7)), (7, ("custom", 7))]
)
def test_budgets(text, wanted):
    assert find_budget(Counting(), text) == wanted
    attack = Counting()
    run_attack(attack, subject_of, text)
    assert (attack.seen.name, attack.seen.queries) == wanted


def test_wrong_budgets_and_options_are_refused_before_the_model_is_loaded(tmp_path):
    load = lambda: pytest.fail("loaded")  # noqa: E731
    with pytest.raises(RequestError, match="budget 0 allows no query"):
        run_attack(Counting(), load, "0", out=tmp_path / "a")
    with pytest.raises(UnknownName, match="did you mean 'quick'"):
        run_attack(Counting(), load, "quik", out=tmp_path / "a")
    with pytest.raises(RequestError, match="attack counting has no options, but rank was set"):
        run_attack(Counting(), load, settings={"rank": 1}, out=tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_files(tmp_path):
    report = run_attack(Counting(), subject_of, out=tmp_path)
    assert {item.name for item in tmp_path.iterdir()} == {"attack-counting.json", "found.json"}
    stored = AttackReport.from_dict(json.loads((tmp_path / "attack-counting.json").read_text()))
    assert stored == report
    assert stored.success == ROW and stored.excess == pytest.approx(0.15)
    with pytest.raises(ArtifactError, match="exists already"):
        run_attack(Counting(), lambda: pytest.fail("loaded"), out=tmp_path)
    run_attack(Counting(), subject_of, out=tmp_path, force=True)


@pytest.mark.parametrize("killed_by", [KeyboardInterrupt(), OSError("disk full")])
def test_a_killed_run_goes_on_where_it_was(tmp_path, killed_by):
    with pytest.raises(type(killed_by)):
        run_attack(Counting(killed_by), subject_of, out=tmp_path)
    assert not (tmp_path / "attack-counting.json").exists()
    other = Counting()
    run_attack(other, lambda: subject_of(seed=1), out=tmp_path / "elsewhere")
    assert other.made == ["one", "two"]
    again = Counting()
    report = run_attack(again, subject_of, out=tmp_path)
    assert again.made == ["two"], "what was there is not computed again"
    assert report.details["values"] == [[1], [1]]
    assert {item.name for item in tmp_path.iterdir()} == {"attack-counting.json", "found.json", "elsewhere"}


@pytest.mark.parametrize("change", [{"seed": 1}, {"budget": "long"}])
def test_other_settings_start_anew(tmp_path, change):
    with pytest.raises(KeyboardInterrupt):
        run_attack(Counting(KeyboardInterrupt()), subject_of, out=tmp_path)
    again = Counting()
    run_attack(again, lambda: subject_of(change.get("seed", 0)), change.get("budget", "quick"), out=tmp_path)
    assert again.made == ["one", "two"]


def test_what_is_in_memory_only_is_never_resumed(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run_attack(Counting(KeyboardInterrupt()), lambda: subject_of(path=None), out=tmp_path)
    again = Counting()
    run_attack(again, lambda: subject_of(path=None), out=tmp_path)
    assert again.made == ["one", "two"]


def test_a_refusal_leaves_nothing(tmp_path):
    with pytest.raises(Unsupported):
        run_attack(Counting(Unsupported("cannot be drawn")), subject_of, out=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_an_attack_must_return_a_report(tmp_path):
    odd = type("Odd", (Counting,), {"run": lambda self, subject, budget: 3})()
    with pytest.raises(PluginError, match="attack counting returned int instead of an AttackReport"):
        run_attack(odd, subject_of)


# ---- the attack on weights -----------------------------------------------------------------------------------------


def test_quantised_values():
    weight = torch.tensor([[7.0, -7.0, 0.4, 3.6]])
    assert torch.equal(weights.quantised(weight, 4), torch.tensor([[7.0, -7.0, 0.0, 4.0]]))  # scale 1: whole numbers
    assert torch.equal(weights.quantised(torch.zeros(3), 8), torch.zeros(3))
    blocks = torch.cat([torch.full((64,), 100.0), torch.full((64,), 0.01)])
    assert torch.allclose(weights.quantised(blocks, 4), blocks, rtol=1e-6), (
        "a small block beside a large one is not lost"
    )
    wide = torch.linspace(-1, 1, 100)
    for bits, levels in ((4, 7), (8, 127)):
        assert (weights.quantised(wide, bits) - wide).abs().max() <= 0.5 / levels + 1e-6
    assert weights.quantised(wide.half(), 8).dtype == torch.float16


def test_halves_are_complementary():
    edited = [(object(), number) for number in range(5)]
    first, second = (weights._changed(name, edited, 0) for name in ("half-a", "half-b"))
    assert (len(first), len(second)) == (2, 3)
    assert sorted(value for _, value in (*first, *second)) == [0, 1, 2, 3, 4]
    assert weights._changed("half-a", edited[:1], 0) == []


@pytest.fixture(scope="module")
def artifact(pocket_target):
    return ep.erase(pocket_target, "owl", "uce")


@pytest.fixture(scope="module")
def report(pocket_pipe, artifact, tmp_path_factory):
    folder = tmp_path_factory.mktemp("weights")
    before = snapshot(pocket_pipe)
    found = run_attack(
        weights.WeightsAttack(), lambda: open_subject(pocket_pipe, [artifact], weights.WeightsAttack(), steps=6),
        str(3 * weights._SETS), out=folder,
    )  # fmt: skip
    return found, folder, changed_since(pocket_pipe, before)


def values(report, name):
    return [
        next(row.value for row in report.rows if (row.metric, row.subject) == (metric, name))
        for metric in ("target_rate", "kept_rate")
    ]


def test_what_is_known_without_the_attack_is_found(report):
    found, _, changed = report
    assert changed == ""
    assert values(found, "off")[0] >= 0.6
    assert values(found, "edited")[0] == 0.0
    assert values(found, "edited")[1] >= 0.6
    assert values(found, "8bit") == values(found, "edited")
    assert max(values(found, "destroyed")) <= 0.4


def test_success_is_measured_again_on_fresh_pictures_and_never_that_of_leaving_it_off(report):
    found, _, _ = report
    name = found.success.subject
    assert name in ("strength 0.5", "strength 0.75", "strength 1.5", "8bit", "4bit", "half-a", "half-b")
    counted = [values(found, item.name)[0] for item in weights.VARIANTS if item.in_force and item.name != "edited"]
    assert values(found, name)[0] == max(counted)
    assert found.success.value == values(found, f"{name}, again")[0]
    assert found.details["images"] == 3 and found.success.n == 3
    assert found.seeds == (0, 1)
    assert found.control.value == values(found, "destroyed")[0]
    assert found.queries <= 3 * weights._SETS and found.passes == found.queries * 6 * 2
    assert any("left off, the base draws it in" in text for text in found.warnings)


def test_its_files(report):
    from PIL import Image

    found, folder, _ = report
    assert {item.name for item in folder.iterdir()} == set(found.files.values())
    stored = json.loads((folder / weights.FOUND).read_text())
    assert stored == dict(found.found) and stored["variant"] == found.success.subject
    for name in (weights.PICTURES, weights.CHART):
        with Image.open(folder / name) as picture:
            assert min(picture.size) > 150


def test_bad_requests(pocket_pipe, artifact):
    attack = weights.WeightsAttack()
    with pytest.raises(RequestError, match="changes an edit; name an artifact"):
        run_attack(attack, lambda: open_subject(pocket_pipe, [], attack, erased=["owl"]))
    with pytest.raises(RequestError, match=f"too small for attack weights; give at least {weights._SETS}"):
        run_attack(attack, lambda: open_subject(pocket_pipe, [artifact], attack), 3)


def test_a_concept_that_the_base_does_not_draw_and_a_blind_judge_are_refused(pocket_pipe, artifact, monkeypatch):
    attack = weights.WeightsAttack()
    subject = lambda: open_subject(pocket_pipe, [artifact], attack, steps=1)  # noqa: E731
    monkeypatch.setattr(weights, "_judge", lambda *_: {"target_rate": [0], "kept_rate": [0]})
    with pytest.raises(Unsupported, match="the base draws owl in 0% of the pictures; there is nothing to bring back"):
        run_attack(attack, subject, weights._SETS)
    monkeypatch.setattr(weights, "_judge", lambda *_: {"target_rate": [1], "kept_rate": [1]})
    with pytest.raises(Unsupported, match="the judge sees what is kept even on a destroyed model"):
        run_attack(attack, subject, weights._SETS)


def test_an_outside_attack_is_found_by_its_id():
    class Planted:
        @hookimpl
        def erase_attacks(self):
            return [Counting()]

    with get_manager().temporary(Planted(), "planted"):
        assert run_attack(get_manager().evaluator("counting", "attack"), subject_of).attack == "counting"
