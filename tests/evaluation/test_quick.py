"""The quick suite on the embedded model: it sees erasure, damage, and nothing where nothing was done."""

from __future__ import annotations

import json

import pytest
from PIL import Image

import erase_plugins as ep
from erase_plugins.errors import ArtifactError, RequestError, Unsupported
from erase_plugins.evaluation.draw import draw, initial_noise
from erase_plugins.types import EvalReport

SMALL = {"images": 5, "steps": 4}


@pytest.fixture(scope="module")
def artifact(pocket_target):
    return ep.erase(pocket_target, "pizza")


@pytest.fixture(scope="module")
def report(pocket_pipe, artifact, tmp_path_factory):
    folder = tmp_path_factory.mktemp("quick")
    return ep.evaluate(pocket_pipe, artifact, out=folder, **SMALL), folder


def test_erasure_is_seen_and_the_rest_is_still_there(report) -> None:
    result, _ = report
    assert result.row("target_rate", "base").value >= 0.8
    assert result.row("target_rate", "edited").value <= 0.2
    assert result.row("kept_rate", "edited").value >= 0.8
    assert result.details["change"]["target_rate"][0] <= -0.6


def test_controls(report) -> None:
    result, _ = report
    for metric in ("target_rate", "kept_rate", "neighbour_rate"):
        assert result.row(metric, "strength0").value == result.row(metric, "base").value
    assert result.row("kept_rate", "destroyed").value <= 0.5
    assert not any("strength 0" in text for text in result.warnings)


def test_a_model_that_never_saw_the_concept_stands_beside(pocket_pipe, artifact, tmp_path) -> None:
    import shutil

    from erase_plugins.pocket.world import FOLDER

    shutil.copytree(FOLDER / "model", tmp_path / "twin")  # the base itself: it must draw what the base draws
    found = ep.evaluate(
        pocket_pipe, artifact, settings={"reference": str(tmp_path / "twin")}, out=tmp_path / "report", **SMALL
    )
    for metric in ("target_rate", "kept_rate"):
        assert found.row(metric, "reference").value == found.row(metric, "base").value
    assert found.row("target_rate", "edited").value <= 0.2
    with pytest.raises(RequestError, match="nowhere"):
        ep.evaluate(pocket_pipe, artifact, settings={"reference": str(tmp_path / "nowhere")}, **SMALL)


def test_rows_can_be_recomputed_from_the_raw_values(report) -> None:
    from erase_plugins.evaluation.bootstrap import mean_interval

    result, _ = report
    for row in result.rows:
        mean, low, high = mean_interval(result.details["hits"][row.subject][row.metric], 0)
        assert (row.value, row.low, row.high) == (round(mean, 6), round(low, 6), round(high, 6))


def test_files(report) -> None:
    result, folder = report
    assert set(result.files) == {"report", "contact_sheet", "chart"}
    stored = EvalReport.from_dict(json.loads((folder / result.files["report"]).read_text()))
    assert stored.rows == result.rows
    for name in ("contact_sheet", "chart"):
        with Image.open(folder / result.files[name]) as picture:
            assert min(picture.size) > 200
            assert len(picture.convert("L").getcolors(256) or range(257)) > 16


def test_an_unedited_model_is_not_reported_as_erased(pocket_pipe) -> None:
    result = ep.evaluate(pocket_pipe, [], erased=["pizza"], **SMALL)
    assert result.row("target_rate", "edited").value == result.row("target_rate", "base").value
    mean, low, high = result.details["change"]["target_rate"]
    assert mean == 0.0 and -low == high == 3 / SMALL["images"]


def test_the_pipeline_is_left_as_it_was(pocket_pipe, artifact) -> None:
    before = {name: value.clone() for name, value in pocket_pipe.unet.state_dict().items()}
    ep.evaluate(pocket_pipe, artifact, images=1, steps=2)
    after = pocket_pipe.unet.state_dict()
    assert all(after[name].equal(value) for name, value in before.items())


def test_bad_requests(pocket_pipe, artifact, report, tiny_sd1) -> None:
    with pytest.raises(RequestError, match="nothing to look for"):
        ep.evaluate(pocket_pipe, [])
    with pytest.raises(RequestError, match="images"):
        ep.evaluate(pocket_pipe, artifact, images=0)
    with pytest.raises(RequestError, match="quick"):
        ep.evaluate(pocket_pipe, artifact, suite="quik")
    with pytest.raises(ArtifactError, match="force=True"):
        ep.evaluate(pocket_pipe, artifact, out=report[1], **SMALL)
    with pytest.raises(Unsupported, match="judge"):
        ep.evaluate(tiny_sd1(), [], erased=["pizza"])


def test_pictures_depend_on_prompt_and_seed_only(pocket_pipe) -> None:
    one = draw(pocket_pipe, ["a dog"], [5], steps=3, fast=False)
    pair = draw(pocket_pipe, ["a cat", "a dog"], [4, 5], steps=3, fast=False)
    assert float((pair[1] - one[0]).abs().max()) < 1e-4
    assert initial_noise(5, (4, 16, 16)).equal(initial_noise(5, (4, 16, 16)))
    assert type(pocket_pipe.scheduler).__name__ == "DDIMScheduler"


@pytest.fixture
def drawn_pictures(monkeypatch, tmp_path):
    """Numbers of pictures that are drawn, call by call; every evaluation is one of a fresh process."""
    from erase_plugins.engine import disk_cache
    from erase_plugins.evaluation import run

    monkeypatch.setenv(disk_cache.VARIABLE, str(tmp_path))
    counted, draw_them = [], run.draw

    def count(pipe, prompts, seeds, **options):
        counted.append(len(prompts))
        return draw_them(pipe, prompts, seeds, **options)

    monkeypatch.setattr(run, "draw", count)
    return counted


def fresh_report(pipe, artifact):
    from erase_plugins.evaluation import run

    run._BASE_CACHE.clear()
    return ep.evaluate(pipe, artifact, images=1, steps=1)


def test_other_processes_do_not_draw_base_and_control_again(pocket_pipe, artifact, drawn_pictures) -> None:
    first = fresh_report(pocket_pipe, artifact)
    all_of_them = sum(drawn_pictures)
    drawn_pictures.clear()
    second = fresh_report(pocket_pipe, artifact)
    assert first.rows == second.rows
    assert first.details["hits"] == second.details["hits"]
    assert all_of_them >= 2 * sum(drawn_pictures) > 0


def test_a_model_that_differs_in_one_bit_is_drawn(pocket_pipe, artifact, drawn_pictures) -> None:
    fresh_report(pocket_pipe, artifact)
    all_of_them = sum(drawn_pictures)
    drawn_pictures.clear()
    weight = pocket_pipe.vae.decoder.conv_out.weight  # no fingerprint looks at the decoder
    before = weight.data.clone()
    try:
        weight.data[0, 0, 0, 0] += 1e-3
        fresh_report(pocket_pipe, artifact)
    finally:
        weight.data.copy_(before)
    assert sum(drawn_pictures) == all_of_them
