"""docs/requests.md: its commands run as they stand there, and its list of what is not claimed is the program's."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from erase_plugins.requests.certificate import NOT_CLAIMED
from erase_plugins.requests.deadlines import RULES
from tests.cli.conftest import invoke, loaded  # noqa: F401

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "requests.md").read_text(encoding="utf-8")


@pytest.mark.slow
def test_the_walk_through(loaded, tmp_path, monkeypatch):  # noqa: F811
    import erase_plugins as ep

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")  # tables are not cut
    monkeypatch.setattr(ep, "load", lambda name: loaded.host)
    Path("who.txt").write_text("pizza\n")
    case, said, names = "", {}, {}
    for kind, block in re.findall(r"^```(python|bash)\n(.*?)\n```$", PAGE, flags=re.DOTALL | re.MULTILINE):
        if kind == "python":
            exec(compile(block, "docs/requests.md", "exec"), names)
            while names["handles"]:
                names["handles"].pop().remove()
            continue
        for line in block.splitlines():
            first = re.fullmatch(r"CASE=\$\((.*) \| jq -r \.case\)", line)
            words = shlex.split((first[1] if first else line).replace("$CASE", case))
            assert words.pop(0) == "erase-plugins"
            done = invoke(*words)
            assert done.code == 0, (line, done.err)
            said[" ".join(words[:2])] = done.out
            if first:
                case = done.data["case"]
    assert len(case) == 13
    assert names["guarded"].guards == [], "it was revoked above"
    assert "uce" in said["request plan"]
    assert "passed" in said["request evaluate"]
    assert "deployed" in said["request status"]
    assert "target_rate was 1 " in said["verify-certificate answer"]
    checked, _, verdict = said["verify-certificate answer"].partition("checked: ")
    assert checked.strip() in said["request export"]
    assert verdict.startswith("no line was changed")
    assert f"request {case}: closed" in said["request decide"]
    assert "pizza" not in "".join(said.values())


def test_what_is_not_claimed_is_what_the_certificate_says():
    section = PAGE.split("## What is not claimed\n")[1]
    assert tuple(line.removeprefix("- ") for line in section.strip().splitlines()) == NOT_CLAIMED
    for word in ("compliant", "gdpr", "guaranteed", "irreversible", "permanently"):
        assert word not in PAGE.lower()


def test_every_rule_is_on_the_page():
    table = PAGE.split("## Deadlines\n")[1].split("\n## ")[0]
    assert all(f"`{name}`" in table for name in RULES)
