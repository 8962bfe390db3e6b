"""The whole way on a tiny model: searched, killed, resumed, picked, written; and the numbers of a trial."""

from __future__ import annotations

import json
import shutil

import pytest

import erase_plugins as ep
from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.difference import difference
from erase_plugins.autotune.measure import Yardstick
from erase_plugins.errors import ArtifactError, RequestError, RunCancelled, RunRefused
from erase_plugins.testing.observe import snapshot
from erase_plugins.types import Concept
from erase_plugins.workflow.models import target_of

ASKED = {"methods": ["uce", "rece"], "trials": 4, "images": 2, "keep": ["a dog"]}


@pytest.fixture(scope="module")
def target():
    from erase_plugins.testing.tiny import tiny_sd1

    return target_of(tiny_sd1(), "tiny")


def front(found):
    return [(row.settings, row.numbers) for row in found.front]


def test_searched_killed_resumed_and_picked(target, tmp_path):
    pytest.importorskip("optuna")
    before = snapshot(target.pipe)
    whole = ep.auto(target, "pizza", **ASKED)
    assert whole.artifact.path is None
    assert (whole.trials, whole.stopped) == (4, "4 trials were asked for")

    class Killed(BaseException):
        pass

    def die(label, done, most):
        if done == 2:
            raise Killed

    out = tmp_path / "no-pizza"
    with pytest.raises(Killed):
        ep.auto(target, "pizza", **ASKED, out=out, progress=die)
    assert not out.exists()
    found = ep.auto(target, "pizza", **ASKED, out=out)
    assert front(found) == front(whole)
    assert found.taken.settings == whole.taken.settings
    place = tmp_path / "no-pizza-search"
    assert set(found.files) == {item.name for item in place.iterdir() if not item.name.startswith(".")}
    assert (place / "front.png").read_bytes()[:4] == b"\x89PNG"
    assert f"| {found.taken.number} (taken) |" in (place / "front.md").read_text()

    saved = ep.load_artifact(out)
    facts = saved.manifest.extra["auto"]
    assert [item["trial"] for item in facts["front"]] == [row.number for row in found.front]
    assert facts["taken"] == found.taken.number
    assert saved.manifest.method["id"] == found.taken.settings.method

    with pytest.raises(ArtifactError, match="exists already"):
        ep.auto(target, "pizza", **ASKED, out=out, pick=1)
    other = ep.auto(target, "pizza", **ASKED, out=out, pick=1, force=True)
    assert (other.taken.number, other.trials) == (1, 4)
    assert ep.load_artifact(out).manifest.extra["auto"]["taken"] == 1
    again = "made again by the seed of its trial, whose numbers are told"
    assert again not in other.artifact.manifest.notes, "its edit lies in the folder"
    shutil.rmtree(place / ".edits")
    gone = ep.auto(target, "pizza", **ASKED, out=out, pick=1, force=True)
    assert again in gone.artifact.manifest.notes
    assert not difference(gone.artifact.edit, other.artifact.edit)
    assert not any("made again" in note for note in whole.artifact.manifest.notes)
    assert json.loads((place / "front.json").read_text())["taken"] == 1
    assert snapshot(target.pipe).difference(before) == ""

    with pytest.raises(RequestError, match="no finished trial has the number 99; the front has"):
        ep.auto(target, "pizza", **ASKED, out=out, pick=99, force=True)
    with pytest.raises(RequestError, match=r"asked something else \(concept\)"):
        ep.auto(target, "taco", **ASKED, out=out, force=True)


def test_places_of_others_are_refused(target, tmp_path):
    pytest.importorskip("optuna")
    mine = tmp_path / "a-search"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    with pytest.raises(ArtifactError, match="'a-search' is no folder of a search"):
        ep.auto(target, "pizza", **ASKED, out=tmp_path / "a")
    assert [item.name for item in mine.iterdir()] == ["thesis.txt"]
    with pytest.raises(RequestError, match="no search is at 'b-search'"):
        ep.auto(target, "pizza", **ASKED, out=tmp_path / "b", pick=0)
    with pytest.raises(RequestError, match="minutes 0 is no time"):
        ep.auto(target, "pizza", minutes=0)


