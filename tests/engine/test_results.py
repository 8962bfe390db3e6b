"""What a method may hand back, what it is asked for, and what of it an artifact keeps."""

from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.edit import Edit, LowRank
from erase_plugins.engine.runner import checked
from erase_plugins.errors import PluginError, RequestError, Unsupported
from erase_plugins.hookspecs import hookimpl
from erase_plugins.manager import get_manager
from erase_plugins.types import Certificate, Concept, DataRef, EditPlan, ForgetItem, RunResult

CERTIFICATE = Certificate("noise", 1.0, 1e-6, "noise 1", "", True, (("rho", 0.5),), scope="the last layer")
METHOD = SimpleNamespace(id="demo", produces=frozenset({"lowrank"}))
EDIT = Edit("sd1", {"unet": {"a.weight": LowRank(torch.ones(1, 4), torch.ones(3, 1))}})


def test_a_bare_edit_is_a_result():
    assert checked(METHOD, EDIT, "sd1") == (EDIT, RunResult(EDIT))


def test_a_result_without_an_edit_has_an_empty_one():
    edit, result = checked(METHOD, RunResult(None, CERTIFICATE, records=({"a": (1, 2)},)), "sd1")
    assert (edit.family, len(edit)) == ("sd1", 0)
    assert result.records == ({"a": [1, 2]},)


@pytest.mark.parametrize(
    ("result", "words"),
    [
        (None, "returned NoneType instead of an Edit"),
        (RunResult(None), "returned NoneType instead of an Edit"),
        ({"unet": {}}, "returned dict instead of an Edit"),
        (RunResult("edit", CERTIFICATE), "returned str instead of an Edit"),
        (RunResult(EDIT, {"epsilon": 1}), "returned a certificate that is dict"),
        (RunResult(EDIT, records=("a line",)), "returned records that are not all mappings"),
        (RunResult(EDIT, guards=({"a": torch.ones(1)},)), "returned guards that JSON cannot hold"),
        (RunResult(EDIT, guards=({"a": float("nan")},)), "returned guards that JSON cannot hold"),
    ],
)
def test_what_is_no_result_is_a_fault_of_the_plugin(result, words):
    with pytest.raises(PluginError, match=f"method demo {words}"):
        checked(METHOD, result, "sd1")


class Demo:
    """Forgets records; hands back whatever it is told to."""

    id, title, paper, summary = "demo", "Demo", "none", "a method for tests"
    families, kinds, produces = frozenset({"*"}), frozenset({"record", "object"}), frozenset({"lowrank"})
    reads_data = True
    groups = frozenset()
    Options = dataclasses.make_dataclass("Options", [], frozen=True)
    asked: list[EditPlan] = []
    certificate = CERTIFICATE
    changes, value = True, 0.1

    def plan(self, request, info):
        return EditPlan(request, {}, ("unet.a",))

    def run(self, plan, target, ctx):
        self.asked.append(plan)
        ref = next(iter(target.modules("cross_kv")))
        change = LowRank(
            torch.full((1, target.weight(ref).shape[1]), 0.1), torch.full((target.weight(ref).shape[0], 1), self.value)
        )
        edit = Edit(target.family.id, {ref.component: {ref.weight: change}}) if self.changes else None
        return RunResult(edit, self.certificate, ({"id": "a-guard"},), ({"event": "learn", "steps": 3},))


@pytest.fixture(scope="module")
def pipe():
    from erase_plugins.testing.tiny import tiny_sd1

    return tiny_sd1()


@pytest.fixture
def demo():
    class Plugin:
        @hookimpl
        def erase_methods(self):
            return [method]

    method = Demo()
    method.asked = []
    with get_manager().temporary(Plugin(), "demo"):
        yield method


@pytest.fixture
def people(tmp_path):
    path = tmp_path / "people.jsonl"
    path.write_text('{"id": "r-17"}\n')
    return path


def test_everything_of_a_result_is_in_the_file_and_comes_back(demo, pipe, people, tmp_path):
    item = ForgetItem("r-17", "record", data=DataRef(str(people)))
    other = DataRef(str(tmp_path / "others.jsonl"))
    (tmp_path / "others.jsonl").write_text('{"id": "r-1"}\n')
    artifact = ep.erase(pipe, item, "demo", keep=["a dog", other])
    saved = artifact.save(tmp_path / "a", ("patch",))
    found = ep.load_artifact(tmp_path / "a").manifest
    assert found == saved.manifest
    assert found.certificate == CERTIFICATE
    assert (found.guards, found.records) == (({"id": "a-guard"},), ({"event": "learn", "steps": 3},))
    assert found.preserve == ("a dog",)
    assert [item.uri for item in found.retain_data] == ["others.jsonl"]
    (stored,) = found.concepts
    assert (stored.data.uri, stored.data.sha256) == ("people.jsonl", DataRef(str(people)).digest())
    assert str(tmp_path) not in (tmp_path / "a" / "erase.json").read_text()
    (plan,) = demo.asked
    assert plan.request.forget[0].data == DataRef(str(people)).pinned()


def test_an_artifact_without_weights_is_written_and_read(demo, pipe, tmp_path):
    demo.changes = False
    artifact = ep.erase(pipe, ForgetItem("r-17", "record"), "demo", out=tmp_path / "a")
    assert sorted(path.name for path in (tmp_path / "a").iterdir()) == ["erase.json"]
    found = ep.load_artifact(tmp_path / "a")
    assert found.manifest == artifact.manifest
    assert len(found.edit) == 0
    with ep.apply(pipe, found) as applied:
        assert applied.patched == 0


def test_a_merge_does_not_keep_the_certificate_and_says_so(demo, pipe):
    one = ep.erase(pipe, ForgetItem("r-17", "record"), "demo")
    demo.value = 0.2  # the same change twice is refused
    two = ep.erase(pipe, ForgetItem("r-18", "record"), "demo")
    for artifacts in ([one, two], [one.with_manifest(certificate=None, records=()), two]):
        manifest = ep.merge(artifacts).manifest
        assert manifest.certificate is None
        assert manifest.records == ()
        assert "the certificate of the original is about other weights; it was left out" in manifest.warnings


def test_changed_data_stops_the_run(demo, pipe, people):
    item = ForgetItem("r-17", "record", data=DataRef(str(people)).pinned())
    people.write_text('{"id": "r-18"}\n')
    with pytest.raises(RequestError, match=r"data 'people.jsonl' changed"):
        ep.erase(pipe, item, "demo")
    assert demo.asked == []


@pytest.mark.parametrize(
    ("item", "keep", "words"),
    [
        (ForgetItem("x", data=DataRef("faces")), (), r"uce reads no data; leave out 'faces' and name what to forget"),
        (Concept("x"), (DataRef("kept"),), r"uce reads no data; leave out 'kept'.*methods that read data: .*demo"),
        (ForgetItem("r-17", "record"), (), r"uce forgets explicit, object.*not record \('r-17'\).*for record: .*demo"),
        (
            ForgetItem("x", "stlye"),
            (),
            r"uce forgets .*not stlye \('x'\); methods for stlye: none; did you mean 'style'\?",
        ),
        (ForgetItem("x", "zzzz"), (), r"uce forgets .*not zzzz \('x'\); methods for zzzz: none$"),
        (ForgetItem(kind="class", label=3), (), r"uce forgets .*, not class \('3'\)"),
    ],
)
def test_a_method_that_reads_no_data_says_so(demo, item, keep, words):
    with pytest.raises(Unsupported, match=words):
        ep.plan("pocket", item, "uce", keep=keep)
