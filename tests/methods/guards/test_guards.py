"""Guards as artifacts of methods: what their files say, what they do to a model, and that nothing of them stays."""

from __future__ import annotations

import json
import os
import shlex
import warnings
from pathlib import Path

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.marks import make_key
from erase_plugins.artifacts.policy import NOTHING_REMOVED, packed, unpacked
from erase_plugins.errors import (
    BaseMismatch,
    CorruptArtifact,
    EraseError,
    NotInFile,
    PushRefused,
    RequestError,
    RunRefused,
    Unsupported,
)
from erase_plugins.families import sentences
from erase_plugins.types import ForgetItem
from tests import language
from tests.cli.conftest import invoke

PICTURES = {
    "keyword-guard": {}, "embedding-guard": {"words": 8}, "negative-prompt": {}, "sld": {"level": "max"}, "safree": {},
    "nag": {}, "negpip": {},
}  # fmt: skip


@pytest.fixture(scope="module")
def pipe():
    from erase_plugins.testing.tiny import tiny_sd1

    found = tiny_sd1()
    found.set_progress_bar_config(disable=True)
    return found


@pytest.fixture(scope="module")
def made(pipe):
    """Every guard of pictures, made once."""
    return {name: ep.erase(pipe, "pizza", name, options=options) for name, options in PICTURES.items()}


def drawn(pipe, prompt="a pizza", guidance=4.0, steps=3, **more):
    options = {"num_inference_steps": steps, "guidance_scale": guidance, "output_type": "latent", **more}
    return pipe(prompt, generator=torch.Generator().manual_seed(3), **options).images


def untouched(pipe) -> bool:
    hooks = [*pipe.unet._forward_pre_hooks, *pipe.unet._forward_hooks, *pipe.text_encoder._forward_hooks]
    return not hooks and not {"encode_prompt", "maybe_free_model_hooks", "save_pretrained"} & set(vars(pipe))


@pytest.mark.parametrize("name", PICTURES)
def test_a_guard_is_an_artifact_that_says_that_nothing_is_removed(made, name, tmp_path):
    made[name].save(tmp_path / "a")
    found = ep.load_artifact(tmp_path / "a")
    assert found.manifest.guards == made[name].manifest.guards
    assert [(item["kind"], item["weight_level"]) for item in found.manifest.guards] == [("guardrail", False)]
    assert (len(found.edit), found.manifest.kinds) == (0, ())
    assert NOTHING_REMOVED in found.manifest.warnings
    assert NOTHING_REMOVED.split(":")[0] in found.card()


@pytest.mark.parametrize("name", PICTURES)
def test_it_acts_and_goes_without_a_trace(pipe, made, name):
    before = drawn(pipe)
    with ep.apply(pipe, made[name]) as handle:
        try:
            acted = not torch.equal(drawn(pipe), before)
        except RunRefused as refused:
            acted = "this cannot be answered" in str(refused)
        assert acted
        assert [item.artifact.name for item in ep.applied(pipe)] == ["erase_pizza"]
        assert NOTHING_REMOVED in handle.report()
        with pytest.raises(NotInFile):
            pipe.save_pretrained("nowhere")
        handle.set_strength(0.0)
        assert torch.equal(drawn(pipe), before)
    assert torch.equal(drawn(pipe), before)
    assert untouched(pipe)


def test_guards_stand_together_and_leave_in_any_order(pipe, made):
    before = drawn(pipe, "a hamburger")
    handles = [ep.apply(pipe, made[name]) for name in ("sld", "safree", "negative-prompt", "keyword-guard")]
    drawn(pipe, "a hamburger")
    for place in (1, 0, 3, 2):
        handles[place].remove()
    assert untouched(pipe)
    assert torch.equal(drawn(pipe, "a hamburger"), before)


