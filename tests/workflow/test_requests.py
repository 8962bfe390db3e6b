"""A request through a workflow: on pocket, on a language model, on a head; killed anywhere; without a name anywhere."""

from __future__ import annotations

import datetime
import json
import logging
from dataclasses import replace
from types import SimpleNamespace

import pytest

import erase_plugins as ep
from erase_plugins.cli.request_said import measured_rows
from erase_plugins.errors import ArtifactError, EraseError, HubError, PushRefused, RequestError, RunRefused, Unsupported
from erase_plugins.hints import Hint, in_terminal
from erase_plugins.manager import get_manager
from erase_plugins.requests import decisions
from erase_plugins.requests.case import Case
from erase_plugins.requests.certificate import certificate, to_json, verify
from erase_plugins.requests.discreet import Discretion
from erase_plugins.requests.guarding import guards, place_of, write_guard
from erase_plugins.requests.intake import receive
from erase_plugins.requests.store import Desk
from erase_plugins.runtime.prompt_guard import Guarded
from erase_plugins.workflow.deployed import apply_deployed
from erase_plugins.workflow.request_measure import NOBODY, Limits, _own, evaluate_case, left_over, verdict
from erase_plugins.workflow.request_plan import plan_case
from erase_plugins.workflow.request_run import Work, _Model, folder_of, run_case
from tests import language
from tests.cli.conftest import erase, loaded, pizza_folder  # noqa: F401
from tests.records.conftest import _learned, learned  # noqa: F401
from tests.requests.conftest import CANARY, attempted, triaged

#: forms in which the name would be recognised; no word of it is one of the program's own
FORMS = ("zorvane", "ymbrook", "quillith")
FAST = {"vocabulary": "200"}


def intake(folder, subject, kind="person", model="pocket", **more):
    desk = Desk.create(folder)
    name, _ = receive(desk, kind, [subject], **more)
    decisions.verify_identity(desk, name, "account")
    plan_case(desk, name, model)
    return desk, name


