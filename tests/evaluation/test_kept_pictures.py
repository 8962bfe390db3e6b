"""When weights are hashed anew, and what is counted of pictures that were kept."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig

import erase_plugins as ep
from erase_plugins.artifacts import lineage
from erase_plugins.engine import disk_cache
from erase_plugins.errors import RequestError
from erase_plugins.evaluation import kept_pictures, run
from erase_plugins.evaluation.attacks.controls import Victim
from erase_plugins.evaluation.attacks.material import drawn_by_base
from erase_plugins.evaluation.attacks.study import Study
from erase_plugins.evaluation.budget import Budget
from erase_plugins.evaluation.prompts import Prompt
from erase_plugins.evaluation.work import kept_work
from erase_plugins.runtime.patcher import checksum
from erase_plugins.testing.tiny import tiny_sd1
from erase_plugins.workflow.models import target_of
from tests.evaluation.attacks.stub import tiny_subject


@pytest.fixture
def subject(tmp_path, monkeypatch):
    monkeypatch.setenv(disk_cache.VARIABLE, str(tmp_path / "cache"))
    return tiny_subject(tiny_sd1())


@pytest.fixture
def read(monkeypatch):
    """Values that went into hashes so far."""
    counted = [0]

    def counting(tensor):
        counted[0] += tensor.numel()
        return checksum(tensor)

    monkeypatch.setattr(kept_pictures, "checksum", counting)
    return counted


def key(subject):
    return kept_pictures.key_of(subject, ["an owl"], "settings")


def test_weights_are_hashed_once_while_nothing_writes_them(subject, read):
    first = key(subject)
    whole = read[0]
    assert key(subject) == first
    assert read[0] - whole < whole / 50
    with subject.destroyed():
        assert key(subject) != first, "other tensors stand there"
    assert key(subject) == first


@pytest.mark.parametrize("counted", [True, False])
def test_every_write_is_noticed_whether_pytorch_counts_it_or_not(subject, counted):
    """What is written through ``.data`` does not raise the version of a parameter."""
    first = key(subject)
    table = subject.pipe.text_encoder.get_input_embeddings().weight
    weight = subject.pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_k.weight
    for parameter in (table, weight):
        now = parameter.detach() if counted else parameter.data
        with torch.no_grad():
            kept = now.clone()
            before = parameter._version
            now.mul_(1.5)
            assert (parameter._version > before) is counted
        assert key(subject) != first
        with torch.no_grad():
            now.copy_(kept)
        assert key(subject) == first


def test_artifacts_are_hashed_once_for_all_that_is_measured_of_them(subject, monkeypatch):
    counted = []
    monkeypatch.setattr(lineage, "edit_hash", lambda edit: counted.append(edit) or "0" * 64)
    assert subject.marks == subject.marks and len(counted) == 1


def make(subject):
    def drawn():
        subject.queries += 5  # two looks while something is learned, three pictures at the end
        return torch.zeros(3, 3, 4, 4), {}, {}

    return drawn


def test_pictures_that_were_kept_count_as_those_that_are_drawn(subject):
    asked = []
    for _ in range(2):
        before = subject.queries
        kept_pictures.once(subject, ["an owl"] * 3, "settings", make(subject))
        asked.append(subject.queries - before)
    assert asked == [5, 5]
    prompts = [Prompt("a picture of an owl", seed, {"concept": "owl"}, "concept") for seed in (1, 2)]
    before = subject.queries
    drawn_by_base(subject, prompts)
    drawn_by_base(subject, prompts)
    assert subject.queries - before == 2 * 2


def test_a_run_that_goes_on_after_a_kill_counts_what_it_had_before(subject, tmp_path):
    (tmp_path / "work").mkdir()
    counts = []
    for _ in range(2):
        subject.queries = 0
        budget = Budget(0, "cpu", tmp_path / "work", {}, lambda *_: None, "quick", 100)
        study = Study(None, subject, budget, None, 3, [Victim("edited", subject)])
        prompts = [Prompt("an owl", seed, {"concept": "owl"}, "concept") for seed in range(3)]
        sample = study.kept("plain name", make(subject), prompts)
        counts.append((study.asked, json.dumps(sample.hits)))
    assert counts[0] == counts[1] == (5, "[1, 1, 1]")


def test_pictures_of_one_accelerator_are_not_shown_as_those_of_another(subject, monkeypatch):
    """All of a kind shared one key, though each model rounds in its own way."""
    keys = [key(subject)]
    for name in ("NVIDIA H100", "NVIDIA L40S", "NVIDIA H100"):
        monkeypatch.setattr(torch.cpu, "get_device_name", lambda _device, name=name: name, raising=False)
        keys.append(key(subject))
    assert len(set(keys)) == 3 and keys[1] == keys[3]


PROMPTS = {"target": [Prompt("a picture of an owl", 1, {"concept": "owl"}, "concept")]}


def other_edit(pipe):
    return ep.apply(pipe, ep.erase(target_of(pipe, "tiny"), "dog", "uce", options={"vocabulary": 0}))


def other_adapter(pipe):
    torch.manual_seed(0)
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"], init_lora_weights=False))


def other_schedule(pipe):
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, beta_schedule="linear", beta_end=0.03)


def other_decoder(pipe):
    pipe.vae.decoder.conv_out.weight.data.mul_(-1)


def other_skips(pipe):
    pipe.enable_freeu(s1=0.2, s2=0.2, b1=1.6, b2=1.6)


def other_attention(pipe):
    class Doubled(AttnProcessor):
        def __call__(self, *args, **more):
            return 2 * super().__call__(*args, **more)

    pipe.unet.set_attn_processor(Doubled())


def other_forward(pipe):
    inner = pipe.unet.conv_in.forward
    pipe.unet.conv_in.forward = lambda *args, **more: 2 * inner(*args, **more)


def a_guard(pipe):
    return ep.apply(pipe, ep.erase(target_of(pipe, "tiny"), "owl", "keyword-guard", options={"action": "empty"}))


CHANGES = [
    other_edit,
    other_adapter,
    other_schedule,
    other_decoder,
    other_skips,
    other_attention,
    other_forward,
    a_guard,
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_the_base_drew_before_it_was_changed_is_not_shown_again(subject, change):
    """The fingerprint of a base knows no adapters, edits, decoder or noise schedule; pictures do."""
    looked = lambda asked: drawn_by_base(asked, PROMPTS["target"])  # noqa: E731
    drawn = lambda asked, sets: asked.generate(["a picture of an owl"], [1], edit="off")  # noqa: E731
    before = looked(subject), subject.remembered(PROMPTS, drawn, "test")
    assert subject.remembered(PROMPTS, lambda *_: None, "test") is before[1], "it is remembered while nothing changes"
    handle = change(subject.pipe)
    after = tiny_subject(subject.pipe, artifacts=subject.artifacts)
    for old, new in zip(before, (looked(after), after.remembered(PROMPTS, drawn, "test")), strict=True):
        assert not torch.equal(old, new)
    del handle


@pytest.mark.parametrize(("values", "type_"), [([0.5, 0.25], torch.float16), ([0.5, 1 / 3], torch.float32)])
def test_pictures_come_back_bit_by_bit_from_as_little_room_as_that_takes(subject, values, type_):
    drawn = torch.tensor(values).repeat(3, 8, 8, 8)
    rows = {"rows": torch.tensor([1 / 3], dtype=torch.float64)}
    for made in (lambda: (drawn, {"a": 1}, rows), None):
        pictures, facts, more = kept_pictures.once(subject, ["an owl"], "settings", made)
        assert torch.equal(pictures, drawn) and pictures.dtype == torch.float32
        assert facts["a"] == 1 and torch.equal(more["rows"], rows["rows"])
    (file,) = disk_cache.folder().glob("drawn-*")
    assert disk_cache.read(file.stem)["pictures"].dtype == type_


@pytest.mark.parametrize("edit", ["off", "destroyed"])
def test_what_no_edit_decides_is_drawn_once_for_all_artifacts(subject, monkeypatch, edit):
    counted, draw = [], run.draw
    monkeypatch.setattr(
        run, "draw", lambda pipe, texts, *more, **how: counted.append(len(texts)) or draw(pipe, texts, *more, **how)
    )
    other = tiny_subject(subject.pipe, artifacts=[ep.erase(subject.target, "dog", "uce", options={"vocabulary": 0})])
    pictures = [item.generate(["an owl", "a dog"], [1, 2], edit=edit) for item in (subject, other, other)]
    assert counted == [2] and [subject.queries, other.queries] == [2, 4]
    assert torch.equal(pictures[0], pictures[1]) and torch.equal(pictures[1], pictures[2])
    for asked in ((["an owl", "a cat"], [1, 2]), (["an owl", "a dog"], [1, 3])):
        other.generate(*asked, edit=edit)
    other.guidance += 1
    other.generate(["an owl", "a dog"], [1, 2], edit=edit)
    other.steps += 1
    other.generate(["an owl", "a dog"], [1, 2], edit=edit)
    assert counted == [2] * 5
    for _ in range(2):
        other.generate(["an owl", "a dog"], [1, 2])
    assert counted == [2] * 7, "an edit's own pictures are never kept"


def test_prompts_that_no_key_can_be_made_of_are_drawn_all_the_same(subject, monkeypatch):
    """ComfyUI's tokenizers refuse what a pipeline shortens."""

    def refused(texts):
        raise RequestError("too long")

    monkeypatch.setattr(subject.target, "tokens", refused)
    for _ in range(2):
        assert subject.generate(["an owl"], [1], edit="off").shape[0] == 1
    assert not list(disk_cache.folder().glob("drawn-*"))


def test_what_ran_under_a_live_lora_is_never_resumed(tmp_path):
    """The key of the folder knows the weights, not what hangs on them."""
    pipe = tiny_sd1()
    subject = tiny_subject(pipe)
    subject.artifacts = [subject.artifacts[0].save(tmp_path / "made", target=subject.target)]
    for live in (False, True):
        if live:
            pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"]))
        with kept_work("attack", SimpleNamespace(id="x"), subject, {}, 0, tmp_path / "out") as work:
            assert (work.parent == tmp_path / "out") is not live
