"""What the script in the browser asks the server: facts about an artifact, and taking in a dropped file."""

from __future__ import annotations

import asyncio
import json
import sys
from types import SimpleNamespace

import pytest

from comfy_nodes import describing, host, routes
from erase_plugins.errors import ArtifactError, RequestError
from tests.layouts.making import artifact_of, random_edit


@pytest.fixture
def models(tmp_path, monkeypatch):
    """The model folder erase_plugins; no LoRAs."""
    monkeypatch.setattr(host, "artifact_folders", lambda: [tmp_path / "models"])
    monkeypatch.setattr(host, "lora_path", lambda name: None)
    monkeypatch.setattr(host, "lora_names", list)
    monkeypatch.setattr(routes, "_answer", lambda content, status=200: (status, content))
    return tmp_path / "models"


@pytest.fixture
def data(pocket_target, tmp_path):
    """Bytes of an artifact in one file."""
    folder = tmp_path / "made"
    artifact_of(pocket_target, random_edit(pocket_target, ("denoiser",)), "no_pizza").save(folder, ("patch",))
    return next(folder.glob("*.safetensors")).read_bytes()


class Content:
    def __init__(self, data):
        self.data = data

    async def iter_chunked(self, size):
        for start in range(0, len(self.data), 1000):
            yield self.data[start : start + 1000]


class Slow(Content):
    async def iter_chunked(self, size):
        async for part in super().iter_chunked(size):
            await asyncio.sleep(0)
            yield part


def send(name, data):
    return asyncio.run(routes._take_in(SimpleNamespace(query={"name": name}, content=Content(data))))


def test_a_dropped_artifact_is_kept_once(models, data):
    assert send("no_pizza.safetensors", data) == (200, {"name": "no_pizza.safetensors"})
    assert send("no_pizza.safetensors", data) == (200, {"name": "no_pizza.safetensors"})
    assert [path.name for path in models.iterdir()] == ["no_pizza.safetensors"]
    assert (models / "no_pizza.safetensors").read_bytes() == data


def test_another_file_of_the_same_name_gets_a_number(models, data):
    models.mkdir()
    (models / "no_pizza.safetensors").write_bytes(b"something else")
    assert send("no_pizza.safetensors", data) == (200, {"name": "no_pizza_2.safetensors"})
    assert (models / "no_pizza.safetensors").read_bytes() == b"something else"


@pytest.mark.parametrize(
    "name",
    [
        "../x.safetensors", "a/b.safetensors", "a\\b.safetensors", ".x.safetensors", "x.ckpt", "", "a\x00.safetensors",
        "a\nb.safetensors", "c:x.safetensors", "a\u202ex.safetensors",
    ],
)  # fmt: skip
def test_names_that_are_no_plain_file_names_are_refused(models, name):
    with pytest.raises(RequestError, match="is not the name of a safetensors file"):
        routes.check_name(name)
    assert send(name, b"x")[0] == 400


def test_a_name_that_no_file_system_holds_is_refused_in_one_line(models):
    status, body = send("x" * 300 + ".safetensors", b"x")
    assert status == 400
    assert "is longer than 200 bytes" in body["error"]
    assert len(body["error"]) < 200
    assert not models.exists()


@pytest.mark.parametrize("name", ["a\x00b", "x" * 5000, "x/" * 3000, "\x00", "", ".", "a\nb"])
def test_odd_names_are_refused_in_one_line(models, name):
    models.mkdir()
    status, body = asyncio.run(routes._artifact(SimpleNamespace(query={"name": name})))
    assert status == 400
    assert body["error"].isprintable()
    assert len(body["error"]) < 250


def test_two_uploads_of_one_name_at_the_same_time_are_both_kept(models, data, pocket_target, tmp_path):
    """Each chunk of one is followed by a chunk of the other, as from two windows of a browser."""
    folder = tmp_path / "second"
    artifact_of(pocket_target, random_edit(pocket_target, ("cross_kv",)), "no_pizza").save(folder, ("patch",))
    other = next(folder.glob("*.safetensors")).read_bytes()

    async def both():
        requests = [SimpleNamespace(query={"name": "a.safetensors"}, content=Slow(item)) for item in (data, other)]
        return await asyncio.gather(*(routes._take_in(request) for request in requests))

    answers = asyncio.run(both())
    assert [status for status, _ in answers] == [200, 200]
    kept = {body["name"]: content for (_, body), content in zip(answers, (data, other), strict=True)}
    assert set(kept) == {"a.safetensors", "a_2.safetensors"}
    for name, content in kept.items():
        assert (models / name).read_bytes() == content
    assert {path.name for path in models.iterdir()} == set(kept)


