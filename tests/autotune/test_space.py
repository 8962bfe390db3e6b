"""What is searched comes from the options of whatever is registered."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from erase_plugins.autotune import space
from erase_plugins.autotune.run import preview
from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.manager import get_manager
from erase_plugins.options import as_dict, describe, option, resolve
from erase_plugins.types import EditPlan


@dataclass(frozen=True)
class Options:
    force: float = option(3.0, "how hard", searched=(0.1, 2.0))
    rounds: int = option(2, "how often", searched=(1, 5))
    way: str = option("long", "which way", searched=("long", "brief"))
    other: int = option(1, "not searched")


class Outside:
    """A method of another package, which takes no --to 'object'."""

    id, title, paper, summary = "outside", "Outside", "", ""
    needs, kinds, produces = frozenset({"denoiser"}), frozenset({"object"}), frozenset({"lowrank"})
    Options = Options

    def plan(self, request, info):
        options = resolve(Options, request.options, info.profiles)
        if request.concepts[0].anchor == "object":
            raise RequestError("not that one")
        return EditPlan(request, as_dict(options), seconds=90.0 if options.way == "long" else 5.0)


@pytest.fixture
def outside(monkeypatch):
    manager = get_manager()
    known = [*manager.methods(), SimpleNamespace(item=Outside())]
    fake = SimpleNamespace(
        methods=lambda: known, method=lambda name: next((i.item for i in known if i.item.id == name), None),
        adjust_plan=lambda plan: plan, families=manager.families,
    )  # fmt: skip
    monkeypatch.setattr(space, "get_manager", lambda: fake)
    monkeypatch.setattr("erase_plugins.workflow.run.get_manager", lambda: fake)


class Trial:
    """Notes what it is asked and answers with the lowest, or the last."""

    def __init__(self):
        self.asked = {}

    def suggest_float(self, name, low, high, **options):
        self.asked[name] = (low, high, options)
        return low

    suggest_int = suggest_float

    def suggest_categorical(self, name, values):
        self.asked[name] = values
        return values[-1]


def test_an_outside_method_joins_by_its_declaration(outside):
    starts, _ = preview("pocket", "pizza", methods=["outside"], also=["pie"])
    assert [(item.name, item.seconds) for item in starts] == [("outside way=brief", 5.0), ("outside way=long", 90.0)]
    trial = Trial()
    found = starts[0].suggest(trial)
    assert found == space.Settings("outside", {"way": "brief", "force": 0.1, "rounds": 1}, "", True, 0.6)
    assert trial.asked["outside.force"] == (0.1, 3.0, {"log": True})  # widened to hold the default
    assert trial.asked["outside.rounds"] == (1, 5, {"log": False})
    assert trial.asked["outside.anchor"] == (None, "")  # 'object' was refused by its plan
    assert "outside.other" not in trial.asked


def test_built_in_methods_take_part_without_being_named():
    starts, reasons = preview("pocket", "pizza")
    methods = [item.method for item in starts]
    assert {"uce", "rece", "esd", "spm"} <= set(methods)
    assert [item.order for item in starts] == sorted(item.order for item in starts)
    assert methods.index("oce") < methods.index("advunlearn"), "what is solved comes before what trains"
    assert {item.name for item in starts if item.method == "trce"} == {"trce stages=closed", "trce stages=both"}
    assert reasons["npo"] == "needs language"
    assert "keyword-guard" not in methods
    assert "removes nothing" in reasons["keyword-guard"]
    named, _ = preview("pocket", "pizza", methods=["keyword-guard", "uce"])
    assert [item.method for item in named] == ["keyword-guard", "uce"]


def test_what_does_not_fit_into_memory_takes_no_part_and_says_so(monkeypatch):
    from erase_plugins.types import Concept, EraseRequest
    from erase_plugins.workflow.models import find_model
    from erase_plugins.workflow.run import make_plan

    info = find_model("pocket", None).info
    base = EraseRequest(model="pocket", forget=(Concept("pizza"),), method="auto", device="cuda", dtype="float16")
    assert space.room_of(space.replace(base, device="cpu"), info) is None
    bytes_of = {
        name: make_plan(space.request_of(base, space.Settings(name), ()), info).memory_bytes for name in ("uce", "esd")
    }
    small, large = sorted(bytes_of, key=bytes_of.__getitem__)
    assert 0 < bytes_of[small] < bytes_of[large]
    card = SimpleNamespace(total_memory=bytes_of[large] - 1 + 2 * sum(space.prod(ref.shape) for ref in info.refs))
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.get_device_properties", lambda device: card)
    room = space.room_of(base, info)
    assert room == bytes_of[large] - 1
    starts, reasons = space.find_starts(base, info, ["uce", "esd"], (), (), (), room)
    assert [item.method for item in starts] == [small]
    assert "GiB beside the model, and cuda has about" in reasons[large]


def test_the_first_trial_is_the_method_with_its_defaults():
    (start,) = preview("pocket", "pizza", methods=["uce"])[0]
    params = start.first_params()
    assert (params["uce.lam"], params["uce.anchor"], params["uce.aliases"]) == (0.5, None, False)


def test_what_is_searched_is_allowed():
    for entry in get_manager().methods():
        for item in describe(entry.item.Options):
            for value in item.searched:
                resolve(entry.item.Options, {item.name: value})


def test_wrong_names_and_nothing_that_fits():
    with pytest.raises(UnknownName, match="did you mean 'uce'"):
        preview("pocket", "pizza", methods=["ucee"])
    with pytest.raises(RequestError, match="no method can be searched for 'pizza' on pocket: npo: needs language"):
        preview("pocket", "pizza", methods=["npo"])
