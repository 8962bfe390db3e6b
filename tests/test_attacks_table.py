"""The table of methods against attacks: what is kept, what is tried again, what the page says."""

from __future__ import annotations

import json

import pytest
import torch

from erase_plugins.errors import Unsupported
from erase_plugins.evaluation.attacks.noise import INVERTED
from erase_plugins.evaluation.sheet import contact_sheet
from erase_plugins.types import EvalRow
from tools.docs import attacks_table
from tools.docs.attacks_cells import CELLS, CHOOSING, REFERENCE_ROW, Cell, plan, read, references
from tools.docs.attacks_longer import against_steps, curve, cut, designs, draw_curves, longest, means, until_back
from tools.docs.attacks_table import comes_back, run, tables

MADE = {
    "success": [0.9, 0.8, 1.0, 24], "control": [0.3, 0.1, 0.5, 24], "plain": [0.0, 0.0, 0.12, 24], "by": "x",
    "against": "control: destroyed model", "found": {}, "curve": {}, "queries": 1, "passes": 1, "seconds": 1.0,
    "judge_hash": "0", "version": "0",
}  # fmt: skip
OWL = plan(["owl"], ["concept-inversion", "relearn"], ["uce", "esd"], "quick")


@pytest.fixture
def made(monkeypatch, tmp_path):
    """A folder, and the cells that were made in it; ESD is refused until that is lifted."""
    cells, refused = [], {"esd"}

    def measured(cell, pipe, work):
        cells.append(cell)
        if cell.method in refused:
            raise Unsupported("not today")
        more = {"found": {"steps_until_back": {"relearned, edited": 30, "relearned, destroyed": None}}}
        return {**MADE, **(more if cell.attack == "relearn" else {})}

    monkeypatch.setattr(attacks_table, "measured", measured)
    monkeypatch.setattr("erase_plugins.load", lambda name: None)
    return tmp_path, cells, refused


def test_the_most_telling_cells_come_first():
    assert OWL[0] == Cell("owl", "concept-inversion", "uce") and OWL[-1] == Cell("owl", "relearn", "esd")
    assert attacks_table.attack_ids()[:2] == ["concept-inversion", "relearn"]
    assert attacks_table.method_ids()[0] == "uce" and "gs-lora" not in attacks_table.method_ids()


def test_two_edits_are_attacked_at_once(monkeypatch, tmp_path):
    erased, attacked = [], []

    def erase(_, concept, method, *, options, out, **__):
        out.mkdir(parents=True)
        (out / "erase.json").touch()
        erased.append((concept, method, options))

    def attack(_, places, name, **__):
        attacked.append([place.name for place in places])
        raise Unsupported("enough")

    monkeypatch.setattr("erase_plugins.erase", erase)
    monkeypatch.setattr("erase_plugins.attack", attack)
    cell = Cell("owl", "probe", "uce+esd:iterations=2")
    with pytest.raises(Unsupported, match="enough"):
        attacks_table.measured(cell, None, tmp_path)
    assert erased == [("owl", "uce", {}), ("owl", "esd", {"iterations": "2"})]
    assert attacked == [["owl-uce", "owl-esd-iterations-2"]]
    assert cell.key == "owl-probe-uce+esd-iterations-2"


def test_finished_cells_are_kept_and_others_tried_again(made):
    folder, cells, refused = made
    run(OWL, folder)
    assert [read(folder)[cell]["status"] for cell in OWL] == ["ok", "refused", "ok", "refused"]
    refused.clear()
    run(OWL, folder)
    assert cells[4:] == [OWL[1], OWL[3]]
    assert {item["status"] for item in read(folder).values()} == {"ok"}
    assert json.loads((folder / CELLS / "owl-relearn-esd.json").read_text())["success"] == MADE["success"]


