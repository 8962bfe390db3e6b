"""What people do to a pipeline while an edit is in force: the edit comes off exactly, or says why it cannot."""

from __future__ import annotations

import copy
import warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import erase_plugins as ep
from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import Edit, LowRank, Rows
from erase_plugins.artifacts.gated import GATE, gate_addon, gated_lowrank
from erase_plugins.artifacts.manifest import Manifest, describe_base
from erase_plugins.errors import AlreadyApplied, NotInFile, PipelineChanged, RequestError, Unsupported
from erase_plugins.evaluation.draw import draw
from erase_plugins.runtime.apply import attach_edit
from erase_plugins.runtime.twice import same_edit
from erase_plugins.types import Concept
from erase_plugins.workflow.convert import convert
from erase_plugins.workflow.models import target_of
from tests.runtime.support import parts

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


@pytest.fixture
def pipe(tiny_sd1):
    return tiny_sd1()


@pytest.fixture(scope="module")
def artifact():
    from erase_plugins.testing.tiny import tiny_sd1

    return ep.erase(tiny_sd1(), "pizza", to="dog", options={"vocabulary": 0})


@pytest.fixture(scope="module")
def other():
    from erase_plugins.testing.tiny import tiny_sd1

    return ep.erase(tiny_sd1(), "car", to="dog", options={"vocabulary": 0})


def of_edit(pipe, edit: Edit, name: str) -> Artifact:
    target = target_of(pipe, "tiny")
    manifest = Manifest(
        name=name, method={"id": "test", "title": "Test"}, concepts=(Concept("pizza"),), base=describe_base(target),
        kinds=tuple(sorted(edit.kinds)), rank=edit.rank, modules=len(edit), created="2026-01-02T03:04:05Z",
    )  # fmt: skip
    return Artifact(manifest, edit)


@pytest.fixture
def gated(pipe):
    """Changes of all attention projections behind a gate that is open for every prompt."""
    target = target_of(pipe, "tiny")
    generator = torch.Generator().manual_seed(3)
    row = torch.zeros(1, 1, target.info.width)
    group = {GATE: gate_addon(row, ["pizza"], [0], "probe", target.info.tokens, low=-2.0, high=-1.0)}
    for ref in target.modules("attn"):
        down = torch.randn(1, ref.shape[1], generator=generator)
        group[ref.path] = gated_lowrank(LowRank(down, torch.randn(ref.shape[0], 1, generator=generator)), [0])
    return of_edit(pipe, Edit("sd1", {"unet": group}), "gated")


@pytest.fixture
def text_edit(pipe):
    generator = torch.Generator().manual_seed(4)
    change = LowRank(torch.randn(1, 32, generator=generator), torch.randn(32, 1, generator=generator))
    return of_edit(pipe, Edit("sd1", {"text_encoder": {"encoder.layers.0.self_attn.q_proj.weight": change}}), "text")


def lora(pipe, seed: int = 0) -> dict[str, torch.Tensor]:
    """A LoRA of the user on the denoiser and the text encoder, with a visible effect."""
    generator = torch.Generator().manual_seed(seed)
    found = {}
    paths = [f"unet.{name}" for name, item in pipe.unet.named_modules() if name.endswith(("to_k", "to_v", "to_q"))]
    paths += [f"text_encoder.text_model.encoder.layers.{n}.self_attn.q_proj" for n in (0, 1)]
    for path in paths:
        part, name = path.split(".", 1)
        weight = getattr(pipe, part).get_submodule(name.removeprefix("text_model.") if part != "unet" else name).weight
        found[f"{path}.lora_A.weight"] = torch.randn(2, weight.shape[1], generator=generator)
        found[f"{path}.lora_B.weight"] = 0.2 * torch.randn(weight.shape[0], 2, generator=generator)
    return found


def picture(pipe) -> torch.Tensor:
    return draw(pipe, ["a pizza"], [1], steps=3, fast=False)


def weights(pipe) -> dict[str, torch.Tensor]:
    parts = {"unet": pipe.unet, "text": pipe.text_encoder}
    return {
        f"{part}.{name.replace('.base_layer', '')}": value.detach().clone()
        for part, module in parts.items()
        for name, value in module.named_parameters()
        if ".lora_" not in name
    }


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def hooks(pipe) -> int:
    parts = (pipe.unet, pipe.text_encoder)
    return sum(
        len(item._forward_hooks)
        + len(item._forward_pre_hooks)
        + len(item._state_dict_pre_hooks)
        + len(item._load_state_dict_post_hooks)
        for part in parts
        for item in part.modules()
    )


def clean(pipe) -> bool:
    """Nothing of ours is left on the pipeline or its parts."""
    odd = [name for item in (pipe, pipe.unet, pipe.text_encoder) for name in vars(item) if "erase" in name]
    own = ("save_pretrained", "fuse_lora", "unfuse_lora", "load_lora_weights", "load_lora_adapter", "load_adapter")
    odd += [name for item in (pipe, pipe.unet, pipe.text_encoder) for name in own if name in vars(item)]
    odd += [name for name, item in pipe.unet.named_parameters() if hasattr(item, "_erase_original")]
    return not odd and not hooks(pipe) and ep.applied(pipe) == []


