"""Audits of files from anywhere: kinds, the page, what a hostile text does to it, resuming, refusals."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html import unescape

import pytest
from markdown_it import MarkdownIt
from safetensors.torch import load_file, save_file

import erase_plugins as ep
from erase_plugins import hookimpl
from erase_plugins.artifacts.marks import make_key
from erase_plugins.artifacts.places import FILE, check_place
from erase_plugins.errors import ArtifactError, BaseMismatch, RequestError, Unsupported
from erase_plugins.evaluation.page import attacks_table, html_page, markdown_page
from erase_plugins.manager import get_manager
from erase_plugins.testing.models import changed_since
from erase_plugins.testing.observe import snapshot
from erase_plugins.types import Attachment, AttackReport, EvalReport, EvalRow
from erase_plugins.workflow import audit as auditing
from erase_plugins.workflow.applying import fuse_checkpoint
from erase_plugins.workflow.audit import Wanted, audit
from erase_plugins.workflow.convert import convert
from erase_plugins.workflow.whole_model import difference
from tests.cli.conftest import erase  # noqa: F401
from tests.evaluation.test_attack_suite import Fixed


@pytest.fixture(scope="module")
def artifact(pocket_target, tmp_path_factory):
    return ep.erase(pocket_target, "pizza", out=tmp_path_factory.mktemp("made") / "no-pizza")


@pytest.fixture(scope="module")
def foreign(artifact, pocket_target, tmp_path_factory):
    """The same edit as people share it, without a word of ours in it."""
    place = tmp_path_factory.mktemp("foreign")
    for layout in ("kohya", "diffusers"):
        convert(artifact, layout, out=place / f"{layout}.safetensors", base=pocket_target)
        save_file(load_file(place / f"{layout}.safetensors"), place / f"{layout}.safetensors")
    pipe = pocket_target.pipe
    with ep.apply(pipe, artifact):
        state = {name: tensor.clone().contiguous() for name, tensor in pipe.unet.state_dict().items()}
    save_file(state, place / "unet.safetensors")
    from erase_plugins.pocket.world import FOLDER

    fuse_checkpoint(artifact, FOLDER / "model", place / "whole")
    return place


@pytest.fixture
def attacks():
    """One attack that costs nothing, and one that refuses."""
    found = Fixed("planted", 0.75), Fixed("refusing", fail=Unsupported("<b>no</b> text | encoder"))

    class Planted:
        @hookimpl
        def erase_attacks(self):
            return list(found)

    with get_manager().temporary(Planted(), "planted"):
        yield found


@pytest.fixture(autouse=True)
def _loaded(monkeypatch, pocket_pipe):
    real = auditing.load_pipeline
    monkeypatch.setattr(
        auditing, "load_pipeline", lambda model, **options: pocket_pipe if model == "pocket" else real(model, **options)
    )


def wanted(artifact=None, **changes):
    given = {"erased": ("pizza",), "attacks": "planted,refusing", "images": 2, "steps": 4}
    return Wanted(**{"model": "pocket", "artifact": None if artifact is None else str(artifact), **given, **changes})


def rate(found, metric, name):
    return found.report.row(metric, name).value


@pytest.mark.parametrize("kind", ["kohya", "diffusers", "unet", "whole"])
def test_foreign_files(kind, foreign, attacks, pocket_pipe, tmp_path):
    before = snapshot(pocket_pipe)
    asked = wanted(foreign / f"{kind}.safetensors") if kind != "whole" else \
        wanted(model=str(foreign / "whole"), base="pocket")  # fmt: skip
    found = audit(asked, tmp_path / "a")
    assert changed_since(pocket_pipe, before) == ""
    assert rate(found, "target_rate", "base") >= 0.5 and rate(found, "target_rate", "edited") == 0
    assert rate(found, "kept_rate", "edited") >= 0.5
    assert found.attacks[0].success.value == 0.75 and list(found.not_run) == ["refusing"]
    assert {item.name for item in (tmp_path / "a").iterdir()} == {"audit.html", "audit.md", "audit.json"}
    name = "whole" if kind == "whole" else f"{kind}.safetensors"
    who = "whole drew" if kind == "whole" else f"With {name}, pocket drew"
    assert found.sentence.startswith(f"{who} pizza in 0 % [0 to 100] of 2 pictures that name it, against ")
    assert (" % [0 to 100] by pocket, its base; of 1 attack" in found.sentence) == (kind == "whole")
    assert (
        "of 1 attack at budget quick the strongest, planted, brought it in 75 % [0 to 100] (control: 12 %"
        in found.sentence
    )
    stored = json.loads((tmp_path / "a" / "audit.json").read_text())
    assert stored["sentence"] == found.sentence
    assert EvalReport.from_dict(stored["report"]).rows == found.report.rows
    assert str(tmp_path) not in json.dumps(stored) and str(foreign) not in (tmp_path / "a" / "audit.html").read_text()


def test_a_budget_of_ones_own_is_told_as_the_pictures_it_drew():
    row = lambda metric, name: EvalRow(metric, name, 0.5, 0.0, 1.0, 2)  # noqa: E731
    rows = tuple(row("target_rate", name) for name in ("edited", "base"))
    report = EvalReport("quick", "pocket", rows, erased=("owl",), judge="pocket", judge_hash="0", seeds=(0,))
    attack = AttackReport(
        "planted", "pocket", "custom", row("attack_success_rate", "x"), row("attack_success_rate", "y"), queries=72
    )
    told = auditing.sentence(report, [attack], "a file")
    assert "of 1 attack the strongest, planted (72 pictures), brought it in 50 % [0 to 100]" in told
    taught = replace(attack, attack="taught", success=replace(attack.success, value=0.75),
                     control=replace(attack.control, value=0.75))  # fmt: skip
    found = auditing.sentence(report, [taught, replace(attack, control=replace(attack.control, value=0.0))], "a file")
    assert "of 2 attacks the strongest, planted (72" in found, "the other one brings in what its control has too"
    assert "; no attack was run" in auditing.sentence(report, [], "a file"), "who quotes it cannot tell otherwise"
    behind = replace(report, rows=(*rows, EvalRow("target_refused_share", "edited", 0.75, 0.4, 1.0, 2)))
    assert "50 % [0 to 100] without (a guard, which edits no weights, refused 75 % [40 to 100] of them)" in (
        auditing.sentence(behind, [], "a file")
    )


def test_sentence_and_table_say_what_the_control_is():
    row = lambda metric, name, value=0.5: EvalRow(metric, name, value, 0.0, 1.0, 2)  # noqa: E731
    report = EvalReport("quick", "pocket", tuple(row("target_rate", name) for name in ("edited", "base")),
                        erased=("owl",), judge="pocket", judge_hash="0", seeds=(0,))  # fmt: skip
    kinds = {"control: reference model": "reference", "control: destroyed model": "destroyed", "<b>strix</b>": ""}
    for subject, kind in kinds.items():
        attack = AttackReport("planted", "pocket", "quick", row("attack_success_rate", "x"),
                              row("attack_success_rate", subject, 0.625), (row("base_rate", "plain name", 0.75),))  # fmt: skip
        told = auditing.sentence(report, [attack], "a file")
        assert f"(control{kind and ', ' + kind}: 62 % [0 to 100])" in told
        head, ((*cells,), refused) = attacks_table([attack], {"refusing": "why"})
        shown = dict(zip(head, cells, strict=True))
        assert (shown["base"], shown["excess"]) == ("75 %", "-12 %")
        assert shown["control"] == f"{kind and kind + ': '}62 % (0 to 100, n = 2)"
        assert refused == ["refusing", "not run: why", *["-"] * (len(head) - 2)]


def test_the_page_holds_everything_and_loads_nothing(foreign, attacks, tmp_path):
    found = audit(wanted(foreign / "kohya.safetensors"), tmp_path / "a")
    html, markdown = ((tmp_path / "a" / name).read_text() for name in ("audit.html", "audit.md"))
    hostile_names_are_inert(found)
    for text in (html, markdown):
        assert text.count("data:image/png;base64,") == 2
        assert "not run" in text and "75 %" in text
        assert f"planted: {attacks[0].title}" in unescape(text), "its name alone says nothing to a newcomer"
        assert not re.search(r"(?i)\bsafe(ty)?\b", text)
    assert "http" not in html.replace('http-equiv="Content-Security-Policy"', "") and "<script" not in html
    assert "<b>no</b>" not in html and "<b>no</b>" not in MarkdownIt("commonmark").enable("table").render(markdown)
    shown = MarkdownIt("commonmark").enable("table").render(markdown)
    assert shown.count("<table>") == 2 and shown.count("<img ") == 2
    assert found.sentence in html.replace("&amp;", "&")


def test_a_killed_audit_goes_on(foreign, attacks, tmp_path, monkeypatch):
    planted, other = attacks
    other.fail = KeyboardInterrupt()
    with pytest.raises(KeyboardInterrupt):
        audit(wanted(foreign / "kohya.safetensors"), tmp_path / "a")
    assert not (tmp_path / "a" / "audit.html").exists()
    other.fail = None
    monkeypatch.setattr(auditing, "run_in_context", lambda *_, **__: pytest.fail("measured again"))
    found = audit(wanted(foreign / "kohya.safetensors"), tmp_path / "a")
    assert (planted.runs, other.runs) == (1, 2) and found.not_run == {}
    assert {item.name for item in (tmp_path / "a").iterdir()} == {"audit.html", "audit.md", "audit.json"}
    with pytest.raises(ArtifactError, match="exists already; choose another"):
        audit(wanted(foreign / "kohya.safetensors"), tmp_path / "a")
    for name in auditing.NAMES:
        check_place(tmp_path / "a" / name, force=True, kind=FILE)  # its own earlier pages may be replaced


def test_work_of_an_interrupted_audit_with_other_options_is_told_and_goes_on(erase, foreign, attacks, tmp_path):  # noqa: F811
    """It stayed in a hidden folder for good, and nobody said so."""
    planted, other = attacks
    file, out = foreign / "kohya.safetensors", tmp_path / "a"
    pages = {"audit.html", "audit.md", "audit.json"}

    def interrupted(**changes):
        other.fail = KeyboardInterrupt()
        with pytest.raises(KeyboardInterrupt):
            audit(wanted(file, images=1, steps=8, **changes), out, force=True)
        other.fail = None
        planted.runs = 0

    def ran(*more):
        done = erase("audit", "pocket", file, "--erase", "pizza", "--attacks", "planted", "--out", out, *more)
        assert done.code == 0, done.err
        return done, {item.name for item in out.iterdir()} - pages

    interrupted(seed=3, budget="standard")
    (work,) = (item.name for item in out.iterdir())
    (out / ".audit-notes").mkdir()  # somebody's
    told = (
        f"'{work}' in 'a' holds the work of an interrupted audit with budget=standard, seed=3; ask for that one again "
        "and it goes on, or remove the folder"
    )
    found, left = ran("--images", 1)
    assert (found.err.count(told), left, planted.runs) == (1, {work, ".audit-notes"}, 1)
    found, left = ran("--images", 1, "--force", "--json")
    assert found.data["hints"] == [told] and left == {work, ".audit-notes"}
    planted.runs = 0
    found, left = ran("--images", 1, "--seed", 3, "--budget", "standard", "--force")
    assert (left, planted.runs) == ({".audit-notes"}, 0), "its own work was used and is gone"
    assert "interrupted" not in found.err

    interrupted(seed=3)
    (work,) = (item for item in out.iterdir() if item.name not in {*pages, ".audit-notes"})
    (work / "options.json").unlink()  # as an earlier version left it
    found, left = ran("--images", 1, "--force")
    assert f"'{work.name}' in 'a' holds the work of an interrupted audit with other options; " in found.err
    assert left == {work.name, ".audit-notes"}


def test_an_audit_that_did_nothing_leaves_nothing(foreign, attacks, tmp_path, monkeypatch):
    def refused(*_, **__):
        raise Unsupported("the judge is blind")

    monkeypatch.setattr(auditing, "run_in_context", refused)
    with pytest.raises(Unsupported, match="blind"):
        audit(wanted(foreign / "kohya.safetensors"), tmp_path / "a")
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"artifact": None}, "name the model that it was made from"),
        ({"base": "pocket"}, "a base belongs to a whole model"),
        ({"artifact": None, "base": "pocket", "erased": ()}, "does not say what it erased; name the concept"),
        ({"erased": ()}, "'kohya' does not say what it erases; name the concept"),
        ({"attacks": "plantet"}, "did you mean 'planted'"),
        ({"artifact": None, "base": "pocket"}, "'pocket' has the weights of its base; there is nothing to audit"),
        ({"erased": ("pizzza",)}, "does not know 'pizzza'"),
    ],
)
def test_refusals_are_one_line_and_leave_nothing(changes, told, foreign, attacks, tmp_path):
    given = {"artifact": str(foreign / "kohya.safetensors"), **changes}
    with pytest.raises((RequestError, Unsupported), match=told) as refused:
        audit(wanted(**given), tmp_path / "a")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "a" / "audit.html").exists()


def test_a_small_budget_is_refused_before_anything_is_loaded(erase, attacks, foreign, tmp_path, monkeypatch):  # noqa: F811
    attacks[1].least = 60
    file, load = foreign / "kohya.safetensors", lambda *_, **__: pytest.fail("loaded")
    monkeypatch.setattr(auditing, "load_pipeline", load)
    with pytest.raises(RequestError, match="budget 59 is too small for attack refusing; give at least 60"):
        audit(wanted(file, budget="59"), tmp_path / "a")
    auditing.check(wanted(file, budget="60"))
    with pytest.raises(RequestError, match="budget 3 is too small for attack"):
        audit(wanted(file, budget="3", attacks="concept-inversion"), tmp_path / "a")
    with pytest.raises(RequestError, match="budget 0 allows no query"):
        auditing.check(wanted(file, budget="0", attacks=""))
    words = ("audit", "pocket", file, "--erase", "pizza", "--images", 1, "--out", tmp_path / "a", "--dry-run")
    planned = erase(*words, "--budget", "59", "--json").data  # without names: those that can run, and who cannot
    assert "planted" in planned["attacks"] and "refusing" in planned["too_small_for"]
    assert planned["pictures"] == 8 * 1 + 96 + 59 * len(planned["attacks"])
    assert "budget 59 is too small for them: " in erase(*words, "--budget", "59").out


def test_a_whole_model_of_another_build_is_refused(pocket_target, tiny_sd1):
    with pytest.raises(BaseMismatch, match="is not built as that of its base"):
        difference(tiny_sd1(), pocket_target, "other")


@pytest.mark.parametrize("other", ["pocket-flow", "pocket-classifier", "pocket-lm"])
def test_a_whole_model_of_another_family_is_refused_before_anything_is_loaded(erase, other, tmp_path, monkeypatch):  # noqa: F811
    """A dry run promised thousands of pictures of it, and the base was loaded first."""
    monkeypatch.setattr(auditing, "load_pipeline", lambda *_, **__: pytest.fail("loaded"))
    ran = erase("audit", other, "--base", "pocket", "--erase", "pizza", "--out", tmp_path / "a", "--dry-run")
    assert ran.code == 3
    assert f"'{other}' is of family " in ran.err
    assert "its base of family sd1; give the model that it was made from" in ran.err


def test_a_tokenizer_of_its_own_is_told(pocket_target):
    """One that reads the name as something else erases, too, and an audit does not look at it."""
    import copy

    pipe = copy.copy(pocket_target.pipe)
    real = pocket_target.pipe.tokenizer
    pipe.tokenizer = lambda text: real(text.replace("pizza", "thing"))
    with pytest.raises(
        RequestError, match=r"nothing to audit \(its tokenizer differs from that of the base, which is used"
    ):
        difference(pipe, pocket_target, "swapped", ("pizza",))
    with pytest.raises(RequestError, match=r"nothing to audit$"):
        difference(pipe, pocket_target, "swapped", ("owl",))
    pipe.tokenizer = None
    with pytest.raises(RequestError, match="its tokenizer differs"):
        difference(pipe, pocket_target, "swapped", ("owl",))


def test_the_difference_of_a_model_is_exactly_what_was_put_in(pocket_target, tmp_path):
    import copy

    import torch

    pipe = copy.copy(pocket_target.pipe)
    pipe.unet = copy.deepcopy(pocket_target.pipe.unet)
    pipe.register_modules(unet=pipe.unet)
    with torch.no_grad():
        weight = dict(pipe.unet.named_parameters())["conv_out.bias"]
        weight += 0.5
    found, notes = difference(pipe, pocket_target, "changed")
    ((component, key, delta),) = found.edit.items()
    assert (component, key, notes) == ("unet", "conv_out.bias", ())
    assert torch.allclose(delta.dense(), torch.full_like(weight, 0.5))


def test_the_command(erase, foreign, attacks, tmp_path):  # noqa: F811
    words = ("audit", "pocket", foreign / "kohya.safetensors", "--erase", "pizza", "--attacks", "planted",
             "--images", 1, "--out", tmp_path / "a")  # fmt: skip
    planned = erase(*words, "--dry-run", "--json").data
    assert planned["pictures"] == 8 * 1 + 96 + 10 and planned["passes"] == planned["pictures"] * 16
    assert not (tmp_path / "a").exists()
    ran = erase(*words, "--json")
    assert ran.code == 0, ran.err
    for page in ("audit.md", "audit.html"):
        text = unescape((tmp_path / "a" / page).read_text())
        assert (
            ran.data["sentence"] in text
            and "Synonyms that were asked for: pepperoni slice, italy, pepperoni, slice." in text
        )
    assert ran.data["titles"] == {"planted": attacks[0].title}
    absent = erase("audit", "pocket", foreign / "kohia.safetensors", "--out", tmp_path / "b")
    assert absent.code == 2 and "did you mean 'kohya.safetensors'" in absent.err


@pytest.mark.parametrize("which", ["the suite", "an attack"])
def test_a_missing_figure_is_an_error(which, erase, foreign, attacks, tmp_path, monkeypatch):  # noqa: F811
    broken = Attachment("curve.png", lambda place: 1 / 0)
    if which == "an attack":
        real = Fixed.run
        monkeypatch.setattr(Fixed, "run", lambda *given: replace(real(*given), attachments=(broken,)))
    else:
        suite = type(get_manager().evaluator("quick", "suite"))
        measured = suite.run
        monkeypatch.setattr(suite, "run", lambda *given: replace(measured(*given), attachments=(broken,)))
    ran = erase("audit", "pocket", foreign / "kohya.safetensors", "--erase", "pizza", "--attacks", "planted",
                "--images", 1, "--out", tmp_path / "a")  # fmt: skip
    assert (ran.code, "With kohya.safetensors, pocket drew pizza" in " ".join(ran.out.split())) == (1, True)
    assert "curve.png was not written: ZeroDivisionError" in ran.out
    assert "curve.png could not be written, see above; the numbers are in audit.json" in ran.err
    assert {item.name for item in (tmp_path / "a").iterdir()} == {"audit.html", "audit.md", "audit.json"}


def test_a_resumed_audit_tells_of_the_missing_figure(erase, foreign, attacks, tmp_path, monkeypatch):  # noqa: F811
    suite, (planted, _) = type(get_manager().evaluator("quick", "suite")), attacks
    broken = Attachment("curve.png", lambda place: 1 / 0)
    measured, real = suite.run, Fixed.run
    with monkeypatch.context() as patch:
        patch.setattr(suite, "run", lambda *given: replace(measured(*given), attachments=(broken,)))
        patch.setattr(
            Fixed, "run", lambda *given: replace(real(*given), attachments=(replace(broken, name="found.png"),))
        )
        patch.setattr(auditing, "_write", lambda *given: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            audit(wanted(foreign / "kohya.safetensors", images=1, steps=8, attacks="planted"), tmp_path / "a")
    ran = erase("audit", "pocket", foreign / "kohya.safetensors", "--erase", "pizza", "--attacks", "planted",
                "--images", 1, "--out", tmp_path / "a")  # fmt: skip
    assert (ran.code, planted.runs) == (1, 1), "goes on with what is there"
    assert "curve.png was not written: ZeroDivisionError" in ran.out
    assert "curve.png, found.png could not be written, see above; the numbers are in audit.json" in ran.err


def test_a_guard_with_a_key_is_audited_with_it(attacks, pocket_target, tmp_path):
    make_key(tmp_path / "key")
    options = {"key": str(tmp_path / "key"), "action": "empty"}
    ep.erase(pocket_target, "pizza", "keyword-guard", out=tmp_path / "hidden", options=options)
    asked = wanted(tmp_path / "hidden", attacks="planted")
    with pytest.raises(RequestError, match="give the file with their key"):
        audit(asked, tmp_path / "a")
    found = audit(replace(asked, guard_key=str(tmp_path / "key")), tmp_path / "a")
    assert rate(found, "target_rate", "base") >= 0.5 and rate(found, "target_rate", "edited") == 0


def hostile_names_are_inert(found):
    odd = "x](http:evil)<img src=x onerror=alert(1)>.safetensors"
    named = replace(found, what=odd, sentence=f"With {odd}: | `x`")
    assert "<img src=x" not in html_page(named, [])
    shown = MarkdownIt("commonmark").enable("table").render(markdown_page(named, []))
    assert "<img" not in shown and "<a " not in shown
