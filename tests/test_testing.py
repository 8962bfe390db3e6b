"""The tools for plugin authors themselves: fixtures, parametrisation, shared models."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.errors import RequestError, UnknownName
from erase_plugins.manager import get_manager
from erase_plugins.testing import MethodContract, contract_report, models
from erase_plugins.testing.checks import load_checks
from erase_plugins.testing.contract import contract_rows, outside_methods
from erase_plugins.testing.fixtures import _guarded, erase_manager, erase_register  # noqa: F401
from erase_plugins.testing.models import changed_since
from erase_plugins.testing.observe import global_random_state, global_seed, no_network, snapshot
from tests.contract.reference_methods import Plugin, RandomLowRank


class Metafunc:
    """What pytest hands to ``pytest_generate_tests``."""

    fixturenames = ("contract_check",)

    def parametrize(self, names, params) -> None:
        self.names, self.ids = names, [item.id for item in params]


def test_contract_is_parametrised_over_method_model_check_and_layout():
    contract = type("TestX", (MethodContract,), {"methods": ("random-lowrank",), "models": ("tiny_sd1", "pocket")})
    general, per_layout = load_checks()
    metafunc = Metafunc()
    with get_manager().temporary(Plugin(RandomLowRank())):
        contract().pytest_generate_tests(metafunc)
    assert set(per_layout) == {"layout_round_trip", "stock_loader_agrees"}
    readers = [entry.item.readers for entry in get_manager().layouts()]
    checks = len(general) + len(readers) + sum("diffusers" in names for names in readers)
    assert len(metafunc.ids) == 2 * checks
    assert len(set(metafunc.ids)) == len(metafunc.ids)
    assert "random-lowrank-tiny_sd1-layout_round_trip-kohya" in metafunc.ids
    assert "random-lowrank-tiny_sd1-stock_loader_agrees-patch" not in metafunc.ids  # only we read it


def test_unsupported_families_are_left_out_and_nothing_to_test_is_an_error():
    only_sdxl = type("X", (RandomLowRank,), {"families": frozenset({"sdxl"})})()
    with get_manager().temporary(Plugin(only_sdxl)):
        assert {row[1] for row in contract_rows(("random-lowrank",), models.MODELS)} == {"tiny_sdxl"}
        contract = type("TestX", (MethodContract,), {"methods": ("random-lowrank",), "models": ("tiny_sd1",)})
        with pytest.raises(RequestError, match="no test: methods random-lowrank on models tiny_sd1"):
            contract().pytest_generate_tests(Metafunc())
    with pytest.raises(UnknownName, match="no method named 'random-lowrank'"):
        list(contract_rows(("random-lowrank",), ("tiny_sd1",)))


def test_outside_methods_are_those_of_other_packages():
    before = outside_methods()
    with get_manager().temporary(Plugin(RandomLowRank())):
        assert set(outside_methods()) - set(before) == {"random-lowrank"}
    assert not {"uce", "rece", "esd"} & set(before)


def test_a_model_of_another_family_can_be_added(monkeypatch):
    monkeypatch.setitem(models.MODELS, "tiny_v", lambda seed: models.MODELS["tiny_sd1"](seed + 5))
    with get_manager().temporary(Plugin(RandomLowRank())):
        assert contract_report("random-lowrank", "tiny_v", only=["edit_is_valid", "edit_has_an_effect"]) == {}
    with pytest.raises(UnknownName, match="no test model named 'tiny_x'"):
        models.shared_pipeline("tiny_x")


def test_guarded_pipeline_fails_the_test_that_changes_it():
    guard = _guarded("tiny_sd1")
    pipe = next(guard)
    with torch.no_grad():
        next(pipe.unet.parameters()).add_(1.0)
    with pytest.raises(AssertionError, match=r"left the shared tiny_sd1 pipeline changed: unet\.conv_in"):
        next(guard, None)
    assert models.shared_pipeline("tiny_sd1") is not pipe


def test_register_fixture(erase_register):  # noqa: F811
    manager = erase_register(Plugin(RandomLowRank()))
    assert manager.method("random-lowrank").id == "random-lowrank"


def test_fresh_pipelines_share_nothing():
    shared, fresh = models.shared_pipeline("tiny_sd1"), models.fresh_pipeline("tiny_sd1")
    before = snapshot(shared)
    with torch.no_grad():
        next(fresh.unet.parameters()).zero_()
    assert changed_since(shared, before) == ""


@pytest.mark.parametrize("change", ["bit", "hook", "mode", "gradient"])
def test_snapshot_sees_every_kind_of_change(change):
    pipe = models.fresh_pipeline("tiny_sd1")
    before = snapshot(pipe)
    parameter = next(pipe.text_encoder.parameters())
    if change == "bit":
        flat = parameter.data.view(-1)
        flat[3] = torch.nextafter(flat[3], torch.tensor(float("inf")))
    elif change == "hook":
        pipe.vae.register_forward_hook(lambda *_: None)
    elif change == "mode":
        pipe.unet.train()
    else:
        parameter.requires_grad_(True)
    assert changed_since(pipe, before) != ""


def test_global_seed_restores_the_generators():
    before = global_random_state()
    with global_seed(3):
        assert global_random_state() != before
        torch.rand(1)
    assert global_random_state() == before


def test_no_network_refuses_connections():
    import socket

    with no_network(), socket.socket() as link, pytest.raises(OSError, match="allows no network"):
        link.connect(("127.0.0.1", 9))
