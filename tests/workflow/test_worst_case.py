"""Worst-case forget sets from search to retraining, on a small classifier of digits; the command; the comparison."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

import erase_plugins as ep
from erase_plugins.cli.main import cli
from erase_plugins.comparison.unlearners import Plan, _key, interval, summarise
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.evaluation.unlearning import Parts, measure
from erase_plugins.families.forget_set import read_set
from erase_plugins.families.labelled import accuracy
from erase_plugins.families.labelled_data import pool_of, stored
from erase_plugins.manager import get_manager
from erase_plugins.runtime.apply import apply_to
from erase_plugins.types import DataRef, ForgetItem
from erase_plugins.workflow.models import as_target
from erase_plugins.workflow.worst_case import worst_case
from tests.classifiers import small

FAST = {"epochs": 3, "epoch_steps": 2, "batch": 128}
RECIPE = {"epochs": 30, "epoch_steps": 17, "batch": 64, "lr": 1e-2}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return str(small(tmp_path_factory.mktemp("worst") / "digits", 1200, 200))


@pytest.fixture(scope="module")
def target(model):
    return as_target(model)


def command(*words):
    return CliRunner().invoke(cli, [str(word) for word in words], prog_name="erase-plugins")


@pytest.fixture(scope="module")
def found(model, tmp_path_factory):
    """(file, what the command said)"""
    file = tmp_path_factory.mktemp("set") / "worst.json"
    words = [part for name, value in FAST.items() for part in ("--set", f"{name}={value}")]
    done = command("worst-case", "finetune", "--model", model, "--out", file, *words)
    assert done.exit_code == 0, done.stderr
    return file, done.stdout


def left_after_retraining(target, rows):
    """UA of a model that was trained anew without the rows."""
    pool, _ = pool_of(target, None)
    mask = torch.zeros(len(pool), dtype=torch.bool)
    mask[list(rows)] = True
    made = ep.erase(
        target, [ForgetItem(kind="samples", data=DataRef.held(pool.pictures[mask], pool.labels[mask]))], "retrain",
        options=RECIPE,
    )  # fmt: skip
    with apply_to(target, made, 1.0):
        return 1 - accuracy(target, pool[mask])


def test_what_retraining_still_knows(target, found):
    """Worst < random < easiest. How small the worst is, on a model that is no toy, stands on the page of results."""
    made = read_set(found[0])
    easiest = worst_case(target, "finetune", options=FAST, rounds=1, easiest=True)
    worst, random, easy = (
        left_after_retraining(target, rows) for rows in (made.rows, made.baselines["random"]["rows"], easiest.rows)
    )
    assert worst < random < easy
    assert easy > 0.2


def test_retraining_cannot_be_told_from_never_trained_and_the_model_can(tmp_path):
    """AUC of the loss attack, forgotten against held-out pictures: 0.5 for random sets, more where the model learned them."""
    target = as_target(str(small(tmp_path / "digits", 200, 359)))  # so few that it learns them by heart
    pool, _ = pool_of(target, None)
    test, before, after = stored(target, "test"), [], []
    for seed in range(3):
        mask = torch.zeros(len(pool), dtype=torch.bool)
        mask[torch.randperm(len(pool), generator=torch.Generator().manual_seed(seed))[:100]] = True
        parts = Parts.of(pool, test, mask, ())
        item = ForgetItem(kind="samples", data=DataRef.held(pool.pictures[mask], pool.labels[mask]))
        made = ep.erase(target, [item], "retrain", options={"epochs": 30, "batch": 64, "lr": 1e-2}, seed=seed)
        before.append(measure(target, parts)["auc"])
        with apply_to(target, made, 1.0):
            after.append(measure(target, parts)["auc"])
    assert (sum(after) / 3, min(before) > 0.55) == (pytest.approx(0.5, abs=0.05), True), (before, after)


def test_the_file_says_how_it_was_found_and_the_trivial_sets_stand_beside_it(target, found):
    made, said = read_set(found[0]), found[1]
    assert (made.wise, len(made.rows), len(made.scores)) == ("data", 120, 120)
    assert made.forget_set["method"] == "finetune"
    assert made.forget_set["options"] == {name: str(value) for name, value in FAST.items()}
    assert sum(made.forget_set["classes"].values()) == 120
    assert set(made.baselines) == {"random", "lowest-loss"}
    pool, told = pool_of(target, None)
    assert made.data == told
    from torch.nn.functional import cross_entropy

    with torch.no_grad():
        before = cross_entropy(target.host(pixel_values=pool.pictures).logits, pool.labels, reduction="none")
    assert sorted(made.baselines["lowest-loss"]["rows"]) == sorted(before.argsort()[:120].tolist())
    for row in (made.measured, *(item["measured"] for item in made.baselines.values())):
        assert set(row) == {"ua", "ra", "ta"}
    assert made.measured["ua"] <= made.baselines["random"]["measured"]["ua"]
    for word in ("worst (finetune)", "random", "lowest-loss", "by class:", "run finetune --model", "--forget"):
        assert word in said
    assert str(found[0].parent) not in found[0].read_text()


def test_a_quota_and_classes(target):
    spread = worst_case(target, "finetune", options=FAST, rounds=1, per_class_quota=13)
    assert max(spread.forget_set["classes"].values()) == 13
    whole = worst_case(target, "finetune", options=FAST, rounds=1, wise="class", budget=2)
    assert len(whole.names) == 2
    assert set(whole.names) <= set(target.classifier.labels)
    assert whole.rows == ()


def test_the_model_is_left_as_it_was(model):
    again, before = as_target(model), as_target(model).host.state_dict()
    worst_case(again, "gs-lora", options={"epochs": 2, "epoch_steps": 1}, rounds=1, wise="class", budget=1)
    assert all(torch.equal(part, before[name]) for name, part in again.host.state_dict().items())


def test_run_takes_the_file(model, found, tmp_path):
    done = command("run", "finetune", "--model", model, "--forget", found[0], "--out", tmp_path / "a", "--set",
                   "epochs=1", "--json")  # fmt: skip
    assert done.exit_code == 0, done.stderr
    manifest = json.loads((tmp_path / "a" / "erase.json").read_text())
    assert manifest["concepts"][0]["kind"] == "samples"
    assert manifest["concepts"][0]["data"]["uri"] == "worst.json"
    report = ep.evaluate(model, tmp_path / "a", "classifier", settings={"forget": str(found[0])})
    assert report.row("ua", "base").n == 120
    assert report.row("ra", "base").n == 1080
    assert report.row("target_rate", "edited").value == pytest.approx(1 - report.row("ua", "edited").value, abs=1e-6)
    with pytest.raises(RequestError, match=r"samples were forgotten \(worst\.json\); say which"):
        ep.evaluate(model, tmp_path / "a", "classifier")
    done = command("run", "finetune", "--model", model, "--forget", found[0], "--erase", "one", "--out", tmp_path / "b")
    assert done.exit_code == 2
    assert "says itself what is forgotten; leave --erase out" in done.stderr


def test_compare_takes_the_file_and_goes_on_where_it_was(model, found, tmp_path):
    words = ["compare", "--model", model, "--methods", "retrain:epochs=2:epoch_steps=2,finetune:epochs=1", "--forget",
             found[0], "--seeds", 2, "--out", tmp_path / "c", "--json"]  # fmt: skip
    done = command(*words)
    assert done.exit_code == 0, done.stderr
    rows = json.loads(done.stdout)["sets"]["worst"]
    assert rows["retrain:epoch_steps=2:epochs=2"]["seeds"] == 2
    assert set(rows["finetune:epochs=1"]) == {"ua", "ra", "ta", "mia", "auc", "tpr", "gap", "seconds", "seeds"}
    text = (tmp_path / "c" / "table.md").read_text()
    assert "| finetune:epochs=1 | 2 |" in text
    cells = sorted((tmp_path / "c" / "cells").rglob("result.json"))
    assert len(cells) == 4
    for cell in cells:
        cell.write_text(json.dumps(json.loads(cell.read_text()) | {"seconds": 123.0}))
    again = json.loads(command(*words).stdout)
    assert [row["seconds"][0] for row in again["sets"]["worst"].values()] == [123.0, 123.0]
    done = command(*words, "--erase", "one")
    assert done.exit_code == 2
    assert "leave --erase and other sets out" in done.stderr


def test_a_cell_is_known_by_the_options_in_force(target, tmp_path):
    """A default that changes makes another cell; a default that somebody writes out does not."""
    file = tmp_path / "set.json"
    file.write_text("{}")
    plan = Plan("digits", [], {})

    def mark(**options):
        return _key(target, plan, file, "finetune", options, 0)[-8:]

    default = get_manager().method("finetune").Options().epochs
    assert mark() == mark(epochs=default) != mark(epochs=default + 1)


def test_means_intervals_and_the_gap():
    assert interval([0.2]) == (0.2, 0.2, 0.2)
    mean, low, high = interval([1.0, 2.0, 3.0])
    assert (mean, low, high) == pytest.approx((2.0, 2 - 4.303 / 3**0.5, 2 + 4.303 / 3**0.5))

    def cell(label, seed, ua):
        values = {"ua": ua, "ra": 1.0, "ta": 0.9, "mia": 0.1, "auc": 0.5, "tpr": 0.0}
        return {"set": "s", "label": label, "seed": seed, "status": "ok", "values": values, "seconds": 1.0}

    bad = {"set": "s", "label": "x", "seed": 0, "status": "failed", "error": "no"}
    table = summarise([cell("retrain", 0, 0.1), cell("retrain", 1, 0.3), cell("y", 0, 0.6), bad])
    assert table["sets"]["s"]["y"]["gap"][0] == pytest.approx(0.1)
    assert table["sets"]["s"]["retrain"]["gap"][0] == pytest.approx(0.025)
    assert table["failed"] == {"x, s, seed 0": "no"}


@pytest.mark.parametrize(
    ("change", "message"),
    [({"budget": "100%"}, "is 1200 of 1200 rows"), ({"wise": "row"}, "'row' is no way to select"),
     ({"per_class_quota": 1}, "a quota of 1 per class allows 10 rows, and 120 are asked for"),
     ({"out": "x.txt"}, r"must end in \.json"), ({"concepts": ["a"]}, "pool of a prompt-wise search"),
     ({"wise": "class", "per_class_quota": 1}, "belongs to a data-wise search"),
     ({"wise": "prompt", "data": "x"}, "reads no data")],
)  # fmt: skip
def test_what_is_refused(target, change, message):
    with pytest.raises(RequestError, match=message):
        worst_case(target, "finetune", **change)


def test_methods_that_do_not_fit(target):
    with pytest.raises(Unsupported, match="uce needs"):
        worst_case(target, "uce")
    with pytest.raises(Unsupported, match="gs-lora forgets classes, not single pictures; say wise='class', or take"):
        worst_case(target, "gs-lora")


def test_nothing_is_replaced_and_a_dry_run_writes_nothing(model, tmp_path):
    mine = tmp_path / "mine.json"
    mine.write_text("{}")
    done = command("worst-case", "finetune", "--model", model, "--out", mine, "--force")
    assert done.exit_code != 0
    assert "was not written by erase-plugins" in done.stderr
    assert mine.read_text() == "{}"
    done = command("worst-case", "finetune", "--model", model, "--out", tmp_path / "x.json", "--dry-run")
    assert done.exit_code == 0, done.stderr
    assert "would select 120 of 1200 rows" in done.stdout
    assert not (tmp_path / "x.json").exists()


def test_concepts_are_erased_drawn_and_judged(pocket_target):
    """Nothing stands in here: every selection is erased on pocket, and the judge looks at what is left."""
    before = {name: part.clone() for name, part in pocket_target.pipe.unet.state_dict().items()}
    pool = ["pizza", "car", "owl"]
    made = worst_case(pocket_target, "uce", wise="prompt", concepts=pool, budget=1, rounds=1, images=2)
    assert made.names[0] in pool
    erased = [made.measured["rate"], *(item["measured"]["rate"] for item in made.baselines.values())]
    assert max(erased) <= 0.5, "two pictures of an erased concept; unerased, pocket draws each of them"
    assert made.forget_set["judge"] == "pocket"
    assert all(torch.equal(part, before[name]) for name, part in pocket_target.pipe.unet.state_dict().items())


def test_concepts_of_a_text_to_image_model(monkeypatch, tmp_path):
    """Prompt-wise, with shares that the judge sees as a table: car stays whatever is erased."""
    from contextlib import nullcontext

    from erase_plugins.evaluation import lora_effect
    from erase_plugins.workflow import worst_case as module

    gone = []

    def forgotten(self, picked):
        gone[:] = [self.pool[place] for place in picked]
        return nullcontext()

    def shown(target, judge, concept, images, seed):
        return 1.0 if concept == "car" else 0.5 * (concept not in gone)

    monkeypatch.setattr(module.Concepts, "forgotten", forgotten)
    monkeypatch.setattr(lora_effect, "shown", shown)
    pool = ["pizza", "tractor", "car", "owl"]
    made = worst_case("pocket", "uce", wise="prompt", concepts=pool, budget=1, rounds=6, out=tmp_path / "p.json")
    assert read_set(tmp_path / "p.json") == made
    assert made.forget_set["judge"] == "pocket"
    assert made.names == ("car",)
    assert made.measured == {"rate": 1.0}
    assert made.baselines["lowest-loss"]["names"] == ["car"]
    with pytest.raises(RequestError, match="knows no xyzzy"):
        worst_case("pocket", "uce", wise="prompt", concepts=["pizza", "xyzzy"], budget=1)