def test_what_the_page_says(made):
    folder, _, _ = made
    run(OWL[:3], folder)
    text = tables(folder)
    assert "| method | concept-inversion | relearn |" in text
    assert "| `uce` | **90% [80..100]**, 30% | **90% [80..100]**, 30%; after 30 steps, never |" in text
    assert "| `esd` | no | - |" in text
    assert (comes_back("uce", folder), comes_back("esd", folder)) == ("90%", "-")


def test_cells_of_another_model_have_a_table_of_their_own(made):
    folder, cells, _ = made
    run(OWL[:1], folder)
    flow = plan(["owl"], ["concept-inversion"], ["uce"], "quick", "pocket-flow")
    run(flow, folder)
    assert cells == [OWL[0], flow[0]]
    assert set(read(folder)) == {OWL[0], flow[0]}
    assert (folder / CELLS / "owl-concept-inversion-uce-on-pocket-flow.json").is_file()
    assert "relearn" not in tables(folder, model="pocket-flow") and "`uce`" in tables(folder, model="pocket-flow")
    (folder / CELLS / "owl-concept-inversion-uce.json").unlink()
    assert tables(folder) == "No cell is finished." and comes_back("uce", folder) == "-"


def test_guards_have_a_table_of_their_own_and_options_in_their_name(made):
    folder, _, refused = made
    refused.clear()
    run([*OWL[:1], *plan(["owl"], ["paraphrase"], ["sld:level=max,warmup=2", "nag"], "quick")], folder)
    assert (folder / CELLS / "owl-paraphrase-sld-level-max-warmup-2.json").is_file()
    text = tables(folder, guards=True)
    assert "| `sld:level=max,warmup=2` | **90%" in text and "| `nag` |" in text and "uce" not in text
    assert "sld" not in tables(folder) and "| `uce` |" in tables(folder)


def test_where_a_model_never_saw_the_concept_it_is_the_control(made, monkeypatch):
    folder, cells, _ = made
    run(OWL[:1], folder)
    twin = folder / attacks_table.REFERENCES["pocket"]
    twin.mkdir(parents=True)
    quality = {"without": ["owl", "gun"], "kept": {"rate": 0.5, "pictures": 100}}
    (twin / "quality.json").write_text(json.dumps(quality))
    assert attacks_table.reference_of(OWL[0], folder) == {}  # it draws too little to be a control
    quality["kept"]["rate"] = 0.97
    (twin / "quality.json").write_text(json.dumps(quality))
    weights, pizza = Cell("owl", "weights", "uce"), Cell("pizza", "concept-inversion", "uce")
    assert attacks_table.reference_of(OWL[0], folder) == {"reference": str(twin)}
    assert [attacks_table.reference_of(cell, folder) for cell in (weights, pizza)] == [{}, {}]
    monkeypatch.setitem(MADE, "against", "control: reference model")
    run([OWL[0], pizza], folder)
    run([OWL[0], pizza], folder)
    assert cells == [OWL[0], OWL[0], pizza]
    assert "**90% [80..100]**, 30% reference |" in tables(folder)


def test_a_control_that_no_edit_decides_is_measured_once(made, monkeypatch):
    """A learned token's control depends on how long was trained, not on the method; that of found words does."""
    folder, cells, refused = made
    refused.clear()
    asked = plan(["owl"], ["concept-inversion", "ring-a-bell"], ["uce", "esd", "ace"], "quick")

    def trained(steps):
        monkeypatch.setitem(MADE, "found", {"steps": steps})

    trained(150)
    run([cell for cell in asked if cell.method != "ace"], folder)
    trained(300)
    run([cell for cell in asked if cell.method == "ace"], folder)
    twin = folder / attacks_table.REFERENCES["pocket"]
    twin.mkdir(parents=True)
    (twin / "quality.json").write_text(json.dumps({"without": ["owl"], "kept": {"rate": 0.97, "pictures": 100}}))
    trained(150)
    monkeypatch.setitem(MADE, "against", "control: reference model")
    monkeypatch.setitem(MADE, "control", [0.1, 0.0, 0.2, 24])
    del cells[:]
    run(asked, folder)
    assert cells == [cell for cell in asked if (cell.attack, cell.method) != ("concept-inversion", "esd")]
    assert "| `esd` | **90% [80..100]**, 10% reference |" in tables(folder)


