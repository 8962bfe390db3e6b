"""What would end a push anyway is said before the work, offline too, and on one line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from huggingface_hub import HfApi

import hub_cards
from erase_plugins.errors import HubUnreachable, NotAllowed, PushRefused
from erase_plugins.licences import Licence
from erase_plugins.runtime.shards import chosen_files
from erase_plugins.testing.hub_writing import NO_LICENCE
from erase_plugins.testing.models import fresh_pipeline
from tests.cli.conftest import erase  # noqa: F401
from tests.hub.conftest import REPO
from tests.hub.test_card import report
from tests.hub.test_theirs import theirs

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "http://127.0.0.1:9"


def push(artifact, repo=REPO, **options):
    return hub_cards.push(artifact, repo, **{"license": "mit", **options})


# ---- before the work ----------------------------------------------------------------------------------------------


@pytest.fixture
def no_drawing(monkeypatch):
    """Whoever draws or fuses fails: the refusal has to come before."""

    def too_late(*_, **__):
        raise AssertionError("the work was begun before the refusal")

    monkeypatch.setattr("erase_plugins.workflow.pairs.draw_pairs", too_late)
    monkeypatch.setattr("erase_plugins.runtime.checkpoint_file.fuse_checkpoint", too_late)


def without_login(hub, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")


def wrong_token(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrong")


def offline(hub, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def reader(hub, monkeypatch):
    told = {"name": "tester", "orgs": [], "auth": {"accessToken": {"role": "read"}}}
    monkeypatch.setattr(HfApi, "whoami", lambda *_, **__: told)


def nothing(hub, monkeypatch):
    pass


def public(hub, monkeypatch):
    HfApi().create_repo(REPO)


def a_collection(hub, monkeypatch):
    HfApi().create_repo(REPO)
    HfApi().upload_file(path_or_fileobj=b"{}", path_in_repo="collection.json", repo_id=REPO)


CASES = {
    "no login": (without_login, REPO, (), "hf auth login"),
    "a wrong token": (wrong_token, REPO, (), "this account may not"),
    "a token that only reads": (reader, REPO, (), "may only read"),
    "somebody else's name": (nothing, "somebody/else", (), "push to tester/"),
    "offline": (offline, REPO, (), "HF_HUB_OFFLINE is set"),
    "public already": (public, REPO, ("--private",), "exists and is public"),
    "another commit": (public, REPO, ("--parent", "abcdef1"), "not at abcdef1"),
    "holds a collection": (a_collection, REPO, (), "holds a collection"),
}


@pytest.mark.parametrize("case", CASES)
def test_refused_before_pictures_are_drawn(hub, pizza, erase, monkeypatch, no_drawing, case):  # noqa: F811
    prepare, repo, words, said = CASES[case]
    prepare(hub, monkeypatch)
    ran = erase("push", pizza.path, repo, "--license", "mit", "--pairs", 3, *words)
    assert (ran.code, ran.err.count("\n")) == (5, 1), ran.err
    assert said in ran.err


@pytest.mark.parametrize("case", [item for item in CASES if item != "holds a collection"])
def test_refused_before_a_model_is_fused(hub, pizza, erase, monkeypatch, no_drawing, tmp_path, case):  # noqa: F811
    fresh_pipeline("tiny_sd1").save_pretrained(tmp_path / "base")
    prepare, repo, words, said = CASES[case]
    prepare(hub, monkeypatch)
    ran = erase("push", pizza.path, repo, "--license", "mit", "--merged", tmp_path / "base", *words)
    assert (ran.code, ran.err.count("\n")) == (5, 1), ran.err
    assert said in ran.err


@pytest.mark.parametrize("limit", [5_000_000_000, 200_000])
def test_files_of_somebody_else_are_seen_before_a_model_is_fused(hub, pizza, monkeypatch, no_drawing, tmp_path, limit):
    fresh_pipeline("tiny_sd1").save_pretrained(tmp_path / "base")
    place = tmp_path / "parts"
    shutil.copytree(tmp_path / "base", place)
    taken = next(item for item in chosen_files(place, limit) if item.parent.name == "unet" and item.suffix != ".json")
    theirs({taken.relative_to(place).as_posix(): b"mine"})
    send = partial(hub_cards.push_merged, pizza, tmp_path / "base", REPO, license="mit", shard_bytes=limit)
    with pytest.raises(PushRefused, match=f"would be replaced: unet/{taken.name}; push to another"):
        send()
    with pytest.raises(AssertionError, match="the work was begun"):
        send(prune=True)  # with leave to replace them


@pytest.mark.parametrize("case", ["no login", "a wrong token", "somebody else's name", "offline"])
def test_refused_before_the_pictures_of_a_space(hub, pizza, erase, monkeypatch, no_drawing, tmp_path, case):  # noqa: F811
    prepare, repo, _, said = CASES[case]
    prepare(hub, monkeypatch)
    words = ("space", repo, "--artifact", pizza.path, "--pairs", 2, "--push", "--out", tmp_path / "x")
    ran = erase(*words)
    assert (ran.code, ran.err.count("\n")) == (5, 1), ran.err
    assert said in ran.err
    assert not (tmp_path / "x").exists()


def test_evidence_about_other_weights_is_told_before_more_is_drawn(hub, pizza, hamburger, erase, no_drawing):  # noqa: F811
    push(pizza, report=report(pizza))
    ran = erase("push", hamburger.path, REPO, "--license", "mit", "--pairs", 2)
    assert ran.code == 5
    assert "about other weights" in ran.err


# ---- a dry run without a connection -------------------------------------------------------------------------------


def test_a_dry_run_needs_no_network(hub, pizza, erase, monkeypatch, tmp_path):  # noqa: F811
    offline(hub, monkeypatch)
    monkeypatch.delenv("HF_TOKEN")
    ran = erase("push", pizza.path, REPO, "--license", "mit", "--dry-run")
    assert ran.code == 0, ran.err
    assert f"{REPO}: not looked at, public" in ran.out
    assert "new      edit.safetensors" in ran.out
    assert "nothing was changed (dry run; rights not checked)" in ran.out
    assert "every file counts as new" in ran.err
    assert "HF_HUB_OFFLINE is set" in ran.err
    ran = erase("push", pizza.path, REPO, "--license", "mit", "--dry-run", "--json")
    assert (ran.data["exists"], ran.data["commit"]) == (None, None)
    assert "HF_HUB_OFFLINE" in ran.data["unseen"]
    fresh_pipeline("tiny_sd1").save_pretrained(tmp_path / "base")
    words = ("--license", "mit", "--dry-run")
    assert erase("push", pizza.path, REPO, "--merged", tmp_path / "base", *words).code == 0
    assert erase("collection", "build", pizza.path, "--out", tmp_path / "lib").code == 0
    assert erase("collection", "push", tmp_path / "lib", REPO, *words).code == 0
    assert erase("space", REPO, "--artifact", pizza.path, "--push", "--dry-run").code == 0
    assert hub.log == []
    monkeypatch.setenv("HF_TOKEN", hub.token)
    with pytest.raises(HubUnreachable, match="HF_HUB_OFFLINE is set"):
        push(pizza)


@pytest.mark.parametrize("command", ["push", "space"])
def test_a_dry_run_asks_for_rights_where_somebody_is_logged_in(hub, pizza, erase, monkeypatch, command):  # noqa: F811
    def of(repo):
        place = (pizza.path, repo) if command == "push" else (repo, "--artifact", pizza.path, "--push")
        return (command, *place, "--license", "mit", "--dry-run")

    words = of(REPO)
    assert "nothing was changed (dry run)\n" in erase(*words).out
    stranger = erase(*of("somebody/else"))
    assert stranger.code == 5 and "this account may not; it is 'tester'" in stranger.err
    reader(hub, monkeypatch)
    ran = erase(*words)
    assert ran.code == 5 and "the token may only read" in ran.err
    first = "edit.safetensors" if command == "push" else "app.py"
    assert f"new      {first}" in ran.out, "what would be sent is told all the same"
    monkeypatch.delenv("HF_TOKEN")
    ran = erase(*words)
    assert ran.code == 0 and "(dry run; rights not checked)" in ran.out
    assert {item.method for item in hub.log} == {"GET"}


def test_a_dry_run_offline_still_refuses(hub, pizza, monkeypatch):
    offline(hub, monkeypatch)
    with pytest.raises(PushRefused, match="license='ID'"):
        hub_cards.push(pizza, REPO, dry_run=True)
    with pytest.raises(PushRefused, match="an AWS access key"):
        push(pizza, message="AKIA" + "ABCDEFGHIJKLMNOP", dry_run=True)


def commands(*lines):
    """(Exit code, stderr) of commands one after the other in a process of their own, at a Hub that nobody answers for."""
    env = {**os.environ, "HF_ENDPOINT": NOWHERE, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_" + "x" * 30,
           "NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1", "PYTHONPATH": str(ROOT)}  # fmt: skip
    code = """