def everything(folder) -> bytes:
    return b"\n".join(path.name.encode() + path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_without_the_key_requests_are_read_and_none_is_entered(erase, tmp_path):  # noqa: F811
    desk, name = intake(tmp_path / "desk", CANARY)
    told = erase("request", "status", desk.folder, "--json").data
    desk.key_file.unlink()
    status = erase("request", "status", desk.folder, "--json")
    assert status.data["requests"] == told["requests"] and status.data["head"] == told["head"], status.err
    assert "the key 'desk.key' is missing" in status.data["hints"][0]
    answer = erase("request", "export", desk.folder, name, "--out", tmp_path / "answer")
    assert answer.code == 0 and (tmp_path / "answer" / "certificate.json").is_file()
    for words in (("decide", desk.folder, name, "hold", "--reason", "identity"), ("plan", desk.folder, name)):
        ran = erase("request", *words)
        assert ran.code != 0 and "the key 'desk.key' is missing" in ran.err
    assert len(desk.ledger(sealed=False).entries) == told["lines"]


def test_no_name_is_anywhere(loaded, erase, tmp_path, caplog):  # noqa: F811
    caplog.set_level(logging.DEBUG)
    (tmp_path / "who.txt").write_text(f"{CANARY}\n")
    desk, who = tmp_path / "desk", ("--subject-file", tmp_path / "who.txt")
    said = [erase("request", "new", desk, "--kind", "person", *who, "--json")]
    case = said[0].data["case"]
    runs = [
        ("verify", "--identity", "account"),
        ("plan",),
        ("run", *who, "--keep", f"a portrait of {CANARY}", "--set", f"guide=not {CANARY}", "--debug"),
        ("run", *who, "--keep", CANARY.upper(), "--debug"),
        ("run", "--subject", "Somebody Else", "--debug"),
        ("run", *who, "--to", CANARY, "--debug"),
        ("run", *who, "--keep", f"a portrait of {CANARY}", "--set", "vocabulary=200"),
        ("evaluate", *who, "--suite", "quick", "--images", "1", "--debug"),
        ("deploy", "--dry-run"),
        ("export", "--out", tmp_path / "out"),
    ]
    for name, *words in runs:
        said.append(erase("request", name, desk, case, *words))
        said.append(erase("request", "status", desk, "--json"))
    assert [item.code for item in said[1::2]] == [0, 0, 2, 2, 2, 2, 0, 3, 2, 0], [item.err for item in said[1::2]]
    assert "[subject]" in said[7].err
    outputs = "\n".join([*(item.out + item.err for item in said), caplog.text]).lower()
    written = (everything(desk) + everything(tmp_path / "out")).lower()
    artifact = ep.load_artifact(desk / f"{case}-1")
    card = artifact.card().lower()
    for form in FORMS:
        assert form not in outputs
        assert form.encode() not in written
        assert form not in card
    assert artifact.manifest.erased == (f"request {case}",)
    assert not artifact.edit.statistics, "rows of the name could be solved for again"


def test_pocket_from_intake_to_a_checked_load(loaded, pizza_folder, tmp_path):  # noqa: F811
    desk, name = intake(tmp_path / "desk", "pizza")
    case, _ = run_case(desk, name, Work("pocket", ("pizza",), options=FAST))
    assert (case.state, case.remedy) == ("made", "uce")
    case, _ = evaluate_case(desk, name, "pocket", ["pizza"], suite="quick", images=1, limits=Limits(left=-1.0))
    assert case.state == "failed"
    case, _ = evaluate_case(desk, name, "pocket", ["pizza"], suite="quick", images=1)
    assert case.state == "passed", case.last["evaluated"]["reasons"]
    (guard,) = guards(desk)
    with pytest.raises(RunRefused, match="cannot be answered"):
        Guarded(loaded.host, [guard])("a P1ZZA on a plate")
    decisions.deploy(desk, name)
    pipe = loaded.host
    (handle,) = apply_deployed(pipe, desk.folder)
    handle.remove()

    made = ep.load_artifact(folder_of(desk, case))
    for artifact in (made, ep.merge([ep.load_artifact(pizza_folder), made]), ep.merge([made, pizza_folder])):
        with pytest.raises(PushRefused, match="not public"):
            get_manager().before_push(SimpleNamespace(artifact=artifact, files=(), dry_run=True), "me/here")
    get_manager().before_push(SimpleNamespace(artifact=ep.load_artifact(pizza_folder), files=()), "me/here")

    place = folder_of(desk, case)
    place.rename(place.with_name("moved"))
    with pytest.raises(ArtifactError, match="do not serve the model without it"):
        apply_deployed(pipe, desk.folder)
    place.with_name("moved").rename(place)
    place_of(desk, case).write_text("{}")
    with pytest.raises(ArtifactError, match="guard of request"):
        guards(desk)
    decisions.revoke(desk, name, "damage", "account")
    assert guards(desk) == []
    assert apply_deployed(pipe, desk.folder) == []


def test_what_was_deployed_for_an_earlier_version_of_a_model_is_not_left_out_in_silence(tmp_path, monkeypatch):
    """One request on the old weights and one on the new ones: the first was skipped without a word."""
    desk = Desk.create(tmp_path / "desk")
    bases = {}
    for place, model in enumerate(("ours, of May", "ours, of June", "words")):
        name, _ = receive(desk, "object", [f"{CANARY} {place}"])
        decisions.verify_identity(desk, name, "not-needed")
        triaged(desk, name)
        attempted(desk, name, 1, True)
        decisions.deploy(desk, name)
        bases[name] = {"model": model, "family": "causal-lm" if model == "words" else "sd1"}
    old, new, _ = bases

    def deployed(_: Desk, case) -> SimpleNamespace:
        return SimpleNamespace(manifest=SimpleNamespace(base=bases[case.id]))

    for name, made in {
        "load_deployed": deployed, "held_target": lambda pipe: pipe, "describe_base": bases.get,
        "base_difference": lambda one, two: "" if one == two else "other weights", "apply_all": lambda _, items: items,
    }.items():  # fmt: skip
        monkeypatch.setattr(f"erase_plugins.workflow.deployed.{name}", made)
    with pytest.warns(UserWarning, match=rf"request {old} is not in force .* ours, of May") as told:
        (handle,) = apply_deployed(new, desk.folder)
    assert handle.manifest.base == bases[new]
    assert len(told) == 1, "a desk may serve models of several families"


def test_a_request_that_ended_without_an_artifact_leaves_no_guard_in_force(tmp_path):
    """Closed after it was rejected, or after it was given up, a request had its guard put up again."""
    desk = Desk.create(tmp_path / "desk")
    name, _ = receive(desk, "object", [CANARY])
    decisions.verify_identity(desk, name, "not-needed")
    triaged(desk, name)
    desk.append(lambda _: [
        {"event": "started", "case": name, "attempt": 1, "remedy": "uce", "seed": 0, "records": []}
    ])  # fmt: skip
    write_guard(desk, desk.ledger().case(name), [CANARY])
    assert len(guards(desk)) == 1
    decisions.decide(desk, name, "reject", "unfounded")
    assert guards(desk) == []
    decisions.decide(desk, name, "close")
    assert guards(desk) == []


def test_killed_between_artifact_and_ledger_nothing_is_made_twice(loaded, tmp_path, monkeypatch):  # noqa: F811
    desk, name = intake(tmp_path / "desk", "pizza")
    real = Desk.append

    def append(self, make, *words, **more):
        if any(item["event"] == "made" for item in make(self.ledger())):
            raise KeyboardInterrupt
        return real(self, make, *words, **more)

    work = Work("pocket", ("pizza",), options=FAST)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Desk, "append", append)
        run_case(desk, name, work)
    before = everything(folder_of(desk, desk.ledger().case(name)))
    with pytest.raises(RequestError, match=r"is under way with seed 0, not 7: give seed=0$"):
        run_case(desk, name, replace(work, seed=7))  # the ledger says 0, and would have told of another run
    with monkeypatch.context() as patch:
        patch.setattr("erase_plugins.api.run_plan", None)  # would fail if asked
        case, _ = run_case(desk, name, work)
    assert case.state == "made"
    assert everything(folder_of(desk, case)) == before


