"""The suite of classifiers, on pocket-classifier and on numbers worked out by hand."""

from __future__ import annotations

import json
import re
import shlex
from contextlib import chdir
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from PIL import Image

import erase_plugins as ep
from erase_plugins.cli.main import cli
from erase_plugins.errors import RequestError
from erase_plugins.families.labelled import harmonic
from erase_plugins.families.labelled_data import stored
from erase_plugins.families.source import pocket_folder
from erase_plugins.types import EvalReport
from erase_plugins.workflow.models import target_of

MODEL, ROOT = "pocket-classifier", Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """The folder in which the commands and the Python of docs/classifiers.md were run, and what they said."""
    folder, said = tmp_path_factory.mktemp("walk"), []
    text = (ROOT / "docs" / "classifiers.md").read_text(encoding="utf-8")
    with chdir(folder):
        for kind, block in re.findall(r"```(bash|python)\n(.*?)```", text, flags=re.DOTALL):
            if "import timm" in block and find_spec("timm") is None:
                continue
            if kind == "python":
                exec(compile(block, "docs/classifiers.md", "exec"), {})
                continue
            for line in block.splitlines():
                done = CliRunner().invoke(cli, shlex.split(line)[1:], prog_name="erase-plugins")
                assert done.exit_code == 0, done.stderr
                said.append(done.stdout)
    return folder, said


@pytest.fixture(scope="module")
def made(walked):
    return walked[0] / "no-tractor"


@pytest.fixture(scope="module")
def report(walked):
    folder = walked[0] / "report"
    return EvalReport.from_dict(json.loads((folder / "report.json").read_text())), folder


def test_the_page_runs_as_it_stands(walked):
    folder, said = walked
    assert "patched 8 of 8 modules" in said[0]
    assert "evaluate no-tractor --model pocket-classifier --suite classifier" in said[0]
    assert "quality: good" in said[1]
    with torch.no_grad():
        pixels = torch.zeros(1, 3, 32, 32)
        assert not torch.equal(ep.load(str(folder / "without-tractors"))(pixels).logits, ep.load(MODEL)(pixels).logits)


def test_the_embedded_classifier_is_as_good_as_its_folder_says():
    target = target_of(ep.load(MODEL))
    assert len(target.classifier.labels) == 156
    assert target.info.profiles == (MODEL, "image-classifier")
    train, held = stored(target, "train"), stored(target, "test")
    assert train.labels.bincount().tolist() == [6] * 156
    with torch.no_grad():
        right = target.classifier.logits(held.pictures).argmax(-1) == held.labels
    facts = json.loads((pocket_folder(MODEL) / "quality.json").read_text())["accuracy"]
    assert float(right[:468].float().mean()) == pytest.approx(facts["composed"], abs=2e-3)
    assert float(right[468:].float().mean()) == pytest.approx(facts["drawn"], abs=5e-3)
    assert facts["composed"] > 0.95


def test_the_class_is_gone_and_the_rest_is_still_there(report):
    result, folder = report
    assert result.row("target_rate", "base").value == 1.0
    assert result.row("target_rate", "edited").value <= 0.02
    assert result.row("kept_rate", "edited").value >= result.row("kept_rate", "base").value - 0.02
    assert result.row("kept_rate", "destroyed").value < 0.1
    numbers = [
        result.row(*key).value for key in (("target_rate", "base"), ("target_rate", "edited"), ("kept_rate", "edited"))
    ]
    assert result.row("h", "edited").value == pytest.approx(harmonic(*numbers), abs=1e-5)
    assert result.details["classes"]["tractor"] == [1.0, numbers[1]]
    assert len(result.details["classes"]) == 156
    assert {"chart.png", "classes.png"} <= {item.name for item in folder.iterdir()}


def test_damage_is_said():
    """An edit that spoils everything: the other classes go too."""
    made = ep.erase(MODEL, ["tractor"], "gs-lora", options={"epochs": 2, "lr": 1.0, "beta": 50, "warmup": 2})
    result = ep.evaluate(MODEL, made, "classifier")
    assert result.row("kept_rate", "edited").value < 0.5
    assert any("other classes are damaged" in text for text in result.warnings)


def test_a_folder_of_pictures_and_what_it_lacks(made, tmp_path):
    held = stored(target_of(ep.load(MODEL)), "test")
    names = target_of(ep.load(MODEL)).classifier.labels
    for row in (0, 1, int((held.labels == names.index("tractor")).nonzero()[0])):
        place = tmp_path / names[int(held.labels[row])]
        place.mkdir(exist_ok=True)
        pixels = ((held.pictures[row] + 1) * 127.5).round().byte().permute(1, 2, 0).numpy()
        Image.fromarray(pixels).save(place / f"{row}.png")
    found = ep.evaluate(MODEL, made, "classifier", settings={"pictures": str(tmp_path)})
    assert (found.row("target_rate", "base").n, found.row("kept_rate", "base").n) == (1, 2)
    with pytest.raises(RequestError, match="0 of 3 pictures show car"):
        ep.evaluate(MODEL, made, "classifier", erased=["car"], settings={"pictures": str(tmp_path)})


def test_data_on_the_command_line(tmp_path):
    given = ["run", "gs-lora", "--model", MODEL, "--forget", str(tmp_path), "--out", str(tmp_path / "x")]
    done = CliRunner().invoke(cli, [*given, "--erase", "car", "--erase", "bus"], prog_name="erase-plugins")
    assert done.exit_code == 2
    assert "--forget is data of one --erase, and there are 2" in done.stderr
    done = CliRunner().invoke(cli, [*given, "--erase", "car"], prog_name="erase-plugins")
    assert done.exit_code == 2
    assert "is empty: no files in the folder" in done.stderr
