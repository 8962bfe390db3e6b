"""The package as a plugin: method in the contract suite, commands, suite, card section, node, gate."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from erase_plugins.testing.contract import MethodContract


class TestAntiHebbian(MethodContract):
    methods = ("anti-hebbian",)


def command(monkeypatch, capsys, *words: str) -> tuple[int, str, str]:
    from erase_plugins.cli.main import main

    monkeypatch.setattr(sys, "argv", ["erase-plugins", *words])
    with pytest.raises(SystemExit) as caught:
        main()
    out = capsys.readouterr()
    return int(caught.value.code or 0), out.out, out.err


def test_from_add_to_forget(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, capsys, "guard", "add", "g.safetensors", "van gogh", "pizza")[0] == 0
    before = (tmp_path / "g.safetensors").read_bytes()
    code, out, _ = command(
        monkeypatch, capsys, "guard", "check", "g.safetensors", "a PIZZA, at night", "a river", "--json"
    )
    found = json.loads(out)["results"]
    assert (code, [item["label"] for item in found]) == (1, ["pizza", ""])
    assert command(monkeypatch, capsys, "guard", "check", "g.safetensors", "a quiet river")[0] == 0
    assert command(monkeypatch, capsys, "guard", "add", "g.safetensors", "batman")[0] == 0
    assert command(monkeypatch, capsys, "guard", "forget", "g.safetensors", "Batman")[0] == 0
    assert (tmp_path / "g.safetensors").read_bytes() == before  # as if it had never been stored
    out = command(monkeypatch, capsys, "guard", "stats", "g.safetensors", "--json")[1]
    assert json.loads(out)["concepts"] == ["pizza", "van gogh"]
    (tmp_path / "prompts.txt").write_text("\n".join(f"a {word} by the sea" for word in ["house", "boat"] * 100))
    assert command(monkeypatch, capsys, "guard", "calibrate", "g.safetensors", "prompts.txt")[0] == 0


def test_curve_is_written_once_and_never_over_foreign_files(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    words = ("guard", "curve", "--loads", "20,60", "--cues", "50", "--out", "curve")
    assert command(monkeypatch, capsys, *words)[0] == 0
    record = json.loads((tmp_path / "curve" / "robustness.json").read_text())
    first = record["curves"][0]
    assert first["erasure"][0] == first["erasure_clean"][0] == 1.0
    assert first["erasure"][0] > first["erasure"][-1]
    assert first["density"] == pytest.approx(first["clean_density"], rel=0.02)
    assert (tmp_path / "curve" / "robustness.png").stat().st_size > 10_000
    again = (tmp_path / "curve" / "robustness.json").read_bytes()
    assert "--force" in command(monkeypatch, capsys, *words)[2]
    assert command(monkeypatch, capsys, *words, "--force")[0] == 0
    assert (tmp_path / "curve" / "robustness.json").read_bytes() == again
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "robustness.json").write_text("{}")
    code, _, error = command(monkeypatch, capsys, *words[:-1], "other", "--force")
    assert code == 2
    assert "another program" in error
    assert (tmp_path / "other" / "robustness.json").read_text() == "{}"


BAD = [
    (("add", "new.safetensors", "a b c d e"), "5 words"),
    (("add", "g.safetensors", "pizza"), "stored already"),
    (("add", "notes.txt", "pizza"), "notes.txt"),
    (("add", "no/where.safetensors", "pizza"), "no folder 'no'"),
    (("add", "new.safetensors", "pizza", "--clusters", "2"), "2 clusters"),
    (("add", "new.safetensors", "pizza", "--clusters", "400", "--letters", "400"), "400 clusters"),
    (("forget", "g.safetensors", "batman"), "never stored"),
    (("forget", "missing.safetensors", "batman"), "guard add"),
    (("check", "notes.txt", "a pizza"), "notes.txt"),
    (("calibrate", "g.safetensors", "notes.txt"), "1 prompts"),
    (("curve", "--loads", "ten", "--out", "c"), "ten"),
    (("curve", "--loads", "0", "--out", "c"), "loads 0"),
    (("curve", "--erased", "1.5", "--out", "c"), "1.5"),
    (("curve", "--out", "notes.txt"), "notes.txt"),
]


@pytest.mark.parametrize(("words", "said"), BAD)
def test_bad_input_is_one_line_and_nothing_is_lost(tmp_path, words, said, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert command(monkeypatch, capsys, "guard", "add", "g.safetensors", "pizza")[0] == 0
    (tmp_path / "notes.txt").write_text("mine")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    code, _, error = command(monkeypatch, capsys, "guard", *words)
    assert code in (1, 2)
    assert error.startswith("error: ")
    assert "\n" not in error.strip()
    assert said in error
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_full_memory_is_told_and_left_as_it_was(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shape = ("--clusters", "4", "--letters", "2")
    assert command(monkeypatch, capsys, "guard", "add", "g.safetensors", "pizza", *shape)[0] == 0
    before = (tmp_path / "g.safetensors").read_bytes()
    code, _, error = command(monkeypatch, capsys, "guard", "add", "g.safetensors", "batman", "yoda", "shrek")
    assert code == 2
    assert "full" in error or "same code" in error
    assert (tmp_path / "g.safetensors").read_bytes() == before


def test_the_suite_runs_without_torch_and_has_the_baseline(tmp_path):
    program = "import sys\nfrom erase_plugins.cli.main import main\ntry:\n    main()\nfinally:\n    assert 'torch' not in sys.modules"
    words = ["evaluate", "--suite", "guard_recall", "--set", "ordinary=1000", "--out", "report", "--json"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=tmp_path,
                          env={**os.environ, "OMP_NUM_THREADS": "1"}, timeout=300)  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    rows = {(row["metric"], row["subject"]): row["value"] for row in json.loads(done.stdout)["rows"]}
    assert rows["recall_0_errors_rate", "guard"] >= 0.95
    assert rows["false_alarm_rate", "guard"] <= 0.01
    assert rows["recall_2_errors_rate", "cosine"] >= rows["recall_2_errors_rate", "guard"]  # the honest comparison


def test_card_section_names_the_baseline():
    from erase_assoc_memory.evaluator import GuardRecall
    from erase_assoc_memory.plugin import erase_card_sections

    options = {"concepts": "pizza, batman", "ordinary": 200, "clusters": 32, "letters": 32, "rate": 0.05}
    report = GuardRecall().run(None, SimpleNamespace(options=options, seed=0, progress=lambda *_: None))
    text = erase_card_sections(artifact=None, report=report)[0]
    assert "| | guard | cosine search |" in text
    assert "speed bump" in text
    assert erase_card_sections(artifact=None, report=SimpleNamespace(suite="quick")) == []


def test_the_node_passes_replaces_and_stays_in_its_folder(tmp_path, monkeypatch):
    from erase_assoc_memory.coding import GramEncoder
    from erase_assoc_memory.file import save_guard
    from erase_assoc_memory.guard import Guard
    from erase_assoc_memory.plugin import erase_comfy_nodes

    from erase_plugins.errors import RequestError

    def record(*values: object, **named: object) -> SimpleNamespace:
        return SimpleNamespace(values=values, **named)

    spec = SimpleNamespace(NodeSpec=record, Input=record, Output=record, Result=record)
    folder = tmp_path / "models"
    folder.mkdir()
    monkeypatch.setitem(sys.modules, "folder_paths", SimpleNamespace(get_folder_paths=lambda name: [str(folder)]))
    made = Guard.new(GramEncoder())
    made.add(GramEncoder(), "pizza")
    save_guard(made, folder / "guard.safetensors")
    save_guard(made, tmp_path / "outside.safetensors")
    run = erase_comfy_nodes(spec=spec)[0].run
    common = {"conditioning": "prompt", "guard": "guard.safetensors"}
    assert run(text="a river", **common).values[0][:3] == ("prompt", False, 0.0)
    assert run(text="a pizza", replacement="other", **common).values[0][:3] == ("other", True, 1.0)
    assert run(text="a pizza", **common).values[0][:3] == ("prompt", True, 1.0)
    for name in ("../outside.safetensors", str(tmp_path / "outside.safetensors"), "missing.safetensors"):
        with pytest.raises(RequestError, match="no guard"):
            run(text="a pizza", conditioning="prompt", guard=name)


def test_the_gate_raises_an_eraser_for_flagged_prompts_only(tmp_path):
    import torch
    from erase_assoc_memory.gate import GuardedPipeline
    from erase_assoc_memory.guard import Guard
    from erase_assoc_memory.text_encoder import PipelineEncoder

    import erase_plugins as ep

    pipe = ep.load("pocket")
    artifact = ep.erase("pocket", ["pizza"], "anti-hebbian", out=str(tmp_path / "out"), options={"words": 60})
    encoder = PipelineEncoder(pipe)
    guard = Guard.new(encoder)
    guard.add(encoder, "pizza")

    def draw(call, prompt):
        return call(prompt, num_inference_steps=2, generator=torch.Generator().manual_seed(0), output_type="pt").images

    base = {prompt: draw(pipe, prompt) for prompt in ("a pizza", "a dog")}
    with GuardedPipeline(pipe, artifact, guard, encoder) as guarded:
        assert torch.equal(draw(guarded, "a dog"), base["a dog"])
        assert not guarded.results[0].flagged
        assert not torch.equal(draw(guarded, "a pizza"), base["a pizza"])
        assert guarded.results[0].label == "pizza"
        assert torch.equal(draw(guarded, "a dog"), base["a dog"])
    assert torch.equal(draw(pipe, "a pizza"), base["a pizza"])
