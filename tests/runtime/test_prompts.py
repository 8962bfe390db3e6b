"""Gates that know their concept's name: open wherever a prompt has it, however long; shut elsewhere as before."""

from __future__ import annotations

import random
import warnings

import pytest
import torch

from erase_plugins import compose
from erase_plugins.artifacts.edit import Edit, LowRank
from erase_plugins.artifacts.gated import GATE, gate_addon, gated_lowrank, vocabulary_mark
from erase_plugins.engine.gating import words_of
from erase_plugins.errors import Unsupported
from erase_plugins.runtime.gates import check_gate, gate_table, named
from erase_plugins.runtime.prompts import PromptMemory, end_of, equal
from erase_plugins.workflow.applying import apply
from erase_plugins.workflow.models import as_target, target_of
from tests.runtime.test_gates import near, predict, wrapped

WORDS = (
    "dog",
    "house",
    "boat",
    "tree",
    "car",
    "blue",
    "red",
    "water",
    "street",
    "music",
    "horse",
    "book",
    "lamp",
    "chair",
    "bird",
    "moon",
    "small",
    "big",
)
LENGTHS = (5, 12, 25, 40, 60)


def captions(name, lengths=LENGTHS, seed=0):
    """Captions of about so many words; ``name`` stands at a random place, or nowhere if None."""
    draw = random.Random(seed)
    found = []
    for length in lengths:
        words = [draw.choice(WORDS) for _ in range(length)]
        if name is not None:
            words[draw.randrange(length)] = name
        found.append(" ".join(words))
    return found


def long_tiny():
    """A random pipeline that reads 77 tokens."""
    from transformers import CLIPTextConfig, CLIPTextModel

    from erase_plugins.testing.tiny import tiny_sd1

    pipe = tiny_sd1()
    config = {**pipe.text_encoder.config.to_dict(), "max_position_embeddings": 77}
    with torch.random.fork_rng():
        torch.manual_seed(3)
        pipe.text_encoder = CLIPTextModel(CLIPTextConfig(**config)).eval().requires_grad_(False)
    pipe.tokenizer.model_max_length = 77
    return pipe


def artifact(target, concept, seed=0, score=(50.0, 60.0), phrases=None):
    """A change of one layer behind a gate that embeddings alone never open."""
    row = torch.randn(1, 1, target.info.width, generator=torch.Generator().manual_seed(seed))
    gate = gate_addon(
        row, [concept], [0], "probe", target.info.tokens, low=score[0], high=score[1],
        names=[words_of(target, phrases or [concept])], tokenizer=vocabulary_mark(target.vocabulary()),
    )  # fmt: skip
    ref = target.modules("cross_v")[0]
    draw = torch.Generator().manual_seed(seed)
    change = LowRank(torch.randn(1, ref.shape[1], generator=draw), torch.randn(ref.shape[0], 1, generator=draw))
    return wrapped(
        target, Edit(target.family.id, {"unet": {GATE: gate, ref.path: gated_lowrank(change, [0])}}), concept
    )


def table_of(handle):
    return handle.parts["unet"].attached[0].table


def drawn(pipe, prompts, **options):
    """One denoising step of the stock pipeline."""
    return pipe(prompts, num_inference_steps=1, output_type="latent", generator=torch.Generator().manual_seed(0),
                **options).images  # fmt: skip


@pytest.fixture(scope="module")
def pipe():
    return long_tiny()


@pytest.fixture(scope="module")
def target(pipe):
    return as_target(pipe)


def test_captions_of_five_to_sixty_tokens_open_where_they_have_the_name(pipe, target):
    prompts = [*captions("pizza"), *captions(None)]
    assert max(target.tokens(prompts).last) > 58
    with apply(pipe, artifact(target, "pizza")) as handle:
        drawn(pipe, prompts, guidance_scale=5.0)
        table = table_of(handle)[:, 0].tolist()
    assert table == [0.0] * len(prompts) + [1.0] * len(LENGTHS) + [0.0] * len(LENGTHS)  # negative prompts first


def test_the_share_is_the_published_overlap_of_tokens(target):
    """|tokens(prompt) and tokens(concept)| / |tokens(concept)| where every word is one token."""
    concept = "dog pizza boat"
    assert all(target.tokens([word]).last == (1,) for word in concept.split()), "every word is one token"
    for prompt in ("a red boat", "pizza", "a tree", "the boat of a dog with pizza"):
        ids = [set(target.tokens([text]).ids["text_encoder"][0].tolist()) - {0, 1} for text in (prompt, concept)]
        row = tuple(target.tokens([prompt]).ids["text_encoder"][0].tolist())
        assert named(row, words_of(target, [concept])) == pytest.approx(len(ids[0] & ids[1]) / len(ids[1]))


