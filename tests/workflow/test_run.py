"""What a plan refuses before any weight is loaded."""

from __future__ import annotations

import pytest

import erase_plugins as ep
from erase_plugins import api
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.workflow.models import find_model
from erase_plugins.workflow.run import make_plan

REFUSED = {
    "gate": (
        "gloce",
        {},
        ("kohya",),
        "this would make added modules, which no kohya file can hold; layout patch does",
    ),
    "features": ("sae", {}, ("diffusers", "diff"), "no diffusers or diff file can hold"),
    "guard": ("adavd", {}, ("context",), "added modules"),
    "full weights": ("esd", {"parameters": "full"}, ("kohya",), "this would make full weight changes"),
    "training": ("esd", {}, ("context",), "low-rank changes"),
    "map and training": ("mace", {}, ("context",), "this would make low-rank changes, which no context file"),
    "both stages": ("realera", {}, ("context",), "low-rank changes"),
    "values": ("null-space", {"projections": "values"}, ("context",), "low-rank changes"),
    "rotation": ("oce", {"gated": False}, ("context",), "low-rank changes"),
    "gated rotation": ("oce", {"gated": True}, ("diff",), "this would make added modules, which no diff file"),
    "gated map": ("null-space", {"gated": True}, ("context",), "added modules"),
    "gated training": ("realera", {"gated": True}, ("context",), "added modules"),
    "memories": ("spm", {}, ("diff", "context"), "added modules, which no diff or context file"),
    "no stand-in": ("receler", {"stand_in": 0}, ("kohya",), "added modules, which no kohya file"),
    "stand-in": ("receler", {}, ("diff",), "added modules"),
}


@pytest.mark.parametrize(("method", "options", "layouts", "said"), REFUSED.values(), ids=REFUSED)
def test_what_no_wanted_file_can_hold_is_refused_before_it_is_trained(
    tmp_path, monkeypatch, method, options, layouts, said
):
    def loaded(*_, **__):
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(api, "as_target", loaded)
    with pytest.raises(Unsupported, match=said):
        ep.erase("pocket", "pizza", method, options=options, layouts=layouts, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_family_without_names_for_a_layout_is_refused_before_it_is_trained():
    request = api.build_request("pocket-flow", "esd", "pizza")
    info = find_model("pocket-flow").info
    for layouts in (("kohya",), ("kohya", "diff")):
        with pytest.raises(Unsupported, match="no names for layout kohya; its diffusers file loads in ComfyUI"):
            make_plan(request, info, layouts)
    assert make_plan(request, info, ("kohya", "diffusers")).steps


TAKEN = {
    "one of two": ("gloce", {}, ("kohya", "patch")), "stand-in": ("receler", {}, ("kohya",)),
    "gate left open": ("spm", {}, ("kohya",)), "map as LoRA": ("uce", {}, ("kohya",)), "LoRA": ("esd", {}, ("peft",)),
    "full weights": ("esd", {"parameters": "full"}, ("diff",)), "its own": ("sae", {}, ()),
    "gates": ("null-space", {"gated": True}, ("kohya",)), "gated training": ("realera", {"gated": True}, ("peft",)),
    "both stages": ("mace", {}, ("diffusers",)), "map": ("null-space", {"gated": False, "projections": "both"}, ("context",)),
    "one stage": ("realera", {"stages": "closed"}, ("context",)),
}  # fmt: skip


@pytest.mark.parametrize(("method", "options", "layouts"), TAKEN.values(), ids=TAKEN)
def test_what_a_file_can_hold_in_some_form_is_planned(method, options, layouts):
    request = api.build_request("pocket", method, "pizza", options=options)
    assert make_plan(request, find_model("pocket").info, layouts).steps


@pytest.mark.parametrize("device", ["nowhere", "", "cuda:x", "cuda:0:1"])
def test_what_is_no_device_is_refused_by_the_plan(device):
    with pytest.raises(RequestError, match=f"'{device}' is no device; give cpu, cuda"):
        ep.plan("pocket", "owl", device=device)


@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1", "mps", "xpu"])
def test_a_plan_may_be_for_a_device_of_another_machine(device):
    assert ep.plan("pocket", "owl", device=device).request.device == device


@pytest.mark.parametrize("place", ["forget", "retain"])
def test_data_that_are_not_there_are_told_by_the_plan(tmp_path, place):
    """In Python, too, before anybody reads a plan that cannot be carried out."""
    there = tmp_path / "there.jsonl"
    there.write_text('{"text": "a"}\n', encoding="utf-8")
    data = {name: ep.DataRef(str(tmp_path / "gone.jsonl" if name == place else there)) for name in ("forget", "retain")}
    concept = ep.ForgetItem("", "person", data=data["forget"])
    with pytest.raises(RequestError, match=r"gone\.jsonl"):
        ep.plan("pocket-lm", concept, "npo", keep=[data["retain"]])