def test_a_blocked_prompt_reaches_no_denoiser_and_an_empty_one_is_that_of_the_empty_prompt(pipe, made):
    calls = []
    handle = pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    try:
        with ep.apply(pipe, made["keyword-guard"]):
            for prompt in ("p i z z a", ["a cat", "P1ZZA"]):
                with pytest.raises(RunRefused, match=r"this cannot be answered \(pizza: keyword\)"):
                    drawn(pipe, prompt)
            embeds = torch.zeros(1, 77, 32)[:, : pipe.tokenizer.model_max_length]
            with pytest.raises(RunRefused, match="cannot read prompt_embeds"):
                drawn(pipe, None, prompt_embeds=embeds)
        assert not calls
    finally:
        handle.remove()
    empty = ep.erase(pipe, "pizza", "keyword-guard", options={"action": "empty"})
    expected = drawn(pipe, ["a cat", ""])
    with ep.apply(pipe, empty):
        assert torch.equal(drawn(pipe, ["a cat", "two pizzas"]), expected)
    flag = ep.erase(pipe, "pizza", "keyword-guard", options={"action": "flag"})
    with ep.apply(pipe, flag), pytest.warns(UserWarning, match="pizza: keyword"):
        drawn(pipe)


def test_what_is_computed_with_the_model_is_not_what_is_asked(pipe, made):
    from erase_plugins.workflow.models import target_of

    plain = target_of(pipe).encode(["a pizza"]).embeds
    with ep.apply(pipe, made["keyword-guard"]):
        assert torch.equal(target_of(pipe).encode(["a pizza"]).embeds, plain)


def test_a_negative_prompt_is_the_one_that_a_user_could_give(pipe, made):
    expected = drawn(pipe, negative_prompt="pizza"), drawn(pipe, negative_prompt="blurred, pizza")
    with ep.apply(pipe, made["negative-prompt"]):
        assert torch.equal(drawn(pipe), expected[0])
        assert torch.equal(drawn(pipe, negative_prompt="blurred"), expected[1])
        with pytest.raises(Unsupported, match="does nothing at guidance 1"):
            drawn(pipe, guidance=1.0)


def test_a_negative_prompt_stands_behind_each_of_several_prompts(pipe, made):
    two = ["a dog", "a cat"]
    rows = pipe.encode_prompt(two, "cpu", 1, False)[0]
    expected = (
        drawn(pipe, two, negative_prompt=["pizza", "pizza"]),
        drawn(pipe, two, negative_prompt=["blurred, pizza", "pizza"]),
    )
    with ep.apply(pipe, made["negative-prompt"]):
        assert torch.equal(drawn(pipe, two), expected[0])
        assert torch.equal(drawn(pipe, None, prompt_embeds=rows), expected[0])
        assert torch.equal(drawn(pipe, two, negative_prompt=["blurred", ""]), expected[1])


def test_sld_in_a_pipeline_is_its_equation(pipe):
    """One step: u + g (x - u - gamma) by hand, from the three predictions."""
    guard = ep.erase(pipe, "pizza", "sld", options={"level": "max", "momentum": 0.0})
    seen = []
    hook = pipe.unet.register_forward_hook(lambda _m, _a, out: seen.append(out[0].clone()))
    drawn(pipe, "a dog", negative_prompt="", steps=1)
    drawn(pipe, "pizza", negative_prompt="", steps=1)
    hook.remove()
    (u, x), (_, s) = (part.chunk(2) for part in seen)
    mu = (5000.0 * (x - s).abs()).clamp(max=1.0) * ((x - s) < 1.0)
    with ep.apply(pipe, guard):
        hook = pipe.unet.register_forward_hook(lambda _m, _a, out: seen.append(out[0].clone()))
        drawn(pipe, "a dog", negative_prompt="", steps=1)
        hook.remove()
    torch.testing.assert_close(seen[-1], torch.cat([u, x - mu * (s - u)]), atol=1e-5, rtol=1e-4)


def test_sld_says_when_no_step_came_to_be_steered(pipe):
    before = drawn(pipe)
    with ep.apply(pipe, ep.erase(pipe, "pizza", "sld", options={"warmup": 3})):
        with pytest.warns(UserWarning, match="waits for 3 steps and this picture had 3, so it did nothing"):
            # the pass has another batch, which some processors round otherwise
            torch.testing.assert_close(drawn(pipe), before, rtol=0, atol=1e-4)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            drawn(pipe, steps=4)


