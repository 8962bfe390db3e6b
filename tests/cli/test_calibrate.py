"""`calibrate` writes one file, which `run --preset` takes, and never replaces a file of somebody else's."""

from __future__ import annotations

import json


def test_pocket_is_calibrated_and_the_file_is_a_preset(erase, loaded, tmp_path):
    file = tmp_path / "c.json"
    words = ("calibrate", "--model", "pocket", "--quick", "--method", "uce", "--out", file)
    first = erase(*words, "--json")
    assert first.code == 0
    data = json.loads(file.read_text())
    assert first.data == {**data, "file": "c.json"}
    assert data["words"] == {"listed": 889, "own": 889}
    assert data["neighbours"]["dog"]["closest"][1][0] in ("canine", "puppy", "friend")
    assert erase(*words).code == 2  # in the way
    file.write_text(json.dumps({"mine": 1}))
    assert erase(*words, "--force").code == 2
    file.write_text(json.dumps({**data, "preset": {"near": 0.9, "gate_low": 0.1}}, indent=1))
    dry = erase("run", "uce", "--erase", "dog", "--preset", file, "--dry-run", "--out", tmp_path / "a", "--json")
    assert dry.data["plan"]["options"]["near"] == 0.9
    again = erase(*words, "--force")
    assert again.code == 0
    assert "wrote c.json" in again.out