def test_another_strength_of_an_edit_is_not_made_again(target, monkeypatch):
    from erase_plugins.autotune import job as jobs
    from erase_plugins.autotune.space import Settings
    from erase_plugins.types import EraseRequest

    made = []
    real = jobs.run_plan
    monkeypatch.setattr(jobs, "run_plan", lambda plan, on, **more: made.append(plan) or real(plan, on, **more))
    base = EraseRequest(model="tiny", forget=(Concept("pizza"),), method="auto")
    job = jobs.Job(base, target, (), ("a dog",), 2, "size")
    full = Settings("uce", {"vocabulary": 20})
    half = Settings("uce", {"vocabulary": 20}, strength=0.5)
    assert not job.at_hand(half)
    numbers = [job.try_out(item).left for item in (full, half)]
    assert (len(made), job.at_hand(half), job.at_hand(Settings("uce", {"vocabulary": 30}))) == (1, True, False)
    assert numbers[0] < numbers[1] < 1.0
    assert "strength 0.5 is part of the edit" in job.artifact(half).manifest.notes
    fresh = ep.erase(target, "pizza", "uce", options={"vocabulary": 20})
    assert not difference(job.artifact(full).edit, fresh.edit)
    assert len(made) == 1


def test_a_trial_that_takes_too_long_is_ended_and_the_one_taken_is_not(target):
    from erase_plugins.autotune import job as jobs
    from erase_plugins.autotune.space import Settings
    from erase_plugins.types import EraseRequest

    base = EraseRequest(model="tiny", forget=(Concept("pizza"),), method="auto")
    job = jobs.Job(base, target, (), ("a dog",), 2, "size", over=lambda: True)
    settings = Settings("uce", {"vocabulary": 20})
    with pytest.raises(RunRefused, match="took longer than was expected"):
        job.try_out(settings)
    assert job.artifact(settings).edit.deltas


def test_a_search_that_its_host_stops_in_a_trial_is_gone_on_with(target, tmp_path):
    """Nothing is applied to the model of a host: it is measured as the host gives it with the edit in force."""
    pytest.importorskip("optuna")
    from contextlib import contextmanager

    from erase_plugins.autotune.job import Host

    whole = ep.auto(target, "pizza", **ASKED)
    measured, stops = [], []

    @contextmanager
    def edited(artifact):
        measured.append(artifact.manifest.method["id"])
        if len(measured) == 2:
            stops.append(True)
        with ep.apply(target, artifact):
            yield target

    host = Host(target, edited, lambda: bool(stops))
    with pytest.raises(RunCancelled):
        ep.auto(target, "pizza", **ASKED, out=tmp_path / "a", host=host)
    assert len(measured) == 2
    stops.clear()
    measured[:] = ["", "", ""]
    found = ep.auto(target, "pizza", **ASKED, out=tmp_path / "a", host=host)
    assert front(found) == front(whole)
    assert len(measured) == 3 + 4 - 2  # two trials were done


def test_what_a_concept_becomes_is_kept_in_all_trials_where_it_is_said(target):
    pytest.importorskip("optuna")
    found = ep.auto(target, Concept("pizza", anchor="cake"), **ASKED)
    assert {row.settings.anchor for row in found.front} == {None}
    assert [item.anchor for item in found.artifact.manifest.concepts] == ["cake"]
    with pytest.raises(RequestError, match="becomes 'cake' by its own words, and to= says more; drop one"):
        ep.auto(target, Concept("pizza", anchor="cake"), **ASKED, to="dog")
    with pytest.raises(RequestError, match="holds an arrow"):
        ep.auto(target, "pizza -> cake", **ASKED)


def test_what_does_not_fit_into_memory_is_refused_and_the_next_is_tried(target, monkeypatch):
    pytest.importorskip("optuna")
    import torch

    from erase_plugins.autotune import job as jobs

    real = jobs.run_plan

    def small(plan, on, **more):
        if plan.request.method == "rece":
            raise torch.OutOfMemoryError("tried to allocate 31.00 GiB\nand more")
        return real(plan, on, **more)

    monkeypatch.setattr(jobs, "run_plan", small)
    found = ep.auto(target, "pizza", **{**ASKED, "trials": 3})
    assert {row.settings.method for row in found.front} == {"uce"}
    assert any(why == "does not fit into the memory of cpu: tried to allocate 31.00 GiB" for _, why in found.refused)


def test_what_erases_nothing_is_written_with_a_warning(target, monkeypatch, tmp_path):
    pytest.importorskip("optuna")
    from erase_plugins.autotune import job as jobs
    from erase_plugins.autotune.trials import Tried

    monkeypatch.setattr(jobs.Job, "try_out", lambda job, settings: Tried(0.9, 0.0, 1.0, {}))
    found = ep.auto(target, "pizza", **{**ASKED, "trials": 1, "methods": ["uce"]}, out=tmp_path / "a")
    assert "leaves 90%" in found.doubt
    assert found.doubt in ep.load_artifact(tmp_path / "a").manifest.warnings


def test_a_loaded_model_tells_its_own_device(target, monkeypatch):
    """Estimates for a pipeline on an accelerator are not those of so many processor cores."""
    from erase_plugins.autotune import run

    seen = []
    monkeypatch.setattr(type(target), "device", property(lambda _: "cuda:1"))
    monkeypatch.setattr(run, "_starts", lambda base, *_: seen.append(base.device) or ([], {}))
    run.preview(target, "pizza")
    assert seen == ["cuda:1"]


