"""Files as the client reads them: several threads at once, one after the other."""

from __future__ import annotations

import base64
import threading

import hub_cards
from erase_plugins.workflow.collection import build_collection
from hub_cards.bundle import PushFile
from hub_cards.sending import Addition


def test_threads_read_one_file_without_disturbing_each_other(tmp_path):
    data = bytes(range(256)) * 500
    (tmp_path / "x").write_bytes(data)
    upload, wrong = Addition(PushFile("x", tmp_path / "x")), []
    barrier = threading.Barrier(4)

    def read():
        barrier.wait()
        for _ in range(5):
            with upload.as_file(with_tqdm=True) as file:
                assert file.tell() == 0
                file.seek(0)
                parts = []
                while part := file.read(1000):
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
    made = Addition(PushFile("x", tmp_path / "x", sha256="ab" * 32))
    assert (made.upload_info.sha256.hex(), made.upload_info.size) == ("ab" * 32, 1200)
    assert base64.b64decode(made.b64content()) == b"abc" * 400