def test_a_language_model_is_measured_by_its_run(tmp_path):
    model = language.trained(tmp_path / "people")
    forget = language.write(tmp_path / "letter.jsonl", language.rows(language.FORGET))
    retain = language.write(tmp_path / "others.jsonl", language.rows(language.RETAIN))
    desk, name = intake(tmp_path / "desk", "Zorvane", model=str(model), data=str(forget))
    assert [item["id"] for item in desk.ledger().case(name).remedies][:3] == ["keyword-guard", "npo", "simnpo"]
    told = [item["why"] for item in desk.ledger().case(name).remedies]
    assert told[-1] == "often without effect on what is known by heart" and told[-2].startswith("hides the answer")
    work = Work(
        str(model), ("Zorvane",), forget=str(forget), retain_data=(str(retain),), options={"steps": 12, "lr": 0.02}
    )
    case, _ = run_case(desk, name, work)
    case, ledger = evaluate_case(desk, name, str(model), ["Zorvane"], forget=str(forget), limits=Limits(0.5, 0.5))
    rows = {(row[0], row[1]): row[2] for row in case.last["evaluated"]["rows"]}
    assert case.last["evaluated"]["suite"] == "run"
    assert rows["forget_probability", "edited"] < rows["forget_probability", "base"]
    written = everything(desk.folder).lower()
    assert not any(word.lower().encode() in written for word in language.CANARIES)
    assert b"letter" not in written
    assert json.dumps(ledger.entries).count("others") == 0


@pytest.fixture
def steps_of_a_head(learned, tmp_path, monkeypatch):  # noqa: F811
    """A request about records of a head, and a counter that stops it at the n-th write of its run."""
    from erase_plugins.records.store import Records

    head, _ = learned
    desk, name = intake(tmp_path / "desk", "Person 7", "record", str(head.folder))
    counted, stop = [0], [0]

    def watched(real):
        def call(*words, **more):
            counted[0] += 1
            if counted[0] == stop[0]:
                raise KeyboardInterrupt
            found = real(*words, **more)
            counted[0] += 1
            if counted[0] == stop[0]:
                raise KeyboardInterrupt
            return found

        return call

    monkeypatch.setattr(Desk, "append", watched(Desk.append))
    monkeypatch.setattr(Records, "delete", watched(Records.delete))
    return desk, name, head, stop, counted


def test_records_killed_before_and_after_every_step(steps_of_a_head):
    desk, name, head, stop, counted = steps_of_a_head
    work = Work(str(head.folder), ("Person 7",))
    killed = 0
    for point in range(1, 12):  # one kill at each point, the next run goes on from there
        stop[0], counted[0] = point, 0
        try:
            case, _ = run_case(desk, name, work)
            break
        except KeyboardInterrupt:
            killed += 1
    stop[0] = 0
    assert killed >= 3
    assert (case.state, case.attempt) == ("made", 1)
    account = head.account()
    assert len(account.deleted) == 1
    assert [line["event"] for line in desk.ledger().case(name).lines].count("started") == 1
    case, _ = evaluate_case(desk, name, str(head.folder), ["Person 7"])
    assert case.state == "passed"
    assert case.last["evaluated"]["rows"][0][2] == pytest.approx(head.certificate()["rho_adaptive"], abs=1e-6)


