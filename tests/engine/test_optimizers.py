"""Optimizers by name, and those of 8 bit by a stand-in: no machine of the tests has an accelerator."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from types import ModuleType

import pytest
import torch

import erase_plugins as ep
from erase_plugins.engine import optimizers
from erase_plugins.engine.loop import load_optimizer, optimizer_tensors
from erase_plugins.engine.optimizers import OPTIMIZERS, make_optimizer, moment_bytes
from erase_plugins.errors import MissingExtra, RequestError, Unsupported
from erase_plugins.testing.tiny import tiny_sd1

TABLE = "__bnb_optimizer_quant_state__"


class Small(torch.optim.Adam):
    """Adam that keeps its moments in a table of its own in saved states, as that of bitsandbytes 0.50 does."""

    moments = ("exp_avg", "exp_avg_sq")

    def state_dict(self):
        found = super().state_dict()
        found["state"] = {
            place: {TABLE: {name: entry[name] for name in self.moments}, "step": entry["step"]}
            for place, entry in found["state"].items()
        }
        return found

    def load_state_dict(self, state_dict):
        state = {place: {**entry[TABLE], "step": entry["step"]} for place, entry in state_dict["state"].items()}
        super().load_state_dict({**state_dict, "state": state})


@pytest.fixture
def stand_in(monkeypatch):
    """bitsandbytes with Adam in place of both optimizers, on the processor; what they were given."""
    given = []

    def made(name):
        return lambda parameters, **named: given.append((name, named)) or Small(parameters, lr=named["lr"])

    module = ModuleType("bitsandbytes")
    module.__spec__ = ModuleSpec("bitsandbytes", None)
    module.optim = ModuleType("bitsandbytes.optim")
    module.optim.Adam8bit, module.optim.AdamW8bit = made("Adam8bit"), made("AdamW8bit")
    monkeypatch.setitem(sys.modules, "bitsandbytes", module)
    monkeypatch.setattr(optimizers, "_DEVICES", ("cpu",))
    return given


def test_their_names_and_decay_reach_the_library(stand_in):
    parameter = torch.nn.Parameter(torch.zeros(3))
    make_optimizer("adam8bit", [parameter], 0.1, decay=0.5)
    make_optimizer("adamw8bit", [parameter], 0.1, decay=0.5)
    assert stand_in == [
        ("Adam8bit", {"lr": 0.1, "weight_decay": 0.0}), ("AdamW8bit", {"lr": 0.1, "weight_decay": 0.5})
    ]  # fmt: skip


def test_without_the_library_the_extra_is_named_before_anything_is_done(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(MissingExtra, match=r"adam8bit.*erase-plugins\[8bit\]"):
        ep.plan(tiny_sd1(), "pizza", "esd", options={"optimizer": "adam8bit"})
    with pytest.raises(MissingExtra, match=r"erase-plugins\[8bit\]"):
        make_optimizer("adamw8bit", [torch.nn.Parameter(torch.zeros(3))], 0.1)


def test_on_a_processor_it_is_refused_with_what_to_choose(stand_in, monkeypatch):
    monkeypatch.setattr(optimizers, "_DEVICES", ("cuda",))
    with pytest.raises(Unsupported, match=r"adamw8bit does not run on cpu.*choose adamw"):
        ep.plan(tiny_sd1(), "pizza", "esd", options={"optimizer": "adamw8bit"})


def test_a_run_uses_it(stand_in):
    options = {"iterations": 2, "trajectories": 2, "harvest": 2, "steps": 4, "keep_words": 0, "optimizer": "adam8bit"}
    ep.erase(tiny_sd1(), "pizza", "esd", options=options)
    assert [name for name, _ in stand_in] == ["Adam8bit"]


def test_states_with_a_table_inside_are_saved_and_read_again(stand_in):
    def stepped(count, tensors=None):
        parameter = torch.nn.Parameter(torch.ones(4))
        made = make_optimizer("adam8bit", [parameter], 0.1)
        if tensors is not None:
            load_optimizer(made, tensors)
        for _ in range(count):
            parameter.grad = torch.arange(4.0)
            made.step()
        return made

    whole, half = stepped(4), stepped(2)
    saved = {name: value.clone() for name, value in optimizer_tensors(half).items()}
    assert {f"optimizer.0.{TABLE}/exp_avg", "optimizer.0.step"} <= set(saved)
    found = optimizer_tensors(stepped(2, saved))
    assert all(torch.equal(found[name], value) for name, value in optimizer_tensors(whole).items())


def test_plans_count_a_byte_for_each_moment(stand_in):
    """Full weights of the tiny denoiser's cross-attention: 8 bytes less 2 for each trained value."""
    pipe, options = tiny_sd1(), {"parameters": "full"}
    plain = ep.plan(pipe, "pizza", "esd", options=options)
    small = ep.plan(pipe, "pizza", "esd", options={**options, "optimizer": "adam8bit"})
    assert plain.memory_bytes - small.memory_bytes == 6 * plain.file_bytes // 4
    assert moment_bytes("adam") == 8
    assert moment_bytes("adamw8bit") == 2


def test_an_unknown_one_is_named_with_all_that_there_are():
    with pytest.raises(RequestError, match=r"lion.*" + r".*".join(OPTIMIZERS)):
        make_optimizer("lion", [torch.nn.Parameter(torch.zeros(1))], 0.1)
