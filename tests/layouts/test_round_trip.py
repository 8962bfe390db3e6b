"""What is written is read back: every layout, random edits, no loaded model involved in names."""

from __future__ import annotations

import re

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from erase_plugins.artifacts.difference import difference
from erase_plugins.artifacts.edit import CONTEXT, AddOn, ContextMap, Dense, Edit, LowRank, Rows
from erase_plugins.artifacts.header import read_header
from erase_plugins.artifacts.lowrank import uniform_rank
from erase_plugins.artifacts.tensors import read_tensors, tensor_hash, write_tensors
from erase_plugins.errors import ArtifactError, CorruptArtifact
from erase_plugins.families.base import ModuleRef
from erase_plugins.manager import get_manager
from erase_plugins.workflow.artifacts import load_artifact
from tests.families.test_naming import info_of

LORA = ("diffusers", "kohya", "diff", "peft")
SETTINGS = settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))


def refs_of(name: str) -> list[ModuleRef]:
    return [ref for ref in info_of(name).refs if ref.kind != "embedding"]


def made(ref: ModuleRef, rank: int, seed: int) -> LowRank:
    """Factors with few columns, so that real shapes stay small."""
    generator = torch.Generator().manual_seed(seed)
    shape = (min(ref.shape[0], 6), min(ref.shape[1], 5), *ref.shape[2:])
    B = torch.randn(shape[0], rank, *([1] * (len(shape) - 2)), generator=generator)
    return LowRank(torch.randn(rank, *shape[1:], generator=generator), B)


@st.composite
def lora_edits(draw):
    model = draw(st.sampled_from(["sd15", "sd2", "sdxl", "pocket"]))
    refs = draw(st.lists(st.sampled_from(refs_of(model)), min_size=1, max_size=6, unique_by=lambda ref: ref.weight))
    deltas: dict = {}
    for index, ref in enumerate(refs):
        deltas.setdefault(ref.component, {})[ref.weight] = made(ref, draw(st.integers(1, 4)), index)
    return Edit(info_of(model).family.id, deltas)


@pytest.mark.parametrize("layout", LORA)
@given(edit=lora_edits())
@SETTINGS
def test_read_is_the_inverse_of_write(layout, edit, tmp_path_factory):
    chosen, family = get_manager().layout(layout), get_manager().family(edit.family)
    assert chosen.accepts(edit, family).answer == "yes"
    path = tmp_path_factory.mktemp("round") / chosen.filename("erase_x", family)
    chosen.write(edit, family, {"format": "pt"}, path)
    back = chosen.read(path, family)
    if layout == "diff":
        assert not difference(back, edit)
    elif layout == "peft":  # one rank per component folder
        for component, group in edit.deltas.items():
            part = uniform_rank(Edit(edit.family, {component: group}))
            assert not difference(Edit(edit.family, {component: back.deltas[component]}), part)
    else:
        assert not difference(back, uniform_rank(edit))


def every_kind() -> Edit:
    return Edit(
        "sd1",
        {
            "unet": {
                CONTEXT: ContextMap(torch.randn(2, 8), torch.randn(8, 2)),
                "conv_in.weight": LowRank(torch.randn(2, 4, 3, 3), torch.randn(8, 2, 1, 1)),
                "mid_block.attentions.0.proj_in.weight": Dense(torch.randn(4, 4)),
                "mid_block.attentions.0.proj_in.bias": Dense(torch.randn(4)),
                "mid_block.attentions.0.transformer_blocks.0.attn2": AddOn(
                    "bottleneck", {"down": torch.randn(2, 4), "up": torch.randn(4, 2)}, {"activation": "relu"}
                ),
            },
            "text_encoder": {"embeddings.token_embedding.weight": Rows(torch.tensor([1, 4]), torch.randn(2, 8))},
        },
        {"C": torch.randn(3, 8)},
        {"note": "x"},
    )