def test_what_is_not_ours_is_not_kept(models, data, monkeypatch):
    header = b'{"__metadata__":{"format":"pt"}}'
    status, body = send("x.safetensors", len(header).to_bytes(8, "little") + header)
    assert (status, list(models.iterdir())) == (400, [])
    assert "was not written by erase-plugins" in body["error"]
    assert send("x.safetensors", b"\x80\x02 a pickle")[0] == 400
    monkeypatch.setattr(routes, "MOST_BYTES", 100)
    assert "is larger than" in send("x.safetensors", data)[1]["error"]
    assert list(models.iterdir()) == []


def test_an_artifact_says_what_it_erases(models, pocket_target, data):
    artifact_of(pocket_target, random_edit(pocket_target, ("denoiser",)), "folder").save(models / "folder", ("patch",))
    (models / "one.safetensors").write_bytes(data)
    for name in ("folder", "one.safetensors"):
        status, found = asyncio.run(routes._artifact(SimpleNamespace(query={"name": name})))
        assert status == 200
        assert json.dumps(found)
        assert found["base"] == "pocket"
        assert found["text"].startswith(f"erases: {', '.join(found['erases'])}")
        assert found["erases"]


def test_unknown_and_silent_artifacts(models):
    status, found = asyncio.run(routes._artifact(SimpleNamespace(query={"name": "missing"})))
    assert status == 400
    assert "no artifact 'missing'" in found["error"]
    models.mkdir()
    header = b'{"__metadata__":{"format":"pt"}}'
    (models / "silent.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    assert "does not say what it erases" in describing.describe("silent.safetensors")["text"]
    with pytest.raises(ArtifactError):
        describing.describe("../silent.safetensors")


def test_routes_are_added_where_a_server_is_and_nowhere_else(monkeypatch):
    added = []
    table = SimpleNamespace(
        get=lambda path: lambda call: added.append(("GET", path)),
        post=lambda path: lambda call: added.append(("POST", path)),
    )
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=SimpleNamespace(instance=None)))
    routes.register()
    assert added == []
    running = SimpleNamespace(instance=SimpleNamespace(routes=table))
    monkeypatch.setitem(sys.modules, "server", SimpleNamespace(PromptServer=running))
    routes.register()
    assert added == [
        ("GET", "/erase_plugins/artifact"), ("POST", "/erase_plugins/artifact"), ("GET", "/erase_plugins/methods"),
        ("POST", "/erase_plugins/publish"), ("GET", "/erase_plugins/library"), ("GET", "/erase_plugins/picture"),
    ]  # fmt: skip


def test_a_file_that_is_announced_too_large_is_refused_before_its_first_byte(models, data):
    request = SimpleNamespace(query={"name": "a.safetensors"}, content=None, content_length=routes.MOST_BYTES + 1)
    status, answer = asyncio.run(routes._take_in(request))
    assert status == 400
    assert "larger than 4 GiB" in answer["error"]
    assert not models.exists()


def test_no_more_than_a_few_files_come_at_once(models, data):
    async def all_of(count):
        requests = [
            SimpleNamespace(query={"name": f"a{number}.safetensors"}, content=Slow(data)) for number in range(count)
        ]
        return await asyncio.gather(*map(routes._take_in, requests))

    answers = asyncio.run(all_of(routes.AT_ONCE))
    assert [status for status, _ in answers] == [200] * routes.AT_ONCE
    routes._COMING.update(map(str, range(routes.AT_ONCE)))
    try:
        status, answer = send("b.safetensors", data)
    finally:
        routes._COMING.clear()
    assert status == 400
    assert "4 files are being taken in already" in answer["error"]
    assert send("b.safetensors", data)[0] == 200


def test_a_disk_is_not_filled(models, data, monkeypatch):
    monkeypatch.setattr(routes.shutil, "disk_usage", lambda place: SimpleNamespace(free=routes.LEFT_FREE + 5))
    request = SimpleNamespace(query={"name": "a.safetensors"}, content=Content(data), content_length=6)
    status, answer = asyncio.run(routes._take_in(request))
    assert status == 400
    assert "the disk would have less than 1 GiB left" in answer["error"]


@pytest.mark.parametrize("name", ["a\0.safetensors", "x" * 300 + ".safetensors", "a\n.safetensors"])
def test_names_that_no_disk_takes_are_refused(models, data, name):
    status, answer = send(name, data)
    assert status == 400
    assert "\0" not in answer["error"]
    assert not models.exists() or not list(models.iterdir())
