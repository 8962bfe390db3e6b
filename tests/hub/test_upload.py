"""Files as the client reads them: several threads at once, one after the other."""

from __future__ import annotations

import threading

from huggingface_hub import CommitOperationAdd

import hub_cards
from erase_plugins.workflow.collection import build_collection
from hub_cards.bundle import PushFile
from hub_cards.sending import _addition
from hub_cards.upload import Upload


def test_threads_read_one_file_without_disturbing_each_other(tmp_path):
    data = bytes(range(256)) * 500
    (tmp_path / "x").write_bytes(data)
    upload, wrong = Upload(PushFile("x", tmp_path / "x")), []
    barrier = threading.Barrier(4)

    def read():
        barrier.wait()
        for _ in range(5):
            assert upload.tell() in (0, len(data))
            upload.seek(0)
            parts = []
            while part := upload.read(1000):
                parts.append(part)
            wrong.extend([] if b"".join(parts) == data else [1])

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_a_collection_of_artifacts_with_the_same_bytes_is_pushed(hub, pizza, tmp_path):
    library = build_collection({f"m{turn}": pizza for turn in range(6)}, tmp_path / "lib")
    hub_cards.push_collection(library, "tester/lib", license="mit")
    files = hub.files("tester/lib")
    for turn in range(6):
        for item in pizza.manifest.files:
            assert files[f"m{turn}/{item.name}"] == (pizza.path / item.name).read_bytes()


def test_the_client_is_told_a_hash_that_is_known(tmp_path):
    (tmp_path / "x").write_bytes(b"abc" * 400)
    made = _addition(PushFile("x", tmp_path / "x", sha256="ab" * 32))
    assert isinstance(made, CommitOperationAdd)
    assert (made.upload_info.sha256.hex(), made.upload_info.size) == ("ab" * 32, 1200)
    assert made.b64content() and made.path_or_fileobj.tell() == 0
