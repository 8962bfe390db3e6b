"""Which cases of the contract need ``--full``."""

from __future__ import annotations

import pytest

#: methods that keep the whole contract on SDXL too: a closed form, a trained one, one with both, one of added modules, a gated one
COVERING = ("uce", "esd", "mace", "receler", "gloce")
#: what repeats a run or reads files back: the same steps of a method on every model of the denoiser's kind, and the same
#: layouts for every method that makes an edit of that kind
REPEATED = ("cancel_leaves_nothing", "layout_round_trip", "resume_equals_uninterrupted", "run_is_deterministic")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """On SDXL every method runs, acts, is applied and taken off; what repeats that is asked of `COVERING`."""
    for item in items:
        case = getattr(item, "callspec", None) and item.callspec.params
        if not case or case.get("contract_model") != "tiny_sdxl" or item.cls.__name__ != "TestRegisteredMethods":
            continue
        if case["contract_check"] in REPEATED and case["contract_method"] not in COVERING:
            item.add_marker(pytest.mark.full)