# 3: a LoRA of the user, fused and taken off again


@pytest.mark.parametrize("kind", ["artifact", "text_edit"])
def test_a_lora_that_is_fused_above_an_edit_stays_exactly_when_the_edit_goes(kind, tiny_sd1, request):
    pipe, plain = request.getfixturevalue("pipe"), tiny_sd1()
    plain.load_lora_weights(lora(plain))
    plain.fuse_lora()
    plain.unload_lora_weights()
    handle = request.getfixturevalue(kind).apply(pipe)
    pipe.load_lora_weights(lora(pipe))
    pipe.fuse_lora()
    pipe.unload_lora_weights()
    fused = picture(pipe)
    assert not fused.equal(picture(plain))
    handle.set_strength(0.0)
    assert equal(weights(pipe), weights(plain))
    handle.set_strength(1.0)
    assert picture(pipe).equal(fused)
    handle.remove()
    assert equal(weights(pipe), weights(plain))
    assert clean(pipe)


def test_the_same_strength_changes_nothing(pipe, artifact):
    handle = artifact.apply(pipe)
    pipe.unet.load_lora_adapter({k.removeprefix("unet."): v for k, v in lora(pipe).items() if k[0] == "u"}, prefix=None)
    for module in pipe.unet.modules():  # fused past every method that could be watched
        if hasattr(module, "merge"):
            module.merge()
    before, version = weights(pipe), {name: item._version for name, item in pipe.unet.named_parameters()}
    handle.set_strength(1.0)
    assert equal(before, weights(pipe))
    assert version == {name: item._version for name, item in pipe.unet.named_parameters()}
    for call in (handle.remove, handle.fuse, lambda: handle.set_strength(0.5)):
        with pytest.raises(PipelineChanged, match=r"unfuse_lora.*nothing was changed"):
            call()
    assert equal(before, weights(pipe))
    assert ep.applied(pipe) == [handle]


def test_fused_inside_the_block_and_unfused_after_it(pipe, artifact, tiny_sd1):
    plain = tiny_sd1()
    for item in (pipe, plain):
        item.load_lora_weights(lora(item))
    plain.fuse_lora()
    plain.unfuse_lora()
    with artifact.apply(pipe):
        pipe.fuse_lora()
    pipe.unfuse_lora()
    assert equal(weights(pipe), weights(plain))
    assert clean(pipe)


def test_fused_and_unfused_inside_the_block(pipe, artifact, tiny_sd1):
    plain = tiny_sd1()
    for item in (pipe, plain):
        item.load_lora_weights(lora(item))
    plain.fuse_lora()
    plain.unfuse_lora()
    with artifact.apply(pipe) as handle:
        before = picture(pipe)
        pipe.fuse_lora(safe_fusing=True)
        handle.set_strength(0.5)
        pipe.unfuse_lora()
        handle.set_strength(1.0)
        torch.testing.assert_close(picture(pipe), before, rtol=0, atol=1e-4)
    assert equal(weights(pipe), weights(plain))


def test_a_lora_that_was_fused_before_is_unfused_below_the_edit(pipe, artifact, tiny_sd1):
    plain = tiny_sd1()
    for item in (pipe, plain):
        item.load_lora_weights(lora(item))
        item.fuse_lora()
    handle = ep.apply(pipe, artifact, any_base=True)
    for item in (pipe, plain):
        item.unfuse_lora()
    handle.set_strength(0.0)
    assert equal(weights(pipe), weights(plain))
    handle.remove()
    assert equal(weights(pipe), weights(plain))
    assert clean(pipe)


def test_a_sibling_fuses_exactly_and_what_it_unfuses_past_us_is_refused(pipe, artifact, tiny_sd1):
    plain = tiny_sd1()
    handle = artifact.apply(pipe)
    sibling = type(pipe).from_pipe(pipe)
    for item in (sibling, plain):
        item.load_lora_weights({key: value for key, value in lora(item).items() if key.startswith("unet")})
        item.fuse_lora()
    handle.set_strength(0.0)
    assert equal(weights(pipe), weights(plain))
    handle.set_strength(1.0)
    sibling.unfuse_lora()
    with pytest.raises(PipelineChanged):
        handle.remove()


def test_a_lora_fused_past_us_is_refused_and_can_be_given_up(pipe, artifact):
    base = weights(pipe)
    handle = artifact.apply(pipe)
    with torch.no_grad():
        pipe.unet.get_submodule(LAYER).weight.data += 0.25
    seen = weights(pipe)
    with pytest.raises(PipelineChanged, match=r"attn2\.to_k\.weight was changed by something else"):
        handle.remove()
    assert equal(seen, weights(pipe))
    handle.remove(force=True)
    assert equal(base, weights(pipe))
    assert clean(pipe)


def test_the_error_of_the_block_is_not_hidden_by_ours(pipe, artifact):
    with pytest.raises(KeyError) as caught, artifact.apply(pipe):
        pipe.unet.get_submodule(LAYER).weight.data += 0.25
        raise KeyError("user code")
    assert "still in force" in caught.value.__notes__[0]
    assert len(ep.applied(pipe)) == 1


