"""Presets that methods bring: which tables and options a file may have, inheritance, and that ours are complete."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import ClassVar

import pytest

from erase_plugins import presets
from erase_plugins.engine.erasing import FULL
from erase_plugins.errors import PluginError, RequestError
from erase_plugins.manager import get_manager
from erase_plugins.options import describe, option, resolve
from erase_plugins.plugin_checks import check_item
from erase_plugins.types import KINDS
from erase_plugins.workflow.run import known_models

FOLDER = Path(presets.__file__).parent


@dataclass(frozen=True)
class Base:
    presets: ClassVar = {"pocket": {"steps": 10, "words": ["a", "b"], "rank": "none", "style": {"steps": 12}}}

    steps: int = option(100, "steps", low=1)
    rank: int | None = option(4, "rank", low=1)
    words: tuple[str, ...] = option((), "words")
    way: str = option("a", "which way", choices=("a", "b"), per={"sdxl": "b"})


@dataclass(frozen=True)
class Own(Base):
    presets: ClassVar = {"sdxl": {"steps": 30, "way": "a"}, "pocket": {"words": ["c"]}}

    rank: int | None = option(5, "another rank", low=1)


def per(options, name):
    return next(dict(item.per) for item in describe(options) if item.name == name)


def test_a_mapping_gives_values_in_the_types_of_the_options():
    assert per(Base, "steps") == {"pocket style": 12, "pocket": 10}
    assert per(Base, "words") == {"pocket": ("a", "b")}
    assert per(Base, "rank") == {"pocket": None}
    assert per(Base, "way") == {"sdxl": "b"}, "per= goes on to work"


def test_the_most_specific_preset_wins_and_what_is_given_wins_over_all():
    assert resolve(Base, {}, ("pocket style", "pocket", "style")).steps == 12
    assert resolve(Base, {}, ("pocket object", "pocket", "object")).steps == 10
    assert resolve(Base, {"steps": 7}, ("pocket",)).steps == 7
    assert resolve(Base, {}, ("pocket",)).rank is None
    assert resolve(Base, {}).rank == 4


def test_a_subclass_inherits_presets_except_of_options_that_it_declares_anew():
    assert per(Own, "steps") == {"sdxl": 30, "pocket style": 12, "pocket": 10}
    assert per(Own, "words") == {"pocket": ("c",)}
    assert per(Own, "rank") == {}
    assert per(Own, "way") == {"sdxl": "a"}, "presets win over per="
    assert per(Base, "words") == {"pocket": ("a", "b")}


def outside(tmp_path: Path, text: str | None, source: str = "mine.toml") -> type:
    """Options of an outside module with a preset file beside it."""
    module = ModuleType("outside_presets")
    module.__file__ = str(tmp_path / "outside_presets.py")
    sys.modules[module.__name__] = module
    if text is not None:
        (tmp_path / source).write_text(text, encoding="utf-8")
    made = type("Options", (Base,), {"presets": source, "__module__": module.__name__, "__annotations__": {}})
    return dataclass(frozen=True)(made)


def test_a_file_beside_the_module_of_an_outside_method(tmp_path):
    options = outside(tmp_path, "[pocket]\nsteps = 3\n[pocket.style]\nway = 'b'\n[style]\nsteps = 4\n")
    assert per(options, "steps") == {"pocket style": 12, "pocket": 3, "style": 4}
    assert per(options, "way") == {"pocket style": "b", "sdxl": "b"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "[pocket]\nstep = 3",
            r"no option in preset mine\.toml, \[pocket\] named 'step'; did you mean 'steps'\? Known: rank, ",
        ),
        ("[pocket.style]\nsteps = 0", r"preset mine\.toml, \[pocket\.style\]: option steps=0 is below its minimum 1"),
        ("[sdxl]\nway = 'c'", r"preset mine\.toml, \[sdxl\]: no value for option way named 'c'.*a, b"),
        ("[sdxl]\nsteps = true", r"preset mine\.toml, \[sdxl\]: option steps=True is not of type int"),
        ("[sdxl]\nway = ['a']", r"\[sdxl\]: option way=\['a'\] is not of type str"),
        ("steps = 3", r"preset mine\.toml has steps outside any table"),
        ("[a.b.c]\nsteps = 3", r"preset mine\.toml has a table \[a\.b\.c\]; allowed are \[MODEL\]"),
        ("[pocket\n", r"preset mine\.toml is not valid TOML: .*line 1"),
        (None, r"preset mine\.toml is missing beside"),
    ],
)
def test_a_wrong_file_is_told_in_one_line_with_file_table_and_option(tmp_path, text, said):
    with pytest.raises(RequestError, match=said) as caught:
        describe(outside(tmp_path, text))
    assert "\n" not in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_a_method_with_a_wrong_file_is_left_out_with_the_reason(tmp_path):
    class Method:
        id, title, paper, summary = "mine", "Mine", "https://example.org", "does it"
        families, kinds, produces = frozenset({"*"}), frozenset({"object"}), frozenset({"dense"})
        Options = outside(tmp_path, "[pocket]\nstep = 3")

        def plan(self, request, info): ...

        def run(self, plan, target, ctx): ...

    with pytest.raises(PluginError, match=r"Method\.Options: no option in preset mine\.toml, \[pocket\] named 'step'"):
        check_item("erase_methods", Method())


def built_in() -> dict[str, type]:
    return {entry.item.id: entry.item.Options for entry in get_manager().methods() if entry.package == "erase-plugins"}


def test_every_file_is_used_and_every_table_is_a_kind_of_model_or_concept():
    used, models = set(), known_models()
    for options in built_in().values():
        for owner in options.__mro__:
            source = vars(owner).get("presets")
            if source is None:
                continue
            used.add(Path(source).name)
            for table in presets.shipped(source, owner)[1]:
                model, _, kind = table.partition(" ")
                assert model in {*models, FULL} or (not kind and model in KINDS), f"{source}, {table}"
                assert not kind or kind in {*KINDS, FULL}, f"{source}, {table}"
    assert used == {path.name for path in FOLDER.glob("*.toml")}
    assert models == {
        "causal-lm", "flow", "flux", "image-classifier", "pocket", "pocket-classifier", "pocket-flow", "pocket-lm", "sd1", "sd2",
        "sd3", "sdxl",
    }  # fmt: skip


def test_no_built_in_option_keeps_presets_in_the_code():
    import dataclasses

    left = [f"{name}.{item.name}" for name, options in built_in().items() for item in dataclasses.fields(options)
            if item.metadata.get("per")]  # fmt: skip
    assert left == []
    resolved = [item for options in built_in().values() for item in describe(options)]
    assert sum(bool(item.per) for item in resolved) > 300, "presets reach the options"


def test_help_and_import_read_no_preset():
    code = (
        "import sys, erase_plugins, erase_plugins.options\n"
        "from click.testing import CliRunner\nfrom erase_plugins.cli.main import cli\n"
        "assert CliRunner().invoke(cli, ['run', '--help']).exit_code == 0\n"
        "assert 'tomllib' not in sys.modules and 'torch' not in sys.modules, sorted(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
