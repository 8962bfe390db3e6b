"""What is kept of the common words between sessions is what would be computed, and belongs to one encoder only."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.edit import CONTEXT
from erase_plugins.artifacts.ledger import gram, pack
from erase_plugins.artifacts.tensors import read_tensors
from erase_plugins.engine import disk_cache, shipped_words
from erase_plugins.engine.vocabulary import kept_rows, meaning, word_facts
from erase_plugins.families.base import Conditioning, Target
from erase_plugins.families.diffusers_target import DiffusersTarget
from erase_plugins.workflow.models import target_of
from tools.pocket import facts

SHIPPED = shipped_words.FOLDER


@pytest.fixture
def place(tmp_path, monkeypatch):
    """An empty memory, and nothing that came along with pocket."""
    monkeypatch.setenv(disk_cache.VARIABLE, str(tmp_path))
    monkeypatch.setattr(shipped_words, "FOLDER", tmp_path / "none")
    return tmp_path


class Counting(DiffusersTarget):
    """Counts the prompts that its text encoder sees."""

    seen_prompts = 0

    def _encode_chunk(self, prompts):
        self.seen_prompts += len(prompts)
        super()._encode_chunk(prompts)


def solve(pipe, method="uce", **options):
    """A fresh target's artifact, and how many prompts were encoded for it."""
    target = Counting(pipe, "x", target_of(pipe).family)
    concepts = [ep.Concept("pizza", anchor="hamburger"), ep.Concept("dog")]
    artifact = ep.erase(target, concepts, method, keep=["a cat"], **options)
    return artifact, target.seen_prompts


def tensors(artifact):
    delta = artifact.edit.deltas["unet"]["context"]
    return {"A": delta.A, "B": delta.B, **artifact.edit.statistics}


@pytest.mark.parametrize("method", ["uce", "rece"])
def test_the_artifact_is_the_same_with_a_full_an_empty_and_no_memory(pocket_pipe, place, monkeypatch, method):
    options = {"vocabulary": 400}
    first, all_words = solve(pocket_pipe, method, options=options)
    second, few_words = solve(pocket_pipe, method, options=options)
    monkeypatch.setenv(disk_cache.VARIABLE, "0")
    third, without = solve(pocket_pipe, method, options=options)
    assert few_words < all_words - 250
    assert without == all_words
    wanted = tensors(third)
    assert len(wanted["L"]) > 0  # words that mean nearly the same, encoded anew when they are in no memory
    for found in (first, second):
        assert tensors(found).keys() == wanted.keys()
        assert all(torch.equal(value, wanted[name]) for name, value in tensors(found).items())


@pytest.mark.parametrize("model", facts.MODELS)
def test_the_first_erasure_on_an_embedded_model_encodes_few_words_and_gives_the_same(
    model, pocket_pipe, place, monkeypatch
):
    pipe = pocket_pipe if model == "pocket" else ep.load(model)
    monkeypatch.setenv(disk_cache.VARIABLE, "0")
    wanted, all_words = solve(pipe)
    monkeypatch.undo()
    monkeypatch.setenv(disk_cache.VARIABLE, str(place))
    found, few_words = solve(pipe)
    assert all_words > 1000
    assert few_words < 60
    for name, value in tensors(wanted).items():  # float32 on another processor: beside the largest value, not each
        one, other = tensors(found)[name].double(), value.double()
        assert (one - other).abs().max() <= 1e-5 * other.abs().max(), name


def test_the_command_makes_what_came_along(place, monkeypatch, capsys):
    """Also where older facts lie in the folder, which it removes; other weights or settings have other names."""
    shipped = {path.name for path in SHIPPED.iterdir()}
    old = shipped_words.FOLDER / "0-0.safetensors"
    old.parent.mkdir()
    old.touch()
    monkeypatch.setattr(facts, "MODELS", ("pocket-natural",))
    facts.main()
    (made,) = shipped_words.FOLDER.iterdir()
    assert made.name in shipped and capsys.readouterr().out == f"{made}\n"
    wanted, _ = read_tensors(SHIPPED / made.name)
    for name, value in read_tensors(made)[0].items():
        one, other = value.double(), wanted[name].double()
        assert (one - other).abs().max() <= 1e-5 * other.abs().max(), name