# 4: gates and LoRAs that come and go


@pytest.mark.parametrize("order", ["lora first", "gate first"])
def test_gates_keep_working_when_loras_come_and_go(pipe, gated, order):
    base = picture(pipe)
    handle = gated.apply(pipe)
    alone = picture(pipe)
    assert not alone.equal(base)
    if order == "lora first":
        handle.remove()
        pipe.load_lora_weights(lora(pipe))
        with_lora = picture(pipe)
        handle = gated.apply(pipe)
    else:
        pipe.load_lora_weights(lora(pipe))
        handle.set_strength(0.0)
        with_lora = picture(pipe)
        handle.set_strength(1.0)
    assert not picture(pipe).equal(with_lora)
    pipe.unload_lora_weights()
    assert picture(pipe).equal(alone)
    handle.remove()
    assert picture(pipe).equal(base)
    assert clean(pipe)


def test_an_added_module_follows_when_its_layer_is_wrapped_and_unwrapped(pipe):
    from erase_plugins.artifacts.edit import AddOn

    generator = torch.Generator().manual_seed(0)
    network = {"down": torch.randn(4, 32, generator=generator), "up": torch.randn(32, 4, generator=generator)}
    path = LAYER.replace("to_k", "to_out.0")
    added = of_edit(pipe, Edit("sd1", {"unet": {path: AddOn("bottleneck", network, {"activation": "gelu"})}}), "added")
    base = picture(pipe)
    with added.apply(pipe):
        alone = picture(pipe)
    assert not alone.equal(base)
    adapter = {
        f"unet.{path}.lora_A.weight": torch.randn(2, 32, generator=generator),
        f"unet.{path}.lora_B.weight": torch.randn(32, 2, generator=generator),
    }
    pipe.load_lora_weights(adapter)
    with added.apply(pipe):
        both = picture(pipe)
    pipe.unload_lora_weights()
    handle = added.apply(pipe)
    pipe.load_lora_weights(adapter)
    assert picture(pipe).equal(both)
    pipe.unload_lora_weights()
    assert picture(pipe).equal(alone)
    handle.remove()
    assert picture(pipe).equal(base)
    assert clean(pipe)


def test_layer_hooks_that_someone_clears_are_hung_up_again(pipe, gated):
    handle = gated.apply(pipe)
    seen = picture(pipe)
    for module in pipe.unet.modules():
        module._forward_hooks.clear()
    assert picture(pipe).equal(seen)
    handle.remove()
    assert clean(pipe)


@pytest.mark.parametrize("kind", ["gated", "context"])
def test_a_reader_of_the_prompt_that_someone_took_off_is_told(pipe, gated, artifact, kind):
    handle = gated.apply(pipe) if kind == "gated" else artifact.apply(pipe, mode="context")
    for key, hook in list(pipe.unet._forward_pre_hooks.items()):
        if hook.__name__ != "_before_pass":
            del pipe.unet._forward_pre_hooks[key]
    with pytest.raises(PipelineChanged, match="taken off"):
        picture(pipe)
    handle.remove()
    assert clean(pipe)


# 5: fused projections, quantisation, offloading


def test_fused_projections_follow_the_edit(pipe, artifact, tiny_sd1):
    base, plain = weights(pipe), picture(pipe)
    fused = tiny_sd1()
    fused.unet.fuse_qkv_projections()
    fused_plain = picture(fused)
    handle = artifact.apply(pipe)
    erased = picture(pipe)
    pipe.unet.fuse_qkv_projections()
    torch.testing.assert_close(picture(pipe), erased, rtol=0, atol=1e-4)
    handle.set_strength(0.0)
    assert picture(pipe).equal(fused_plain)
    handle.set_strength(1.0)
    torch.testing.assert_close(picture(pipe), erased, rtol=0, atol=1e-4)
    handle.remove()
    assert picture(pipe).equal(fused_plain)
    pipe.unet.unfuse_qkv_projections()
    assert picture(pipe).equal(plain)
    now = weights(pipe)
    assert equal({name: now[name] for name in base}, base)


def test_a_gate_that_fused_projections_pass_by_is_told_at_the_next_picture(pipe, gated):
    base = picture(pipe)
    handle = gated.apply(pipe)
    seen = picture(pipe)
    pipe.unet.fuse_qkv_projections()
    with pytest.raises(PipelineChanged, match="unfuse_qkv_projections"):
        picture(pipe)
    pipe.unet.unfuse_qkv_projections()
    assert picture(pipe).equal(seen)
    handle.remove()
    assert picture(pipe).equal(base)
    pipe.unet.fuse_qkv_projections()
    with pytest.raises((PipelineChanged, Unsupported), match="unfuse_qkv_projections"):
        attach_edit(pipe, target_of(pipe, "tiny"), gated, 1.0, "weights")
    assert ep.applied(pipe) == []


def quanto(unet: nn.Module) -> None:
    library = pytest.importorskip("optimum.quanto")
    library.quantize(unet, weights=library.qint8)
    library.freeze(unet)


