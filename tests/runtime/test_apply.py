"""Applying is all or nothing, adds up, and comes off to the last bit."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.edit import AddOn, Dense, Edit, LowRank, Rows
from erase_plugins.errors import AlreadyApplied, ArtifactError, BaseMismatch, RequestError, Unsupported
from erase_plugins.evaluation.draw import draw
from erase_plugins.workflow.applying import apply_all
from erase_plugins.workflow.models import find_model, target_of

KEY = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
OUT = "mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0"


@pytest.fixture
def pipe(tiny_sd1):
    return tiny_sd1()


@pytest.fixture
def artifact(pipe):
    return ep.erase(pipe, "pizza", to="dog", options={"vocabulary": 0})


def state(pipe) -> dict[str, torch.Tensor]:
    found = {f"unet.{name}": value.clone() for name, value in pipe.unet.state_dict().items()}
    return found | {f"text.{name}": value.clone() for name, value in pipe.text_encoder.state_dict().items()}


def equal(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(a[name].equal(b[name]) for name in a)


def picture(pipe, prompt: str = "a pizza") -> torch.Tensor:
    return draw(pipe, [prompt], [1], steps=3, fast=False)


def test_what_is_in_force_reads_as_a_line_where_python_shows_it(pipe, artifact, tmp_path):
    assert repr(artifact) == "<Artifact erase_pizza: pizza by uce, for sd1, in memory>"
    assert repr(artifact.save(tmp_path / "no-pizza")).endswith("for sd1, in no-pizza>")
    with ep.apply(pipe, artifact, strength=0.5) as handle:
        assert repr(ep.applied(pipe)) == f"[<Applied {handle.report()}>]"
        assert "strength 0.5" in repr(handle)
    assert repr(handle).startswith("<Applied (removed) erase_pizza")


@pytest.mark.parametrize("call", [ep.apply, lambda model, item: apply_all(model, [item])], ids=["apply", "apply_all"])
def test_the_name_of_a_model_is_refused_since_nobody_would_hold_what_is_changed(artifact, tmp_path, call):
    for name in ("pocket", tmp_path, find_model("pocket")):
        with pytest.raises(RequestError, match=r"is the name of a model.* pipe = erase_plugins\.load\('"):
            call(name, artifact)


def with_edit(artifact, deltas) -> ep.Artifact:
    return replace(artifact, edit=Edit("sd1", deltas))


def every_kind(pipe, artifact) -> ep.Artifact:
    weight = pipe.unet.get_parameter(KEY)
    table = pipe.text_encoder.get_input_embeddings().weight
    generator = torch.Generator().manual_seed(0)

    def noise(*shape: int) -> torch.Tensor:
        return 0.1 * torch.randn(*shape, generator=generator)

    return with_edit(
        artifact,
        {
            "unet": {
                KEY: LowRank(noise(2, weight.shape[1]), noise(weight.shape[0], 2)),
                "conv_in.weight": Dense(noise(*pipe.unet.conv_in.weight.shape)),
                "mid_block.resnets.0.conv1.weight": LowRank(noise(2, 32, 3, 3), noise(32, 2, 1, 1)),
                f"{OUT}.bias": Dense(noise(32)),
                OUT: AddOn("bottleneck", {"down": noise(4, 32), "up": noise(32, 4)}, {"activation": "gelu"}),
            },
            "text_encoder": {
                "embeddings.token_embedding.weight": Rows(torch.tensor([3, 7]), noise(2, table.shape[1])),
                "encoder.layers.0.mlp.fc1.weight": LowRank(noise(1, 32), noise(64, 1)),
            },
        },
    )


def test_with_block_changes_and_restores(pipe, artifact) -> None:
    before, base = state(pipe), picture(pipe)
    with artifact.apply(pipe) as applied:
        assert "patched 8 of 8" in applied.report()
        assert not picture(pipe).equal(base)
    assert equal(before, state(pipe))
    assert picture(pipe).equal(base)


def test_every_kind_of_change_is_reversible_and_off_at_zero(pipe, artifact) -> None:
    before, base = state(pipe), picture(pipe)
    applied = every_kind(pipe, artifact).apply(pipe, strength=0.7)
    changed = picture(pipe)
    assert not changed.equal(base)
    applied.set_strength(0.0)
    assert equal(before, state(pipe))
    assert picture(pipe).equal(base)
    applied.set_strength(0.7)
    assert picture(pipe).equal(changed)
    applied.remove()
    applied.remove()
    assert equal(before, state(pipe))
    with pytest.raises(ArtifactError, match="removed"):
        applied.set_strength(1.0)


def test_exceptions_inside_the_block_restore(pipe, artifact) -> None:
    before = state(pipe)
    with pytest.raises(KeyError), artifact.apply(pipe):
        raise KeyError("user code")
    assert equal(before, state(pipe))


def test_several_edits_add_up_in_any_order_of_removal(pipe, artifact) -> None:
    other = ep.erase(pipe, "car", to="dog", options={"vocabulary": 0})
    before = state(pipe)
    alone = artifact.apply(pipe)
    only = state(pipe)
    second = other.apply(pipe, strength=0.5)
    both = state(pipe)
    alone.remove()
    alone = artifact.apply(pipe)
    assert equal(both, state(pipe))
    second.remove()
    assert equal(only, state(pipe))
    alone.remove()
    assert equal(before, state(pipe))


def test_strength_is_linear_in_the_weights(pipe, artifact) -> None:
    base = pipe.unet.get_parameter(KEY).detach().clone()
    with artifact.apply(pipe, 1.0):
        one = pipe.unet.get_parameter(KEY).detach() - base
    with artifact.apply(pipe, -2.0):
        minus = pipe.unet.get_parameter(KEY).detach() - base
    assert torch.allclose(minus, -2 * one, atol=1e-6)


def test_fused_equals_applied_and_stays(pipe, artifact) -> None:
    with artifact.apply(pipe):
        expected = picture(pipe)
    applied = artifact.apply(pipe)
    applied.fuse()
    assert torch.allclose(picture(pipe), expected, atol=1e-6)
    assert not hasattr(pipe.unet.get_parameter(KEY), "_erase_original")
    with pytest.raises(ArtifactError):
        applied.fuse()


@pytest.mark.parametrize("strength", [1.0, 0.65])
@pytest.mark.parametrize("mode", ["weights", "context"])
def test_a_map_that_is_in_the_weights_is_taken_off_by_no_strength(pipe, artifact, strength, mode):
    artifact.apply(pipe, strength).fuse()
    before = {name: value.clone() for name, value in pipe.unet.named_parameters()}
    pipe.to(torch.bfloat16).to(torch.float32)
    for tried in (-strength, 1.0):
        for any_base in (False, True):
            with pytest.raises(AlreadyApplied, match="fused into the weights of this unet already: no strength"):
                artifact.apply(pipe, tried, any_base=any_base, mode=mode)
    assert all(value.equal(before[name].bfloat16().float()) for name, value in pipe.unet.named_parameters())


def test_a_fine_tune_is_not_taken_for_a_fused_model(pipe, artifact):
    draw = torch.Generator().manual_seed(1)
    for value in pipe.unet.parameters():
        value.data += 0.05 * torch.randn(value.shape, generator=draw)
    for tried in (-1.0, 1.0):
        artifact.apply(pipe, tried, any_base=True).remove()


def test_fusing_below_another_edit_is_refused(pipe, artifact) -> None:
    first = artifact.apply(pipe)
    second = ep.erase(pipe, "car", to="dog", options={"vocabulary": 0}).apply(pipe)
    with pytest.raises(ArtifactError, match="another"):
        first.fuse()
    first.remove()
    second.remove()


def test_context_mode_equals_weights_mode(pipe, artifact) -> None:
    with artifact.apply(pipe):
        expected = picture(pipe)
    before = state(pipe)
    with artifact.apply(pipe, mode="context") as applied:
        with pytest.warns(UserWarning, match="does not hold 'erase_pizza'"):
            assert equal(before, state(pipe))
        assert torch.allclose(picture(pipe), expected, atol=1e-4)
        applied.set_strength(0.0)
        assert not picture(pipe).equal(expected)
    assert not pipe.unet._forward_pre_hooks
    with pytest.raises(Unsupported, match="context"):
        every_kind(pipe, artifact).apply(pipe, mode="context")


def test_wrong_bases_are_refused_and_nothing_changes(pipe, artifact, tiny_sd1, tiny_sdxl) -> None:
    other, xl = tiny_sd1(seed=5), tiny_sdxl()
    before = state(other)
    with pytest.raises(BaseMismatch, match=r"same architecture, other weights .*any_base=True"):
        artifact.apply(other)
    with pytest.raises(BaseMismatch, match="family sdxl"):
        artifact.apply(xl)
    assert equal(before, state(other))
    with artifact.apply(other, any_base=True):
        assert not equal(before, state(other))
    assert equal(before, state(other))


def test_partial_matches_are_refused_and_nothing_changes(pipe, artifact) -> None:
    before = state(pipe)
    good = LowRank(torch.zeros(1, 32), torch.zeros(32, 1))
    missing = with_edit(artifact, {"unet": {KEY: good, "no.such.weight": good}})
    with pytest.raises(BaseMismatch, match="patched 1 of 2 modules"):
        missing.apply(pipe)
    with pytest.raises(BaseMismatch, match="weight is"):
        with_edit(artifact, {"unet": {KEY: LowRank(torch.zeros(1, 5), torch.zeros(32, 1))}}).apply(pipe)
    with pytest.raises(BaseMismatch, match="table"):
        rows = Rows(torch.tensor([99_999]), torch.zeros(1, 32))
        with_edit(artifact, {"text_encoder": {"embeddings.token_embedding.weight": rows}}).apply(pipe)
    with pytest.raises(Unsupported, match="add-on"):
        with_edit(artifact, {"unet": {KEY: good, OUT: AddOn("magic", {}, {})}}).apply(pipe)
    with pytest.raises(BaseMismatch, match="hang"):
        with_edit(artifact, {"unet": {KEY: good, "nowhere": AddOn("bottleneck", {}, {})}}).apply(pipe)
    assert equal(before, state(pipe))


def test_all_or_nothing_for_a_list(pipe, artifact) -> None:
    before = state(pipe)
    with pytest.raises(BaseMismatch):
        apply_all(pipe, [artifact, with_edit(artifact, {"unet": {"no.weight": Dense(torch.zeros(1))}})])
    assert equal(before, state(pipe))


def test_bad_strengths_and_modes(pipe, artifact) -> None:
    for strength in (float("nan"), float("inf"), "1", 1e6):
        with pytest.raises(RequestError, match="strength"):
            artifact.apply(pipe, strength=strength)
    with pytest.raises(RequestError, match="mode"):
        artifact.apply(pipe, mode="magic")


def test_half_precision_pipelines(tiny_sd1, artifact) -> None:
    pipe = tiny_sd1().to(torch.bfloat16)
    before = state(pipe)
    with artifact.apply(pipe):
        assert pipe.unet.get_parameter(KEY).dtype == torch.bfloat16
        assert not equal(before, state(pipe))
    assert equal(before, state(pipe))


def test_compiled_and_quantised_pipelines_are_refused(pipe, artifact) -> None:
    plain = pipe.unet
    pipe.unet = torch.compile(plain, backend="eager")
    with pytest.raises(Unsupported, match=r"torch\.compile"):
        artifact.apply(pipe)
    pipe.unet = plain
    parameter = plain.get_parameter(KEY)
    kept = parameter.data
    parameter.data = kept.to(torch.float8_e4m3fn)
    with pytest.raises((Unsupported, BaseMismatch)):
        artifact.apply(pipe)
    parameter.data = kept


def test_a_lora_of_the_user_stays_on_top(pipe, artifact, tmp_path) -> None:
    """Our change goes to the weight below a peft wrapper; the user's adapter keeps working."""
    from peft import LoraConfig

    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_k"], init_lora_weights="gaussian"))
    base = picture(pipe)
    with artifact.apply(pipe):
        assert not picture(pipe).equal(base)
    assert picture(pipe).equal(base)