def test_a_failed_attempt_is_followed_by_the_next_remedy_and_then_by_a_person(tmp_path):
    from tests.requests.conftest import attempted, triaged

    desk, name = intake(tmp_path / "desk", "pizza")
    planned = [item["id"] for item in desk.ledger().case(name).remedies]
    assert planned[:2] == ["keyword-guard", "uce"]
    triaged(desk, name, ("uce", "rece", "esd"))
    for attempt, remedy in enumerate(("uce", "rece", "esd"), 1):
        attempted(desk, name, attempt, False, remedy)
        case, _ = run_case(desk, name, Work("pocket", ("pizza",)), dry_run=True) if attempt < 3 else (None, None)
        assert attempt == 3 or case.remedy == ("uce", "rece", "esd")[attempt]
    assert desk.ledger().case(name).state == "escalated"
    with pytest.raises(RequestError, match="is escalated; it can run when"):
        run_case(desk, name, Work("pocket", ("pizza",)))
    with pytest.raises(RequestError, match="override= with one of"):
        decisions.deploy(desk, name)


def test_a_remedy_that_failed_is_not_tried_again_though_it_was_taken_out_of_turn(tmp_path):
    from tests.requests.conftest import attempted, triaged

    desk, name = intake(tmp_path / "desk", "pizza")
    triaged(desk, name, ("uce", "rece", "esd"))
    attempted(desk, name, 1, False, "rece")  # as with --method
    case, _ = run_case(desk, name, Work("pocket", ("pizza",)), dry_run=True)
    assert case.remedy == "uce"
    attempted(desk, name, 2, False, "uce")
    case, _ = run_case(desk, name, Work("pocket", ("pizza",)), dry_run=True)
    assert case.remedy == "esd"
    triaged(desk, name, ("uce", "rece", "esd"))  # planned again for the same model: it is known what failed on it
    case, _ = run_case(desk, name, Work("pocket", ("pizza",)), dry_run=True)
    assert case.remedy == "esd"


def test_what_cannot_be_done_now_is_refused_before_anything_is_loaded(tmp_path, monkeypatch):
    from erase_plugins.workflow import request_plan

    desk = Desk.create(tmp_path / "desk")
    name, _ = receive(desk, "object", ["pizza"])

    def loads(*_given, **_more):
        raise AssertionError("nothing may be looked up or imported for a refusal")

    with monkeypatch.context() as patch:
        patch.setattr(request_plan, "find_model", loads)
        with pytest.raises(RequestError, match=r"is received; .*next for it: 'erase-plugins request verify'"):
            plan_case(desk, name, "pocket")
        with pytest.raises(RequestError, match=r"is received; it can run when .*next for it: 'erase-plugins request v"):
            run_case(desk, name, Work("pocket", ("pizza",)), prepare=loads)
        with pytest.raises(RequestError, match=r"is received; it is measured when .*'erase-plugins request verify'"):
            evaluate_case(desk, name, "pocket", ["pizza"], prepare=loads)
    with pytest.raises(RequestError, match=r"names given \(1\) are not those of request q[0-9a-f]+ \(1\)"):
        run_case(desk, name, Work("pocket", ("somebody else",)), prepare=loads)


def test_another_model_than_planned_is_answered_with_the_option(tmp_path):
    desk, name = intake(tmp_path / "desk", "tractor", "class", "pocket-classifier")
    with pytest.raises(RequestError) as caught:
        run_case(desk, name, Work("pocket", ("tractor",)))
    assert "; give --model pocket-classifier, or plan again" in in_terminal(caught.value)


WRONG = {
    "other model": ({"model": "pocket-classifier"}, RequestError, "was planned for pocket"),
    "other remedy": ({"method": "gs-lora"}, RequestError, "is not in the plan"),
    "unknown option": ({"options": {"no-such": "1"}}, EraseError, "no-such"),
}