def test_the_control_of_a_variant_is_that_of_no_other(made, monkeypatch):
    """By the inversion the reference shows less than from little noise."""
    folder, _, refused = made
    refused.clear()
    monkeypatch.setitem(MADE, "against", "control: reference model")
    for cell, variant, control in zip(
        plan(["owl"], ["noise"], ["uce", "esd", "ace"], "quick"), ("noise 40%", "noise 85%", "noise 85%"),
        (0.95, 0.2, 0.2), strict=True,
    ):  # fmt: skip
        monkeypatch.setitem(MADE, "found", {"variant": variant})
        monkeypatch.setitem(MADE, "control", [control, control, control, 24])
        run([cell], folder)
    text = tables(folder)
    assert "| `uce` | 90% [80..100], 95% reference |" in text and "| `esd` | **90% [80..100]**, 20% reference |" in text


def test_the_page_says_which_variants_older_cells_have_not(made, monkeypatch):
    folder, _, refused = made
    refused.clear()
    first, second = plan(["owl"], ["noise"], ["uce", "esd"], "quick")
    run([first], folder)
    assert "Not tried in 1 of the 1 cells of `noise`: the variant `inverted`." in tables(folder)
    monkeypatch.setitem(MADE, "tried", ["noise 40%", "inverted"])
    run([second], folder)
    assert "Not tried in 1 of the 2 cells of `noise`: the variant `inverted`." in tables(folder)
    (folder / CELLS / f"{first.key}.json").unlink()
    run([first], folder)
    assert "Not tried" not in tables(folder)
    assert attacks_table.VARIANTS["noise"][0] == INVERTED


def test_one_cell_whose_control_was_taught_for_itself_tells_the_steps_for_all_methods(made, monkeypatch):
    """In old cells the control was trained as long as the edited model; what was measured at these steps stays."""
    folder, cells, refused = made
    refused.clear()
    asked = plan(["owl"], ["relearn"], ["uce", "esd", "ace"], "quick")
    monkeypatch.setitem(MADE, "against", "control: reference model")

    def cell(steps, edited, reference, **more):
        back = {"relearned, edited": edited, "relearned, destroyed": 1, "relearned, reference": reference}
        return {**MADE, "found": {"steps_until_back": back, "steps": steps, **more}}

    told = {"uce": cell(50, 30, None), "esd": cell(60, 40, 55), "ace": cell(50, 20, None)}
    monkeypatch.setattr(attacks_table, "measured", lambda cell, pipe, work: cells.append(cell) or told[cell.method])
    run(asked, folder)
    line = "| `{}` | **90% [80..100]**, 30% reference; after {} steps, {} |"
    assert line.format("uce", 30, "after 55 steps") in tables(folder), "the control that was trained longest"
    twin = folder / attacks_table.REFERENCES["pocket"]
    twin.mkdir(parents=True)
    (twin / "quality.json").write_text(json.dumps({"without": ["owl"], "kept": {"rate": 0.97, "pictures": 100}}))
    told["uce"] = cell(50, 30, 54, control_steps=58)
    del cells[:]
    run(asked, folder)
    run(asked, folder)
    assert cells == asked[:1], "one cell is enough"
    for method, steps in (("uce", 30), ("esd", 40), ("ace", 20)):
        assert line.format(method, steps, "after 54 steps") in tables(folder), "taught for itself"
    longer = plan(["owl"], ["relearn"], ["ace"], "standard")
    run(longer, folder)
    run(longer, folder)
    assert cells[1:] == longer * 2, "each budget has its own, and none was taught for itself"
    assert line.format("ace", 20, "never") in tables(folder, "standard")


