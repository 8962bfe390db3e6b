"""Every language covers all texts of the nodes in the menu; what is translated of the others holds; no entry is left over."""

from __future__ import annotations

import json
import re

import pytest

from comfy_nodes.nodes.methods import OWN, PREFIX
from tests.comfy_nodes.conftest import ROOT
from tools.docs.comfy import help as help_pages
from tools.docs.comfy import locales, own_specs, translations

LANGUAGES = ("es", "fr", "ja", "ko", "ru", "zh")
SPECS = own_specs()
#: a node that is no longer in the menu, such as that of a method, says in English what has no translation
MENU = [spec for spec in SPECS if not spec.instead]
TEXTS = [text for spec in SPECS for text in (spec.title, spec.description, spec.short) if text]
TOOLTIPS = [item.tooltip for spec in SPECS for item in (*spec.inputs, *spec.outputs)]
#: of sockets that were written by hand; options of methods bring the help of the command line
WRITTEN = [
    item.tooltip
    for spec in MENU
    for item in (*spec.inputs, *spec.outputs)
    if item in spec.outputs or item.name in OWN or not spec.id.startswith(PREFIX)
]
#: between an option's help and its values
DEFAULTS = re.compile(" (?:Auto|Default): ")
#: what a translation says as it is: paths, socket types, names of methods and layers, examples
CODE = re.compile(
    r"[\w.]+/\w+|hub:|\w+ -> \w+|\w+_\w+(?:\.\d)? : [\d.]+|\b(?:(?!CPU)[A-Z]{3,}|LoRA|ControlNet|pocket|sd1)"
)


def test_the_languages_are_those_of_the_editor():
    assert tuple(translations.translated_languages()) == LANGUAGES


@pytest.mark.parametrize("language", LANGUAGES)
def test_titles_and_descriptions_are_translated(language):
    texts = [text for spec in MENU for text in (spec.title, spec.description)]
    assert [text for text in (*locales.MENU, *texts) if translations.translate(text, language) is None] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_tooltips_are_translated(language):
    assert [text for text in WRITTEN if translations.translate(text, language) in (None, text)] == []
    done, every = locales.coverage(MENU, language)
    assert done / every > 0.95


def test_help_pages_are_french_in_a_french_editor():
    """Every page of a node in the menu, all of it: the editor opens ``docs/<id>/fr.md`` where there is one."""
    folder = ROOT / "comfy_nodes" / "web" / "docs"
    assert {path.parent.name for path in folder.glob("*/fr.md")} == {spec.id for spec in MENU}
    for spec in MENU:
        english, french = (folder / f"{spec.id}{end}" for end in (".md", "/fr.md"))
        same = {line for line in english.read_text().splitlines() if re.search(r"[a-z]{3}", line)}
        links = "](images/", "<https://"
        kept = [line for line in french.read_text().splitlines() if line in same and not any(x in line for x in links)]
        assert kept == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_what_our_scripts_show_is_translated(language):
    texts = locales.script_texts()
    assert "before" in texts and len(texts) > 20
    shown = json.loads(locales.main_file(language))[locales.SCRIPTS]
    assert set(shown) == set(texts)
    assert [text for text in texts if shown[text].count("%s") != text.count("%s")] == []
    assert [text for text in shown.values() if locales.SPECIAL & set(text)] == []
    named = json.loads(locales.main_file(language))["commands"]
    assert {key: shown[text] for key, text in locales.COMMANDS.items()} == {
        k: item["label"] for k, item in named.items()
    }


@pytest.mark.parametrize("language", LANGUAGES)
def test_code_stays_as_it_is(language):
    """A path or a name that differs would send people to something that does not exist."""
    lost = []
    for text in (*TEXTS, *TOOLTIPS):
        other = translations.translate(text, language) or text
        lost += [(word, other) for word in CODE.findall(text) if word not in other]
    assert lost == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_translation_is_kept_out_of_the_files(language):
    """Texts with the editor's special characters are left out, so a translation has to do without them."""
    found = {text: translations.translate(text, language) or "" for text in TOOLTIPS}
    assert [text for text in WRITTEN if locales.SPECIAL & set(found[text])] == []
    assert [text for text in TOOLTIPS if not locales.SPECIAL & set(text) and locales.SPECIAL & set(found[text])] == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_part_of_a_description_stays_english(language):
    for spec in SPECS:
        if spec.id.startswith("EraseMethod"):
            english, _, _ = spec.description.partition(" Runs on the connected")
            assert english not in (translations.translate(spec.description, language) or ""), spec.id


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_entry_is_left_over(language):
    used = {
        *locales.MENU,
        *TEXTS,
        *TOOLTIPS,
        *locales.script_texts(),
        *(text for spec in SPECS for text in help_pages.texts(spec)),
        *(spec.description.partition(" Runs on the connected")[0] for spec in SPECS),
        *(part.removesuffix(".") + end for text in TOOLTIPS for part in DEFAULTS.split(text) for end in ("", ".")),
    }
    left = [key for key in translations.catalogue(language) if key not in used and not translations.HOLES.search(key)]
    assert left == []


@pytest.mark.parametrize("language", LANGUAGES)
def test_files_have_the_keys_of_the_english_ones(language):
    english, other = (json.loads(locales.node_file(SPECS, name)) for name in ("en", language))
    assert set(other) == {spec.id for spec in MENU}
    assert {key: set(value.get("inputs", ())) for key, value in other.items()} == {
        key: set(value.get("inputs", ())) for key, value in english.items()
    }


@pytest.mark.parametrize("language", ["en", *LANGUAGES])
def test_no_text_holds_what_the_editor_takes_for_a_program(language):
    """1.32.9 drew "Node Render Error" instead of a node with "name@revision" in a tooltip."""

    def texts(content):
        return [content] if isinstance(content, str) else [text for item in content.values() for text in texts(item)]

    found = texts(json.loads(locales.node_file(SPECS, language)))
    assert [text for text in found if locales.SPECIAL & set(text)] == []


def test_holes_are_filled_and_looked_up(monkeypatch):
    entries = {"Erase: {} (all)": "Weg: {} (alles)", "cats": "Katzen"}
    monkeypatch.setattr(translations, "catalogue", lambda language: entries)
    assert translations.translate("Erase: cats (all)", "de") == "Weg: Katzen (alles)"
    assert translations.translate("Erase: UCE (all)", "de") == "Weg: UCE (alles)"
    assert translations.translate("Erase: cats", "de") is None
    entries["{known} Default: {}."] = "{} Sonst: {}."
    assert translations.translate("cats Default: cats.", "de") == "Katzen Sonst: Katzen."
    assert translations.translate("cats Default: 3.", "de") == "Katzen Sonst: 3."
    assert translations.translate("dogs Default: 3.", "de") is None
    assert locales._in("Erase: cats", "de") == "Erase: cats"