def test_words_of_grammar_name_nothing_and_pieces_of_a_word_do_not_count():
    phrases = [[[5], [7, 8]]]
    assert named((0, 5, 7, 8, 1), phrases) == 1.0
    assert named((0, 8, 7, 5, 1), phrases) == 0.5
    assert named((0, 7, 2, 8, 1), phrases) == 0.0
    assert named((0, 5, 1), []) == 0.0


def test_grammar_is_left_out_of_phrases(target):
    assert words_of(target, ["a picture of the pizza"]) == words_of(target, ["picture pizza"])
    assert words_of(target, ["the"])
    assert words_of(target, ["pizza,", "pizza"]) == words_of(target, ["pizza"])


def test_off_is_the_base_and_taking_off_leaves_nothing(pipe, target):
    encoder = pipe.text_encoder
    before = dict(encoder.__dict__), dict(encoder._forward_hooks)
    base = drawn(pipe, ["pizza"])
    one, two = (apply(pipe, artifact(target, name, seed)) for seed, name in enumerate(("pizza", "guitar")))
    assert len(encoder._forward_hooks) == len(before[1]) + 1, "artifacts share one watch"
    assert not torch.equal(drawn(pipe, ["pizza"]), base)
    one.set_strength(0.0)
    assert torch.equal(drawn(pipe, ["pizza"]), base), "the other gate is shut"
    one.remove()
    assert not torch.equal(drawn(pipe, ["a guitar"]), drawn(pipe, ["a dog"]))
    assert table_of(two).tolist() == [[0.0], [0.0]]
    two.remove()
    assert torch.equal(drawn(pipe, ["pizza"]), base)
    assert dict(encoder._forward_hooks) == before[1]
    assert encoder.__dict__.keys() == before[0].keys()


def test_stacked_gates_open_apart_and_a_merge_opens_both(pipe, target):
    parts = [artifact(target, name, seed) for seed, name in enumerate(("pizza", "guitar"))]
    prompts = [*captions("pizza", (20,)), *captions("guitar", (20,)), "a dog"]
    with apply(pipe, parts[0]) as one, apply(pipe, parts[1]) as two:
        stacked = drawn(pipe, prompts, guidance_scale=0.0)
        assert table_of(one)[:, 0].tolist() == [1.0, 0.0, 0.0]
        assert table_of(two)[:, 0].tolist() == [0.0, 1.0, 0.0]
    merged = compose.merge(parts)
    with apply(pipe, merged) as both:
        assert near(drawn(pipe, prompts, guidance_scale=0.0), stacked)
        assert sorted(table_of(both).tolist()) == [[0.0, 0.0], [0.0, 1.0], [1.0, 0.0]]
    left = compose.revoke(merged, "pizza")
    with apply(pipe, left) as handle:
        drawn(pipe, prompts, guidance_scale=0.0)
        assert table_of(handle).tolist() == [[0.0], [1.0], [0.0]]


def test_given_embeddings_are_judged_by_themselves_and_that_is_said_once(pipe, target):
    free = torch.randn(1, 77, target.info.width, generator=torch.Generator().manual_seed(1))
    with apply(pipe, artifact(target, "pizza")) as handle:
        with pytest.warns(UserWarning, match="embeddings alone"):
            drawn(pipe, None, prompt_embeds=free, guidance_scale=0.0)
        assert table_of(handle).tolist() == [[0.0]]
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            drawn(pipe, None, prompt_embeds=free, guidance_scale=0.0)


def test_encoded_embeddings_are_known_again_cast_repeated_and_joined(pipe, target):
    with apply(pipe, artifact(target, "pizza")) as handle:
        rows = torch.cat([pipe.encode_prompt(text, "cpu", 1, False)[0] for text in captions("pizza", (20, 30))])
        gate = handle.parts["unet"].attached[0]
        for seen in (rows, rows.half(), rows.bfloat16().float(), rows.repeat(2, 1, 1)):
            gate.read(seen)
            assert gate.table.tolist() == [[1.0]] * len(seen)
        gate.read(torch.cat([target.encode([""]).embeds, rows[:1]], 1))
        assert gate.table.tolist() == [[1.0]]
        with pytest.warns(UserWarning, match="embeddings alone"):
            gate.read(rows * 1.05)
        assert gate.table.tolist() == [[0.0]] * 2


def test_prompts_that_the_model_cached_before_are_known(target):
    base = predict(target, ["pizza", "a dog"])
    with apply(target.pipe, artifact(target, "pizza")):
        seen = predict(target, ["pizza", "a dog"])
    assert not torch.equal(seen[0], base[0])
    assert torch.equal(seen[1], base[1])