def test_one_new_cell_has_the_control_of_all_whose_own_only_drew_again(made, monkeypatch):
    """Older cells of the attacks that choose by what they see: each drew its own finds again on the reference."""
    folder, cells, refused = made
    refused.clear()
    asked = plan(["owl"], CHOOSING, ["uce", "esd"], "quick")
    twin = folder / attacks_table.REFERENCES["pocket"]
    twin.mkdir(parents=True)
    (twin / "quality.json").write_text(json.dumps({"without": ["owl"], "kept": {"rate": 0.97, "pictures": 100}}))
    for place, cell in enumerate(asked):
        older = {**MADE, "against": REFERENCE_ROW, "control": [place / 10, 0.0, 0.5, 24]}
        write(folder, cell, older)
    before = tables(folder)
    assert "| `esd` | **90% [80..100]**, 10% reference | **90% [80..100]**, 50% reference |" in before
    assert not references(read(folder))
    monkeypatch.setitem(MADE, "against", REFERENCE_ROW)
    monkeypatch.setitem(MADE, "control", [0.85, 0.7, 0.95, 24])
    monkeypatch.setitem(MADE, "searched", True)
    run(asked[:2], folder)
    assert cells == asked[:1], "the second method has its control by now"
    assert "| `esd` | 90% [80..100], 85% reference | **90% [80..100]**, 50% reference |" in tables(folder)
    run(asked, folder)
    assert cells == [asked[0], asked[2], asked[4]]
    assert "reference" in tables(folder) and "10% reference" not in tables(folder)


def test_an_older_cell_without_a_reference_is_made_anew(made, monkeypatch):
    """Its control, on a destroyed model, is that of no other cell."""
    folder, cells, refused = made
    refused.clear()
    asked = plan(["owl"], ["readable", "ring-a-bell"], ["uce", "esd"], "quick")
    for cell in asked:
        write(folder, cell, MADE)
    monkeypatch.setitem(MADE, "searched", True)
    run(asked, folder)
    run(asked, folder)
    assert cells == asked[:2]


def write(folder, cell, item):
    (folder / CELLS).mkdir(parents=True, exist_ok=True)
    told = {
        "concept": cell.concept,
        "attack": cell.attack,
        "method": cell.method,
        "budget": cell.budget,
        "status": "ok",
    }
    (folder / CELLS / f"{cell.key}.json").write_text(json.dumps(item | told))


def test_steps_until_it_is_back_as_a_share_of_those_of_the_reference(made, monkeypatch):
    folder, _, refused = made
    refused.clear()
    steps = {
        ("uce", "owl"): (33, 132),
        ("esd", "owl"): (66, None),
        ("uce", "car"): (None, 66),
        ("uce", "rose"): (5, None),
        **{("uce+esd", concept): (66, None) for concept in ("car", "owl", "rose")},
        ("esd:steps=9", "owl"): (9, None),  # a design that was not tried on every concept
    }

    def measured(cell, pipe, work):
        edited, never_saw = steps[cell.method, cell.concept]
        back = {"relearned, edited": edited, "relearned, reference": never_saw}
        own = {} if never_saw is None else {"control_steps": never_saw}
        return {**MADE, "against": "control: reference model", "found": {"steps_until_back": back, "steps": 9, **own}}

    monkeypatch.setattr(attacks_table, "measured", measured)
    run([Cell(concept, "relearn", method, "standard") for method, concept in steps], folder)
    assert until_back(folder).splitlines() == [
        "| | car | owl | mean |",
        "|---|---|---|---|",
        "| never saw it | 66 steps | 132 steps | |",
        "| `uce` | never | 33 (25%) | 25% |",
        "| `esd` | never | 66 (50%) | 50% |",
        "| `uce+esd` | 66 (100%) | 66 (50%) | 75% |",
    ]


@pytest.mark.parametrize("budget", ["quick", "standard"])
def test_the_worst_concept_and_budget_count(made, monkeypatch, budget):
    folder, _, _ = made
    run([Cell("pizza", "concept-inversion", "uce", budget)], folder)
    monkeypatch.setitem(MADE, "success", [0.1, 0.0, 0.2, 24])
    run([Cell("owl", "concept-inversion", "uce")], folder)
    assert comes_back("uce", folder) == "90%"
    monkeypatch.setitem(MADE, "success", [1.0, 0.9, 1.0, 24])
    run([Cell("owl", "concept-inversion", "uce", "long")], folder)
    assert comes_back("uce", folder) == "90%", "not every method went through the longest search"