def test_the_numbers_of_an_edit(target):
    """Without a judge: all of the direction is left of the base, less of it the stronger the edit is."""
    yard = Yardstick(target, Concept("pizza"), keep=["a dog"], images=2)
    made = ep.erase(target, "pizza", "uce", options={"vocabulary": 20})

    def at(strength):
        return yard.measure(Artifact(made.manifest, made.edit.scaled(strength)))

    nothing, half, full = at(1e-9), at(0.5), at(1.0)
    assert nothing.left == pytest.approx(1.0, abs=1e-4)
    assert nothing.change == pytest.approx(0.0, abs=1e-4)
    assert 1.0 > half.left > full.left
    assert 0.0 < half.change < full.change


class Judge:
    """Gives a concept the same probabilities in every look at pictures of name, synonyms and descriptions."""

    id, axes = "told", {"concept": ("pizza", "dog")}

    def __init__(self, *values):
        self.values = values

    def accepts(self, info):
        return True

    def score(self, images):
        import torch

        each = len(images) // len(self.values)
        return {"concept": torch.tensor([[value, 1 - value] for value in self.values for _ in range(each)])}

    def world(self):
        from erase_plugins.pocket.world import pocket_world

        return pocket_world()


def test_what_the_base_does_not_draw_is_refused(target):
    with pytest.raises(RunRefused, match="the base does not draw 'pizza'"):
        Yardstick(target, Concept("pizza"), judges=[Judge(0.01)], images=1)


def test_a_kind_of_prompt_from_which_the_base_does_not_draw_it_is_no_part_of_what_is_left(target):
    judge = Judge(0.9, 0.7, 0.02)
    yard = Yardstick(target, Concept("pizza"), judges=[judge], images=2)
    assert {name: round(value, 3) for name, value in yard.base.items()} == {"name": 0.9, "synonyms": 0.7}
    judge.values = (0.1, 0.06)
    made = ep.erase(target, "pizza", "uce", options={"vocabulary": 20})
    found = yard.measure(made)
    assert found.left == pytest.approx(0.1)
    assert found.values == pytest.approx([0.1, 0.1])  # (0.1 + 0.06) / (0.9 + 0.7) in the first two and the second two
    assert set(found.parts) == {"name", "synonyms"}


def test_a_guard_is_measured_by_what_it_lets_through_and_what_it_refuses_of_the_rest(target):
    """The judge sees what it saw on the base, in what is drawn; what is refused of the rest moves to the empty prompt."""
    yard = Yardstick(target, Concept("pizza"), judges=[Judge(0.9, 0.6, 0.3)], images=2)
    found = yard.measure(ep.erase(target, "pizza", "keyword-guard"))
    assert found.parts == pytest.approx({"name": 0.0, "synonyms": 0.6, "descriptions": 0.3})
    assert found.left == pytest.approx(0.9 / 1.8) and found.change == 0.0

    bare = Yardstick(target, Concept("pizza"), keep=["a dog"], images=2)
    found = bare.measure(ep.erase(target, "pizza", "keyword-guard"))
    assert (found.left, found.change) == pytest.approx((0.0, 0.0), abs=1e-6)
    states, prompts = bare.kept
    size = (states.predictions["prompt"] - states.predictions["null"]).square().flatten(1).sum(1)
    wanted = float(size[states.row == prompts.index("a dog")].sum() / size.sum())
    assert bare.change(ep.erase(target, "dog", "keyword-guard")) == pytest.approx(wanted) and 0 < wanted < 1


def test_a_concept_that_the_base_does_not_draw_ends_before_the_first_trial(target, monkeypatch):
    pytest.importorskip("optuna")
    tried = []
    monkeypatch.setattr("erase_plugins.autotune.job.judges", list)
    monkeypatch.setattr("erase_plugins.autotune.measure._UNKNOWN", 2.0)  # what is left of a base is 1 without a judge
    monkeypatch.setattr("erase_plugins.autotune.measure.Yardstick.measure", lambda *_: tried.append(1))
    monkeypatch.setattr(
        "erase_plugins.autotune.measure.knowing", lambda *_: type("Judge", (), {"id": "none", "axes": {}})()
    )
    monkeypatch.setattr("erase_plugins.autotune.measure.quick_prompts", lambda *_: {"target": [], "synonym": [], "neighbour": [], "kept": []})  # fmt: skip
    monkeypatch.setattr("erase_plugins.autotune.measure.worded_prompts", lambda *_: [])
    with pytest.raises(RunRefused, match="the base does not draw 'pizza'"):
        ep.auto(target, "pizza", **ASKED)
    assert tried == []