import json, sys
import huggingface_hub.utils._http as http
from erase_plugins.cli.main import main
http.time.sleep = lambda _: None
for words in json.loads(sys.argv[1]):
    sys.argv = ["erase-plugins", *words]
    try:
        main()
    except SystemExit as end:
        print(f"\\0{end.code or 0}", file=sys.stderr, end="\\0")
"""
    given = json.dumps([list(map(str, words)) for words in lines])
    ran = subprocess.run([sys.executable, "-c", code, given], capture_output=True, text=True, env=env, timeout=200)
    assert ran.returncode == 0, ran.stderr
    *parts, rest = ran.stderr.split("\0")
    assert (len(parts), rest) == (2 * len(lines), "")
    return list(zip(map(int, parts[1::2]), parts[::2], strict=True))


def test_nobody_answers(pizza):
    """Without the client's two lines per try."""
    push = ("push", pizza.path, REPO, "--license", "mit")
    (code, said), *others = commands(
        (*push, "--dry-run"), push, ("pull", REPO), ("search", "pizza"), ("collection", "list", f"hub:{REPO}"),
        ("inspect", f"hub:{REPO}"), ("space", REPO),
    )  # fmt: skip
    assert (code, said.count("\n")) == (0, 1), said
    for code, said in others:
        assert code == 5, said
        assert said.startswith("error: cannot ")
        assert said.count("\n") == 1, said


