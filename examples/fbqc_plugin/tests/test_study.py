"""Thresholds against the literature, repeatability, files, and bad studies."""

from __future__ import annotations

import json

import numpy as np
import pytest
from erase_fbqc.noise import Optics
from erase_fbqc.result import beside, read, refuse_existing, section, write
from erase_fbqc.study import Study, parse_sizes, run, summary
from erase_fbqc.threshold import crossing
from erase_fbqc.verdict import judge

from erase_plugins.errors import ArtifactError, RequestError

FCC, CUBIC = 0.1201635, 1 - (1 - 0.2488126) ** 0.25  # bond percolation: Lorenz and Ziff 1998; cubic lattice


@pytest.mark.parametrize(("network", "exact", "published"), [("6ring", FCC, 0.1198), ("4star", CUBIC, 0.0690)])
def test_erasure_thresholds(network, exact, published):
    result = run(Study(network, shots=10_000))
    assert result.best.sizes == (8, 16)
    assert result.best.low <= exact <= result.best.high
    assert result.best.high - result.best.low < 0.005 * exact
    assert result.best.value == pytest.approx(published, rel=0.005)  # published from finite sizes
    fit = next(item for item in result.thresholds if item.method == "fit")
    assert fit.value == pytest.approx(exact, rel=0.006)


def test_error_threshold_of_the_six_ring():
    found = run(Study("6ring", "error", (6, 10), 3000, 0.0095, 0.0120, 6, bootstrap=100)).best
    assert found.low <= 0.0107 <= found.high
    assert found.high - found.low < 0.001


def test_encoded_optics_thresholds():
    # the value is where the curves of 8 and 16 cross; other sizes and the bootstrap leave it as it is
    few = {"noise": "optics", "sizes": (8, 16), "bootstrap": 1, "optics": Optics(code=(2, 2))}
    loss = run(Study(**few)).best
    assert loss.value == pytest.approx(0.104, abs=0.001)
    failure = run(Study(vary="failure", **few)).best
    assert failure.value == pytest.approx(0.432, abs=0.003)
    assert float(Optics().photon_loss(loss.value)) == pytest.approx(0.027, abs=0.001)


def test_one_order_for_all_rates_agrees_with_openings_one_by_one(monkeypatch):
    study = Study(noise="optics", sizes=(6,), optics=Optics(code=(2, 2)), shots=3000, points=5, bootstrap=1)
    quick = run(study).curves[6]
    monkeypatch.setattr(Study, "uniform", property(lambda self: False))
    assert np.allclose(quick, run(study).curves[6], atol=0.04)


def test_failures_that_always_lose_xx_leave_a_cubic_lattice():
    """Only cubic edges are erased, so the threshold is that of the cubic lattice, 0.2488126."""
    always = Optics(lost_basis="XX")
    found = run(Study(noise="optics", vary="failure", sizes=(6, 12), shots=1500, bootstrap=1, optics=always)).best
    assert found.value == pytest.approx(0.2488, abs=0.004)


def test_rotated_drawing_has_the_same_threshold():
    found = run(Study(sizes=(8, 12), geometry="rotated", shots=8000)).best
    assert found.low - 0.001 <= FCC <= found.high + 0.001


def test_equal_seeds_give_equal_records():
    records = [summary(run(Study(sizes=(4, 6), shots=3000, bootstrap=20), threads)) for threads in (1, 3)]
    for record in records:
        record.pop("seconds")
    assert json.dumps(records[0]) == json.dumps(records[1])
    more = summary(run(Study(sizes=(4, 6, 8), shots=3000, bootstrap=20)))
    assert more["sizes"]["4"] == records[0]["sizes"]["4"]  # another size leaves the first ones as they were


def test_crossing_is_read_off_two_lines_and_never_extrapolated():
    grid = np.array([0.0, 1.0, 2.0])
    assert crossing(grid, np.array([0.2, 0.4, 0.6]), np.array([0.0, 0.3, 0.8])) == pytest.approx(4 / 3)
    assert crossing(grid, np.array([0.0, 0.1, 0.2]), np.array([0.1, 0.2, 0.3])) is None
    result = run(Study(sizes=(4, 8), shots=500, low=0.01, high=0.05, points=5, bootstrap=5))
    assert result.best is None
    assert any("no crossing of sizes 4 and 8 in 0.01..0.05" in note for note in result.notes)


