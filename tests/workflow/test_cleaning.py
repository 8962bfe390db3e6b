"""`clean_lora` on files as other programs write them: same format back, nothing else touched, refusals."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from erase_plugins.artifacts.lora_rewrite import NOTE
from erase_plugins.errors import ArtifactError, EraseError, RequestError, Unsupported
from erase_plugins.workflow import lora_prompts, lora_unlearning
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.cleaning import clean_lora
from erase_plugins.workflow.models import target_of

CROSS = "down_blocks.0.attentions.0.transformer_blocks.0.attn2.to_k"
SELF = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_k"
TEXT = "encoder.layers.0.self_attn.q_proj"


@pytest.fixture(scope="module")
def target():
    from erase_plugins.testing.tiny import tiny_sd1

    return target_of(tiny_sd1(), "tiny")


def factors(dtype):
    generator = torch.Generator().manual_seed(1)
    shapes = {CROSS: (32, 16), SELF: (16, 16), TEXT: (32, 32)}
    return {
        path: (torch.randn(2, wide, generator=generator).to(dtype), torch.randn(out, 2, generator=generator).to(dtype))
        for path, (wide, out) in shapes.items()
    }


def write(place: Path, kind: str, dtype=torch.float16) -> Path:
    """A LoRA with alpha 1 at rank 2, named by hand as the formats name it."""
    tensors: dict[str, torch.Tensor] = {}
    for path, (down, up) in factors(dtype).items():
        text = path == TEXT
        if kind == "kohya":
            stem = ("lora_te_text_model_" if text else "lora_unet_") + path.replace(".", "_")
            tensors |= {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}
            tensors[f"{stem}.alpha"] = torch.tensor(1.0, dtype=dtype)
        elif kind == "diffusers":
            stem = f"text_encoder.text_model.{path}" if text else f"unet.{path}"
            tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
        elif not text:
            stem = f"base_model.model.{path}"
            tensors |= {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}
    place.mkdir(exist_ok=True)
    name = {"kohya": "somebody.safetensors", "diffusers": "pytorch_lora_weights.safetensors"}.get(kind)
    file = place / (name or "adapter_model.safetensors")
    save_file(tensors, file, {"ss_network_alpha": "1", "sshs_model_hash": "0" * 64})
    if name is None:
        config = {"peft_type": "LORA", "r": 2, "lora_alpha": 1, "target_modules": ["to_k"]}
        (place / "adapter_config.json").write_text(json.dumps(config))
    return file


def content(file: Path):
    with safe_open(file, "pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata()  # noqa: SIM118


@pytest.mark.parametrize("kind", ["kohya", "diffusers", "peft"])
def test_the_same_format_comes_back(target, tmp_path, kind):
    """Only down factors of layers that read text differ; names, dtypes, alpha and other metadata are as they were."""
    file = write(tmp_path / "in", kind)
    out = tmp_path / ("out" if kind == "peft" else "out.safetensors")
    made = clean_lora(file.parent if kind == "peft" else file, "red barn", target, out=out, images=0)
    written = out / "adapter_model.safetensors" if kind == "peft" else out
    (old, said), (new, says) = content(file), content(written)
    assert {name: (part.shape, part.dtype) for name, part in old.items()} == {
        name: (part.shape, part.dtype) for name, part in new.items()
    }
    changed = {name for name in old if not torch.equal(old[name], new[name])}
    down = ".lora_down.weight" if kind == "kohya" else ".lora_A.weight"
    assert len(changed) == (1 if kind == "peft" else 2)
    assert all(name.endswith(down) and "attn1" not in name for name in changed)
    assert says["ss_network_alpha"] == said["ss_network_alpha"]
    assert "sshs_model_hash" not in says  # it was that of other tensors
    assert "barn" not in json.dumps(says)
    assert made.format == kind
    assert made.left == {"unet": 1}
    load_artifact(written, "sd1")
    if kind == "peft":
        assert (out / "adapter_config.json").read_bytes() == file.with_name("adapter_config.json").read_bytes()


def test_the_effect_falls_where_the_concept_is_named(target, tmp_path):
    file = write(tmp_path / "in", "kohya", torch.float32)
    made = clean_lora(file, "red barn", target, out=tmp_path / "out.safetensors", images=0)
    assert made.after["effect"] < made.before["effect"]
    assert made.before["moved"] == 0
    assert 0 < made.left_share < 1
    assert "read no text" in made.notes[0]
    assert "rate" not in made.after


def test_strict_switches_off_what_reads_no_text_and_nothing_else(target, tmp_path):
    file = write(tmp_path / "in", "kohya")
    plain = clean_lora(file, "red barn", target, out=tmp_path / "plain.safetensors", images=0)
    made = clean_lora(file, "red barn", target, out=tmp_path / "out.safetensors", images=0, strict=True)
    new, other = content(tmp_path / "out.safetensors")[0], content(tmp_path / "plain.safetensors")[0]
    differ = {name for name in new if not torch.equal(new[name], other[name])}
    assert differ == {"lora_unet_" + SELF.replace(".", "_") + ".lora_down.weight"}
    assert not new[differ.pop()].any()
    assert made.left == plain.left == {"unet": 1}
    assert "stay as they are" not in " ".join(made.notes)


def test_steps_reach_what_reads_no_text_and_leave_less_than_the_closed_form(target, tmp_path, monkeypatch):
    """Against the same file without steps: less of the LoRA where the concept is named, no more change elsewhere.

    What stays counts less here and steps are longer than usual: untrained weights answer to no word in particular, so
    that hardly anything can be taken from one prompt and left to another.
    """
    monkeypatch.setattr(lora_unlearning, "Schedule", partial(lora_unlearning.Schedule, keep=0.7, rate=0.06))
    monkeypatch.setattr(
        lora_prompts, "quiet_words", lambda _target, words: words
    )  # both ways with the same closed form
    file = write(tmp_path / "in", "kohya", torch.float32)
    before = {name: part.clone() for name, part in target.host.unet.state_dict().items()}
    plain = clean_lora(file, "red barn", target, out=tmp_path / "plain.safetensors", images=0)
    made = clean_lora(file, "red barn", target, out=tmp_path / "out.safetensors", images=0, steps=60)
    (new, says), (other, _) = content(tmp_path / "out.safetensors"), content(tmp_path / "plain.safetensors")
    differ = {name for name in new if not torch.equal(new[name], other[name])}
    assert all(name.startswith("lora_unet_") and name.endswith(".lora_down.weight") for name in differ)
    assert any("attn1" in name for name in differ) and json.loads(says[NOTE])["left"] == 0
    assert made.before == plain.before  # the LoRA in memory is not what was trained
    assert made.after["effect"] < 0.8 * plain.after["effect"]
    assert made.after["moved"] < 1.2 * plain.after["moved"]
    assert all(torch.equal(part, before[name]) for name, part in target.host.unet.state_dict().items())
    assert "as long as drawing" in made.notes[-1] and "as long as" not in " ".join(plain.notes)
    with pytest.raises(RequestError, match="choose one of them"):
        clean_lora(file, "red barn", target, steps=5, strict=True)


def test_the_base_is_as_before(target, tmp_path):
    before = {name: part.clone() for name, part in target.host.unet.state_dict().items()}
    rows = target.encode(["a barn"]).embeds.clone()
    clean_lora(write(tmp_path / "in", "kohya"), "red barn", target, out=tmp_path / "out.safetensors", images=0)
    assert all(torch.equal(part, before[name]) for name, part in target.host.unet.state_dict().items())
    assert torch.equal(target.encode(["a barn"]).embeds, rows)


def test_a_dry_run_writes_nothing(target, tmp_path):
    file = write(tmp_path / "in", "kohya")
    made = clean_lora(file, "red barn", target, out=tmp_path / "out.safetensors", dry_run=True)
    assert made.cleaned == {"unet": 1, "text_encoder": 1}
    assert made.path is None
    assert [item.name for item in tmp_path.iterdir()] == ["in"]


def test_nothing_is_overwritten(target, tmp_path):
    file = write(tmp_path / "in", "kohya")
    for place in (file, tmp_path / "mine.safetensors"):
        place.touch()
        before = place.read_bytes()
        with pytest.raises(ArtifactError, match=r"exists already|not written"):
            clean_lora(file, "red barn", target, out=place, images=0)
        assert place.read_bytes() == before


def test_a_lora_that_reads_no_text_is_refused(target, tmp_path):
    down, up = factors(torch.float32)[SELF]
    stem = "lora_unet_" + SELF.replace(".", "_")
    file = tmp_path / "x.safetensors"
    save_file({f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up}, file)
    with pytest.raises(Unsupported, match=r"no layer of 'x\.safetensors' reads text"):
        clean_lora(file, "red barn", target, out=tmp_path / "out.safetensors")


def test_a_lora_of_another_base_is_refused(target, tmp_path):
    stem = "lora_unet_" + CROSS.replace(".", "_")
    file = tmp_path / "x.safetensors"
    save_file({f"{stem}.lora_down.weight": torch.ones(2, 768), f"{stem}.lora_up.weight": torch.ones(320, 2)}, file)
    with pytest.raises(Unsupported, match="for another base"):
        clean_lora(file, "red barn", target, out=tmp_path / "out.safetensors")


@pytest.mark.parametrize(("words", "told"), [
    ({"erase": " "}, "empty"),
    ({"erase": "barn", "keep": ["Barn"]}, "both erased and kept"),
    ({"erase": "barn", "out": "name"}, "must end in .safetensors"),
])  # fmt: skip
def test_requests_that_make_no_sense(target, tmp_path, words, told):
    file = write(tmp_path / "in", "kohya")
    place = tmp_path / words.pop("out", "out.safetensors")
    with pytest.raises(RequestError, match=told):
        clean_lora(file, words.pop("erase"), target, out=place, **words)


def test_other_adapters_are_refused_by_name(target, tmp_path):
    file = tmp_path / "x.safetensors"
    save_file({"lora_unet_x.lokr_w1": torch.ones(2, 2)}, file)
    with pytest.raises(EraseError, match="LyCORIS"):
        clean_lora(file, "barn", target, out=tmp_path / "out.safetensors")