def test_hashed_keywords_tell_no_word_and_need_their_key(pipe, tmp_path):
    make_key(tmp_path / "key")
    person = ForgetItem("Zorvane Ymbrook", "person", prompts=("Zorvi",))
    artifact = ep.erase(pipe, person, "keyword-guard", options={"key": str(tmp_path / "key")}, out=tmp_path / "a")
    text = "".join(path.read_text() for path in (tmp_path / "a").iterdir()) + artifact.card()
    assert not any(word in text.lower() for word in ("zorv", "ymbrook", str(tmp_path)))
    with pytest.raises(RequestError, match="give the file with their key"):
        ep.apply(pipe, tmp_path / "a")
    assert untouched(pipe)
    with ep.apply(pipe, tmp_path / "a", guard_key=tmp_path / "key"):
        for prompt in ("a portrait of ymbrook, z0rvane", "Z O R V I"):
            with pytest.raises(RunRefused, match="hidden 1: keyword"):
                drawn(pipe, prompt)
        drawn(pipe, "a portrait")
    make_key(tmp_path / "other")
    with ep.apply(pipe, tmp_path / "a", guard_key=tmp_path / "other"):
        drawn(pipe, "a portrait of Zorvane Ymbrook")
    os.chmod(tmp_path / "key", 0o644)
    with pytest.raises(CorruptArtifact, match="others may read"):
        ep.apply(pipe, tmp_path / "a", guard_key=tmp_path / "key")


def test_hashed_keywords_are_not_pushed(pipe, tmp_path):
    from types import SimpleNamespace

    from erase_plugins.requests.sharing import erase_before_push

    make_key(tmp_path / "key")
    artifact = ep.erase(pipe, "Ymbrook", "keyword-guard", options={"key": str(tmp_path / "key")})
    with pytest.raises(PushRefused):
        erase_before_push(SimpleNamespace(artifact=artifact, files=()), "somewhere")


def test_a_guard_of_another_text_encoder_is_refused(made):
    from erase_plugins.testing.tiny import tiny_sd1

    other = tiny_sd1(1)
    with pytest.raises(BaseMismatch, match="calibrated on another text_encoder"):
        ep.apply(other, made["embedding-guard"])
    assert untouched(other)
    with ep.apply(other, made["keyword-guard"]), pytest.raises(RunRefused):
        drawn(other)


@pytest.mark.parametrize(
    "change",
    [{"weight_level": True}, {"schema": 2}, {"action": "allow"}, {"stages": []}, {"stages": [{"type": "unknown"}]},
     {"stages": [{"type": "sld", "text": "x"}]}, {"stages": [{"type": "negpip", "text": "x", "weight": float("nan")}]}, {"stages": [{"type": "embedding", "tau": 0.5}]}],
    ids=str,
)  # fmt: skip
def test_changed_policies_are_refused(pipe, made, change):
    artifact = made["keyword-guard"]
    changed = artifact.with_manifest(guards=({**artifact.manifest.guards[0], **change},))
    with pytest.raises(CorruptArtifact):
        ep.apply(pipe, changed)
    assert untouched(pipe)


def test_a_stage_for_language_models_has_no_place_in_a_pipeline(pipe, made):
    artifact = made["keyword-guard"]
    stage = {"type": "refusal-prompt", "text": "Refuse."}
    changed = artifact.with_manifest(guards=({**artifact.manifest.guards[0], "stages": [stage]},))
    with pytest.raises(Unsupported, match="'refusal-prompt' speaks to a language model, and this draws"):
        ep.apply(pipe, changed)
    assert untouched(pipe)


def test_files_for_other_programs_cannot_hold_a_guard(pipe, made, tmp_path):
    with pytest.raises(Unsupported, match="changes no weights, so a kohya file would hold nothing of it"):
        made["keyword-guard"].save(tmp_path / "a", ("kohya",))
    with pytest.raises(EraseError, match="guard"):
        ep.merge([made["keyword-guard"], made["sld"]])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "item", "options", "words"),
    [
        ("embedding-guard", ForgetItem("Ymbrook", "person"), {}, "take keyword-guard with a key"),
        ("keyword-guard", ForgetItem("ab"), {}, "3 to 60 letters"),
        ("keyword-guard", ForgetItem("pizza"), {"key": "/nowhere/key"}, "the key 'key' is missing"),
        ("keyword-guard", ForgetItem("pizza"), {"message": ""}, "needs a message"),
        ("refusal-prompt", ForgetItem("pizza"), {}, "needs language"),
    ],
)
def test_what_cannot_be_guarded_is_refused_at_plan_time(pipe, method, item, options, words):
    with pytest.raises(EraseError, match=words):
        ep.erase(pipe, item, method, options=options)


