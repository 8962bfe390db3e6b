"""The contract of layouts: the built-in ones keep it, and each rule is noticed when it is broken."""

from __future__ import annotations

import json

import pytest

import erase_plugins as ep
from erase_plugins import hookimpl
from erase_plugins.artifacts.edit import Edit
from erase_plugins.artifacts.tensors import read_tensors, write_tensors
from erase_plugins.errors import CorruptArtifact
from erase_plugins.manager import get_manager
from erase_plugins.protocols import Verdict
from erase_plugins.testing.layouts import CHECKS, LayoutContract


class TestBuiltIn(LayoutContract):
    names = ("patch", "context", "diffusers", "kohya", "diff", "peft")


class Odd:
    """Low-rank factors under their own names; ours to break."""

    id, title, readers, carries = "odd", "Factors by name", ("nobody",), frozenset({"lowrank"})

    def accepts(self, edit, family):
        return Verdict("yes") if edit.kinds == self.carries else Verdict("no", "low-rank changes only")

    def filename(self, slug, family):
        return f"{slug}_odd.safetensors"

    def write(self, edit, family, header, path):
        parts = {f"odd|{part}|{key}": delta for part, key, delta in edit.items()}
        write_tensors(path, {f"{name}|{side}": value for name, delta in parts.items()
                             for side, value in delta.tensors().items()}, header)  # fmt: skip

    def sniff(self, keys, header):
        return bool(keys) and all(key.startswith("odd|") for key in keys)

    def read(self, path, family):
        tensors, _ = read_tensors(path)
        deltas = {}
        for name in {name.rpartition("|")[0] for name in tensors}:
            if name.count("|") != 2 or not {f"{name}|A", f"{name}|B"} <= set(tensors) or tensors[f"{name}|A"].ndim < 2:
                raise CorruptArtifact(f"{path.name}: a strange tensor")
            _, component, key = name.split("|")
            deltas.setdefault(component, {})[key] = ep.LowRank(tensors[f"{name}|A"], tensors[f"{name}|B"])
        return Edit(family.id, deltas)


def failed(**changes):
    item = type("Odd", (Odd,), changes)()
    planted = type("Planted", (), {"erase_layouts": hookimpl(lambda self: [item], specname="erase_layouts")})()
    with get_manager().temporary(planted, "planted"):
        return LayoutContract().report("odd")


def test_a_good_one_passes():
    assert failed() == {}


def lossy(self, path, family):
    return Odd.read(self, path, family).map(lambda part, key, delta: ep.LowRank(delta.A.half().float(), delta.B))


def bare(self, edit, family, header, path):
    Odd.write(self, edit, family, {}, path)


def pickled(self, edit, family, header, path):
    Odd.write(self, edit, family, header, path)
    path.with_suffix(".bin").write_bytes(b"x")


def astray(self, edit, family, header, path):
    Odd.write(self, edit, family, header, path)
    (path.parent.parent / "more.json").write_text("{}")


TIMES = iter(range(1000))


def timed(self, edit, family, header, path):
    Odd.write(self, edit, family, {**header, "time": str(next(TIMES))}, path)


def careless(self, path, family):
    """As one reads who trusts every file."""
    raw = path.read_bytes()
    json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    return Odd.read(self, path, family)


def indulgent(self, path, family):
    try:
        return Odd.read(self, path, family)
    except CorruptArtifact:
        return Edit(family.id, {})


def talkative(self, path, family):
    try:
        return Odd.read(self, path, family)
    except CorruptArtifact as error:
        raise CorruptArtifact(f"{path}: {error}") from error


BROKEN = {
    "readers": ({"readers": ()}, "describes_itself", "readers is ()"),
    "no reason": ({"accepts": lambda self, edit, family: Verdict("yes") if edit.kinds == self.carries else Verdict("no")},
                  "says_what_it_takes", "answered with no and no reason"),
    "no verdict": ({"accepts": lambda self, edit, family: edit.kinds == self.carries}, "says_what_it_takes", "accepts says True"),
    "carries": ({"carries": frozenset({"dense"}), "accepts": lambda self, edit, family: Odd.accepts(Odd, edit, family)},
                "says_what_it_takes", "carries lacks lowrank"),
    "nothing": ({"accepts": lambda self, edit, family: Verdict("no", "never")}, "says_what_it_takes", "no edit is accepted"),
    "values": ({"read": lossy}, "reads_what_it_wrote", "A differs"),
    "header": ({"write": bare}, "files_say_what_they_are", "lacks the header"),
    "pickle": ({"write": pickled}, "files_say_what_they_are", ".bin: only safetensors and JSON"),
    "astray": ({"write": astray}, "files_say_what_they_are", "outside of the folder: artifact, more.json"),
    "time": ({"write": timed}, "same_edit_same_bytes", "other bytes the second time"),
    "blind": ({"sniff": lambda self, keys, header: False}, "knows_its_own", "sniff does not know erase_pizza_odd"),
    "greedy": ({"sniff": lambda self, keys, header: True}, "leaves_others_alone", "sniff claims a file of"),
    "greedy for factors": ({"sniff": lambda self, keys, header: bool(keys) and all(key.endswith((".A", "|A", "|B")) for key in keys)},
                           "leaves_others_alone", "sniff claims a file of patch with lowrank, and read as another edit"),
    "crash": ({"read": careless}, "damage_is_told", "ends in JSONDecodeError"),
    "silence": ({"read": indulgent}, "damage_is_told", "is read as if nothing were wrong"),
    "path": ({"read": talkative}, "damage_is_told", "in several lines, or with a path"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "check", "told"), BROKEN.values(), ids=BROKEN)
def test_broken_rules_are_noticed(changes, check, told):
    found = failed(**changes)
    assert told in found[check], found


def test_every_check_is_seen_to_fail():
    assert {check for _, check, _ in BROKEN.values()} == {check.__name__ for check in CHECKS}