@pytest.mark.parametrize(("change", "kind", "said"), WRONG.values(), ids=WRONG)
def test_wrong_runs_are_refused_before_the_ledger_says_started(tmp_path, change, kind, said):
    desk, name = intake(tmp_path / "desk", "pizza")
    before = desk.ledger().head
    with pytest.raises(kind, match=said):
        run_case(desk, name, Work(**{"model": "pocket", "subjects": ("pizza",), **change}))
    assert desk.ledger().head == before


def test_a_request_whose_rows_are_refused_says_so_and_can_be_run_again(tmp_path):
    desk, name = intake(tmp_path / "desk", "tractor", "class", "pocket-classifier")
    (tmp_path / "rows" / "car").mkdir(parents=True)
    (tmp_path / "rows" / "car" / "a.png").write_text("no picture")
    few = {"epochs": "1", "epoch_steps": "1"}
    work = Work("pocket-classifier", ("tractor",), retain_data=(str(tmp_path / "rows"),), options=few)
    with pytest.raises(RequestError, match=r"a\.png is no readable picture"):
        run_case(desk, name, work)
    case = desk.ledger().case(name)
    assert (case.state, case.attempt, case.remedy) == ("refused", 1, "gs-lora")
    assert case.facts(datetime.date(2026, 1, 1))["next"] == "run"
    assert not list(desk.folder.glob(f".{name}-*.work"))
    export = tmp_path / "certificate.json"
    export.write_text(to_json(certificate(desk.ledger(), case)))
    told = verify(export)
    assert (told["state"], told["artifact"]) == ("refused", None)
    assert any("was refused: nothing was made" in text for text in told["says"])
    case, _ = run_case(desk, name, replace(work, retain_data=()))
    assert (case.state, case.attempt, case.remedy) == ("made", 2, "gs-lora")
    assert folder_of(desk, case).is_dir()


def test_an_error_that_may_pass_leaves_the_request_running(tmp_path, monkeypatch):
    desk, name = intake(tmp_path / "desk", "tractor", "class", "pocket-classifier")

    def unreachable(*_given):
        raise HubError("the Hub did not answer")

    monkeypatch.setattr(_Model, "make", unreachable)
    with pytest.raises(HubError):
        run_case(desk, name, Work("pocket-classifier", ("tractor",)))
    assert desk.ledger().case(name).state == "running"


def test_a_device_that_is_away_loses_no_checkpoint(tmp_path):
    desk, name = intake(tmp_path / "desk", "tractor", "class", "pocket-classifier")
    work = desk.folder / f".{name}-1.work"
    work.mkdir()
    (work / "checkpoint.safetensors").write_bytes(b"an hour of work")
    with pytest.raises(RequestError, match="device 'cuda:7' cannot be used here"):
        run_case(desk, name, Work("pocket-classifier", ("tractor",), device="cuda:7"))
    assert desk.ledger().case(name).state == "running"
    assert (work / "checkpoint.safetensors").is_file()


def test_remedies_follow_what_the_model_offers(tmp_path):
    desk, name = intake(tmp_path / "desk", "tractor", "class", "pocket-classifier")
    assert desk.ledger().case(name).remedy == "gs-lora"
    document, _ = receive(desk, "document", ["a letter"])
    decisions.verify_identity(desk, document, "account")
    with pytest.raises(Unsupported, match=r"no method fits a request of kind document on pocket.*npo"):
        plan_case(desk, document, "pocket")
    record, _ = receive(desk, "record", ["somebody"])
    decisions.verify_identity(desk, record, "account")
    with pytest.raises(Unsupported, match="head of erase-plugins records"):
        plan_case(desk, record, "pocket")


def test_what_is_left_is_told_as_it_is_judged():
    kept = [["forget_probability", "unknown", 0.44, None, None, 0], ["forget_probability", "base", 0.99, None, None, 0],
            ["forget_probability", "edited", 0.495, None, None, 0], ["retain_probability", "base", 0.9, None, None, 0],
            ["retain_probability", "edited", 0.9, None, None, 0]]  # fmt: skip
    assert left_over(kept, 0.1) == [
        "forget_probability: 10.0% of the subject is left, counted from 0.44 (somebody unknown); at most 10% may be"
    ]
    assert left_over(kept[1:], 0.1) == ["forget_probability: 50.0% of the subject is left; at most 10% may be"]
    assert left_over(kept[3:], 0.1) == []
    assert measured_rows(kept, NOBODY) == (
        ("metric", "before", "after", "somebody unknown"),
        [("forget_probability", "0.99", "0.495", "0.44"), ("retain_probability", "0.9", "0.9", "")],
    )
    assert measured_rows([["rho_adaptive", "deleted", 0.5, None, None, 0]], NOBODY) == (
        ("metric", "before", "after"), [("rho_adaptive", "", "0.5")]
    )  # fmt: skip