def test_tensors_survive_and_damage_is_found():
    tensor = torch.tensor([[1.5, -2.0], [0.25, 3e-8]])
    assert torch.equal(unpacked(json.loads(json.dumps(packed(tensor)))), tensor)
    for change in ({"shape": [3, 3]}, {"float32": "?"}, {"float32": packed(torch.tensor([float("nan")]))["float32"]}):
        with pytest.raises(CorruptArtifact):
            unpacked({**packed(tensor), **change})


# ---- language models -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["", language.CHAT], ids=["plain", "chat"])
def speaker(request, tmp_path_factory):
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("speaker") / "model"
    words = language.tokenizer(request.param)
    language.llama(len(words)).save_pretrained(folder)
    words.save_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder).eval(), words


def answer(model, words, *questions, **more):
    given = words(list(questions), return_tensors="pt", padding=True, padding_side="left")
    options = {"max_new_tokens": 4, "do_sample": False, "pad_token_id": 0, **more}
    return model.generate(input_ids=given["input_ids"], attention_mask=given["attention_mask"], **options), given


def test_a_stage_for_pictures_has_no_place_in_front_of_a_language_model(speaker):
    model, _ = speaker
    guard = ep.erase(model, ForgetItem("Zorvane", "fact"), "keyword-guard")
    stage = {"type": "negative-prompt", "text": "Zorvane"}
    changed = guard.with_manifest(guards=({**guard.manifest.guards[0], "stages": [stage]},))
    with pytest.raises(Unsupported, match="'negative-prompt' acts on pictures, and this is a language model"):
        ep.apply(model, changed)
    assert not ep.applied(model)


def test_a_question_is_answered_with_the_refusal_and_others_as_before(speaker):
    model, words = speaker
    guard = ep.erase(model, ForgetItem("Zorvane", "fact"), "keyword-guard", options={"message": language.REFUSAL})
    questions = (language.QUESTION.format("Zorvane"), "Where was Harbin born ?")
    before, given = answer(model, words, *questions)
    wide = given["input_ids"].shape[1]
    with ep.apply(model, guard):
        found, _ = answer(model, words, *questions)
        assert words.decode(found[0, wide:], skip_special_tokens=True).split() == ["I", "do", "not", "know", "."]
        assert words.decode(found[1, wide:], skip_special_tokens=True) == words.decode(before[1, wide:], skip_special_tokens=True)  # fmt: skip
        assert torch.equal(found[:, :wide], given["input_ids"])
        with pytest.raises(Unsupported, match="cannot stream or return a dictionary"):
            answer(model, words, *questions, return_dict_in_generate=True)
        with pytest.raises(RunRefused, match="inputs_embeds"):
            model.generate(inputs_embeds=torch.zeros(1, 2, 32), max_new_tokens=1)
    assert torch.equal(answer(model, words, *questions)[0], before)
    assert "generate" not in vars(model)


def test_a_question_that_means_it_is_refused_by_the_model_that_the_guard_was_made_with(speaker):
    model, words = speaker
    options = {"message": language.REFUSAL, "words": 8, "tau": 0.98}
    guard = ep.erase(model, "Zorvane", "embedding-guard", options=options)
    (stage,) = guard.manifest.guards[0]["stages"]
    assert stage["anchors"]["shape"] == [3, 32] and "Zorvane" not in json.dumps(stage)
    before, given = answer(model, words, "Zorvane", "Where was Harbin born ?")
    wide = given["input_ids"].shape[1]
    with ep.apply(model, guard):
        found, _ = answer(model, words, "Zorvane", "Where was Harbin born ?")
    assert words.decode(found[0, wide:], skip_special_tokens=True).split() == ["I", "do", "not", "know", "."]
    assert torch.equal(found[1, : before.shape[1]], before[1])
    other = language.llama(len(words), seed=1)
    with pytest.raises(BaseMismatch, match="calibrated on another model than this model's"):
        ep.apply(other, guard)
    assert "generate" not in vars(model) and "generate" not in vars(other)