def test_another_layer_of_the_encoder_is_known_too(pipe, target):
    """As ``clip_skip`` of Stable Diffusion 1 pipelines makes it: the last layer but one through the last norm."""
    encoder = pipe.text_encoder
    with apply(pipe, artifact(target, "pizza")) as handle, torch.no_grad():
        hidden = encoder(target.tokens(captions("pizza", (15,))).ids["text_encoder"], output_hidden_states=True)
        rows = getattr(encoder, "text_model", encoder).final_layer_norm(hidden.hidden_states[-2])
        drawn(pipe, None, prompt_embeds=rows, guidance_scale=0.0)
        assert table_of(handle).tolist() == [[1.0]]


def test_sdxl_opens_by_name_and_says_nothing_of_its_empty_negative_prompt(tiny_sdxl):
    model = target_of(tiny_sdxl(), "tiny")
    with warnings.catch_warnings(), apply(model.pipe, artifact(model, "pizza")) as handle:
        warnings.simplefilter("error", UserWarning)
        drawn(model.pipe, [*captions("pizza", (12,)), "a dog"], guidance_scale=5.0, height=16, width=16)
        assert table_of(handle)[:, 0].tolist() == [0.0, 0.0, 1.0, 0.0]


def test_token_numbers_of_another_tokenizer_are_not_used(pipe, target):
    other = artifact(target, "pizza")
    gate = other.edit.deltas["unet"][GATE]
    gate.config["tokenizer"] = "0" * 16
    with apply(pipe, other) as handle:
        assert "another tokenizer" in handle.report()
        drawn(pipe, ["pizza"], guidance_scale=0.0)
        assert table_of(handle).tolist() == [[0.0]]
    with pytest.raises(Unsupported, match="vocabularies"):
        compose.merge([artifact(target, "guitar", 1), other])


@pytest.mark.parametrize("names", [7, [], [[["pizza"]]], [[[[True]]]], [5]])
def test_malformed_names_are_refused(target, names):
    gate = artifact(target, "pizza").edit.deltas["unet"][GATE]
    gate.config["names"] = names
    with pytest.raises(Unsupported, match="names"):
        check_gate(gate)


def test_rows_are_equal_up_to_a_cast_only():
    rows = torch.randn(3, 768, generator=torch.Generator().manual_seed(0))
    near_by = rows + 1e-3 * rows.abs().mean()
    assert equal(rows, rows).tolist() == torch.eye(3, dtype=torch.bool).tolist()
    assert not equal(near_by, rows).any()
    assert equal(rows.half(), rows).diagonal().all()
    assert (end_of([0, 5, 6, 1, 1, 1]), end_of([0, 5, 6]), end_of([2, 2])) == (3, 2, 0)


def test_the_memory_is_bounded(pipe, monkeypatch):
    from erase_plugins.runtime import prompts

    monkeypatch.setattr(prompts, "_MOST", 8)
    memory = PromptMemory(pipe.text_encoder)
    for number in range(20):
        memory.remember(torch.tensor([[0, number + 2, 1]]), torch.randn(1, 3, 4))
    assert len(memory._known) == 8


def test_pocket_opens_for_the_name_in_long_captions_and_stays_shut_as_before(pocket_target):
    """Captions of 5 to 28 words; the embedding gate alone misses some of them."""
    from erase_plugins.engine.context import RunContext
    from erase_plugins.engine.gating import GateRecipe, make_gate

    gate = make_gate(pocket_target, ["pizza"], [["pizza"]], [], GateRecipe("probe", 300, 0.8, 0.45, 0.75),
                     RunContext("spm"))  # fmt: skip
    ref = pocket_target.modules("cross_v")[0]
    change = LowRank(torch.ones(1, ref.shape[1]), torch.ones(ref.shape[0], 1))
    made = wrapped(pocket_target, Edit("sd1", {"unet": {GATE: gate, ref.path: gated_lowrank(change, [0])}}), "pizza")
    lengths = (5, 8, 12, 16, 20, 24, 28)
    prompts = [
        "a big pizza under the yellow moon", "the dog and the cat share one pizza", *captions("pizza", lengths),
        *captions(None, lengths), "a dog", "a house on a blue background",
    ]  # fmt: skip
    by_rows = gate_table(pocket_target.encode(prompts).embeds, gate.weights["embeddings"], gate.config)[:, 0]
    assert (by_rows[:9] < 0.5).any(), "the embedding alone would do"
    with apply(pocket_target.pipe, made) as handle:
        gated = handle.parts["unet"].attached[0]
        gated.read(pocket_target.encode(prompts).embeds)
        seen = gated.table[:, 0]
    assert seen[:9].min() == 1.0
    assert torch.equal(seen[9:], by_rows[9:])