def test_small_sizes_and_single_sizes_are_told():
    assert any("largest size 6" in note for note in run(Study(sizes=(4, 6), shots=500, bootstrap=5)).notes)
    assert run(Study(sizes=(4,), shots=500, bootstrap=5)).notes == ["a threshold needs at least two sizes"]


@pytest.mark.parametrize(
    ("bad", "word"),
    [({"sizes": (2,)}, "2"), ({"sizes": (6, 6)}, "twice"), ({"sizes": ()}, "no size"), ({"sizes": (6, 7), "geometry": "rotated"}, "7"),
     ({"shots": 10}, "10"), ({"low": -0.1}, "-0.1"), ({"high": 1.5}, "1.5"), ({"low": 0.3, "high": 0.1}, "rise"),
     ({"noise": "error", "high": 0.6}, "0.6"), ({"noise": "mixed", "error": 0.5}, "0.5"), ({"network": "5ring"}, "5ring"),
     ({"noise": "loss"}, "loss"), ({"points": 2}, "2"), ({"bootstrap": 0}, "0"), ({"seed": -1}, "-1"),
     ({"shots": 200_000_000}, "MB"), ({"network": "4star", "geometry": "rotated"}, "rotated")],
)  # fmt: skip
def test_bad_studies_are_refused(bad, word):
    with pytest.raises(RequestError, match=word):
        Study(**bad)


def test_files_survive_and_foreign_ones_are_left_alone(tmp_path):
    folder = tmp_path / "study"
    record = write(run(Study(sizes=(4, 8), shots=2000, bootstrap=20)), folder)
    assert {item.name for item in folder.iterdir()} == {"result.json", "samples.npz", "curves.png", "README.md"}
    assert read(folder) == json.loads(json.dumps(record)) == read(folder / "result.json")
    assert beside(record).value == 0.1198
    assert "| measured (95 %) | published |" in section(record)
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(RequestError, match="--force"):
        refuse_existing(folder, False)
    refuse_existing(folder, True)
    write(run(Study(sizes=(4, 8), shots=1000, bootstrap=20)), folder)
    assert (folder / "notes.txt").read_text() == "mine"


def test_files_of_the_same_name_that_are_no_study_are_refused(tmp_path):
    (tmp_path / "README.md").write_text("# my project")
    for force in (False, True):
        with pytest.raises(RequestError, match="no study wrote"):
            refuse_existing(tmp_path, force)
    assert (tmp_path / "README.md").read_text() == "# my project"


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "3", '{"kind": "fbqc-study", "schema": 1}', '{"kind": "fbqc-study", "schema": 9}', "\x00"]
)
def test_foreign_files_are_refused_in_one_line(tmp_path, text):
    (tmp_path / "result.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"result\.json"):
        read(tmp_path)


def test_verdict_of_a_machine():
    fine, poor = (judge("6ring", Optics(code=(2, 2)), loss) for loss in (0.02, 0.03))
    assert (fine.passes, poor.passes) == (True, False)
    assert fine.tolerated_photon_loss == pytest.approx(0.0271, abs=5e-5)
    assert judge("4star", Optics(code=(2, 2)), 0.0).tolerated_fusion_loss == pytest.approx(0.041, abs=5e-4)
    assert judge("6ring", Optics(fail=0.5, code=(2, 2)), 0.0).tolerated_fusion_loss is None
    biased = judge("6ring", Optics(lost_basis="XX"), 0.0, shots=200)
    assert biased.simulated
    with pytest.raises(RequestError, match=r"1\.5"):
        judge("6ring", Optics(), 1.5)


def test_sizes_as_text():
    assert parse_sizes("6, 8,12") == (6, 8, 12)
    assert parse_sizes("auto") is None
    with pytest.raises(RequestError, match="six"):
        parse_sizes("six")
