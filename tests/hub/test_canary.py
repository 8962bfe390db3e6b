"""The token is in no output of the commands for collections, search and full checkpoints, and in nothing they write."""

from __future__ import annotations

import logging

import pytest

from erase_plugins.testing.models import fresh_pipeline
from tests.cli.conftest import erase  # noqa: F401
from tests.hub.conftest import contents

LIBRARY, MODEL = "tester/library", "tester/model"


@pytest.mark.parametrize("fault", [403, 500, "reset", "wrong bytes"])
def test_the_token_is_in_no_output(hub, pizza, erase, fault, caplog, tmp_path):  # noqa: F811
    caplog.set_level(logging.DEBUG, "erase_plugins")
    fresh_pipeline("tiny_sd1").save_pretrained(tmp_path / "base")
    assert erase("collection", "build", pizza.path, "--out", tmp_path / "lib").code == 0
    outputs = []
    for words in (
        ("collection", "push", tmp_path / "lib", LIBRARY, "--license", "mit", "--debug"),
        ("collection", "list", f"hub:{LIBRARY}", "--debug"),
        ("collection", "pull", LIBRARY, "pizza", "--into", tmp_path / "mine", "--json", "--debug"),
        ("search", "pizza", "--json", "--debug"),
        ("push", pizza.path, MODEL, "--merged", tmp_path / "base", "--license", "mit", "--json", "--debug"),
        ("pull", MODEL, "--debug"),
    ):
        for pattern in ("POST .*/commit/|GET .*/resolve/|GET /api/models", "nothing matches this"):
            hub.fault(pattern, fault)
            ran = erase(*words)
            outputs += [ran.out, ran.err]
            hub.faults.clear()
    canary = hub.token
    assert not any(canary in text or canary[5:] in text for text in [*outputs, caplog.text])
    assert set(hub.store.repositories) == {LIBRARY, MODEL}
    written = [data for repository in (LIBRARY, MODEL) for data in hub.files(repository).values()]
    assert written
    assert not any(canary.encode() in data for data in [*written, *contents(tmp_path).values()])
