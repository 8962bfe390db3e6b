"""The commands: listed without cost, say what they do, never show the token."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import hub_cards
from erase_plugins import get_manager
from erase_plugins.errors import ArtifactError
from tests.cli.conftest import erase  # noqa: F401
from tests.hub.conftest import REPO, contents

ROOT = Path(__file__).resolve().parents[2]
HEAVY = ("torch", "huggingface_hub", "diffusers", "transformers", "safetensors", "numpy", "hub_cards.pushing")


def test_listing_and_help_import_nothing_heavy(tmp_path):
    code = (
        "import sys, hub_cards, contextlib, io\n"
        "from erase_plugins import get_manager\n"
        "from erase_plugins.cli.main import cli\n"
        "manager = get_manager()\n"
        "manager.pluggy.is_registered(hub_cards) or manager._register(hub_cards, 'hub_cards')\n"
        "for words in (['--help'], ['push', '--help'], ['pull', '--help'], ['card', '--help']):\n"
        "    with contextlib.redirect_stdout(io.StringIO()) as out:\n"
        "        try: cli(words, prog_name='erase-plugins')\n"
        "        except SystemExit as end: assert end.code == 0\n"
        "    assert 'Usage: erase-plugins' in out.getvalue()\n"
        "    print(out.getvalue())\n"
        f"print('HEAVY', [name for name in {HEAVY!r} if name in sys.modules])\n"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    for name, text in hub_cards.COMMANDS.items():
        assert f"  {name} " in done.stdout
        assert text.split()[0] in done.stdout


def test_the_package_joins_through_the_entry_point():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["erase_plugins"]["hub_cards"] == "hub_cards"


def test_push_and_pull_on_the_command_line(hub, pizza, erase, tmp_path):  # noqa: F811
    dry = erase("push", pizza.path, REPO, "--license", "mit", "--dry-run")
    assert dry.code == 0, dry.err
    assert f"{REPO}: new, public" in dry.out
    assert "new      edit.safetensors" in dry.out
    assert hub.store.repositories == {}
    ran = erase("push", pizza.path, REPO, "--license", "mit", "--json")
    assert ran.code == 0, ran.err
    assert ran.data["commit"] == hub.store.repository(REPO).commit().oid
    assert "everything is there already" in erase("push", pizza.path, REPO, "--license", "mit").out
    pulled = erase("pull", REPO).out
    assert "--all-files or --layout fetches them" in pulled
    assert f"use it: erase-plugins generate hub:{REPO} --model " in pulled
    own = tmp_path / "own"
    assert f"use it: erase-plugins generate {own} --model " in erase("pull", REPO, "--into", own).out
    ran = erase("pull", REPO, "--into", tmp_path / "x", "--all-files", "--json")
    assert ran.code == 0, ran.err
    assert set(ran.data["fetched"]) == {item.name for item in pizza.manifest.files}
    assert contents(tmp_path / "x") == contents(pizza.path)
    again = erase("pull", REPO, "--into", tmp_path / "x")
    assert again.code == 2 and again.err.endswith(
        "'x' exists already; choose another --into or pass --force to replace it\n"
    )
    with pytest.raises(ArtifactError, match="choose another into= or pass force=True"):
        hub_cards.pull(REPO, tmp_path / "x")
    ran = erase("inspect", f"hub:{REPO}", "--json")
    assert ran.data["erased"] == ["pizza"]


def test_card_on_the_command_line(hub, pizza, erase, tmp_path):  # noqa: F811
    ran = erase("card", pizza.path, "--repo", REPO, "--out", tmp_path / "README.md")
    assert ran.code == 0, ran.err
    assert (tmp_path / "README.md").read_text() == hub_cards.card(pizza, repo=REPO)
    assert erase("card", pizza.path).out.startswith("---\n")
    assert erase("card", pizza.path, "--repo", "nonsense").code == 2


def test_exit_codes(hub, pizza, erase, monkeypatch):  # noqa: F811
    assert erase("pull", "tester/nothing").code == 5
    assert erase("push", pizza.path, REPO).code == 5
    assert erase("pull", "nothing").code == 2
    monkeypatch.delenv("HF_TOKEN")
    assert erase("push", pizza.path, REPO, "--license", "mit").code == 5


def test_without_the_plugin_the_rest_works(pizza, erase):  # noqa: F811
    if not get_manager().pluggy.is_registered(hub_cards):
        ran = erase("inspect", "hub:tester/x")
        assert ran.code == 2
        assert "no plugin knows where 'hub:' artifacts are" in ran.err
        assert erase("inspect", pizza.path).code == 0


@pytest.mark.parametrize("fault", [401, 403, 500, "reset", "wrong bytes"])
def test_the_token_is_in_no_output(hub, pizza, erase, fault, caplog, tmp_path):  # noqa: F811
    caplog.set_level(logging.DEBUG, "erase_plugins")
    outputs = []
    for words in (
        ("push", pizza.path, REPO, "--license", "mit"), ("push", pizza.path, REPO, "--license", "mit", "--debug"),
        ("pull", REPO, "--json"), ("push", pizza.path, REPO, "--license", "mit", "--json", "--debug"),
    ):  # fmt: skip
        hub.fault("POST .*/commit/|GET .*/resolve/|GET /api/models/[^/]+/[^/]+$", fault)
        ran = erase(*words)
        outputs += [ran.out, ran.err]
        hub.faults.clear()
    canary = hub.token
    assert not any(canary in text or canary[5:] in text for text in [*outputs, caplog.text])
    repository = hub.store.repositories.get(REPO)
    for commit in repository.commits.values() if repository else ():
        for name, data in hub.files(REPO, commit.oid).items():
            assert canary.encode() not in data, name
    for name, data in contents(tmp_path).items():
        assert canary.encode() not in data, name


def test_the_page_shows_the_commands_as_they_are():
    """`tests/cli/test_surface.py` holds the page against the commands; here it is whether all are on it."""
    from hub_cards import COMMANDS

    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for name in (*COMMANDS, "ui", "collection push", "collection pull"):
        assert f"# erase-plugins {name}\n" in text
    assert "`--create-pr`" in text
    assert "`--hub-collection` TITLE" in text


def test_a_file_with_the_token_is_never_sent(hub, pizza, erase, tmp_path):  # noqa: F811
    """However it came there: in a report, a kept prompt, the text of the page."""
    import json

    from erase_plugins import EvalReport

    report = EvalReport("quick", "pocket", (), details={"prompts": {"target": [f"a {hub.token}"]}})
    (tmp_path / "report.json").write_text(json.dumps(report.to_dict()))
    ran = erase("push", pizza.path, REPO, "--license", "mit", "--report", tmp_path)
    assert ran.code == 5
    assert "report.json holds your access token" in ran.err
    assert hub.token not in ran.out + ran.err
    assert hub.store.repositories == {}
    assert {item.method for item in hub.log} <= {"GET", "HEAD"}
    kept = pizza.with_manifest(preserve=(hub.token,)).save(tmp_path / "kept", ("patch",))
    ran = erase("push", kept.path, REPO, "--license", "mit")
    assert ran.code == 5
    assert "holds your access token" in ran.err
    assert hub.uploaded() == 0


def test_a_token_is_found_across_the_borders_of_what_is_read_at_once(hub, tmp_path):
    from erase_plugins.errors import PushRefused
    from hub_cards.bundle import PushFile
    from hub_cards.pushing import check_files

    for start in (0, 5, (1 << 20) - 3, (1 << 20) + 7):
        (tmp_path / "x.bin").write_bytes(b"\0" * start + hub.token.encode() + b"\0" * 9)
        with pytest.raises(PushRefused, match=r"x\.bin"):
            check_files([PushFile("x.bin", tmp_path / "x.bin")])
    header = b" " * (2 << 20) + hub.token.encode()
    weights = PushFile("w.safetensors", len(header).to_bytes(8, "little") + header + b"\0" * 100)
    with pytest.raises(PushRefused, match=r"w\.safetensors"):
        check_files([weights])
    (tmp_path / "x.bin").write_bytes(b"\0" * (3 << 20))
    check_files([PushFile("x.bin", tmp_path / "x.bin"), PushFile("y", b"")])