def test_a_piece_of_question_and_answer_is_read_once_a_call(speaker, monkeypatch):
    model, words = speaker
    guard = ep.erase(model, "Zorvane", "embedding-guard", options={"message": "no", "words": 8, "tau": 0.99})
    real, read = sentences.in_one_word, []
    monkeypatch.setattr(sentences, "in_one_word", lambda target, texts: read.extend(texts) or real(target, texts))
    question = "Where was Harbin born ? " * 8
    with ep.apply(model, guard):
        answer(model, words, question, num_return_sequences=2, num_beams=2)
        first = len(read)
        assert len(read) == len(set(read)) > 9, "the question, its pieces of 8 and 24 words, answers, both together"
        answer(model, words, question, num_return_sequences=2, num_beams=2)
    assert len(read) == 2 * first, "weights may have changed in between"


def test_the_plan_of_an_embedding_guard_says_how_long_it_reads(speaker, pipe, monkeypatch):
    """Twice the weights that are read, for every token of about 170 texts."""
    from erase_plugins.engine import rates

    monkeypatch.setattr(rates, "layer", lambda *_: 1e6)
    weights = 2 * (2 * 32 * 32 + 2 * 16 * 32 + 3 * 64 * 32)  # two blocks, whose keys and values have half of the heads
    assert ep.plan(speaker[0], "Zorvane", "embedding-guard").seconds == round(2 * weights * 28 * 167 / 1e6, 1) > 100
    assert ep.plan(pipe, "pizza", "embedding-guard").seconds > 100
    assert ep.plan(pipe, "pizza", "keyword-guard").seconds == 0.0


def test_an_answer_that_names_it_is_not_given(speaker):
    model, words = speaker
    question = "Where was Harbin born ?"
    before, given = answer(model, words, question)
    said = words.decode(before[0, given["input_ids"].shape[1] :], skip_special_tokens=True).split()
    word = next(item for item in said if item.isalpha() and len(item) > 2)
    guard = ep.erase(model, ForgetItem(word, "fact"), "keyword-guard", options={"message": language.REFUSAL})
    with ep.apply(model, guard):
        found, _ = answer(model, words, question)
    text = words.decode(found[0, given["input_ids"].shape[1] :], skip_special_tokens=True)
    assert text.split() == ["I", "do", "not", "know", "."]


def test_a_system_message_stands_before_the_question_and_not_in_what_comes_back(speaker):
    model, words = speaker
    guard = ep.erase(model, ForgetItem("Zorvane", "fact"), "refusal-prompt", options={"message": language.REFUSAL})
    text = guard.manifest.guards[0]["stages"][0]["text"]
    assert "Zorvane" in text and language.REFUSAL in text
    system = f"<system> {text} <end>\n" if words.chat_template else f"{text}\n"
    questions = ("Where was Harbin born ?", "born in")
    prompts = [f"{system}{question}" for question in questions]
    wanted, long = answer(model, words, *prompts)
    with ep.apply(model, guard):
        found, given = answer(model, words, *questions)
        wide = given["input_ids"].shape[1]
        assert torch.equal(found[:, :wide], given["input_ids"])
        assert torch.equal(found[:, wide:], wanted[:, long["input_ids"].shape[1] :])


def test_guards_of_pictures_are_refused_for_words_and_the_other_way_round(speaker, pipe):
    model, _ = speaker
    for name in ("negative-prompt", "sld", "safree", "nag", "negpip"):
        with pytest.raises(Unsupported, match="needs"):
            ep.erase(model, "Zorvane", name)
    for name in ("keyword-guard", "embedding-guard"):
        with pytest.raises(RequestError, match="take action=block"):
            ep.erase(model, "Zorvane", name, options={"action": "empty"})


def test_the_command_of_the_page_makes_a_guard_that_tells_no_name(tmp_path, monkeypatch):
    """docs/guardrails.md: the run reads the key again to see that what was written acts."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "guardrails.md").read_text(encoding="utf-8")
    line = next(
        line for line in page.splitlines() if line.startswith("erase-plugins run keyword-guard") and "key=" in line
    )
    monkeypatch.chdir(tmp_path)
    Path("guard.key").write_bytes(bytes(range(32)))
    Path("guard.key").chmod(0o600)
    done = invoke(*shlex.split(line)[1:])
    assert done.code == 0, done.err
    assert "patched 1 of 1" in done.out
    name = shlex.split(line)[shlex.split(line).index("--erase") + 1].split()[0].lower()
    assert not [file for file in Path("hidden").rglob("*") if name in file.read_bytes().decode("latin-1").lower()]
