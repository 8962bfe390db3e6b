"""The package as a plugin: listed, run by the core's own commands, never with torch, errors in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT_TORCH = """
import sys
from erase_plugins.cli.main import main
try:
    main()
finally:
    assert "torch" not in sys.modules, "torch was imported"
"""


def run(*words: str, cwd: Path, code: int = 0, **env: str) -> subprocess.CompletedProcess[str]:
    settings = {**os.environ, "OMP_NUM_THREADS": "1", **env}
    command = [sys.executable, "-c", WITHOUT_TORCH, *words]
    done = subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=settings, timeout=300)
    assert done.returncode == code, done.stdout[-2000:] + done.stderr[-2000:]
    return done


def test_the_suite_is_listed_and_runs_without_torch(tmp_path):
    found = json.loads(run("list", "suites", "--json", cwd=tmp_path).stdout)
    assert "erase-plugins-fbqc" in json.dumps(found)
    done = run(
        "evaluate",
        "--suite",
        "fbqc",
        "--set",
        "sizes=4,8",
        "--set",
        "shots=1000",
        "--out",
        "report",
        "--json",
        cwd=tmp_path,
    )
    report = json.loads(done.stdout)
    assert report["rows"][0]["metric"] == "erasure_threshold"
    assert 0.11 < report["rows"][0]["value"] < 0.13
    assert report["files"] == {"report": "report.json", "curves": "curves.png"}
    assert (tmp_path / "report" / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert report["attached"]["curves.png"]["title"] == "failure rate against the varied rate"
    (tmp_path / "report" / "curves.png").unlink()
    run("fbqc", "plot", "report/report.json", cwd=tmp_path)
    assert (tmp_path / "report" / "curves.png").stat().st_size > 10_000


def test_scan_check_and_table(tmp_path):
    words = ("fbqc", "scan", "--sizes", "4,8", "--shots", "1000", "--out", "study", "--json")
    record = json.loads(run(*words, cwd=tmp_path).stdout)
    again = json.loads(run(*words, "--force", "--threads", "3", cwd=tmp_path).stdout)
    assert {**record, "seconds": 0} == {**again, "seconds": 0}
    rows = json.loads(run("fbqc", "table", "study", "--json", cwd=tmp_path).stdout)["rows"]
    assert (
        next(row for row in rows if row["id"] == "6ring-erasure")["measured"]["value"] == record["threshold"]["value"]
    )
    assert json.loads(run("fbqc", "scan", "--dry-run", "--json", "--out", "no", cwd=tmp_path).stdout)["dry_run"] is True
    assert not (tmp_path / "no").exists()
    run("fbqc", "check", "--encoding", "shor22", "--photon-loss", "0.02", cwd=tmp_path)
    run("fbqc", "check", "--encoding", "shor22", "--photon-loss", "0.03", cwd=tmp_path, code=1)


BAD = [
    (("scan", "--sizes", "2", "--out", "x"), "size 2"),
    (("scan", "--sizes", "6,7", "--geometry", "rotated", "--out", "x"), "size 7"),
    (("scan", "--sizes", "6,six", "--out", "x"), "six"),
    (("scan", "--low", "-0.2", "--out", "x"), "-0.2"),
    (("scan", "--high", "1.2", "--out", "x"), "1.2"),
    (("scan", "--shots", "5", "--out", "x"), "5 shots"),
    (("scan", "--shots", "900000000", "--out", "x"), "MB"),
    (("scan", "--network", "5ring", "--out", "x"), "5ring"),
    (("scan", "--noise", "optics", "--encoding", "5,5", "--out", "x"), "(5, 5)"),
    (("scan", "--noise", "optics", "--p-fail", "0", "--out", "x"), "photons"),
    (("check", "--photon-loss", "1.5"), "1.5"),
    (("plot", "notes.txt"), "notes.txt"),
    (("plot", "missing.json"), "missing.json"),
    (("scan", "--out", "notes.txt"), "notes.txt"),
    (("table", "notes.txt"), "notes.txt"),
]


@pytest.mark.parametrize(("words", "said"), BAD)
def test_bad_input_is_one_line_and_nothing_is_lost(tmp_path, words, said, capsys, monkeypatch):
    from erase_plugins.cli.main import main

    (tmp_path / "notes.txt").write_text("mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["erase-plugins", "fbqc", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code in (1, 2)
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ")
    assert "\n" not in error
    assert said in error
    assert [item.name for item in tmp_path.iterdir()] == ["notes.txt"]
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_errors_without_pymatching_name_the_extra(tmp_path):
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "pymatching.py").write_text("raise ImportError('not here')")
    words = ("fbqc", "scan", "--sizes", "4,6", "--shots", "500", "--out")
    path = os.pathsep.join(filter(None, [str(blocked), os.environ.get("PYTHONPATH", "")]))
    done = run(*words, "errors", "--noise", "error", cwd=tmp_path, code=4, PYTHONPATH=path)
    assert "pip install 'erase-plugins-fbqc[mwpm]'" in done.stderr
    run(*words, "erasures", cwd=tmp_path, PYTHONPATH=path)


def test_card_section_shows_threshold_and_source():
    from types import SimpleNamespace

    from erase_fbqc.plugin import erase_card_sections
    from erase_fbqc.study import Study, run, summary

    report = SimpleNamespace(details={"fbqc": summary(run(Study(sizes=(4, 8), shots=500, bootstrap=10)))})
    text = erase_card_sections(artifact=None, report=report)[0]
    assert "Error Correction Zoo" in text
    assert erase_card_sections(artifact=None, report=SimpleNamespace(details={})) == []