def torchao(unet: nn.Module) -> None:
    library = pytest.importorskip("torchao.quantization")
    library.quantize_(unet, library.Int8WeightOnlyConfig())


def bitsandbytes(unet: nn.Module) -> None:
    library = pytest.importorskip("bitsandbytes")
    old = unet.get_submodule(LAYER)
    new = library.nn.Linear8bitLt(old.in_features, old.out_features, bias=False, has_fp16_weights=False)
    new.weight = library.nn.Int8Params(old.weight.data.mul(100).to(torch.int8), requires_grad=False)
    unet.set_submodule(LAYER, new)


def four_bits(unet: nn.Module) -> None:
    pytest.importorskip("bitsandbytes")
    parts.bitsandbytes(4)(SimpleNamespace(unet=unet))


def replaced(unet: nn.Module) -> None:
    """What quantising does, without a library: another parameter, of whole numbers."""
    weight = unet.get_submodule(LAYER).weight
    data = (weight.data * 100).to(torch.int8)
    unet.get_submodule(LAYER).weight = nn.Parameter(data, requires_grad=False)


@pytest.mark.parametrize("quantise", [quanto, torchao, bitsandbytes, replaced])
def test_quantised_below_an_edit_is_refused(pipe, artifact, quantise):
    handle = artifact.apply(pipe)
    quantise(pipe.unet)
    for call in (handle.remove, lambda: handle.set_strength(0.0), handle.fuse):
        with pytest.raises(PipelineChanged, match=r"quantising does; load the pipeline again"):
            call()
    assert ep.applied(pipe) == [handle]
    with pytest.raises(PipelineChanged, match="quantising"):
        handle.remove(force=True)


@pytest.mark.parametrize("how", ["pipeline", "accelerate"])
def test_sequential_offload_is_refused_until_its_hooks_are_gone(pipe, artifact, how):
    base, plain = weights(pipe), picture(pipe)
    handle = artifact.apply(pipe)
    erased = picture(pipe)
    if how == "pipeline":
        pipe.enable_sequential_cpu_offload(device="cpu")
    else:
        import accelerate

        accelerate.cpu_offload(pipe.unet, torch.device("cpu"))
    for call in (handle.remove, lambda: handle.set_strength(0.0)):
        with pytest.raises(PipelineChanged, match=r"remove_all_hooks\(\)"):
            call()
    pipe.remove_all_hooks()
    assert picture(pipe).equal(erased)
    handle.set_strength(0.0)
    assert picture(pipe).equal(plain)
    handle.remove()
    assert equal(weights(pipe), base)
    assert clean(pipe)


@pytest.mark.parametrize("copies", [False, True])
def test_group_offload(pipe, artifact, copies):
    """With streams or a disk, diffusers brings weights back from its own copies; that needs a GPU, so it is put there."""
    base, plain = weights(pipe), picture(pipe)
    handle = artifact.apply(pipe)
    pipe.unet.enable_group_offload(torch.device("cpu"), torch.device("cpu"), "leaf_level")
    if copies:
        layer = pipe.unet.get_submodule(LAYER)
        group = layer._diffusers_hook.get_hook("group_offloading").group
        group.cpu_param_dict = {layer.weight: layer.weight.data.clone()}
        for call in (handle.remove, lambda: handle.set_strength(0.0)):
            with pytest.raises(PipelineChanged, match="group offloading"):
                call()
        return
    assert not picture(pipe).equal(plain)
    handle.set_strength(0.0)
    assert picture(pipe).equal(plain)
    handle.remove()
    assert equal(weights(pipe), base)


@pytest.mark.parametrize("place", ["cpu_param_dict", "offload_to_disk_path"])
def test_group_offload_from_copies_is_refused_where_weights_are_written(pipe, artifact, gated, place):
    """What is written would be gone with the first pass, which brings back the copy."""
    pipe.unet.enable_group_offload(torch.device("cpu"), torch.device("cpu"), "leaf_level")
    layer = pipe.unet.get_submodule(LAYER)
    group = layer._diffusers_hook.get_hook("group_offloading").group
    setattr(group, place, {layer.weight: layer.weight.data.clone()} if place == "cpu_param_dict" else "folder")
    with pytest.raises(Unsupported, match=r"group offloading keeps .* apply before enable_group_offload\(\)"):
        artifact.apply(pipe)
    assert clean(pipe)
    with gated.apply(pipe), artifact.apply(pipe, mode="context"):
        pass
    assert clean(pipe)


def test_layers_cast_for_storage(tiny_sd1, artifact):
    pipe, plain = tiny_sd1(), tiny_sd1()
    handle = artifact.apply(pipe)
    for item in (pipe, plain):
        item.unet.enable_layerwise_casting(torch.float8_e4m3fn, torch.float32)
    expected = picture(plain)
    assert not picture(pipe).equal(expected)
    handle.set_strength(0.0)
    assert picture(pipe).equal(expected)
    handle.remove()
    assert picture(pipe).equal(expected)