def test_patch_layout_keeps_everything(tmp_path):
    layout, family, edit = get_manager().layout("patch"), get_manager().family("sd1"), every_kind()
    layout.write(edit, family, {"format": "pt"}, tmp_path / "edit.safetensors")
    back = layout.read(tmp_path / "edit.safetensors", family)
    assert not difference(back, edit)
    assert torch.equal(back.statistics["C"], edit.statistics["C"])
    assert back.meta == edit.meta
    addon = back.deltas["unet"]["mid_block.attentions.0.transformer_blocks.0.attn2"]
    assert (addon.type, dict(addon.config)) == ("bottleneck", {"activation": "relu"})


@pytest.mark.parametrize("layout", ["diffusers", "kohya", "peft"])
@pytest.mark.parametrize(
    ("delta", "key", "reason"),
    [
        (Dense(torch.ones(4, 4)), "conv_in.weight", "full weight changes"),
        (Dense(torch.ones(4)), "conv_in.bias", "bias changes"),
        (Rows(torch.tensor([0]), torch.ones(1, 4)), "embeddings.token_embedding.weight", "rows of an embedding"),
        (ContextMap(torch.ones(1, 4), torch.ones(4, 1)), CONTEXT, "context map"),
        (AddOn("bottleneck", {}, {}), "mid_block", "added modules"),
        (LowRank(torch.ones(1, 4), torch.ones(4, 1)), "embeddings.token_embedding.weight", "linear and convolution"),
    ],
)
def test_lora_layouts_refuse_what_they_cannot_carry(layout, delta, key, reason):
    low = LowRank(torch.ones(1, 4), torch.ones(4, 1))
    edit = Edit("sd1", {"unet": {key: delta, "mid_block.attentions.0.proj_in.weight": low}})
    verdict = get_manager().layout(layout).accepts(edit, get_manager().family("sd1"))
    assert verdict.answer == "no"
    assert reason in verdict.reason


def test_diff_layout_takes_weights_and_biases_only(tmp_path):
    layout, family = get_manager().layout("diff"), get_manager().family("sd1")
    assert layout.accepts(every_kind(), family).answer == "no"
    edit = Edit("sd1", {"unet": {k: d for k, d in every_kind().deltas["unet"].items() if d.kind == "dense"}})
    layout.write(edit, family, {"format": "pt"}, tmp_path / "p.safetensors")
    assert sorted(read_header(tmp_path / "p.safetensors").tensors) == [
        "lora_unet_mid_block_attentions_0_proj_in.diff", "lora_unet_mid_block_attentions_0_proj_in.diff_b",
    ]  # fmt: skip
    assert not difference(layout.read(tmp_path / "p.safetensors", family), edit)
    assert not get_manager().layout("kohya").sniff(list(read_header(tmp_path / "p.safetensors").tensors), {})


@pytest.mark.parametrize("layout", LORA)
def test_files_state_plain_float32_and_alpha_is_the_rank(layout, tmp_path):
    chosen, family = get_manager().layout(layout), get_manager().family("sdxl")
    refs = refs_of("sdxl")[::40]
    shared = torch.randn(3, 5).half()
    edit = Edit("sdxl", {"unet": {ref.weight: LowRank(shared[:, :5], torch.randn(4, 3)) for ref in refs if len(ref.shape) == 2
                                  and ref.component == "unet"}})  # fmt: skip
    path = tmp_path / chosen.filename("x", family)
    chosen.write(edit, family, {"format": "pt"}, path)
    file = path if path.is_file() else next(tmp_path.rglob("*.safetensors"))
    header = read_header(file)
    assert {entry.dtype for entry in header.tensors.values()} == {"F32"}
    alphas = [part for name, part in read_tensors(file)[0].items() if name.endswith("alpha")]
    assert [float(part) for part in alphas] == ([3.0] * len(edit) if layout == "kohya" else [])
    assert ("lora_adapter_metadata" in header.metadata) == (layout == "diffusers")


