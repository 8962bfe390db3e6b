"""The texts of all pages: templates in ``pages``, and how what stands in them is written."""

from __future__ import annotations

from pathlib import Path

from erase_plugins.artifacts.reference import address
from erase_plugins.evaluation import wording
from erase_plugins.evaluation.attack_summary import base_share, control_share, plain_name
from erase_plugins.markdown import Inert
from erase_plugins.options import as_setting
from erase_plugins.templates import Pages
from erase_plugins.workflow import provenance, usage

_PAGES = Pages(Path(__file__).parent / "pages", {
    "number": wording.number, "percent": wording.percent,
    "cell": lambda row: Inert(wording.cell(row)), "share": lambda row: Inert(wording.counted(row)),
    "plain": wording.unpromising, "before_attack": plain_name, "base_share": base_share, "option": as_setting,
    "again": provenance.again, "data": provenance.data_of, "short": provenance.short, "stated": provenance.stated,
    "paper": provenance.paper_link, "citations": provenance.citations, "hub_id": usage.hub_id,
    "address": lambda path: Inert(address(path)), "control_share": lambda item: Inert(control_share(item)),
})  # fmt: skip
page, document = _PAGES.page, _PAGES.document