def test_what_came_along_counts_for_that_encoder_alone(pocket_pipe, place, monkeypatch):
    asked = (("a", "b"), 0.5, ("{}",), 0)

    def read(target, rows=0.0):
        def rows_of(words):
            return meaning(target.encode(list(words))) + rows

        return shipped_words.read(target, *asked, rows_of)

    target = target_of(pocket_pipe, "x")
    monkeypatch.setattr(shipped_words, "FOLDER", place)
    features, block = word_facts(target, *asked)
    shipped_words.write(target, *asked, {"features": features, "block": pack(block)})
    assert torch.equal(read(target)["block"], pack(block))
    assert read(target, rows=0.1) is None  # clip skip: the weights are the same, the rows are not
    last = pocket_pipe.text_encoder.encoder.layers[-1].mlp.fc2.weight
    with torch.no_grad():
        before = last[0, 0].clone()
        last[0, 0] += 1e-6
        try:
            assert read(target_of(pocket_pipe, "x")) is None
        finally:
            last[0, 0] = before


def test_a_damaged_file_is_replaced(pocket_pipe, place):
    options = {"vocabulary": 200}
    _, all_words = solve(pocket_pipe, options=options)
    (file,) = place.glob("words-*")
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    assert solve(pocket_pipe, options=options)[1] == all_words
    assert file.read_bytes() == whole


def test_other_encoders_words_and_weights_have_entries_of_their_own(tiny_sd1, place):
    pipe = tiny_sd1()
    target = target_of(pipe, "x")
    words = target.vocabulary()[:20]

    def entries(used, words=words, weight=0.1):
        word_facts(target_of(used, "x"), words, weight)
        return len(list(place.glob("words-*")))

    assert entries(pipe) == 1
    assert entries(pipe) == 1
    assert entries(pipe, weight=0.2) == 2
    assert entries(pipe, words=words[:19]) == 3
    assert entries(pipe, words=words[::-1]) == 4
    with torch.no_grad():
        last = pipe.text_encoder.encoder.layers[-1].mlp.fc2.weight
        last[0, 0] += 1e-3
        assert entries(pipe) == 5
        last[0, 0] -= 1e-3
        token = int(target.tokens([words[7]]).ids["text_encoder"][0, 1])
        pipe.text_encoder.get_input_embeddings().weight[token, 0] += 1e-3
    assert entries(pipe) == 6


def test_both_encoders_of_sdxl_count(tiny_sdxl, place):
    pipe = tiny_sdxl()
    for changed in (None, pipe.text_encoder, pipe.text_encoder_2):
        if changed is not None:
            with torch.no_grad():
                next(p for n, p in changed.named_parameters() if n.endswith("layers.0.mlp.fc1.weight")).mul_(1.01)
        target = target_of(pipe, "x")
        word_facts(target, target.vocabulary()[:20], 0.1)
    assert len(list(place.glob("words-*"))) == 3


def test_a_host_that_does_not_show_its_tokens_keeps_nothing(pocket_pipe, place):
    class Closed(DiffusersTarget):
        def token_table(self, component):
            return Target.token_table(self, component)

    target = Closed(pocket_pipe, "x", target_of(pocket_pipe).family)
    word_facts(target, target.vocabulary()[:20], 0.1)
    assert not list(place.iterdir())


def test_words_are_summed_in_their_frames_and_compared_without(pocket_target, monkeypatch):
    monkeypatch.setenv(disk_cache.VARIABLE, "0")
    words = pocket_target.vocabulary()[:5]
    features, block = word_facts(pocket_target, words, 0.5, ("{}", "a {} on red"))
    alone, other = word_facts(pocket_target, words, 0.5)
    prompts = [words[0], f"a {words[1]} on red", words[2], f"a {words[3]} on red", words[4]]
    wanted = sum(gram(rows[1:].float(), 0.5) for rows in pocket_target.encode(prompts).embeds)
    assert torch.equal(features, alone)
    assert torch.equal(block, wanted)
    assert not torch.equal(block, other)


def test_words_left_out_are_taken_out_in_their_frames(pocket_pipe, pocket_target, place):
    frames = ("{}", "a {} on red")
    options = {"vocabulary": 200, "vocabulary_frames": frames}
    artifact = ep.erase(pocket_pipe, "dog", "uce", options=options)
    words = pocket_target.vocabulary()[:200]
    left = dict(artifact.edit.meta["statistics"]["left_out"])
    assert left
    prompts = [frames[words.index(word) % 2].format(word) for word in sorted(left)]
    assert torch.equal(artifact.edit.statistics["L"], pocket_target.encode(prompts).embeds[:, 1:].flatten(0, 1).float())


@pytest.fixture(params=["sd1", "sdxl"])
def small(request, tiny_sd1, tiny_sdxl):
    return target_of({"sd1": tiny_sd1, "sdxl": tiny_sdxl}[request.param](), "x")


