"""The base check looks at what an edit touches, through whatever users hang on a model, and still finds a wrong base."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.fingerprint import Fingerprint, base_difference, fingerprint
from erase_plugins.artifacts.manifest import Manifest, describe_base
from erase_plugins.errors import BaseMismatch, CorruptArtifact, Unsupported
from erase_plugins.families.hosts import offload_groups
from erase_plugins.runtime.guard import check_base
from erase_plugins.workflow.models import target_of
from tests.runtime.support import parts
from tests.runtime.support.artifacts import make

BEFORE = {
    "plain": lambda pipe: pipe,
    "textual inversion": parts.textual_inversion,
    "ip-adapter": parts.ip_adapter,
    "fused projections": parts.method("fuse_qkv_projections"),
    "lora": parts.lora,
    "animatediff": parts.animate,
}


def old(manifest: Manifest) -> Manifest:
    """As older versions wrote it: one hash of all names and shapes, one value per parameter."""
    prints = {
        name: {key: value for key, value in item.items() if key != "keys"}
        for name, item in manifest.base["fingerprint"].items()
    }
    return replace(manifest, base={**manifest.base, "fingerprint": prints})


def by_the_old_rule(module: torch.nn.Module, text: bool) -> dict[str, str]:
    """The old fingerprint from its description: sorted names without ``text_model.``, middle values in float32."""
    named = {
        name.removeprefix("text_model.") if text else name: item
        for name, item in module.named_parameters()
        if ".lora_" not in name
    }
    lines = "\n".join(f"{name}:{tuple(named[name].shape)}" for name in sorted(named))
    values = [float(named[name].detach().reshape(-1)[named[name].numel() // 2]) for name in sorted(named)]
    sample = np.array(values, dtype="<f4").tobytes()
    return {"structure": hashlib.sha256(lines.encode()).hexdigest(), "sample": base64.b64encode(sample).decode()}


@pytest.mark.parametrize("version", ["new", "old"])
@pytest.mark.parametrize("kind", ["unet", "map"])
@pytest.mark.parametrize("name", BEFORE)
def test_what_users_hang_on_a_model_is_no_other_base(tiny_sd1, name: str, kind: str, version: str) -> None:
    artifact = make(kind, tiny_sd1())
    if version == "old":
        artifact = replace(artifact, manifest=old(artifact.manifest))
    ep.apply(BEFORE[name](tiny_sd1()), artifact).remove()
    with pytest.raises(BaseMismatch, match="other weights"):
        ep.apply(BEFORE[name](tiny_sd1(seed=5)), artifact)


def test_old_fingerprints_are_still_what_they_were(tiny_sd1) -> None:
    pipe = tiny_sd1()
    found = describe_base(target_of(pipe))["fingerprint"]
    for component in ("unet", "text_encoder"):
        plain = by_the_old_rule(getattr(pipe, component), component != "unet")
        assert {key: found[component][key] for key in plain} == plain


def test_old_fingerprints_of_a_model_with_adapters_are_still_found(tiny_sd1) -> None:
    """They counted in what an IP-Adapter and a textual inversion had added."""
    pipe = parts.textual_inversion(parts.ip_adapter(tiny_sd1()))
    prints = {name: by_the_old_rule(getattr(pipe, name), name != "unet") for name in ("unet", "text_encoder")}
    artifact = make("map", tiny_sd1())
    manifest = replace(artifact.manifest, base={**artifact.manifest.base, "fingerprint": prints})
    assert check_base(manifest, target_of(pipe), edit=artifact.edit) == ()
    with pytest.raises(BaseMismatch, match="architecture"):
        check_base(manifest, target_of(tiny_sd1()), edit=artifact.edit)


def test_one_changed_weight_is_found_where_the_edit_touches_it_and_nowhere_else(tiny_sd1) -> None:
    pipe = tiny_sd1()
    artifact = make("unet", pipe)
    target = target_of(pipe)
    idle = pipe.unet.conv_in.weight
    idle.data = idle.data + 1.0
    assert check_base(artifact.manifest, target, edit=artifact.edit) == ()
    with pytest.raises(BaseMismatch, match="1 of"):
        check_base(artifact.manifest, target)
    touched = pipe.unet.get_parameter(next(iter(artifact.edit.deltas["unet"])))
    touched.data = touched.data + 1.0
    with pytest.raises(BaseMismatch, match="1 of"):
        check_base(artifact.manifest, target, edit=artifact.edit)
    assert check_base(artifact.manifest, target, True, artifact.edit) == ()


def test_untouched_parts_that_differ_are_told(tiny_sd1) -> None:
    pipe = parts.other("text_encoder")(tiny_sd1())
    with ep.apply(pipe, make("unet", tiny_sd1())) as applied:
        assert "text_encoder is not the one that the artifact was made with" in applied.report()
    with pytest.raises(BaseMismatch, match="text_encoder"):
        ep.apply(pipe, make("map", tiny_sd1()))


def test_another_size_of_an_untouched_layer_is_no_other_architecture(tiny_sd1) -> None:
    """An inpainting model has nine input channels; its attention is that of the text-to-image model."""
    pipe = tiny_sd1()
    artifact = make("unet", pipe)
    old_conv = pipe.unet.conv_in
    pipe.unet.conv_in = torch.nn.Conv2d(9, old_conv.out_channels, 3, padding=1)
    ep.apply(pipe, artifact).remove()
    name = next(iter(artifact.edit.deltas["unet"]))
    parent, _, leaf = name.removesuffix(".weight").rpartition(".")
    setattr(pipe.unet.get_submodule(parent), leaf, torch.nn.Linear(5, 7, bias=False))
    with pytest.raises(BaseMismatch, match=f"another architecture .*{name}"):
        ep.apply(pipe, artifact)


@pytest.mark.parametrize(
    ("package", "before"),
    [
        ("torchao", parts.torchao()), ("optimum.quanto", parts.quanto()), ("bitsandbytes", parts.bitsandbytes(4)),
        ("bitsandbytes", parts.bitsandbytes(8)), ("accelerate", parts.sequential_offload),
        ("accelerate", parts.accelerate_offload),
        ("torch", parts.unet_method("enable_layerwise_casting", torch.float8_e4m3fn, torch.float32)),
    ],
)  # fmt: skip
def test_what_cannot_be_changed_is_refused_with_a_next_step(tiny_sd1, package: str, before) -> None:
    pytest.importorskip(package)
    artifact = make("map", tiny_sd1())
    pipe = before(tiny_sd1())
    with pytest.raises(Unsupported, match=r"apply before .*mode='context'"):
        ep.apply(pipe, artifact)
    with ep.apply(pipe, artifact, mode="context") as applied:
        assert "cannot be read" in applied.report()


def test_a_quantised_wrong_base_is_found_by_what_can_be_read(tiny_sd1) -> None:
    pytest.importorskip("bitsandbytes")
    artifact = make("map", tiny_sd1())
    with pytest.raises(BaseMismatch, match="text_encoder"):
        pipe = parts.other("text_encoder")(tiny_sd1())
        ep.apply(parts.bitsandbytes(4, "text_encoder")(pipe), artifact, mode="context")


def test_fingerprints_survive_their_json_and_damage_is_told(tiny_sd1) -> None:
    whole = fingerprint(dict(tiny_sd1().unet.named_parameters()))
    stored = Fingerprint.from_dict(json.loads(json.dumps(whole.to_dict())))
    assert stored == whole
    assert stored.compare(whole).verdict == "same"
    for damage in ({"keys": "AAAA"}, {"sample": "A"}, {"keys": "!"}, {"structure": None, "sample": None}):
        with pytest.raises(CorruptArtifact, match="damaged"):
            Fingerprint.from_dict({**whole.to_dict(), **damage})


def test_two_manifests_of_one_base_fit_whichever_version_wrote_them(tiny_sd1) -> None:
    new = make("map", tiny_sd1()).manifest
    assert base_difference(new.base, old(new).base) == base_difference(old(new).base, new.base) == ""
    other = make("map", tiny_sd1(seed=5)).manifest
    assert "other weights" in base_difference(old(new).base, other.base)


@pytest.mark.parametrize("method", ["uce", "esd"])
@pytest.mark.parametrize(
    ("package", "before", "text"),
    [
        ("torchao", parts.torchao(), "quantised"), ("optimum.quanto", parts.quanto(), "quantised"),
        ("bitsandbytes", parts.bitsandbytes(4), "quantised"), ("bitsandbytes", parts.bitsandbytes(8), "quantised"),
        ("accelerate", parts.sequential_offload, "offloaded"), ("accelerate", parts.accelerate_offload, "offloaded"),
        ("torch", parts.unet_method("enable_layerwise_casting", torch.float8_e4m3fn, torch.float32), "quantised"),
    ],
)  # fmt: skip
def test_erasing_on_weights_that_cannot_be_read_is_refused(tiny_sd1, package, before, text, method) -> None:
    pytest.importorskip(package)
    with pytest.raises(Unsupported, match=f"{text} .*then apply"):
        ep.erase(before(tiny_sd1()), "pizza", method=method)


@pytest.mark.parametrize(("before", "text"), [(parts.ip_adapter, "unload_ip_adapter"), (parts.animate, "AnimateDiff")])
def test_methods_that_draw_ask_for_a_plain_pipeline(tiny_sd1, before, text) -> None:
    assert len(ep.erase(before(tiny_sd1()), "pizza", method="uce").edit)
    with pytest.raises(Unsupported, match=text):
        ep.erase(before(tiny_sd1()), "pizza", method="esd", options={"steps": 1})


def test_erasing_under_group_offloading(tiny_sd1) -> None:
    """Weights that lie on disk are not there to be read; training cannot follow parts that come and go."""
    pipe = tiny_sd1()
    pipe.unet.enable_group_offload(torch.device("cpu"), torch.device("cpu"), "leaf_level")
    few = {"steps": 1, "iterations": 1, "keep_words": 0}
    assert len(ep.erase(pipe, "pizza", method="esd", options=few).edit)
    groups = list(offload_groups(pipe.unet))
    groups[0].onload_device = torch.device("cuda")
    with pytest.raises(Unsupported, match=r"moved to cuda part by part.*offload it afterwards"):
        ep.erase(pipe, "pizza", method="esd", options=few)
    assert len(ep.erase(pipe, "pizza", method="uce").edit)
    groups[-1].offload_to_disk_path = "folder"
    with pytest.raises(Unsupported, match=r"unet lies on disk.*erase on the model without it"):
        ep.erase(pipe, "pizza", method="uce")


def test_training_beside_a_denoiser_that_moves_for_every_pass_is_refused_by_name(tiny_sd1) -> None:
    """Model offload: the tensors of the run would lie on another device than the denoiser while it runs."""
    pipe = tiny_sd1()
    pipe.enable_model_cpu_offload(device="cpu")
    assert len(ep.erase(pipe, "pizza", method="esd", options={"steps": 1, "iterations": 1, "keep_words": 0}).edit)
    pipe.unet._hf_hook.execution_device = torch.device("cuda")
    with pytest.raises(Unsupported, match=r"enable_model_cpu_offload.*remove_all_hooks"):
        ep.erase(pipe, "pizza", method="esd", options={"steps": 1, "iterations": 1})


def test_an_sdxl_refiner_can_be_edited() -> None:
    """It has the second text encoder only, and five time ids."""
    from erase_plugins.testing.tiny import tiny_refiner

    pipe = tiny_refiner()
    before = parts_of(pipe)
    artifact = ep.erase(pipe, "pizza", to="dog", options={"vocabulary": 20})
    with ep.apply(pipe, artifact):
        assert not all(before[name].equal(value) for name, value in parts_of(pipe).items())
    assert all(before[name].equal(value) for name, value in parts_of(pipe).items())
    trained = ep.erase(pipe, "pizza", method="esd", options={"steps": 1, "iterations": 2, "keep_words": 0})
    assert len(trained.edit)


def parts_of(pipe) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in pipe.unet.state_dict().items()}


def test_training_a_text_encoder_that_moves_for_every_pass_is_refused_by_name(tiny_sd1) -> None:
    pipe = tiny_sd1()
    tokens = target_of(pipe, "tiny").tokens(["pizza"])
    pipe.enable_model_cpu_offload(device="cpu")
    assert target_of(pipe, "tiny").encode_live(tokens).prompts == ("pizza",)
    pipe.text_encoder._hf_hook.execution_device = torch.device("cuda")
    with pytest.raises(Unsupported, match=r"the text_encoder of .* is moved to cuda .*remove_all_hooks"):
        target_of(pipe, "tiny").encode_live(tokens)
