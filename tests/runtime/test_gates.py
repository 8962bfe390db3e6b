"""Prompt-dependent strength: the gate's values, gated changes on a model, several edits stacked, files without gates."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from erase_plugins import compose
from erase_plugins.artifacts.artifact import Artifact
from erase_plugins.artifacts.edit import CONTEXT, AddOn, ContextMap, Edit, LowRank
from erase_plugins.artifacts.gated import GATE, concepts_of, gate_addon, gated_lowrank, is_gated, plain_lora
from erase_plugins.artifacts.lowrank import total
from erase_plugins.artifacts.manifest import Manifest, describe_base
from erase_plugins.errors import AlreadyApplied, ArtifactError, BaseMismatch, Unsupported
from erase_plugins.runtime.gates import gate_table, gate_values
from erase_plugins.types import Concept
from erase_plugins.workflow.applying import apply, apply_all
from erase_plugins.workflow.artifacts import load_artifact
from erase_plugins.workflow.models import target_of

PROMPTS = ["pizza", "a dog", ""]


@pytest.fixture(scope="module")
def target():
    from erase_plugins.testing.tiny import tiny_sd1

    return target_of(tiny_sd1(), "tiny")


def detector(target, concept):
    """A gate that is open for one prompt and closed for the two others of `PROMPTS`."""
    rows = target.encode(PROMPTS).embeds[:, 1:].double().mean(1)
    wanted = torch.tensor([float(prompt == concept) for prompt in PROMPTS], dtype=torch.float64)
    row = torch.linalg.lstsq(rows, wanted).solution
    return gate_addon(row[None, None], [concept], [0], "probe", target.info.tokens, low=0.2, high=0.8)


def changes(target, seed, rank=1, size=0.3):
    generator = torch.Generator().manual_seed(seed)
    refs = [ref for ref in target.modules("denoiser") if "attentions" in ref.path and ref.kind in ("linear", "conv")]
    found = {}
    for ref in refs:
        A = torch.randn(rank, *ref.shape[1:], generator=generator)
        found[ref.path] = LowRank(
            A, size * torch.randn(ref.shape[0], rank, *[1] * (len(ref.shape) - 2), generator=generator)
        )
    return found


def artifact(target, concept, seed=0, rank=1):
    deltas = {path: gated_lowrank(change, [0] * rank) for path, change in changes(target, seed, rank).items()}
    return wrapped(target, Edit("sd1", {"unet": {GATE: detector(target, concept), **deltas}}), concept)


def wrapped(target, edit, *concepts):
    manifest = Manifest(
        name="gated", method={"id": "test", "title": "Test"}, concepts=tuple(Concept(text) for text in concepts),
        base=describe_base(target), kinds=tuple(sorted(edit.kinds)), rank=edit.rank, modules=len(edit),
        created="2026-01-02T03:04:05Z",
    )  # fmt: skip
    return Artifact(manifest, edit)


@torch.no_grad()
def predict(target, prompts=PROMPTS):
    x = torch.randn((len(prompts), *target.info.latent_shape), generator=torch.Generator().manual_seed(5))
    return target.predict(x, 500, target.encode(prompts))


def near(first, second):
    return torch.allclose(first, second, rtol=1e-4, atol=1e-5)


def test_a_probe_opens_for_its_concept_only(target):
    gate = detector(target, "pizza")
    values = gate_values(target.encode(PROMPTS).embeds, gate.weights["embeddings"], gate.config)
    assert values.tolist() == [1.0, 0.0, 0.0]


def test_cosine_of_flattened_embeddings_is_one_for_the_prompt_itself(target):
    cond = target.encode(PROMPTS)
    gate = gate_addon(cond.embeds[:1], ["pizza"], [0], "cosine", target.info.tokens, low=0.0, high=1.0)
    values = gate_values(cond.embeds, gate.weights["embeddings"], gate.config)
    flat = torch.cosine_similarity(cond.embeds.flatten(1), cond.embeds[:1].flatten(1))
    torch.testing.assert_close(values, flat.clamp(0, 1))
    assert values[0] == pytest.approx(1.0, abs=1e-6)


def test_a_long_context_opens_as_far_as_its_most_open_window(target):
    gate, cond = detector(target, "pizza"), target.encode(PROMPTS)
    joined = torch.cat([cond.embeds[1], cond.embeds[0]])[None]
    apart = torch.cat([cond.embeds[1], cond.embeds[2]])[None]
    values = [float(gate_values(rows, gate.weights["embeddings"], gate.config)) for rows in (joined, apart)]
    assert values == [1.0, 0.0]


def test_a_gate_is_as_open_as_its_most_open_embedding(target):
    one, two = detector(target, "pizza"), detector(target, "a dog")
    rows = torch.cat([one.weights["embeddings"], two.weights["embeddings"]])
    config = {**one.config, **{name: [*one.config[name], *two.config[name]] for name in ("low", "high", "offsets")}}
    context = target.encode(PROMPTS).embeds
    assert gate_table(context, rows, {**config, "gates": [0, 0]}).tolist() == [[1.0], [1.0], [0.0]]
    assert gate_table(context, rows, {**config, "gates": [0, 1]}).tolist() == [[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]]


def test_open_is_the_plain_lora_and_closed_is_the_base_to_the_last_bit(target):
    base, gated = predict(target), artifact(target, "pizza", rank=2)
    lora = wrapped(target, plain_lora(gated.edit), "pizza")
    assert lora.edit.kinds == {"lowrank"}
    with apply(target.pipe, gated) as handle:
        seen = predict(target)
        handle.set_strength(0.0)
        assert torch.equal(predict(target), base)
        handle.set_strength(0.5)
        half = predict(target)
    with apply(target.pipe, lora):
        plain = predict(target)
    assert torch.equal(predict(target), base)
    assert near(seen[0], plain[0])
    assert torch.equal(seen[1:], base[1:])
    assert not near(seen[0], base[0])
    assert not near(half[0], seen[0])
    assert not torch.equal(plain[1], base[1])


def test_a_half_open_gate_is_half_the_strength(target):
    gated = artifact(target, "pizza")
    gate = gated.edit.deltas["unet"][GATE]
    half = AddOn(GATE, gate.weights, {**gate.config, "low": [0.0], "high": [2.0]})
    opened = replace(gated, edit=Edit("sd1", {"unet": {**gated.edit.deltas["unet"], GATE: half}}))
    with apply(target.pipe, opened):
        seen = predict(target)
    with apply(target.pipe, gated, 0.5):
        expected = predict(target)
    assert near(seen[0], expected[0])


def test_an_attack_sees_the_gate_in_every_pass(target):
    gated = artifact(target, "pizza")
    gate = gated.edit.deltas["unet"][GATE]
    half = AddOn(GATE, gate.weights, {**gate.config, "low": [0.0], "high": [2.0]})
    cond = target.encode(PROMPTS[:1])
    rows = cond.embeds.clone().requires_grad_()
    (slope,) = torch.autograd.grad(gate_table(rows, half.weights["embeddings"], half.config).sum(), rows)
    by_hand = gate.weights["embeddings"][0, 0] / (rows.shape[1] - 1) / 2  # mean over tokens but the first, of 0 to 2
    assert torch.allclose(slope[0, 1:], by_hand.expand(rows.shape[1] - 1, -1)) and not bool(slope[0, 0].any())
    opened = replace(gated, edit=Edit("sd1", {"unet": {**gated.edit.deltas["unet"], GATE: half}}))
    noise = torch.randn((1, *target.info.latent_shape), generator=torch.Generator().manual_seed(5))
    with apply(target.pipe, opened):
        found = [
            torch.autograd.grad(target.predict(noise, 500, replace(cond, embeds=rows)).square().sum(), rows)[0]
            for _ in range(2)
        ]
    assert torch.equal(*found)


def test_stacked_edits_add_up_without_squares_or_cross_terms(target):
    """Both open for one prompt: g1 U1 D1 + g2 U2 D2, the sum of the two weight changes."""
    one, two = artifact(target, "pizza", 0), artifact(target, "pizza", 1)
    loras = [wrapped(target, plain_lora(item.edit), "pizza") for item in (one, two)]
    handles = apply_all(target.pipe, [one, two])
    seen = predict(target)
    for handle in handles:
        handle.remove()
    handles = apply_all(target.pipe, loras)
    expected = predict(target)
    for handle in handles:
        handle.remove()
    assert near(seen[0], expected[0])


def test_gates_one_and_zero_equal_the_first_edit_alone(target):
    one, two = artifact(target, "pizza", 0), artifact(target, "a dog", 1)
    with apply(target.pipe, one):
        alone = predict(target)
    handles = apply_all(target.pipe, [one, two])
    both = predict(target)
    for handle in handles:
        handle.remove()
    assert torch.equal(both[0], alone[0])
    assert not torch.equal(both[1], alone[1])


def test_merging_keeps_one_gate_per_concept_and_revoking_takes_one_away(target):
    one, two = artifact(target, "pizza", 0, rank=2), artifact(target, "a dog", 1)
    merged = compose.merge([one, two])
    assert concepts_of(merged.edit) == ("pizza", "a dog")
    handles = apply_all(target.pipe, [one, two])
    expected = predict(target)
    for handle in handles:
        handle.remove()
    with apply(target.pipe, merged):
        assert near(predict(target), expected)
    back = compose.revoke(merged, "pizza")
    assert back.manifest.erased == ("a dog",)
    with apply(target.pipe, back):
        revoked = predict(target)
        with pytest.raises(AlreadyApplied):
            apply(target.pipe, two)
    with apply(target.pipe, two):
        assert torch.equal(predict(target), revoked)
    assert not torch.equal(expected, revoked)
    with pytest.raises(ArtifactError, match="not erased"):
        compose.revoke(merged, "cat")
    with pytest.raises(ArtifactError, match="nothing"):
        compose.revoke(two, "a dog")


def test_weights_of_a_merge_are_strengths(target):
    one, two = artifact(target, "pizza", 0), artifact(target, "a dog", 1)
    merged = compose.merge([one, two], weights=[0.25, 1.0])
    with apply(target.pipe, one, 0.25):
        expected = predict(target)
    with apply(target.pipe, merged):
        assert near(predict(target)[0], expected[0])


def test_gates_read_the_prompt_before_any_context_map(target):
    gated = artifact(target, "pizza")
    width = target.info.width
    turned = ContextMap(torch.eye(width), -2 * torch.eye(width))  # every row changes sign
    mapped = wrapped(target, Edit("sd1", {"unet": {CONTEXT: turned}}), "pizza")
    for order in (("context", "gate"), ("gate", "context")):
        handles = [
            apply(target.pipe, gated) if name == "gate" else apply(target.pipe, mapped, mode="context")
            for name in order
        ]
        both = predict(target)
        handles[order.index("gate")].set_strength(0.0)
        without_gated = predict(target)
        for handle in handles:
            handle.remove()
        assert not near(both[0], without_gated[0])
        assert torch.equal(both[1:], without_gated[1:])


def test_patch_file_keeps_gates_and_lora_files_say_what_they_lose(target, tmp_path):
    gated = artifact(target, "pizza", rank=2)
    saved = gated.save(tmp_path / "out", ("patch", "diffusers", "kohya", "peft"))
    assert sum("gate is fixed at 1" in note for note in saved.manifest.notes) == 3
    loaded = load_artifact(tmp_path / "out")
    assert is_gated(loaded.edit)
    with apply(target.pipe, gated):
        expected = predict(target)
    with apply(target.pipe, loaded):
        assert torch.equal(predict(target), expected)


@pytest.mark.parametrize("layout", ["diffusers", "kohya"])
def test_stock_diffusers_loads_the_plain_form(tiny_sd1, tmp_path, layout):
    pipe = tiny_sd1()
    own = target_of(pipe, "tiny")
    gated = artifact(own, "pizza", rank=2)
    saved = gated.save(tmp_path / "out", (layout,))
    with apply(pipe, wrapped(own, plain_lora(gated.edit), "pizza")):
        expected = predict(own)
    pipe.load_lora_weights(str(tmp_path / "out"), weight_name=saved.manifest.files[0].name)
    assert near(predict(target_of(pipe, "tiny")), expected)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"measure": "vibes"}, "unknown gate measure"),
        ({"low": [0.1, 0.2]}, "as many numbers"),
        ({"low": [1.0], "high": [1.0]}, "low < high"),
        ({"gates": [-1]}, "not negative"),
    ],
)
def test_gates_that_cannot_work_are_refused(target, change, words):
    group = artifact(target, "pizza").edit.deltas["unet"]
    wrong = AddOn(GATE, group[GATE].weights, {**group[GATE].config, **change})
    base = predict(target)
    with pytest.raises(Unsupported, match=words):
        apply(target.pipe, wrapped(target, Edit("sd1", {"unet": {**group, GATE: wrong}}), "pizza"))
    assert torch.equal(predict(target), base)
    assert not target.pipe.unet._forward_pre_hooks


def test_gated_changes_need_their_gate_and_their_module(target):
    group = dict(artifact(target, "pizza").edit.deltas["unet"])
    gate = group.pop(GATE)
    with pytest.raises(Unsupported, match="no gate"):
        apply(target.pipe, wrapped(target, Edit("sd1", {"unet": group}), "pizza"))
    path = next(iter(group))
    with pytest.raises(BaseMismatch, match="no module nowhere"):
        apply(target.pipe, wrapped(target, Edit("sd1", {"unet": {GATE: gate, "nowhere": group[path]}}), "pizza"))
    numbered = AddOn("gated_lowrank", group[path].weights, {"gates": [3]})
    with pytest.raises(Unsupported, match="gate 3"):
        apply(target.pipe, wrapped(target, Edit("sd1", {"unet": {GATE: gate, path: numbered}}), "pizza"))


def test_gates_of_different_measures_are_not_merged(target):
    one, two = artifact(target, "pizza"), artifact(target, "a dog")
    group = dict(two.edit.deltas["unet"])
    group[GATE] = gate_addon(
        target.encode(["a dog"]).embeds, ["a dog"], [0], "cosine", target.info.tokens, low=0, high=1
    )
    with pytest.raises(Unsupported, match="different ways"):
        total([(one.edit, 1.0), (Edit("sd1", {"unet": group}), 1.0)])


def test_weight_changes_go_behind_a_gate_and_act_fully_where_it_is_open(target):
    from erase_plugins.artifacts.edit import Dense
    from erase_plugins.artifacts.lowrank import behind_gate

    gate = detector(target, "pizza")
    refs = target.modules("cross_kv")[:2]
    low = LowRank(torch.randn(2, refs[0].shape[1]), torch.randn(refs[0].shape[0], 2))
    edit = Edit("sd1", {"unet": {refs[0].weight: low, refs[1].weight: Dense(torch.randn(refs[1].shape))}})
    made = behind_gate(edit, gate)
    assert is_gated(made)
    open_ = plain_lora(made).deltas["unet"]
    assert torch.allclose(open_[refs[0].weight].dense(), low.dense(), atol=1e-4)
    dense = edit.deltas["unet"][refs[1].weight]
    assert torch.allclose(open_[refs[1].weight].dense(), dense.dense(), atol=1e-4)
    for component, key, delta in (
        ("unet", "a.bias", Dense(torch.ones(2))), ("unet", CONTEXT, ContextMap(torch.ones(1, 2), torch.ones(2, 1))),
        ("text_encoder", refs[0].weight, low),
    ):  # fmt: skip
        with pytest.raises(Unsupported, match="cannot be gated"):
            behind_gate(Edit("sd1", {component: {key: delta}}), gate)


class Sizes:
    """Directions that every gated product was formed of, and how often gates were computed."""

    def __init__(self, monkeypatch):
        from erase_plugins.runtime import gated_changes, gates

        self.directions, self.tables = [], 0
        product, table = gated_changes.gated_product, gates.Thresholds.table

        def counted(layer, x, down, up, values):
            self.directions.append(len(down))
            return product(layer, x, down, up, values)

        def read(thresholds, context):
            self.tables += 1
            return table(thresholds, context)

        monkeypatch.setattr(gated_changes, "gated_product", counted)
        monkeypatch.setattr(gates.Thresholds, "table", read)


def steps(target, prompt, count=3):
    cond = target.encode([prompt])
    generator = torch.Generator().manual_seed(3)
    size = (1, *target.info.latent_shape)
    with torch.no_grad():
        return [target.predict(torch.randn(size, generator=generator), 10 * n + 1, cond) for n in range(count)]


def test_closed_memories_of_one_artifact_cost_nothing(target, monkeypatch):
    """Two memories, one of them shut: every product has the one direction that is open."""
    many = compose.merge([artifact(target, "a dog", seed) if seed else artifact(target, "pizza") for seed in range(2)])
    layers = len(changes(target, 0))
    with apply(target.pipe, many):
        sizes = Sizes(monkeypatch)
        found = steps(target, "pizza")
    assert sizes.directions == [1] * (3 * layers)
    assert sizes.tables == 1  # three steps of one prompt
    with apply(target.pipe, artifact(target, "pizza")):
        assert all(torch.equal(one, other) for one, other in zip(steps(target, "pizza"), found, strict=True))


def test_closed_artifacts_share_one_hook_and_are_not_asked(target, monkeypatch):
    artifacts = [artifact(target, "pizza"), *(artifact(target, "a dog", seed) for seed in range(1, 12))]
    refs = changes(target, 0)
    handles = apply_all(target.pipe, artifacts)
    try:
        hooks = [len(target.pipe.unet.get_submodule(path)._forward_hooks) for path in refs]
        sizes = Sizes(monkeypatch)
        steps(target, "pizza")
        assert hooks == [1] * len(refs)
        assert sizes.directions == [1] * (3 * len(refs))
        assert sizes.tables == len(artifacts)
    finally:
        for handle in handles:
            handle.remove()
    assert not any(target.pipe.unet.get_submodule(path)._forward_hooks for path in refs)


def test_a_context_that_was_written_to_is_read_again(target):
    cond = target.encode(["a dog"])
    with apply(target.pipe, artifact(target, "pizza")):
        closed = target.predict(torch.ones(1, *target.info.latent_shape), 1, cond)
        cond.embeds.copy_(target.encode(["pizza"]).embeds)
        opened = target.predict(torch.ones(1, *target.info.latent_shape), 1, cond)
    assert not torch.equal(opened, target.predict(torch.ones(1, *target.info.latent_shape), 1, cond))
    assert not torch.equal(opened, closed)