def test_only_the_first_rows_are_computed_and_they_are_those_of_the_whole_prompt(small):
    words, seen = small.vocabulary()[:70], []
    layer = small.pipe.text_encoder.get_input_embeddings()
    with layer.register_forward_hook(lambda _m, _a, out: seen.append(out.shape[1])):
        cond = small.encode_start(words, 3)
    assert set(seen) == {5}
    torch.testing.assert_close(cond.embeds, small.encode(words).embeds[:, :5], rtol=1e-4, atol=1e-5)
    assert cond.last == (1,) * 70


def test_encoders_that_look_ahead_are_asked_for_whole_prompts(small, monkeypatch):
    monkeypatch.setattr(type(small.info.family), "causal", False)
    words = small.vocabulary()[:3]
    assert torch.equal(small.encode_start(words, 3).embeds, small.encode(words).embeds[:, :5])


def test_first_padding_rows_count_for_all():
    """Where padding rows are equal, as they nearly are, the sum is that of the whole prompt."""
    draw = torch.Generator().manual_seed(0)
    embeds = torch.randn(2, 77, 16, generator=draw)
    embeds[0, 4:] = embeds[0, 4]
    embeds[1, 6:] = embeds[1, 6]
    whole = Conditioning(embeds, (2, 4), None, ("a", "b"))
    start = Conditioning(embeds[:, :9], (2, 4), None, ("a", "b"))
    for one, other in zip(kept_rows(start, 4, 77), kept_rows(whole, 0, 77), strict=True):
        assert len(one) < 9
        torch.testing.assert_close(one.T @ one, other.T @ other, rtol=1e-4, atol=1e-4)


def test_a_word_has_the_same_rows_whatever_is_encoded_along(small):
    words = [*small.vocabulary()[:40], "a much longer phrase"]
    together = kept_rows(small.encode_start(words, 3), 3, small.info.tokens)
    for place in (0, 7):
        (alone,) = kept_rows(small.encode_start([words[place]], 3), 3, small.info.tokens)
        torch.testing.assert_close(alone, together[place], rtol=1e-4, atol=1e-5)


def test_short_words_leave_the_map_close_to_that_of_whole_ones(pocket_pipe, place):
    """What a phrase maps to, and what is taken for the same, hardly change."""
    maps, left = [], []
    for tail in (0, 3):
        artifact = ep.erase(pocket_pipe, "dog", "uce", options={"vocabulary_tail": tail})
        change = artifact.edit.deltas["unet"][CONTEXT]
        maps.append(change.B @ change.A)
        left.append({word for word, _ in artifact.edit.meta["statistics"]["left_out"]})
    assert left[0] == left[1]
    rows = target_of(pocket_pipe, "x").encode(["dog"]).embeds[0, 1:]
    moved = [rows @ change.T for change in maps]
    assert (moved[0] - moved[1]).norm() < 0.2 * moved[0].norm()


def test_adding_and_revoking_with_short_words_equal_the_joint_solution(pocket_pipe, place):
    """Words near one of the concepts are taken out of the sum again to the last bit, whoever encoded them along."""
    target, options = target_of(pocket_pipe, "x"), {"vocabulary": 300, "vocabulary_tail": 3}
    joint = ep.erase(target, ["dog", "pizza"], "uce", options=options)
    alone = ep.erase(target, "dog", "uce", options=options)
    assert len(joint.edit.statistics["L"]) > len(alone.edit.statistics["L"]) > 0
    for found, wanted in ((ep.add(alone, "pizza", target), joint), (ep.revoke(joint, "pizza", forget=True), alone)):
        ours, theirs = tensors(found), tensors(wanted)
        assert all(torch.equal(ours[name], theirs[name]) for name in ("A", "B"))


def test_words_with_large_rows_are_encoded_few_at_a_time(monkeypatch):
    """A thousand words take 15 GB of rows in FLUX: T5 gives 512 rows of 4,096, and 256 more of another padding."""
    from erase_plugins.engine import vocabulary
    from erase_plugins.testing.tiny import tiny_flux

    target, words = target_of(tiny_flux()), ["cat", "dog", "pizza", "bread", "owl"]
    wanted, _ = word_facts(target, words, 0.0)
    sizes, rows = [], target.rows
    monkeypatch.setattr(target, "rows", lambda prompts: sizes.append(rows(prompts).embeds.numel()) or rows(prompts))
    monkeypatch.setattr(vocabulary, "_VALUES", 2 * (32 + 32 + 16) * target.info.width)
    monkeypatch.setenv(disk_cache.VARIABLE, "0")
    found, _ = word_facts(target, words, 0.0)
    assert max(sizes) <= vocabulary._VALUES
    assert len(sizes) == 3
    assert torch.allclose(found, wanted)