def test_same_content_gives_the_same_bytes(tmp_path):
    layout, family = get_manager().layout("kohya"), get_manager().family("sd1")
    edit = Edit(
        "sd1", {"unet": {ref.weight: made(ref, 2, 1) for ref in refs_of("pocket")[:9] if ref.component == "unet"}}
    )
    for name in ("a", "b"):
        layout.write(edit, family, {"format": "pt", "z": "1", "b": "2"}, tmp_path / f"{name}.safetensors")
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@given(
    st.dictionaries(
        st.text("abcx.é|_", min_size=1, max_size=12),
        st.tuples(
            st.sampled_from([torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool]),
            st.lists(st.integers(0, 4), max_size=3),
        ),
        max_size=6,
    )
)
@settings(max_examples=40, deadline=None)
def test_our_writer_is_read_by_the_stock_library(spec):
    import tempfile
    from pathlib import Path

    from safetensors.torch import load_file

    tensors = {name: torch.ones(shape).to(dtype) for name, (dtype, shape) in spec.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.safetensors"
        write_tensors(path, tensors, {"format": "pt"})
        stock, (ours, meta) = load_file(path), read_tensors(path)
    assert meta == {"format": "pt"}
    assert stock.keys() == ours.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert stock[name].dtype == ours[name].dtype == tensor.dtype
        assert torch.equal(stock[name], tensor)
        assert torch.equal(ours[name], tensor)


# ---- the header, by an independent reader -----------------------------------------------------------------------------


def web_ui_reader(path):
    """Twenty lines that know nothing of this package: what a web interface takes from a LoRA file."""
    import json
    import struct

    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    meta = header.pop("__metadata__")
    if meta.get("ss_base_model_version", "").startswith("sdxl_"):
        family = "SDXL"
    else:
        family = "SD2" if meta.get("ss_v2") == "True" else "SD1"
    ranks = {entry["shape"][0] for name, entry in header.items() if name.endswith("lora_down.weight")}
    stems = {name.split(".", 1)[0] for name in header}
    pairs = all({f"{stem}.lora_down.weight", f"{stem}.lora_up.weight"} <= header.keys() for stem in stems)
    alphas = {name.split(".", 1)[0]: entry for name, entry in header.items() if name.endswith(".alpha")}
    scale = {
        struct.unpack("<f", data[slice(*entry["data_offsets"])])[0] / header[f"{stem}.lora_down.weight"]["shape"][0]
        for stem, entry in alphas.items()
    }
    pairs = pairs and set(alphas) == stems
    return family, ranks, stems, pairs, scale, meta, data


@pytest.mark.parametrize(
    ("model", "expected", "architecture", "version"),
    [
        ("sd15", "SD1", "stable-diffusion-v1/lora", "sd_v1"),
        ("sd2", "SD2", "stable-diffusion-v2-512/lora", "sd_v2"),
        ("sdxl", "SDXL", "stable-diffusion-xl-v1-base/lora", "sdxl_base_v1-0"),
    ],
)
def test_web_interface_rules(model, expected, architecture, version, tmp_path):
    import hashlib

    info = info_of(model)
    layout, family = get_manager().layout("kohya"), info.family
    refs = info.modules("cross_kv")
    generator = torch.Generator().manual_seed(0)
    deltas = {ref.weight: LowRank(torch.randn(2, ref.shape[1], generator=generator), torch.randn(8, 2)) for ref in refs}
    edit = Edit(family.id, {"unet": deltas})
    path = tmp_path / layout.filename("erase_van_gogh", family)
    layout.write(edit, family, {"format": "pt"}, path)
    family_name, ranks, stems, pairs, scale, meta, data = web_ui_reader(path)
    assert (family_name, ranks, len(stems), pairs, scale) == (expected, {2}, len(refs), True, {1.0})
    assert meta["ss_network_dim"] == meta["ss_network_alpha"] == "2"
    assert meta["ss_base_model_version"] == version
    assert meta["modelspec.architecture"] == architecture
    assert meta["modelspec.sai_model_spec"] == "1.0.1"
    for name in ("implementation", "title", "description"):
        assert meta[f"modelspec.{name}"]
    assert meta["modelspec.hash_sha256"] == "0x" + hashlib.sha256(data).hexdigest()
    assert "no trigger word; always on" in meta["modelspec.usage_hint"]
    assert "a negative weight strengthens the concept" in meta["modelspec.description"]
    assert not any("trigger_phrase" in key for key in meta)
    assert re.search(r"_(sd1|sdxl)_kohya\.safetensors$", path.name)
    sgm = [stem for stem in stems if re.match(r"lora_unet_(input|middle|output)_block", stem)]
    assert len(sgm) == (len(stems) if model == "sdxl" else 0)


def test_text_encoder_file_gets_one_zero_projection(tmp_path):
    layout, family = get_manager().layout("kohya"), get_manager().family("sd1")
    edit = Edit(
        "sd1", {"text_encoder": {"encoder.layers.3.mlp.fc2.weight": LowRank(torch.ones(2, 24), torch.ones(6, 2))}}
    )
    layout.write(edit, family, {"format": "pt"}, tmp_path / "x.safetensors")
    tensors, _ = read_tensors(tmp_path / "x.safetensors")
    added = "lora_te_text_model_encoder_layers_3_self_attn_out_proj"
    assert tensors[f"{added}.lora_down.weight"].shape == (2, 6)
    assert not tensors[f"{added}.lora_down.weight"].any()
    assert not tensors[f"{added}.lora_up.weight"].any()
    assert not difference(layout.read(tmp_path / "x.safetensors", family), edit)


# ---- scale ------------------------------------------------------------------------------------------------------------


def test_kohya_alpha_over_rank_is_honoured(tmp_path):
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    down, up = torch.randn(4, 6), torch.randn(5, 4)
    tensors = {f"{stem}.lora_down.weight": down, f"{stem}.lora_up.weight": up, f"{stem}.alpha": torch.tensor(1.0)}
    write_tensors(tmp_path / "x.safetensors", tensors, {})
    found = load_artifact(tmp_path / "x.safetensors").edit.deltas["unet"]["mid_block.attentions.0.proj_in.weight"]
    assert torch.allclose(found.dense(), 0.25 * up @ down, atol=1e-6)


def test_diffusers_metadata_and_old_names_are_honoured(tmp_path):
    import json

    down, up = torch.randn(4, 6), torch.randn(5, 4)
    stem = "unet.mid_block.attentions.0.transformer_blocks.0.attn2"
    names = {f"{stem}.to_k.lora_A.weight": down, f"{stem}.to_k.lora_B.weight": up}
    config = {"unet.r": 4, "unet.lora_alpha": 8, "unet.target_modules": ["to_k"]}
    write_tensors(tmp_path / "new.safetensors", names, {"lora_adapter_metadata": json.dumps(config)})
    old = {f"{stem}.processor.to_out_lora.down.weight": down, f"{stem}.processor.to_out_lora.up.weight": up}
    write_tensors(tmp_path / "old.safetensors", old, {})
    key = stem.removeprefix("unet.")
    new = load_artifact(tmp_path / "new.safetensors").edit.deltas["unet"][f"{key}.to_k.weight"]
    assert torch.allclose(new.dense(), 2 * up @ down, atol=1e-5)
    legacy = load_artifact(tmp_path / "old.safetensors").edit.deltas["unet"][f"{key}.to_out.0.weight"]
    assert torch.allclose(legacy.dense(), up @ down, atol=1e-6)


@pytest.mark.parametrize("rslora", [False, True])
def test_peft_configuration_is_honoured(rslora, tmp_path):
    import json

    down, up = torch.randn(4, 6), torch.randn(5, 4)
    stem = "base_model.model.mid_block.attentions.0.proj_in"
    write_tensors(
        tmp_path / "adapter_model.safetensors", {f"{stem}.lora_A.weight": down, f"{stem}.lora_B.weight": up}, {}
    )
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 6, "use_rslora": rslora}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    found = load_artifact(tmp_path).edit.deltas["unet"]["mid_block.attentions.0.proj_in.weight"]
    assert torch.allclose(found.dense(), (3.0 if rslora else 1.5) * up @ down, atol=1e-5)


