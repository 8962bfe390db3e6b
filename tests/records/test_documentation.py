"""docs/records.md: its code and commands run as they stand there, and its list of what is not claimed is the program's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np

from erase_plugins.records.certificate import NOT_CLAIMED
from tests.cli.conftest import invoke

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "records.md").read_text(encoding="utf-8")


def test_the_walk_through(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    import torch

    model = torch.nn.Sequential()
    model.add_module("classifier", torch.nn.Linear(3, 2))
    names: dict = {"model": model, "batches": torch.eye(3).split(2), "labels": [0, 1, 1]}  # the reader's own
    said = []
    for kind, block in re.findall(r"^```(python|bash)\n(.*?)\n```$", PAGE, flags=re.DOTALL | re.MULTILINE):
        if kind == "python":
            exec(compile(block, "docs/records.md", "exec"), names)
            continue
        for line in block.splitlines():
            words = shlex.split(line)
            assert words[0] == "erase-plugins"
            done = invoke(*words[1:])
            assert done.code == 0, (line, done.err)
            said.append(done.out)
    assert float(capsys.readouterr().out) > 0.75
    assert "certified: yes" in said[-1]
    assert said[-1].startswith("rho_adaptive")
    assert "1501 records in 1600 slots, 1 deleted" in said[-2]
    assert (np.load("features.npz")["features"] == np.eye(3)).all()
    assert {path.name for path in Path("published").iterdir()} == {
        "head.safetensors", "ledger.jsonl", "certificate.json", ".erase-plugins",
    }  # fmt: skip


def test_what_is_not_claimed_is_what_the_certificate_says():
    section = PAGE.split("## What is not claimed\n")[1].split("\n## ")[0]
    listed = [line.removeprefix("- ") for line in section.strip().splitlines() if line.startswith("- ")]
    assert tuple(listed[: len(NOT_CLAIMED)]) == NOT_CLAIMED
    for word in ("compliant", "GDPR", "guaranteed removal", "retrained"):
        assert word.lower() not in PAGE.lower()