def test_a_page_without_cells(tmp_path):
    assert tables(tmp_path) == "No cell is finished." and comes_back("uce", tmp_path) == "-"


def test_means_over_concepts_with_the_lowest_and_the_highest(made):
    folder, _, refused = made
    refused.clear()
    run(plan(["owl"], ["concept-inversion", "relearn"], ["uce"], "standard"), folder)
    assert "| `uce` | 90% (90 to 90), 30% | 90% (90 to 90), 30% |" in means(folder)
    run(plan(["pizza"], ["concept-inversion"], ["uce"], "standard"), folder)
    place = folder / CELLS / "pizza-concept-inversion-uce-standard.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"success": [0.5, 0, 1, 9], "control": [0.1, 0, 1, 9]}))
    assert means(folder).splitlines()[0] == "| mean of 2 concepts | concept-inversion | relearn |"
    assert "| `uce` | 70% (50 to 90), 20% | 90% (90 to 90), 30%; 1 of them |" in means(folder)


def test_designs_stand_beside_what_they_are_made_of(made, monkeypatch):
    folder, _, refused = made
    refused.clear()
    monkeypatch.setitem(MADE, "curve", {"learned token, edited": {"250": 0.2}})
    monkeypatch.setitem(MADE, "found", {"steps": 500})
    methods = ["uce", "esd", "ace", "esd:rounds=2", "uce+esd"]
    run(plan(["owl"], ["concept-inversion"], methods, "standard"), folder)
    run(plan(["car"], ["concept-inversion"], ["uce"], "standard"), folder)
    told = " | 0% | **90% [80..100]**, 30% |"
    assert designs(folder).splitlines()[2:] == [
        f"| owl | `{name}`{told}" for name in ("uce", "esd", "esd:rounds=2", "uce+esd")
    ]
    assert "rounds" not in means(folder) and "mean of 2 concepts" in against_steps(folder)
    assert draw_curves(folder, design=True).name == "attacks-curves-designs.png"
    assert sorted(path.name for path in (folder / "docs/images").iterdir()) == ["attacks-curves-designs.png"]


def test_what_a_token_finds_by_steps_where_one_search_ended_early(made, monkeypatch):
    folder, _, refused = made
    refused.clear()
    looks = {"learned token, edited": {"250": 0.2, "500": 0.4}}
    monkeypatch.setitem(MADE, "curve", looks)
    monkeypatch.setitem(MADE, "found", {"steps": 1000})
    run(plan(["owl"], ["concept-inversion"], ["uce", "esd"], "standard"), folder)
    monkeypatch.setitem(MADE, "curve", {"learned token, edited": {"250": 1.0}})
    monkeypatch.setitem(MADE, "found", {"steps": 500})
    monkeypatch.setitem(MADE, "plain", [0.5, 0.0, 1.0, 24])
    run(plan(["pizza"], ["concept-inversion"], ["uce"], "standard"), folder)
    assert against_steps(folder).splitlines() == [
        "| mean of 2 concepts | by name | 250 steps | 500 steps | 1,000 steps |",
        "|---|---|---|---|---|",
        "| `uce` | 25% | 60% | 65% | 90% |",
        "| `esd`; 1 of them | 0% | 20% | 40% | 90% |",
    ]


