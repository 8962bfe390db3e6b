"""The form of options in the editor: every option of a built-in method has words, others are read as they are named."""

from __future__ import annotations

import re

from comfy_nodes import method_options
from comfy_nodes.method_options import option_words
from comfy_nodes.nodes.methods import drawing_methods
from erase_plugins.options import OptionInfo

FORMS = {
    entry.item.id: method_options.method_options()[entry.item.id]
    for entry in drawing_methods()
    if entry.package == "erase-plugins"
} | {"auto": method_options.method_options()["auto"]}


def test_every_option_is_called_by_words_and_no_entry_is_left_over():
    names = {option["name"] for form in FORMS.values() for option in form}
    assert len(FORMS) > 10
    assert set(option_words()) == names
    assert [words for words in option_words().values() if not re.fullmatch(r"[A-Za-z][A-Za-z ,()'-]+", words)] == []
    for method, form in FORMS.items():
        labels = [option["label"] for option in form]
        assert len(set(labels)) == len(labels), method


def test_an_option_of_another_package_is_read_as_it_is_named():
    described = OptionInfo("soft_edge", "float", 1.0, "how soft", None, None, (), {})
    assert method_options._option(described, True)["label"] == "soft edge"


def test_the_form_gives_the_whole_name_of_a_method():
    titles = method_options.method_titles()
    assert titles["uce"] == {"title": "Unified Concept Editing", "trains": False, "searches": False}
    assert titles["auto"] == {"title": "tries methods and settings", "trains": False, "searches": True}
    assert titles["esd"]["trains"]
