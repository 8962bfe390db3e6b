"""Work of ours and of the official procedures, counted on small models: what makes the ratios of the benchmark."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from benchmarks import official
from benchmarks.plain import uce as plain
from erase_plugins.artifacts import store
from erase_plugins.engine import collect, disk_cache
from erase_plugins.engine.prompt_templates import paired_rows, short_window
from erase_plugins.engine.words import listed
from erase_plugins.families.base import Conditioning
from erase_plugins.workflow.models import as_target
from tests.engine.clip_words import clip_pipe
from tests.methods.wide import wide_sd1


@pytest.fixture
def pipe(tiny_sd1):
    """A tiny pipeline with the tokenizer and the 77 rows of the full-sized ones."""
    return clip_pipe(tiny_sd1())


@pytest.fixture
def rows(pipe) -> list[int]:
    """Rows that every pass of the text encoder computes."""
    seen: list[int] = []
    pipe.text_encoder.register_forward_pre_hook(
        lambda _module, args, kwargs: seen.append((kwargs.get("input_ids", args[0] if args else None)).numel()),
        with_kwargs=True,
    )
    return seen


def pairs(count):
    return [(word, "") for word in [*listed()["animals"]][:count]]


def test_the_official_loop_is_the_closed_form(pipe):
    """Ours at the options of the official program gives its matrices."""
    wanted = plain.light(pipe, pairs(3))
    options = {"tokens": "last", "vocabulary": 0, "keep_scale": 1e-12, "keep_empty": 0.0}
    artifact = ep.erase(pipe, [ep.Concept(name, anchor="") for name, _ in pairs(3)], "uce", options=options)
    refs = {ref.weight: ref for ref in as_target(pipe).readers()}
    with ep.apply(pipe, artifact):
        for (name, module), matrix in zip(plain.projections(pipe), wanted, strict=True):
            assert f"{name}.weight" in refs
            assert torch.allclose(module.weight, matrix, atol=2e-3)


def test_rows_that_do_not_count_are_not_encoded(pipe, rows):
    plain.light(pipe, pairs(40))
    theirs = sum(rows)
    options = {"tokens": "last", "vocabulary": 0, "vocabulary_tail": 3}  # as on full-sized models
    rows.clear()
    ep.erase(pipe, [name for name, _ in pairs(40)], "uce", options=options)
    assert theirs >= 5 * sum(rows)
    assert len(rows) < 10  # phrases of one length together


def test_from_a_hundred_concepts_on_few_rows_stand_for_all(pipe, rows):
    names = [name for name, _ in pairs(101)]
    tails = [ep.plan(as_target(pipe), names[:count], "uce").options["window_tail"] for count in (99, 100)]
    assert tails == [0, 6]
    plain.light(pipe, pairs(101))
    theirs = sum(rows)
    rows.clear()
    artifact = ep.erase(pipe, names, "uce", options={"vocabulary": 0, "vocabulary_tail": 3})  # as on full-sized models
    assert theirs >= 5 * sum(rows)
    assert artifact.manifest.options["window_tail"] == 6


def test_the_rows_of_a_short_window_count_for_those_behind_them():
    """Equal rows behind a concept weigh in the sum what all of them weigh."""
    embeds = torch.cat([torch.eye(3), torch.eye(3)[2:].repeat(9, 1)])[None]
    erased, guide = (Conditioning(embeds, (last,), None, ("",)) for last in (1, 0))
    short, _ = short_window(erased, guide, 0, 0, 2, 12)
    whole, _ = paired_rows(erased, guide, 0, 0, "window")
    assert len(short) == 3
    assert torch.allclose(short.T @ short, whole.T @ whole)


def test_a_blank_guide_is_the_empty_prompt(pipe, rows):
    ep.erase(pipe, "tiger", "uce", options={"vocabulary": 0})
    assert rows == [77, 77]  # the concept; the empty prompt, which is kept and is the guide


def test_one_concept_needs_no_sum_over_all_projections(pipe, monkeypatch):
    def refuse(target):
        raise AssertionError("formed")

    monkeypatch.setattr(collect, "projection_gram", refuse)
    ep.erase(pipe, "tiger", "uce", options={"vocabulary": 100})


def test_meanings_are_the_same_with_and_without_that_sum(pipe):
    target = as_target(pipe)
    options = {"vocabulary": 100, "near": 0.0}
    few = ep.erase(target, "tiger", "uce", options=options)
    many = ep.erase(target, ["tiger", *(name for name, _ in pairs(12) if name != "tiger")], "uce", options=options)
    near = {
        name: ep.artifacts.solved.statistics_of(item.edit).members["tiger"].near
        for name, item in (("few", few), ("many", many))
    }
    assert near["few"] == near["many"] != ()


def test_few_rows_give_the_map_of_all(pipe, monkeypatch):
    from erase_plugins.engine import solve

    found = []
    for few in (True, False):
        if not few:
            monkeypatch.setattr(solve, "few_factors", lambda statistics: None)
        delta = ep.erase(pipe, "tiger", "uce", options={"tokens": "last"}).edit.deltas["unet"]["context"]
        found.append(delta.B.double() @ delta.A.double())
    assert torch.allclose(*found, atol=1e-6 * float(found[0].abs().max()))


def test_a_map_of_many_directions_is_not_written_out_unasked(monkeypatch, tmp_path):
    target = wide_sd1()
    words = list(target.vocabulary())[:8]
    artifact = ep.erase(target, words, "uce", options={"vocabulary": 0})
    assert artifact.edit.rank > store.MOST_RANK
    monkeypatch.setattr(store, "MOST_LORA_BYTES", 1 << 20)
    saved = artifact.save(tmp_path / "unasked", target=target)
    assert {item.layout for item in saved.manifest.files} >= {"patch", "context"}
    assert not {"diffusers", "kohya"} & {item.layout for item in saved.manifest.files}
    assert any("convert" in note and "MB" in note for note in saved.manifest.notes)
    asked = artifact.save(tmp_path / "asked", layouts=("diffusers",), target=target)
    assert [item.layout for item in asked.manifest.files if item.layout == "diffusers"]


def test_no_more_states_are_harvested_than_are_drawn():
    (row,) = official.esd(None, [])
    assert row["ratio"] >= 4


@pytest.mark.parametrize(("given", "wanted"), [({}, 20), ({"trajectories": 64}, 64)])
def test_trajectories_follow_the_iterations(given, wanted):
    plan = ep.plan(wide_sd1(), "pizza", "esd", options={"iterations": 200, **given})
    assert plan.options["trajectories"] == wanted


def test_words_just_encoded_are_not_encoded_again_and_count_the_same(pipe, monkeypatch, tmp_path):
    """The first run on a text encoder takes out of the sum what it has at hand; a later one encodes it anew."""
    monkeypatch.setenv(disk_cache.VARIABLE, str(tmp_path))
    anew, encode = [], collect.encoded
    monkeypatch.setattr(
        collect, "encoded", lambda target, prompts, tail: anew.append(0) or encode(target, prompts, tail)
    )
    target = as_target(pipe)
    found, passes = [], []
    for _ in range(2):
        target.forget()
        edit = ep.erase(target, "tiger", "uce", options={"vocabulary": 20, "near": 0.0, "vocabulary_tail": 3}).edit
        found.append(ep.artifacts.solved.statistics_of(edit))
        passes.append(len(anew))
    first, later = (dict(item.left_out) for item in found)
    assert passes == [0, 1]
    assert list(first) == list(later) and len(first) > 1
    assert all(torch.equal(first[word], later[word]) for word in first)
    assert torch.equal(found[0].kept_ledger, found[1].kept_ledger)