def peft_adapter(place, **config):
    """A module with a LoRA in peft's files, and what peft adds to its weights when it reads them."""
    from peft import LoraConfig, PeftModel, get_peft_model
    from torch import nn

    def module():
        names = ("to_q", "to_k")
        attention = nn.ModuleDict({name: nn.Linear(8, 8) for name in names})
        return nn.ModuleDict({"mid_block": nn.ModuleDict({"attentions": nn.ModuleList([attention])})})

    torch.manual_seed(0)
    base, other = module(), module()
    other.load_state_dict(base.state_dict())
    made = get_peft_model(base, LoraConfig(r=4, lora_alpha=4, target_modules=["to_q", "to_k"], **config))
    for name, part in made.named_parameters():
        if ".lora_" in name:
            part.data += 0.1 * torch.randn_like(part)
    made.save_pretrained(place)
    before = {name: part.clone() for name, part in other.state_dict().items()}
    after = PeftModel.from_pretrained(other, place).merge_and_unload().state_dict()
    return {name: part - before[name] for name, part in after.items() if name.endswith(".weight")}


@pytest.mark.parametrize(
    "pattern", [{"to_k": 32}, {"mid_block.attentions.0.to_k": 32}, {"^mid_block.attentions.0.to_k": 32}, {"^to_k": 32}]
)
def test_alpha_patterns_are_those_of_peft(pattern, tmp_path):
    wanted = peft_adapter(tmp_path, alpha_pattern=pattern)
    for key, delta in load_artifact(tmp_path).edit.deltas["unet"].items():
        assert torch.allclose(delta.dense(), wanted[key], atol=1e-6), key


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"alpha_pattern": {r"mid_block\..*\.to_k": 32}}, "regular expression"),
        ({"init_lora_weights": "pissa"}, "changes the base weights"),
        ({"init_lora_weights": "olora"}, "changes the base weights"),
    ],
)
def test_what_peft_would_make_something_else_of_is_refused(config, words, tmp_path):
    peft_adapter(tmp_path, **config)
    with pytest.raises(ArtifactError, match=words):
        load_artifact(tmp_path)