@pytest.mark.parametrize("first", [False, True])
@pytest.mark.parametrize("quantise", [quanto, torchao, four_bits])
def test_a_gate_works_on_layers_that_are_quantised(tiny_sd1, pipe, gated, quantise, first):
    plain = tiny_sd1()
    quantise(plain.unet)
    expected = picture(plain)
    if first:
        quantise(pipe.unet)
    handle = gated.apply(pipe)
    if not first:
        quantise(pipe.unet)
    assert not torch.allclose(picture(pipe), expected, atol=1e-2)
    handle.set_strength(0.0)
    assert picture(pipe).equal(expected)
    handle.remove()
    assert picture(pipe).equal(expected)
    assert ep.applied(pipe) == []


def test_a_gate_works_on_layers_that_are_offloaded(pipe, gated):
    parts.sequential_offload(pipe)
    expected = picture(pipe)
    with gated.apply(pipe):
        assert not torch.allclose(picture(pipe), expected, atol=1e-2)
    assert picture(pipe).equal(expected)


def test_new_tokens_are_taken_out_before_learned_rows_go(pipe):
    rows = Rows(torch.tensor([3, 7]), torch.ones(2, 32))
    edit = of_edit(pipe, Edit("sd1", {"text_encoder": {"embeddings.token_embedding.weight": rows}}), "rows")
    base = weights(pipe)
    handle = edit.apply(pipe)
    pipe.load_textual_inversion({"<new>": torch.ones(32)}, token="<new>")
    for call in (handle.remove, lambda: handle.set_strength(0.0)):
        with pytest.raises(PipelineChanged, match="unload_textual_inversion"):
            call()
    pipe.unload_textual_inversion()
    handle.remove()
    assert equal(weights(pipe), base)
    assert clean(pipe)


def test_model_offload_moves_and_the_edit_comes_off(pipe, artifact, gated):
    base, plain = weights(pipe), picture(pipe)
    handles = [artifact.apply(pipe), gated.apply(pipe)]
    pipe.enable_model_cpu_offload(device="cpu")
    assert not picture(pipe).equal(plain)
    for handle in handles:
        handle.remove()
    assert picture(pipe).equal(plain)
    assert equal(weights(pipe), base)


@pytest.mark.parametrize("kinds", [(torch.bfloat16,), (torch.float16,), (torch.bfloat16, torch.float32)])
def test_cast_after_applying(tiny_sd1, artifact, kinds):
    pipe, plain = tiny_sd1(), tiny_sd1()
    handle = artifact.apply(pipe)
    for kind in kinds:
        pipe.to(kind)
        plain.to(kind)
    handle.set_strength(0.5)
    handle.remove()
    now, expected = weights(pipe), weights(tiny_sd1().to(kinds[-1]))
    touched = [f"unet.{key}" for key in handle.weights.deltas["unet"]]
    assert touched
    assert all(now[name].equal(expected[name]) for name in touched)
    assert all(now[name].equal(value) for name, value in weights(plain).items() if name not in touched)


def test_new_weights_below_an_edit_are_refused(pipe, artifact, tiny_sd1):
    handle = artifact.apply(pipe)
    pipe.unet.load_state_dict(tiny_sd1(seed=9).unet.state_dict())
    with pytest.raises(PipelineChanged, match="changed by something else"):
        handle.remove()


def test_another_denoiser_in_the_pipeline_is_told(pipe, artifact, tiny_sd1):
    first, base = pipe.unet, weights(pipe)
    handle = artifact.apply(pipe)
    pipe.unet = tiny_sd1(seed=9).unet
    with pytest.raises(PipelineChanged, match="another unet"):
        handle.set_strength(0.5)
    handle.remove()
    pipe.unet = first
    assert equal(weights(pipe), base)


# 6: saving and copying


