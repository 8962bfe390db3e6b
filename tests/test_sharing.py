"""ep.push, ep.pull, ep.search, artifact.card(): from the plugin package, and a clear error without it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import erase_plugins as ep
import hub_cards
from erase_plugins.errors import PushRefused, RequestError
from tests.hub.conftest import REPO, hub, hub_server, made, pizza, plugin  # noqa: F401

ROOT = Path(__file__).resolve().parents[1]


def test_push_pull_search_and_card(hub, pizza, tmp_path):  # noqa: F811
    done = ep.push(pizza, REPO, license="mit", message="by name")
    assert done.commit == hub.store.repository(REPO).commit().oid
    assert hub.store.repository(REPO).commit().title == "by name"
    assert ep.pull(REPO, tmp_path / "x").name == "erase_pizza"
    assert [item.id for item in ep.search("pizza")] == [REPO]
    assert pizza.card(repo=REPO, license="mit") == hub_cards.card(pizza, repo=REPO, license="mit")


def test_errors_speak_python(hub, pizza):  # noqa: F811
    """What the command line calls --license is an argument here, whichever function is asked."""
    with pytest.raises(PushRefused) as caught:
        ep.push(pizza, REPO)
    assert "name it with license='ID'" in str(caught.value)
    assert "--" not in str(caught.value)
    ep.push(pizza, REPO, license="mit")
    with pytest.raises(PushRefused, match="leave private=True out"):
        ep.push(pizza, REPO, license="mit", private=True)
    with pytest.raises(PushRefused, match="license='ID'"):
        hub_cards.push(pizza, "tester/new")
    with pytest.raises(RequestError, match=r"would become itself.*; give another to=$"):
        ep.plan("pocket", "pizza", "uce", to="pizza")


WITHOUT = """
import sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "hub_cards":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Gone())
import erase_plugins as ep
from erase_plugins.errors import EraseError
for call in (lambda: ep.push("a", "b/c"), lambda: ep.pull("b/c"), lambda: ep.search("x"),
             lambda: ep.load_artifact(sys.argv[1]).card(), lambda: ep.load_artifact("hub:b/c")):
    try:
        call()
    except EraseError as error:
        print(type(error).__name__, error)
print(ep.load_artifact(sys.argv[1]).name)
from erase_plugins.cli.main import main
sys.argv = ["erase-plugins", "inspect", sys.argv[1]]
main()
"""


def test_without_the_package_everything_else_works(pizza):  # noqa: F811
    env = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(pizza.path)], capture_output=True, text=True, env=env, timeout=120
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines[:5]] == ["MissingPlugin"] * 4 + ["ArtifactError"]
    assert all("hub_cards" in line and "it is part of erase-plugins" in line for line in lines[:4])
    assert "no plugin knows where 'hub:' artifacts are" in lines[4]
    assert lines[5] == "erase_pizza"
    assert "pizza" in "\n".join(lines[6:])


def test_blocked_by_the_environment():
    code = "import erase_plugins as ep\nep.push('a', 'b/c')"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "ERASE_PLUGINS_DISABLE": "hub_cards"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env, timeout=60)
    assert "MissingPlugin" in done.stderr
    assert "'erase-plugins list plugins' says why" in done.stderr