# ---- what the Hub refuses -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["POST .*/preupload/", "POST .*/info/lfs/objects/batch", "POST .*/commit/"])
@pytest.mark.parametrize("said", [
    "Private repository storage limit reached, please upgrade your plan to increase your private storage limit.",
    "You have exceeded your storage quota",
])  # fmt: skip
def test_no_room_is_no_missing_right(hub, pizza, where, said):
    hub.fault(where, 403, message=said)
    with pytest.raises(hub_cards_error(), match=r"no room left .*(limit reached|quota).*Billing") as caught:
        push(pizza)
    assert not isinstance(caught.value, NotAllowed)
    assert "rights" not in str(caught.value)


def hub_cards_error():
    from erase_plugins.errors import HubError

    return HubError


def test_a_missing_right_is_told_in_the_hubs_words(hub, pizza):
    hub.fault("POST .*/commit/", 403, message="You need the role write in this organization")
    with pytest.raises(NotAllowed, match=r"this account may not.*the role write in this organization"):
        push(pizza)


def test_a_licence_that_the_hub_does_not_know(hub, pizza, erase, tmp_path):  # noqa: F811
    fresh_pipeline("tiny_sd1").save_pretrained(tmp_path / "base")
    for more in ((), ("--merged", tmp_path / "base")):
        ran = erase("push", pizza.path, REPO, "--license", NO_LICENCE, *more)
        assert (ran.code, ran.err.count("\n")) == (2, 1), ran.err
        assert "--license other:NAME" in ran.err
        assert "try again" not in ran.err
        assert hub.store.repositories == {}, "no empty repository is left behind"
    push(pizza)
    before = hub.files(REPO)
    with pytest.raises(PushRefused, match="must be one of") as caught:
        push(pizza, license=Licence(NO_LICENCE))  # an identifier that the Hub took once
    assert "since then" not in str(caught.value)
    assert hub.files(REPO) == before
    hub.fault("POST .*/commit/", 400, message='Invalid license "x"')
    with pytest.raises(PushRefused, match=r'the Hub refuses it .Invalid license "x"') as caught:
        push(pizza, license="apache-2.0")
    assert "try again" not in str(caught.value)