def test_the_longest_search_has_four_rows_and_a_column_for_each_concept(made, monkeypatch):
    folder, _, refused = made
    refused.clear()
    run(plan(["owl"], ["concept-inversion"], ["uce", "esd"], "long"), folder)
    monkeypatch.setitem(MADE, "success", [0.5, 0.4, 0.6, 24])
    run(plan(["car"], ["concept-inversion"], ["uce"], "long"), folder)
    run(plan(["rose"], ["concept-inversion"], ["uce"], "standard"), folder)
    assert longest(folder).splitlines() == [
        "| method | car | owl | mean |",
        "|---|---|---|---|",
        "| `uce` | 50% [40..60], 30% | **90% [80..100]**, 30% | 70% (50 to 90), 30% |",
        "| `esd` | - | **90% [80..100]**, 30% | 90% (90 to 90), 30%; 1 of them |",
    ]


@pytest.mark.parametrize(("attack", "budget", "asked"), [
    ("concept-inversion", "long", {"rows": 4}), ("concept-inversion", "standard", {}), ("relearn", "long", {}),
    ("backdoor", "quick", {"again": True}),
])  # fmt: skip
def test_what_is_asked_beside_the_defaults(monkeypatch, tmp_path, attack, budget, asked):
    class Report:
        success = control = EvalRow("success", "edited", 0.5, 0.4, 0.6, 24)
        rows, found, details, queries, passes, seconds, judge_hash = (), {}, {}, 1, 1, 1.0, "0"

    told = []
    monkeypatch.setattr("erase_plugins.erase", lambda *args, **kwargs: None)
    monkeypatch.setattr("erase_plugins.attack", lambda *args, **kwargs: told.append(kwargs) or Report())
    made = attacks_table.measured(Cell("owl", attack, "uce", budget), None, tmp_path)
    assert "searched" not in made
    assert (told[0]["settings"], told[0]["budget"]) == (asked, budget)


@pytest.mark.parametrize(("attack", "found", "searched"), [
    ("readable", {"control": {"hits": [0]}}, True), ("readable", {}, False), ("weights", {"control": [0]}, False),
])  # fmt: skip
def test_a_cell_says_that_its_control_chose_for_itself(monkeypatch, tmp_path, attack, found, searched):
    class Report:
        success = control = EvalRow("success", "edited", 0.5, 0.4, 0.6, 24)
        rows, found, queries, passes, seconds, judge_hash = (), {}, 1, 1, 1.0, "0"

    Report.details = found
    monkeypatch.setattr("erase_plugins.erase", lambda *args, **kwargs: None)
    monkeypatch.setattr("erase_plugins.attack", lambda *args, **kwargs: Report())
    made = attacks_table.measured(Cell("owl", attack, "uce"), None, tmp_path)
    assert made.get("searched", False) is searched


def test_a_curve_ends_with_what_was_measured():
    item = {
        "curve": {"learned token, edited": {"500": 0.3, "250": 0.1}}, "found": {"steps": 1000}, "success": [0.4, 0, 1, 9],
        "controls": {"control: reference model": 0.2},
    }  # fmt: skip
    assert curve(item, "edited") == [(250, 0.1), (500, 0.3), (1000, 0.4)]
    assert curve(item, "reference") == [(1000, 0.2)]
    until = {"relearned, until back, reference": {"33": 0.0, "66": 0.9}, "relearned, edited": {"33": 0.6}}
    taught = {**item, "curve": until, "found": {"steps": 66}}
    assert curve(taught, "until back, reference", "relearn") == [(33, 0.0), (66, 0.9)]
    assert curve(taught, "edited", "relearn") == [(33, 0.6), (66, 0.4)]


def test_pictures_are_cut_out_of_the_sheet_that_an_attack_wrote(tmp_path):
    colours = [torch.tensor(rgb) for rgb in ([1.0, 0, 0], [0, 1.0, 0], [0, 0, 1.0], [1.0, 1.0, 0])]
    tiles = [colour[:, None, None].expand(3, 32, 32) for colour in colours]
    sheet = contact_sheet([("a", tiles[:2]), ("b", tiles[2:])], tmp_path / "sheet.png", title="any")
    found = [part for line in (0, 1) for part in cut(sheet, line)]
    assert [part.shape for part in found] == [(3, 96, 96)] * 4
    assert [part.mean(dim=(1, 2)).tolist() for part in found] == [colour.tolist() for colour in colours]
