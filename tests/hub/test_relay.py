"""An independent server between us and the Hub: olah, a read-only relay with a cache of its own, for which we are any client.

Its interpreter is named by ERASE_OLAH_PYTHON; with ERASE_REQUIRE_OLAH it must be there.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

import hub_cards
from erase_plugins.testing import HubServer
from erase_plugins.workflow.collection import build_collection
from tests.comfy_nodes.comfy_server import own_port
from tests.hub.conftest import REPO, contents

ROOT = Path(__file__).resolve().parents[2]
LIBRARY = "tester/library"
SETTINGS = """
[basic]
host = "127.0.0.1"
port = {port}
repos-path = "{place}/repos"
hf-scheme = "http"
hf-netloc = "{hub}"
hf-lfs-netloc = "{hub}"
mirror-scheme = "http"
mirror-netloc = "127.0.0.1:{port}"
mirror-lfs-netloc = "127.0.0.1:{port}"
{more}

[accessibility]
offline = false
[[accessibility.proxy]]
repo = "*"
allow = true
[[accessibility.cache]]
repo = "*"
allow = true
"""
CLIENT = """
import json, sys
import hub_cards
from erase_plugins import get_manager, load_artifact
from erase_plugins.errors import EraseError
from hub_cards.pulling import commit_of

manager = get_manager()
if not manager.pluggy.is_registered(hub_cards):
    manager.pluggy.register(hub_cards)
place, repo, library, behind = sys.argv[1:5]

def told(work):
    try:
        return work()
    except EraseError as error:
        return f"{type(error).__name__}: {error}"

artifact = hub_cards.pull(repo, place + "/whole", layouts=["all"])
part = hub_cards.pull_collection(library, ["pizza"], place + "/part")
print("RESULT " + json.dumps({
    "name": artifact.name, "part": list(part.names()),
    "reference": load_artifact(f"hub:{repo}").name,
    "member": load_artifact(f"hub:{library}#hamburger").name,
    "commit": commit_of(repo),
    "missing": told(lambda: hub_cards.pull("tester/nothing")),
    "revision": told(lambda: hub_cards.pull(repo + "@gone")),
    "search": told(lambda: hub_cards.search("pizza")),
    "search behind": [f"{item.id}@{item.revision}" for item in hub_cards.search("pizza", endpoint=behind)],
    "found": told(lambda: hub_cards.pull(f"{repo}@{commit_of(repo)}", offline=True).name),
    "push": told(lambda: hub_cards.push(place + "/whole", "tester/again", license="mit").commit),
}))
"""


def olah_python():
    """Interpreter with olah; skips or fails without one."""
    found = os.environ.get("ERASE_OLAH_PYTHON")
    if found and Path(found).with_name("olah-cli").is_file():
        return found
    if os.environ.get("ERASE_REQUIRE_OLAH"):
        pytest.fail("ERASE_REQUIRE_OLAH is set, but ERASE_OLAH_PYTHON names no interpreter with olah")
    return pytest.skip("needs an interpreter with olah in ERASE_OLAH_PYTHON")


@pytest.fixture(scope="module", params=["lfs", "xet", "xet passed through"])
def relayed(request, tmp_path_factory, made, preloaded_without_hub):
    """What a client sees that knows only the relay; the Hub behind keeps files by LFS or by xet."""
    python, tmp_path = olah_python(), tmp_path_factory.mktemp("relayed")
    xet = tmp_path / "xet" if "xet" in request.param else None
    port = own_port()
    with HubServer(xet=xet, redirects=request.param != "lfs") as hub:
        with hub.as_default(tmp_path / "cache"):
            hub_cards.push(made["pizza"], REPO, license="mit")
            library = build_collection([made["pizza"], made["hamburger"]], tmp_path / "library")
            hub_cards.push_collection(library, LIBRARY, license="mit")
        hub.log.clear()
        place = tmp_path / "relay"
        place.mkdir()
        through = 'xet-passthrough = true\nxet-passthrough-min-size = "1"' if "passed" in request.param else ""
        settings = SETTINGS.format(port=port, place=place, hub=hub.url.removeprefix("http://"), more=through)
        (place / "olah.toml").write_text(settings)
        env = {key: value for key, value in os.environ.items() if not key.lower().endswith("_proxy")}
        words = [python, str(Path(python).with_name("olah-cli")), "-c", "olah.toml", "--log-path", "logs"]
        with (place / "log").open("wb") as log:
            process = subprocess.Popen(words, cwd=place, env=env, stdout=log, stderr=log)
            try:
                wait(process, port, place / "log")
                more = {**hub.environment(tmp_path / "home"), "HF_ENDPOINT": f"http://127.0.0.1:{port}"}
                more |= {"PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
                done = subprocess.run(
                    [*preloaded_without_hub, "-c", CLIENT, str(tmp_path / "got"), REPO, LIBRARY, hub.url],
                    env={**env, **more}, capture_output=True, text=True, timeout=300,
                )  # fmt: skip
            finally:
                process.terminate()
                process.wait(30)
        assert done.returncode == 0, done.stderr + (place / "log").read_text()[-3000:]
        yield request.param, hub, json.loads(done.stdout.split("RESULT ")[1]), tmp_path, library


def wait(process, port, log):
    for _ in range(240):
        if process.poll() is not None:
            pytest.fail(log.read_text())
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.25)
    pytest.fail("the relay did not start: " + log.read_text())


def test_pull_parts_and_search_through_a_relay(relayed, made):
    kept, hub, found, place, library = relayed
    assert contents(place / "got" / "whole") == contents(made["pizza"].path)
    whole, part = contents(library.path), contents(place / "got" / "part")
    assert sorted(part) == ["collection.json", "erase_pizza/edit.safetensors", "erase_pizza/erase.json"]
    assert all(whole[name] == data for name, data in part.items() if name != "collection.json")
    assert found["part"] == ["erase_pizza"]
    assert found["name"] == found["reference"] == found["found"] == "erase_pizza"
    assert found["member"] == "erase_hamburger"
    commits = {name: hub.store.repository(name).commit().oid for name in (REPO, LIBRARY)}
    assert found["commit"] == commits[REPO]
    assert sorted(found["search behind"]) == sorted(f"{name}@{commit}" for name, commit in commits.items())
    assert bool(hub.count("xet-read-token")) is (kept == "xet passed through")
    assert bool(hub.count("GET /cdn/")) is (kept == "xet")


def test_what_a_relay_cannot_do_is_said(relayed):
    """It lists no repositories and takes nothing."""
    _, hub, found, _, _ = relayed
    assert found["search"].startswith("HubError: cannot search on the Hub: this server lists no repositories")
    assert "no such repository" in found["missing"]
    assert "no such revision" in found["revision"]
    assert "405" in found["push"] or "takes no" in found["push"]
    assert set(hub.store.repositories) == {REPO, LIBRARY}
