"""Generated pages equal the code; links and commands in the README exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tools.docs import pages as docs

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    "page",
    ["docs/methods.md", "docs/cli.md", "docs/plugins.md", "docs/results.md", "docs/attacks.md", "README.md"],
)
def test_generated_pages_equal_the_code(page: str) -> None:
    render = docs.pages(ROOT)[ROOT / page]
    assert (ROOT / page).read_text(encoding="utf-8") == render(), "run: python -m tools.docs"


def test_every_method_and_option_is_on_the_page() -> None:
    from erase_plugins.manager import get_manager
    from erase_plugins.options import describe

    text = (ROOT / "docs" / "methods.md").read_text(encoding="utf-8")
    for entry in get_manager().methods():
        if entry.package == "erase-plugins":
            assert f"## {entry.item.id}\n" in text
            for item in describe(entry.item.Options):
                assert f"| `{item.name}` |" in text


@pytest.mark.parametrize(
    "page",
    [
        "README.md",
        "CONTRIBUTING.md",
        "docs/architecture.md",
        "docs/plugins.md",
        "docs/hub.md",
        "docs/language.md",
        "docs/attacks.md",
        "docs/records.md",
        "docs/requests.md",
        "docs/classifiers.md",
        "docs/results.md",
    ],
)
def test_links_to_files_exist(page: str) -> None:
    path = ROOT / page
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", path.read_text(encoding="utf-8")):
        if "://" not in link:
            assert (path.parent / link).exists(), link


def test_commands_in_the_readme_exist() -> None:
    import hub_cards
    from erase_plugins.cli.group import COMMANDS

    known = {*COMMANDS, *hub_cards.COMMANDS}
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    named = set(re.findall(r"^\s*erase-plugins ([a-z-]+)", text, flags=re.MULTILINE))
    assert named
    assert named <= known, named - known


def test_numbers_of_the_choice_of_a_method_stand_on_the_pages_that_it_names() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    told = re.search(r"\*\*How well it works\.\*\*(.*?)\n\n", text, re.DOTALL)
    rows = re.findall(r"^\| [^|]+ \| `[^|]+` \| ([^|]+) \| \[\w+\]\(([^)#]+)[^)]*\) \|$", text, re.MULTILINE)
    assert told and len(rows) == 9
    for claim, page in [*rows, (told[1].replace("100%", ""), "docs/results.md")]:
        stands = re.sub(r"(\d) %", r"\1%", (ROOT / page).read_text(encoding="utf-8"))
        for number in re.findall(r"\d+ of \d+|\d[\d.]*%|\d\.\d+", claim):
            assert re.search(rf"(?<![\d.]){re.escape(number)}", stands), f"{number} of the README is not on {page}"