def test_alpha_patterns_in_a_header_are_found_with_and_without_text_model(tmp_path):
    import json

    down, up = torch.randn(4, 8), torch.randn(8, 4)
    path = "text_model.encoder.layers.0.self_attn.q_proj"
    names = {f"text_encoder.{path}.lora_A.weight": down, f"text_encoder.{path}.lora_B.weight": up}
    for key in (path, path.removeprefix("text_model.")):
        config = {"text_encoder.r": 4, "text_encoder.lora_alpha": 4, "text_encoder.alpha_pattern": {key: 12}}
        write_tensors(tmp_path / "x.safetensors", names, {"lora_adapter_metadata": json.dumps(config)})
        ((_, _, found),) = load_artifact(tmp_path / "x.safetensors", "sd1").edit.items()
        assert torch.allclose(found.dense(), 3 * up @ down, atol=1e-5)


def test_half_a_pair_and_foreign_parts_are_refused(tmp_path):
    stem = "lora_unet_mid_block_attentions_0_proj_in"
    write_tensors(tmp_path / "half.safetensors", {f"{stem}.lora_down.weight": torch.ones(1, 4)}, {})
    with pytest.raises(ArtifactError, match="only down"):
        load_artifact(tmp_path / "half.safetensors")
    both = {f"{stem}.lora_down.weight": torch.ones(1, 4), f"{stem}.lora_up.weight": torch.ones(4, 1)}
    write_tensors(tmp_path / "dora.safetensors", {**both, f"{stem}.dora_scale": torch.ones(4)}, {})
    with pytest.raises(ArtifactError, match="DoRA"):
        load_artifact(tmp_path / "dora.safetensors")
    with pytest.raises(CorruptArtifact, match="do not multiply"):
        write_tensors(tmp_path / "bad.safetensors", {**both, f"{stem}.lora_up.weight": torch.ones(4, 3)}, {})
        get_manager().layout("kohya").read(tmp_path / "bad.safetensors", get_manager().family("sd1"))


def test_tensor_hash_covers_the_data_part(tmp_path):
    import hashlib

    tensors = {"b": torch.arange(3.0), "a": torch.ones(2, dtype=torch.float16), "c": torch.zeros(0)}
    write_tensors(tmp_path / "x.safetensors", tensors, {})
    raw = (tmp_path / "x.safetensors").read_bytes()
    assert hashlib.sha256(raw[8 + int.from_bytes(raw[:8], "little") :]).hexdigest() == tensor_hash(tensors)