def test_two_threads_do_not_interleave(pipe, artifact) -> None:
    before = state(pipe)
    others = [ep.erase(pipe, name, to="dog", options={"vocabulary": 0}) for name in ("car", "house")]
    problems: list[BaseException] = []

    def work(mine) -> None:
        try:
            for _ in range(5):
                mine.apply(pipe, 0.5).remove()
        except BaseException as error:
            problems.append(error)

    threads = [threading.Thread(target=work, args=(mine,)) for mine in (artifact, *others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert equal(before, state(pipe))


def test_fingerprint_sees_through_our_patches(pipe, artifact) -> None:
    before = {name: item.short for name, item in target_of(pipe).fingerprint().items()}
    with artifact.apply(pipe):
        assert {name: item.short for name, item in target_of(pipe).fingerprint().items()} == before
        with ep.erase(pipe, "car", to="dog", options={"vocabulary": 0}).apply(pipe, 0.2):
            pass


def test_text_layers_that_are_not_read_are_told(tiny_sdxl, tiny_sd1) -> None:
    """SDXL reads the last layer but one."""
    pipe = tiny_sdxl()
    target = target_of(pipe)
    empty = ep.erase(target, "pizza", to="dog", options={"vocabulary": 0})

    def change(layer: int) -> LowRank:
        return LowRank(torch.ones(1, 32), (1.0 + layer) * torch.ones(64, 1))

    def applied(model, artifact, **layers):
        deltas = {
            part: {f"encoder.layers.{n}.mlp.fc1.weight": change(n) for n in some} for part, some in layers.items()
        }
        with replace(artifact, edit=Edit(artifact.edit.family, deltas)).apply(model) as handle:
            return handle, target_of(model).encode(["a pizza"])

    with torch.no_grad():
        before = target_of(pipe).encode(["a pizza"])
        handle, after = applied(pipe, empty, text_encoder=[1], text_encoder_2=[2])
    assert torch.equal(after.embeds, before.embeds)
    assert not torch.equal(after.pooled, before.pooled)
    assert [text.split()[0] for text in handle.warnings] == ["text_encoder", "text_encoder_2"]
    assert "reads its context" in handle.report()
    handle, after = applied(pipe, empty, text_encoder=[0, 1])
    assert handle.warnings == ()
    assert not torch.equal(after.embeds, before.embeds)
    plain = tiny_sd1()
    handle, _ = applied(plain, ep.erase(plain, "pizza", to="dog", options={"vocabulary": 0}), text_encoder=[1])
    assert handle.warnings == ()
