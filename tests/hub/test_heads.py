"""Heads with a certificate on the Hub: what is pushed can be checked by whoever pulls it, and above budget nothing goes."""

from __future__ import annotations

import pytest
from huggingface_hub import HfApi, snapshot_download

from erase_plugins.errors import PushRefused
from erase_plugins.records.certificate import CERTIFICATE, LEDGER, verify
from erase_plugins.records.release import write_release
from hub_cards.other_pushes import push_head
from tests.cli.conftest import invoke
from tests.records.conftest import _learned, learned  # noqa: F401

REPO = "tester/head"


def push(folder, **options):
    return push_head(folder, REPO, **{"license": "mit", **options})


def test_a_pushed_head_is_verified_by_whoever_pulls_it(hub, learned, tmp_path):  # noqa: F811
    head, ids = learned
    write_release(head.folder)
    head.delete(ids[:1])
    place = write_release(head.folder)
    done = invoke("push", place, REPO, "--license", "mit", "--json")
    assert done.code == 0, done.err
    got = snapshot_download(REPO, local_dir=tmp_path / "got")
    assert verify(tmp_path / "got")["certified"]
    page = (tmp_path / "got" / "README.md").read_text()
    assert page.index("rho_adaptive") < page.index("rho ", page.index("rho_adaptive") + 20)
    assert "license: mit" in page
    assert head.account().releases[1]["where"] == ["file", f"hub:{REPO}"]
    assert got


def test_a_dry_run_enters_nothing_and_a_second_release_follows_the_first(hub, learned):  # noqa: F811
    head, ids = learned
    place = write_release(head.folder)
    push(place, dry_run=True)
    assert head.account().releases[0]["where"] == ["file"]
    push(place)
    head.delete(ids[:1])
    done = push(write_release(head.folder))
    assert set(done.sent) >= {"head.safetensors", LEDGER, CERTIFICATE}
    assert head.account().releases[1]["where"] == ["file", f"hub:{REPO}"]


def test_above_budget_and_without_certificate_nothing_is_pushed(hub, learned):  # noqa: F811
    head, ids = learned
    for number in range(4):
        place = write_release(head.folder)
        head.delete([ids[number]])
    with pytest.raises(PushRefused, match="release 5 of 4"):
        write_release(head.folder)
    with pytest.raises(PushRefused, match="records were deleted after release 4"):
        push(place)
    (place / CERTIFICATE).write_text("{}")
    found = invoke("push", place, REPO, "--license", "mit")
    assert found.code != 0
    assert not HfApi().repo_exists(REPO)


def test_any_artifact_that_carries_a_certificate_is_checked(hub, pizza, learned, tmp_path):  # noqa: F811
    """A veto of the hook, whatever is pushed."""
    import shutil

    import hub_cards
    from erase_plugins import load_artifact

    head, _ = learned
    release = write_release(head.folder)
    copy = tmp_path / "pizza"
    shutil.copytree(pizza.path, copy)
    shutil.copy(release / LEDGER, copy)
    shutil.copy(release / CERTIFICATE, copy)
    assert "## Certificate" in hub_cards.card(load_artifact(copy))
    with pytest.raises(PushRefused, match="not the head that the ledger released"):
        hub_cards.push(load_artifact(copy), "tester/pizza", license="mit")
