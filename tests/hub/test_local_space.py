"""`space --local` runs the page at once, and leaves no folder where none was asked for."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tests.cli.conftest import erase  # noqa: F401
from tests.hub.conftest import REPO


def test_it_runs_what_it_wrote(pizza, erase, plugin, tmp_path, monkeypatch):  # noqa: F811
    ran, real = [], importlib.util.find_spec

    def call(words, cwd):
        ran.append((words[1:], Path(cwd), sorted(item.name for item in Path(cwd).iterdir())))
        return 7

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hub_cards.cli.space.call", call)
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "gradio" else real(name, *more)
    )
    done = erase("space", REPO, "--artifact", pizza.path, "--local")
    assert (done.code, ran) == (4, [])
    assert "pip install 'erase-plugins[ui]'" in done.err
    assert erase("ui").code == 4
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *more: name == "gradio" or real(name, *more))
    done = erase("space", REPO, "--artifact", pizza.path, "--local")
    assert done.code == 7, "the page's own exit code"
    words, place, names = ran[0]
    assert words == ["app.py"]
    assert {"app.py", "artifact", "README.md"} <= set(names)
    assert not place.exists()
    assert list(tmp_path.iterdir()) == []
    assert erase("space", REPO, "--artifact", pizza.path, "--local", "--out", "mine").code == 7
    assert Path("mine/app.py").is_file()