def rows(**values):
    return [ep.types.EvalRow(metric, subject, value, value, value, 4)
            for metric, pair in values.items() for subject, value in zip(("base", "edited"), pair, strict=True)]  # fmt: skip


@pytest.mark.parametrize(
    ("measured", "said"),
    [
        ({"target_rate": (1.0, 0.1), "kept_rate": (0.9, 0.8)}, []),
        ({"target_rate": (1.0, 0.11)}, ["target_rate fell from 1 to 0.11, and 0.1 of it may be left"]),
        ({"target_rate": (0.0, 0.0)}, ["target_rate was 0 before: the probes did not find the subject, which proves nothing"]),
        ({"target_rate": (1.0, 0.0), "kept_rate": (0.9, 0.7)}, ["kept_rate fell from 0.9 to 0.7, and may fall by 0.1"]),
        ({"kept_rate": (0.9, 0.9)}, ["the suite measured nothing about the subject before and after"]),
    ],
)  # fmt: skip
def test_verdicts(measured, said):
    assert verdict(rows(**measured), Limits()) == said


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (0.9, 0.44, []),
        (0.9, 0.3, []),
        (0.9, 0.46, ["forget_probability fell from 0.9 to 0.46, and 0.1 of what is above 0.4 (somebody unknown) may be left"]),
        (0.4, 0.1, ["forget_probability was 0.4, as of somebody unknown, before: the probes did not find the subject, "
                    "which proves nothing"]),
    ],
)  # fmt: skip
def test_what_is_left_counts_from_what_a_stranger_gets(before, after, said):
    """A model that never learned a text does not give it the probability 0, so nothing could ever pass."""
    stranger = ep.types.EvalRow("forget_probability", "unknown", 0.4, 0.4, 0.4, 0)
    assert verdict([stranger, *rows(forget_probability=(before, after))], Limits()) == said


@pytest.mark.parametrize(("share", "found"), [(1.0, True), (0.5, False), (None, False)])
def test_a_stranger_counts_only_where_every_text_has_one(share, found):
    numbers = {"forget_probability_before": 0.9, "forget_probability_after": 0.4, "unknown_probability": 0.4,
               "unknown_share": share}  # fmt: skip
    artifact = SimpleNamespace(manifest=SimpleNamespace(extra={"numbers": numbers}))
    assert ("forget_probability", "unknown") in {(row.metric, row.subject) for row in _own(artifact)} or not found
    assert len(_own(artifact)) == 2 + found


def test_an_error_without_names_still_says_the_option_in_words_of_the_terminal():
    discretion = Discretion(["Ada Lovelace"])

    def said(*parts) -> str:
        with pytest.raises(RequestError) as caught, discretion.quiet():
            raise RequestError(*parts)
        return in_terminal(caught.value)

    assert said("Ada Lovelace is nobody; give texts: ", Hint("forget")) == "[subject] is nobody; give texts: --forget"
    assert "Ada" not in said("give ", Hint("to", "Ada Lovelace"))
    assert "Lovelace" not in said("Ada ", "Lovelace", Hint("to", "x"))


def test_names_in_every_form_are_kept_back():
    keep = Discretion(["Jürgen O'Neill-Voss"])
    for text in ("JÜRGEN O'NEILL-VOSS", "erase_j_rgen_o_neill_voss", "Ju\u0308rgen  O'Neill-Voss", "der Neill war da"):
        assert keep.scrub(text) != text, text
    assert keep.scrub("a very different text of base and rank") == "a very different text of base and rank"
    with pytest.raises(ValueError, match=r"\[subject\] is twice") as raised, keep.quiet():
        try:
            raise KeyError("Jürgen O'Neill-Voss")
        except KeyError as error:
            raise ValueError("Jürgen O'Neill-Voss is twice") from error
    assert raised.value.__cause__ is None
    assert raised.value.__context__ is None


def test_a_case_knows_what_it_may_share():
    person, style = Case("q1"), Case("q2")
    person.last["received"], style.last["received"] = (
        {"what": "person", "public": True},
        {"what": "style", "public": True},
    )
    assert (person.shareable, style.shareable) == (False, True)
