"""Hub nodes on the real server against a test Hub, and our sentence for everything that must be refused."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import erase_plugins as ep
import hub_cards
from erase_plugins.artifacts.edit import Edit, LowRank
from erase_plugins.testing import HubServer
from erase_plugins.workflow.collection import build_collection
from tests.comfy_nodes.conftest import ROOT, context_edit
from tests.layouts.making import artifact_of, random_edit

pytestmark = [pytest.mark.comfy, pytest.mark.slow]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return tmp_path_factory.mktemp("sharing")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer(xet=tmp_path_factory.mktemp("xet")) as server:  # large files as the Hub keeps them today
        yield server


@pytest.fixture(scope="module")
def served(in_comfy, base, hub, pocket_target):
    """What sharing.py saw."""
    place = base / "models" / "erase_plugins"
    for folder in (*(base / name for name in ("custom_nodes", "input", "output", "temp", "user")), place):
        folder.mkdir(parents=True)
    (base / "custom_nodes" / "erase_nodes").symlink_to(ROOT)
    build_collection(
        [ep.erase(pocket_target, name, options={"vocabulary": 20}) for name in ("pizza", "dog")], place / "shelf"
    )
    whole = artifact_of(pocket_target, random_edit(pocket_target, ("cross_kv",)), "other_base")
    fingerprint = json.loads(json.dumps(whole.manifest.base["fingerprint"]))
    fingerprint["unet"] = {**fingerprint["unet"], "structure": "0" * 64, "keys": ""}
    changed = {**whole.manifest.base, "model": "a larger one", "fingerprint": fingerprint}
    whole.with_manifest(base=changed).save(place / "other_base", ("patch",))
    anonymous = {**whole.manifest.base, "fingerprint": {}}
    for name, edit in (("other_width", context_edit(9)), ("partial", _partial(whole.edit))):
        manifest = replace(whole.manifest, name=name, base=anonymous)
        replace(whole, manifest=manifest, edit=edit).save(place / name, ("patch",))
    known = ep.erase(pocket_target, "dog", options={"vocabulary": 20}).save(base / "known", target=pocket_target)
    with hub.as_default(base / "hf" / "hub"):
        hub_cards.push(known, "tester/cached", license="apache-2.0")
        hub_cards.pull("tester/cached")
    for name in ("cached", "away"):
        hub.fault(f"tester/{name}", "reset", times=0)
    return in_comfy("sharing.py", str(base), env=hub.environment(base / "hf"))


def _partial(edit):
    deltas = dict(edit.deltas["unet"])
    first = next(iter(deltas.values()))
    return Edit(edit.family, {"unet": {**deltas, "no.such.module.weight": LowRank(first.A, first.B)}})


def pixels(base, name):
    return np.asarray(Image.open(base / f"{name}.png").convert("RGB")).astype(float)


def text(answer, node):
    return answer["output"][node]["text"][0]


def test_looking_shows_the_exact_list_and_sends_nothing(served, hub):
    shown = text(served["look"], "4")
    assert shown.startswith("tester/no-pizza: new, public, ")
    assert "nothing was sent" in shown
    published = hub.files("tester/no-pizza")
    listed = {
        line.split()[1]: int(line.split("(")[1].split()[0]) for line in shown.splitlines() if line.startswith("new ")
    }
    assert set(published) - {".gitattributes"} == set(listed)
    assert {name: len(published[name]) for name in listed if name != "README.md"} == {
        name: size for name, size in listed.items() if name != "README.md"
    }


def test_a_graph_with_the_switch_on_sends_nothing_by_itself(served):
    """Whatever a workflow file, an API graph or the metadata of a picture say: a person has to answer."""
    for name in ("asked", "asked again"):
        assert served[name]["end"] == "execution_success"
        assert "nothing was sent yet" in text(served[name], "4")
    assert served["nothing there yet"]["error"].startswith("cannot pull from tester/no-pizza")


def test_the_question_shows_exactly_what_would_be_sent(served, hub):
    (offer,) = served["asked"]["offers"]
    assert (offer["repo"], offer["account"], offer["new"], offer["private"]) == (
        "tester/no-pizza", "tester", True, False,
    )  # fmt: skip
    listed = [line.split()[1] for line in text(served["asked"], "4").splitlines() if line.startswith("new ")]
    assert [item["name"] for item in offer["files"]] == listed
    assert sum(item["bytes"] for item in offer["files"]) == offer["bytes"] > 0


def test_the_key_is_nowhere_but_with_the_client_that_queued(served, base):
    keys = [offer["key"] for name in ("asked", "asked again") for offer in served[name]["offers"]]
    assert len(set(keys)) == 2
    outputs = json.dumps([{name: part for name, part in served[case].items() if name != "offers"}
                          for case in ("asked", "asked again")])  # fmt: skip
    for key in keys:
        assert len(key) >= 43
        assert key not in served["history while waiting"] + served["history"] + served["log"] + outputs


@pytest.mark.parametrize(
    ("case", "status", "sentence"),
    [
        ("other page", 403, "refused by ComfyUI"),  # whose own guard is in front of ours, where it knows the address
        ("other page of this browser", 403, "comes from another web page"),
        ("a form", 403, "send JSON"),
        ("guessed", 400, "nothing waits under this key"),
        ("no key", 400, "nothing waits under this key"),
        ("no object", 400, "send JSON"),
        ("after declining", 400, "nothing waits under this key"),
        ("twice", 400, "nothing waits under this key"),
        ("not mine", 403, "cannot push to somebody/else"),
    ],
)
def test_only_the_right_answer_publishes(served, case, status, sentence):
    got, body = served["answers"][case]
    assert got == status
    assert sentence in body["error"]


def test_publishing_needs_an_answer_and_is_not_repeated(served, hub):
    assert served["answers"]["declined"] == [200, {"sent": [], "text": "nothing was sent"}]
    status, body = served["answers"]["accepted"]
    commit = hub.store.repository("tester/no-pizza").commit("main").oid
    assert (status, body["commit"]) == (200, commit)
    assert body["text"].endswith(f"use it as tester/no-pizza@{commit}")
    assert hub.count("POST /api/models/tester/no-pizza/commit/") == 1
    assert f"everything is there already at {commit[:12]}" in text(served["publish again"], "4")
    assert "offers" not in served["publish again"]


@pytest.mark.parametrize("way", ["named", "over a wire"])
def test_a_branch_runs_again_when_it_moved_and_only_then(served, way):
    assert served["published car"][0] == served["published dog"][0] == 200
    assert "9" in served[f"first {way}"]["executed"]
    assert served[f"first {way} again"]["executed"] == []
    behind = {"3", "9"} if way == "named" else set()  # the other graph has done these already
    assert {"2", "98"} | behind <= set(served[f"second {way}"]["executed"])
    assert served[f"second {way} again"]["executed"] == []


def test_search_finds_it_with_its_commit(served, hub):
    commit = hub.store.repository("tester/no-pizza").commit("main").oid
    assert text(served["search"], "1").startswith(f"tester/no-pizza@{commit}: pizza (")


def test_a_pulled_erasure_is_in_force_and_its_commit_is_in_the_picture(served, base, hub):
    commit = hub.store.repository("tester/no-pizza").commit("main").oid
    assert served["pull"]["end"] == "execution_success"
    assert f"tester/no-pizza@{commit}: verified" in text(served["pull"], "98")
    notes = Image.open(base / "pulled.png").text
    assert json.loads(notes["prompt"])["2"]["inputs"]["repo"] == f"tester/no-pizza@{commit}"
    assert json.loads(notes["workflow"])["nodes"][0]["widgets_values"][0] == f"tester/no-pizza@{commit}"
    assert str(base) not in notes["prompt"] + notes["workflow"]
    assert abs(pixels(base, "pulled") - pixels(base, "plain")).mean() > 5
    assert np.array_equal(pixels(base, "pulled"), pixels(base, "kept"))


@pytest.mark.parametrize(
    ("way", "number", "widget", "wanted"),
    [
        ("stacked", "3", "rows", "hub:tester/no-pizza@{} : 1.0"),
        ("loaded", "3", "reference", "hub:tester/no-pizza@{}"),
        ("linked", "2", "repo", "tester/no-pizza@{}"),
    ],
)
def test_every_way_to_name_a_repository_leaves_the_commit_and_no_path_in_the_picture(
    served, base, hub, way, number, widget, wanted
):
    text_there = wanted.format(hub.store.repository("tester/no-pizza").commit("main").oid)
    assert served[way]["end"] == "execution_success"
    assert "patched 14 of 14 modules" in text(served[way], "98")
    assert np.array_equal(pixels(base, way), pixels(base, "pulled"))
    notes = Image.open(base / f"{way}.png").text
    assert json.loads(notes["prompt"])[number]["inputs"][widget] == text_there
    workflow = json.loads(notes["workflow"])
    assert text_there in workflow["nodes"][0]["widgets_values"]
    assert (workflow["links"] == []) == (way == "linked")
    assert str(base) not in notes["prompt"] + notes["workflow"]


def test_a_download_moves_the_bar_of_its_node(served, hub):
    told = [(value, total) for node, value, total in served["pull"]["progress"] if node == "2"]
    files = {len(content) for content in hub.files("tester/no-pizza").values()}
    assert {total for _, total in told} <= files
    assert max(total for _, total in told) == max(value for value, _ in told)
    assert len(told) >= 2  # the manifest and the weights


def test_without_the_hub_the_cache_serves_and_names_its_revision(served, hub):
    commit = hub.store.repository("tester/cached").commit("main").oid
    shown = text(served["cached"], "99")
    assert f"tester/cached@{commit}: verified" in shown
    assert f"the Hub did not answer; this is revision {commit} from the cache" in shown
    assert "the Hub was not asked; this is revision " in text(served["offline"], "99")


@pytest.mark.parametrize("case", ["nothing cached", "nothing cached, offline", "nothing cached, loaded"])
def test_without_hub_and_cache_the_error_says_what_to_copy_where(served, hub, case):
    answer = served[case]
    assert answer["end"] == "execution_error", answer
    assert answer["error"].startswith("cannot pull from tester/away: ")
    for part in (
        f"erase.json and the .safetensors files of {hub.url.removeprefix('http://')}/tester/away",
        "models/erase_plugins/tester_away",
    ):
        assert part in answer["error"]


def test_strength_0_draws_the_picture_of_the_base(served, base):
    assert np.array_equal(pixels(base, "off"), pixels(base, "plain"))


def test_no_token_in_pictures_history_log_or_widgets(served, base, hub):
    for place in (base / "output").rglob("*.png"):
        assert hub.token.encode() not in place.read_bytes()
        assert all(hub.token not in note for note in Image.open(io.BytesIO(place.read_bytes())).text.values())
    assert len(list((base / "output").rglob("*.png"))) >= 4
    everything = json.dumps(served)
    assert hub.token not in everything
    assert not [name for name in served["hub inputs"] if "token" in name or "password" in name]
    assert hub.count("POST /api/repos/create") > 0  # so the token was in use


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("rows", "'much' is not a number; write name : strength"),
        ("rows twice", "'shared' is named twice"),
        ("rows missing", "the nearest is 'shared'"),
        ("outside", "lies outside the model folder"),
        ("long", "no artifact 'xxx"),
        ("NUL row", "no artifact 'x?y'"),
        ("collection", "no artifact 'shelv' in models/erase_plugins; the nearest is 'shelf'"),
        ("time", "'2' is no share of the sampling"),
        ("probe guide", "'dog' would become itself"),
        ("repo", "'no-pizza' is not a repository; write owner/name"),
        ("list", "'pizza, dog, car' looks like several concepts (pizza, dog, car)"),
    ],
)
def test_wrong_widgets_are_refused_before_anything_runs(served, case, sentence):
    answer = served[case]
    assert answer["status"] == 400, answer
    details = [error["details"] for item in answer["node_errors"].values() for error in item["errors"]]
    assert any(sentence in item for item in details), details


@pytest.mark.parametrize(
    ("case", "sentence"),
    [
        ("rows linked wrong", "'x' is not a number"),
        ("other base", "'other_base' was made for a larger one"),
        ("other width", "the map is for text rows of 9"),
        ("partial", "patched 14 of 15 modules"),
        ("collection name", "did you mean 'pizza'"),
        ("nothing picked", "no name is given"),
        ("revoke", "no member or concept in this stack named 'dog'"),
        ("layer", "'top' is no layer that"),
        ("probe nothing", "nothing to look at"),
        ("probe long", "is longer than"),
        ("report", "missing are model, clip, vae, edit"),
        ("repo missing", "cannot pull from tester/nothing"),
        ("revision missing", "it has no such revision"),
        ("NUL", "no artifact 'sha?red' in models/erase_plugins"),
        ("nothing saved", "no artifact 'shard' in models/erase_plugins; the nearest is 'shared'"),
    ],
)
def test_what_turns_out_while_running_stops_with_our_sentence(served, case, sentence):
    answer = served[case]
    assert answer["end"] == "execution_error", answer
    assert sentence in answer["error"]


def test_measuring_stops_within_a_few_steps_and_leaves_the_next_run_intact(served):
    assert served["stopped"]["end"] == "execution_interrupted"
    assert served["stopped"]["steps_after_stop"] < 20
    assert served["after the stop"]["end"] == "execution_success"


def test_a_wrong_wire_is_refused(served):
    assert served["lora stack"]["status"] == 400


def test_a_linked_text_reaches_the_run_function(served):
    assert served["rows linked"]["end"] == "execution_success"
    assert "strength 1 (context map in the weights)" in text(served["rows linked"], "99")