@pytest.mark.parametrize("kind", ["context", "gated"])
def test_saving_an_edit_that_acts_by_hooks_is_refused(pipe, artifact, gated, kind, tmp_path):
    handle = artifact.apply(pipe, mode="context") if kind == "context" else gated.apply(pipe)
    name = handle.artifact.name
    sibling = type(pipe).from_pipe(pipe)
    for item in (pipe, pipe.unet, sibling.unet):
        with pytest.raises(NotInFile, match=f"would not hold '{name}'.*nothing was written"):
            item.save_pretrained(tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(NotInFile):
        sibling.save_pretrained(tmp_path / "sibling")
    with pytest.warns(UserWarning, match=f"does not hold '{name}'"):
        pipe.unet.state_dict()
    pipe.vae.save_pretrained(tmp_path / "vae")
    handle.set_strength(0.0)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        pipe.unet.save_pretrained(tmp_path / "off")
    handle.remove()
    pipe.save_pretrained(tmp_path / "out")
    assert (tmp_path / "out" / "model_index.json").is_file()
    assert clean(pipe)


def test_saved_weights_hold_an_edit_of_weights(pipe, artifact, text_edit, tmp_path):
    handles = [artifact.apply(pipe), text_edit.apply(pipe)]
    erased = weights(pipe)
    pipe.save_pretrained(tmp_path / "out")
    for handle in handles:
        handle.remove()
    assert not equal(weights(pipe), erased)
    assert equal(weights(ep.load(str(tmp_path / "out"))), erased)


@pytest.mark.parametrize("kind", ["context", "gated"])
def test_copies_that_would_lose_the_edit_are_refused(pipe, artifact, gated, kind):
    from diffusers import AnimateDiffPipeline, ControlNetModel, MotionAdapter, UNetMotionModel

    handle = artifact.apply(pipe, mode="context") if kind == "context" else gated.apply(pipe)
    adapter = MotionAdapter(block_out_channels=(16, 32), motion_layers_per_block=1, motion_norm_num_groups=4)
    parts = {name: item for name, item in pipe.components.items() if name not in ("safety_checker", "unet")}
    for make in (
        lambda: UNetMotionModel.from_unet2d(pipe.unet, adapter),
        lambda: AnimateDiffPipeline(unet=pipe.unet, motion_adapter=adapter, **parts),
        lambda: ControlNetModel.from_unet(pipe.unet),
    ):
        with pytest.raises(NotInFile, match="AnimateDiff"):
            make()
    handle.remove()
    UNetMotionModel.from_unet2d(pipe.unet, adapter)


def test_a_converted_denoiser_keeps_an_edit_of_weights(pipe, artifact):
    from diffusers import MotionAdapter, UNetMotionModel

    adapter = MotionAdapter(block_out_channels=(16, 32), motion_layers_per_block=1, motion_norm_num_groups=4)
    with artifact.apply(pipe):
        expected = pipe.unet.get_submodule(LAYER).weight.clone()
        moving = UNetMotionModel.from_unet2d(pipe.unet, adapter)
    assert moving.get_submodule(LAYER).weight.equal(expected)


def test_a_deep_copy_is_independent(pipe, artifact):
    handle = artifact.apply(pipe)
    seen = pipe.unet.get_submodule(LAYER).weight.clone()
    twin = copy.deepcopy(pipe.unet)
    handle.remove()
    assert twin.get_submodule(LAYER).weight.equal(seen)
    assert clean(pipe)


def test_a_copy_of_a_pipeline_knows_what_acts_in_it_by_hooks(pipe, artifact, gated, other, tmp_path):
    plain = picture(pipe)
    for item, options in ((artifact, {"mode": "context"}), (gated, {})):
        handle = item.apply(pipe, **options)
        seen = picture(pipe)
        twin = copy.deepcopy(copy.deepcopy(pipe))
        handle.remove()
        assert picture(pipe).equal(plain)
        assert picture(twin).equal(seen)
        assert not seen.equal(plain)
        for owner in (twin, twin.unet):
            with pytest.raises(NotInFile, match=f"'{item.name}'.*a copy of a pipeline cannot"):
                owner.save_pretrained(tmp_path / "lost")
        assert not (tmp_path / "lost").exists()
        with pytest.raises(AlreadyApplied, match="is a copy of one to which it was applied"):
            item.apply(twin)
        with other.apply(twin):
            assert not picture(twin).equal(seen)
        with pytest.raises(NotInFile):
            twin.save_pretrained(tmp_path / "lost")
    pipe.save_pretrained(tmp_path / "plain")


# 7: twice


def test_the_same_artifact_twice_is_refused(pipe, artifact, gated, tmp_path):
    artifact.save(tmp_path / "saved")
    with artifact.apply(pipe, 0.5) as handle:
        before = weights(pipe)
        sibling = type(pipe).from_pipe(pipe)
        for item, what in ((pipe, artifact), (sibling, artifact), (pipe, str(tmp_path / "saved"))):
            with pytest.raises(AlreadyApplied, match=r"applied already at strength 0\.5.*erase_plugins\.applied"):
                ep.apply(item, what)
        with pytest.raises(AlreadyApplied):
            ep.apply(pipe, artifact, mode="context")
        assert equal(before, weights(pipe))
        assert ep.applied(sibling) == [handle]
    with gated.apply(pipe), pytest.raises(AlreadyApplied):
        gated.apply(pipe)
    assert clean(pipe)


def test_what_holds_a_part_of_what_acts_is_refused_either_way(pipe, artifact, other, gated, text_edit, tmp_path):
    group = gated.edit.deltas["unet"]
    moved = {name: part + 1 for name, part in group[GATE].weights.items()}
    gate = replace(group[GATE], weights=moved, config={**group[GATE].config, "concepts": ["cat"]})
    cat = of_edit(pipe, Edit("sd1", {"unet": {**group, GATE: gate}}), "cat")
    summed = ep.merge([text_edit, artifact], [0.5, 0.5], "sum", pipe)
    twins = [
        (artifact, ep.merge([artifact, other]), "'pizza'"),
        (gated, ep.merge([cat, gated], [1.0, 0.5]), "'pizza'"),
        (text_edit, summed, "'text'"),
        (summed, ep.merge([summed, other], mode="sum", target=pipe), "a part"),
    ]
    for number, (part, whole, said) in enumerate(twins):
        part = ep.load_artifact(part.save(tmp_path / str(number)).path)
        for first, second in ((part, whole), (whole, part)):
            with first.apply(pipe):
                before = weights(pipe)
                told = f"'{second.name}' holds {said}, as does '{first.name}', which is applied already at strength 1"
                with pytest.raises(AlreadyApplied, match=told):
                    second.apply(pipe)
                assert equal(before, weights(pipe))
    assert clean(pipe)


def test_what_acts_differently_on_the_same_concept_is_applied_on_top(pipe, artifact, other, gated):
    elsewhere = ep.erase(pipe, "pizza", to="cat", options={"vocabulary": 0})
    harder = ep.erase(pipe, "pizza", to="dog", options={"vocabulary": 0, "lam": 0.9})
    with artifact.apply(pipe), elsewhere.apply(pipe), harder.apply(pipe), gated.apply(pipe):
        pass
    rest = ep.revoke(ep.merge([artifact, other]), "pizza", forget=True)
    with artifact.apply(pipe), rest.apply(pipe):
        pass


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_a_lora_of_a_merge_is_refused_beside_the_merge_and_the_other_way_round(
    pipe, artifact, other, text_edit, tmp_path, layout
):
    target = target_of(pipe, "tiny")
    for number, whole in enumerate((artifact, ep.merge([artifact, other]))):
        saved = whole.save(tmp_path / str(number), (layout,), target)
        file = ep.load_artifact(saved.path / saved.manifest.files[0].name)
        for first, second in ((whole, file), (file, whole)):
            with first.apply(pipe, 0.5):
                before = weights(pipe)
                with pytest.raises(AlreadyApplied, match=r"in another form, which is applied already at strength 0\.5"):
                    second.apply(pipe)
                assert equal(before, weights(pipe))
        with pytest.raises(RequestError, match="in another form, and its change would act twice; give it once"):
            ep.merge([whole, file], mode="sum", target=pipe)
        with file.apply(pipe), text_edit.apply(pipe):
            pass
    assert clean(pipe)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_a_lora_of_a_joint_merge_is_refused_beside_a_part_and_the_other_way_round(
    pipe, artifact, other, tmp_path, layout
):
    """The file holds no statistics; its header tells what is in it."""
    target = target_of(pipe, "tiny")
    both = ep.merge([artifact, other])
    saved = both.save(tmp_path / "both", (layout,), target)
    file = saved.manifest.files[0].name
    smaller = convert(both, layout, out=tmp_path / "smaller.safetensors", base=target, rank=1)
    for whole in (ep.load_artifact(saved.path / file), ep.load_artifact(saved.path), ep.load_artifact(smaller.path)):
        for first, second in ((artifact, whole), (whole, artifact)):
            with first.apply(pipe, 0.5):
                before = weights(pipe)
                told = f"'{second.name}' holds 'pizza', as does '{first.name}', which is applied already at strength 0"
                with pytest.raises(AlreadyApplied, match=told):
                    second.apply(pipe)
                assert equal(before, weights(pipe))
    with artifact.apply(pipe):
        before, told = weights(pipe), f"this LoRA holds 'pizza', as does '{artifact.name}'"
        for given in ({"weight_name": file}, {}):
            with pytest.raises(AlreadyApplied, match=told):
                pipe.load_lora_weights(str(saved.path / file if not given else saved.path), **given)
            assert equal(before, weights(pipe)) and not pipe.get_list_adapters()
    assert clean(pipe)


def test_a_lora_of_a_merge_that_moves_the_concept_elsewhere_is_used_beside_the_part(pipe, artifact, other, tmp_path):
    elsewhere = ep.merge([ep.erase(pipe, "pizza", to="cat", options={"vocabulary": 0}), other])
    saved = elsewhere.save(tmp_path / "both", ("diffusers",), target_of(pipe, "tiny"))
    with artifact.apply(pipe), ep.load_artifact(saved.path).apply(pipe):
        pass
    with artifact.apply(pipe):
        pipe.load_lora_weights(str(saved.path), weight_name=saved.manifest.files[0].name, adapter_name="mine")
        assert pipe.get_list_adapters() == {"unet": ["mine"]}
        pipe.delete_adapters("mine")


def test_modules_that_do_something_else_with_equal_tensors_are_another_edit(pipe, gated):
    group = gated.edit.deltas["unet"]
    wider = replace(group[GATE], config={**group[GATE].config, "low": [-3.0]})
    stronger = replace(group[GATE], config={**group[GATE].config, "strength": 0.5})
    edits = [Edit("sd1", {"unet": {**group, GATE: gate}}) for gate in (wider, stronger)]
    assert [same_edit(gated.edit, edit) for edit in edits] == [False, True]


@pytest.mark.parametrize("mode", ["weights", "context"])
@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_loaded_as_a_lora_and_applied_is_refused_either_way(pipe, artifact, tmp_path, layout, mode):
    saved = artifact.save(tmp_path / "saved", (layout,), target_of(pipe, "tiny"))
    file = saved.manifest.files[0].name
    base, plain = weights(pipe), picture(pipe)
    pipe.load_lora_weights(str(tmp_path / "saved"), weight_name=file, adapter_name="mine")
    loaded = picture(pipe)
    with pytest.raises(AlreadyApplied, match="loaded already as LoRA adapter 'mine'"):
        artifact.apply(pipe, mode=mode)
    assert picture(pipe).equal(loaded)
    pipe.delete_adapters("mine")
    pipe.unload_lora_weights()
    handle = artifact.apply(pipe, mode=mode)
    seen = picture(pipe)
    for item in (pipe, type(pipe).from_pipe(pipe)):
        with pytest.raises(AlreadyApplied, match="was not kept"):
            item.load_lora_weights(str(tmp_path / "saved"), weight_name=file)
        assert picture(pipe).equal(seen)
    pipe.load_lora_weights(lora(pipe))
    handle.remove()
    pipe.unload_lora_weights()
    assert equal(weights(pipe), base)
    assert picture(pipe).equal(plain)


@pytest.mark.parametrize("kept", [False, True], ids=["alone", "beside another"])
def test_what_peft_itself_loads_beside_the_edit_is_refused(pipe, artifact, other, tmp_path, kept):
    from peft import PeftModel

    target = target_of(pipe, "tiny")
    places = {item: str(item.save(tmp_path / item.name, ("peft",), target).path) for item in (artifact, other)}
    if kept:
        PeftModel.from_pretrained(pipe.unet, places[other], adapter_name="kept")
    base, names = picture(pipe), {name for name, _ in pipe.unet.named_parameters()}
    handle = artifact.apply(pipe)
    seen = picture(pipe)
    with pytest.raises(AlreadyApplied, match="which is applied already at strength 1; it was not kept"):
        PeftModel.from_pretrained(pipe.unet, places[artifact], adapter_name="mine")
    assert {name for name, _ in pipe.unet.named_parameters()} == names
    assert list(getattr(pipe.unet, "peft_config", {})) == ["kept"] * kept
    assert picture(pipe).equal(seen)
    handle.remove()
    assert clean(pipe)
    assert picture(pipe).equal(base)
    PeftModel.from_pretrained(pipe.unet, places[artifact], adapter_name="mine")
    assert not picture(pipe).equal(base)


def test_another_adapter_is_loaded_by_peft_beside_the_edit(pipe, artifact, other, tmp_path):
    from peft import PeftModel

    place = str(other.save(tmp_path / "other", ("peft",), target_of(pipe, "tiny")).path)
    with artifact.apply(pipe):
        seen = picture(pipe)
        PeftModel.from_pretrained(pipe.unet, place)
        assert not picture(pipe).equal(seen)


def test_what_transformers_loads_beside_the_edit_is_refused(pipe, text_edit, tmp_path):
    place = text_edit.save(tmp_path / "saved", ("peft",), target_of(pipe, "tiny")).path / "peft_text_encoder"
    with text_edit.apply(pipe):
        before = weights(pipe)
        with pytest.raises(AlreadyApplied, match="it was not kept"):
            pipe.text_encoder.load_adapter(str(place))
        assert equal(before, weights(pipe))
        assert not any("lora" in name for name, _ in pipe.text_encoder.named_parameters())
    pipe.text_encoder.load_adapter(str(place))


def test_a_gated_artifact_loaded_in_its_plain_form_is_refused(pipe, gated, tmp_path):
    saved = gated.save(tmp_path / "saved", ("diffusers",))
    pipe.load_lora_weights(str(tmp_path / "saved"), weight_name=saved.manifest.files[0].name)
    with pytest.raises(AlreadyApplied, match="loaded already"):
        gated.apply(pipe)
    pipe.unload_lora_weights()
    handle = gated.apply(pipe)
    with pytest.raises(AlreadyApplied, match="was not kept"):
        pipe.load_lora_weights(str(tmp_path / "saved"), weight_name=saved.manifest.files[0].name)
    handle.remove()


def test_a_lora_that_takes_the_place_of_another_is_looked_at(pipe, artifact, other, tmp_path):
    target = target_of(pipe, "tiny")
    files = {item: item.save(tmp_path / item.name, ("diffusers",), target).path for item in (artifact, other)}
    pipe.enable_lora_hotswap(target_rank=64)
    pipe.load_lora_weights(str(files[other]), adapter_name="mine")
    handle = artifact.apply(pipe)
    with pytest.raises(AlreadyApplied, match="was not kept"):
        pipe.load_lora_weights(str(files[artifact]), adapter_name="mine", hotswap=True)
    assert pipe.get_list_adapters() == {}
    handle.remove()
    assert clean(pipe)


# handles


def test_what_is_in_force_is_listed_and_undone_without_the_handle(pipe, artifact, other, gated):
    base = weights(pipe)
    assert ep.applied(pipe) == []
    artifact.apply(pipe, 0.5)
    other.apply(pipe, mode="context")
    gated.apply(pipe)
    found = ep.applied(pipe)
    assert [(item.artifact.name, item.strength) for item in found] == [
        (artifact.manifest.name, 0.5), (other.manifest.name, 1.0), ("gated", 1.0),
    ]  # fmt: skip
    for handle in found:
        handle.remove()
    assert equal(weights(pipe), base)
    assert clean(pipe)
