"""The plain loop that GS-LoRA's speed is held against gives the same numbers; the pages say what was measured."""

from __future__ import annotations

import pytest

from benchmarks import unlearner_classes, unlearner_speed, unlearners
from tests import classifiers


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return classifiers.small(tmp_path_factory.mktemp("digits") / "model")


@pytest.mark.parametrize("method", unlearner_speed.METHODS)
def test_the_plain_loop_and_ours_have_the_same_losses(folder, method):
    found = unlearner_speed.step_times(str(folder), method, steps=4, turns=3)
    assert found["difference"] < 2e-6
    assert min(found["plain"], found["ours"]) > 0


def test_classes_to_measure_on_are_not_those_that_settings_were_found_on():
    import torch

    labels = [str(number) for number in range(156)]
    order = torch.randperm(156, generator=torch.Generator().manual_seed(14)).tolist()
    found = unlearner_classes.drawn(labels)
    assert len(set(found)) == 12
    assert not {int(name) for name in found} & {*order[:12], *order[24:]}


def test_the_page_of_classes():
    names = [f"c{number}" for number in range(12)]

    def row(gone, left, kept):
        return {"before": {"forgotten": dict.fromkeys(gone, 100.0), "kept": 94.0},
                "after": {"forgotten": dict.fromkeys(gone, left), "kept": kept}, "seconds": 10.0}  # fmt: skip

    done = {f"{method}-{name}": row([name], 0.0, 93.5) for method in unlearner_classes.METHODS for name in names}
    done |= {f"{method}-joint": row(names, 1.4, 93.25) for method in unlearner_classes.METHODS}
    chain = row(names[:3], 0.0, 93.0)
    done["chain"] = {**chain, "revoked": {"forgotten": {"c0": 0.0, "c1": 100.0, "c2": 0.0}, "kept": 93.5}}
    text = "\n".join(unlearner_classes.page(done))
    assert "| gs-lora | one by one | 0.0 % | 0.0 % | 0.50 | 0.50 | 10 |" in text
    assert "| gs-lora-plus | all twelve at once | 1.4 % | 1.4 % | 0.75 | 0.75 | 10 |" in text
    assert "| without c1 | 0 % | 100 % | 0 % | 93.5 % |" in text


def test_every_table_of_methods_ends_with_a_guard():
    table = ["| method | seeds | UA |", "|---|---|---|", "| scrub | 5 | 1.2 |"]
    text = unlearners.guarded(["| set | UA |", "| random | 3 |", "", *table, "", "### worst", "", *table], 1.0, 0.975)
    row = "| guard: these pictures are refused (weights as before) | - | 100.0 | 100.0 | 97.5 | - | - | - | 0.0 |"
    assert text[:3] == ["| set | UA |", "| random | 3 |", ""]
    assert text[3:13] == [*table, row, "", "### worst", "", *table[:3]]
    assert text[13] == row
    assert text.count(row) == 2


def test_the_page_is_written_again_and_nothing_else_is_replaced(tmp_path, monkeypatch):
    monkeypatch.setattr(unlearner_speed, "run", lambda folder, tell: {})
    monkeypatch.setattr(unlearner_speed, "page", lambda done: ["## Speed of GS-LoRA", ""])
    monkeypatch.setattr(unlearners, "trained", lambda folder: folder)
    work, out = tmp_path / "work", tmp_path / "page.md"

    def run(place):
        monkeypatch.setattr("sys.argv", ["x", "--work", str(work), "--part", "speed", "--out", str(place)])
        unlearners.main()

    run(out)
    first = out.read_text()
    assert first.startswith(unlearners.TITLE)
    assert "## Speed of GS-LoRA" in first
    run(out)
    assert out.read_text() == first
    other = tmp_path / "diary.md"
    other.write_text("mine")
    with pytest.raises(SystemExit):
        run(other)
    assert other.read_text() == "mine"
