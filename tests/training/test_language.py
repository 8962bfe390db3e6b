"""Language models forget texts: adapters beside a base that comes back to the last bit, errors of one line, no leaks."""

from __future__ import annotations

import json
import math
import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import erase_plugins as ep
from erase_plugins.api import build_request
from erase_plugins.artifacts.layouts.peft import PeftLayout
from erase_plugins.data import DataRef
from erase_plugins.errors import EraseError, RequestError, Unsupported
from erase_plugins.families.causal_lm import CausalLanguageModels
from erase_plugins.families.source import pocket_folder
from erase_plugins.training.language_options import LanguageOptions
from erase_plugins.types import ForgetItem
from erase_plugins.workflow.run import make_plan
from tests import language
from tests.cli.conftest import invoke

METHODS = ("npo", "simnpo", "graddiff", "idk", "dpo-idk", "undial", "rmu", "mcu", "cir", "task-vector", "whp")
PAGE = (Path(__file__).resolve().parents[2] / "docs" / "language.md").read_text(encoding="utf-8")
CHEAP = {"batch": 4, "lr": 1e-2, "rank": 4, "lora_alpha": 8}
#: what a model of two blocks and forty words needs besides
OWN = {
    "rmu": {"strength": 2, "layer": 1, "lr": 2e-2},
    "mcu": {"strength": 2, "layer": 1, "lr": 2e-2, "components": 2},
    "cir": {"components": 2},
    "whp": {"alpha": 200, "reinforce_steps": 40},
    "task-vector": {"harm": 1e4},  # all texts here are of one form, so others suffer before half is gone
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return language.trained(tmp_path_factory.mktemp("language") / "model")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(texts to forget, texts to retain)."""
    return language.both(tmp_path_factory.mktemp("data"))


def item(path, **more):
    return ForgetItem(data=DataRef(str(path)), **more)


def numbers(artifact):
    return artifact.manifest.extra["numbers"]


@pytest.mark.parametrize("method", METHODS)
def test_texts_are_forgotten_and_others_stay(folder, data, method):
    options = CHEAP | OWN.get(method, {})
    found = ep.erase(str(folder), [item(data[0])], method, keep=[DataRef(str(data[1]))], options=options)
    seen = numbers(found)
    assert seen["forget_probability_before"] > 0.9
    assert seen["forget_probability_after"] < 0.5
    if method != "task-vector":  # looks at nothing but what it forgets
        assert seen["retain_probability_before"] > 0.9
        assert seen["retain_probability_after"] > 0.8
    assert found.manifest.warnings == ()


def test_a_bfloat16_model_trains_float32_adapters(folder, data):
    keep = [DataRef(str(data[1]))]
    found = ep.erase(str(folder), [item(data[0])], "npo", keep=keep, options=CHEAP, dtype="bfloat16")
    assert numbers(found)["forget_probability_after"] < 0.5 < numbers(found)["retain_probability_after"]
    assert {part.dtype for _, _, delta in found.edit.items() for part in delta.tensors().values()} == {torch.float32}


def test_retaining_weighs_more_as_the_rate_falls(folder, data):
    """Steps 0 to 5 at the full rate, then 4/5, 3/5, 2/5, 1/5 of it: 3 / that, at most four times 3."""
    options = LanguageOptions(steps=10, lr=2e-3, retain_weight=3.0, cooldown=0.5, retain_rise=4.0)
    weights = [options.at(step).retain_weight for step in range(10)]
    assert weights == pytest.approx([3, 3, 3, 3, 3, 3, 3.75, 5, 7.5, 12])
    assert {replace(options, retain_rise=1.0).at(step).retain_weight for step in range(10)} == {3.0}
    assert replace(options, lr=0.0).at(9).retain_weight == 3.0
    keep, asked = [DataRef(str(data[1]))], CHEAP | {"cooldown": 0.9}
    after = [
        numbers(ep.erase(str(folder), [item(data[0])], "graddiff", keep=keep, options=asked | {"retain_rise": rise}))
        for rise in (1, 100)
    ]
    assert after[1]["retain_nll_after"] < after[0]["retain_nll_after"], "retained texts stay likelier"


def test_npo_starts_at_2_ln2_by_beta_and_equals_ascent_for_small_beta(folder, data):
    events = []
    for method, beta in (("npo", 0.1), ("npo", 1e-6), ("graddiff", None)):
        losses = []
        ep.erase(
            str(folder), [item(data[0])], method, listeners=[lambda event: losses.append(event.numbers.get("loss"))],
            options=CHEAP | {"steps": 2, "retain_weight": 0.0} | ({} if beta is None else {"beta": beta}),
        )  # fmt: skip
        events.append([loss for loss in losses if loss is not None])
    assert events[0][0] == pytest.approx(2 / 0.1 * math.log(2), rel=1e-5)
    assert events[1][0] == pytest.approx(2 / 1e-6 * math.log(2), rel=1e-5)
    assert events[2][0] < 0


def rounding(logits, modules):
    """How far float32 logits of W x + B (A x) and of (W + B A) x may differ.

    Both round each of the changed maps once more than the other; independent roundings add up like the root of their
    number, and each is worth one unit in the last place of the largest logit.
    """
    return torch.finfo(torch.float32).eps * math.sqrt(2 * modules) * float(logits.abs().max())


@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi3"])
def test_apply_restores_to_the_last_bit_and_stock_peft_agrees(data, tmp_path, kind):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    place = other(kind, tmp_path / kind)
    host = ep.load(str(place))
    before = {name: part.clone() for name, part in host.state_dict().items()}
    ids = torch.tensor([[1, 5, 9, 12, 7]])
    made = ep.erase(
        host, [item(data[0])], "npo", keep=[DataRef(str(data[1]))], options=CHEAP | {"steps": 3}, out=tmp_path / "art"
    )
    with torch.no_grad():
        first = host(ids).logits
        with ep.apply(host, tmp_path / "art") as applied:
            edited = host(ids).logits
        assert applied.patched == made.manifest.modules == {"llama": 14, "gpt2": 8, "phi3": 8}[kind]
        assert (edited - first).abs().max() > 1e-4
        assert torch.equal(host(ids).logits, first)
        assert all(torch.equal(part, before[name]) for name, part in host.state_dict().items())
        stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place), tmp_path / "art" / "peft_model")
        # 1e-6 is what is asked of stock peft; the root is the size of the difference, and its largest of 200 may be above
        assert (stock.eval()(ids).logits - edited).abs().max() <= max(1e-6, rounding(edited, made.manifest.modules))
        whole = AutoModelForCausalLM.from_pretrained(place).double()
        for _, key, delta in ep.load_artifact(tmp_path / "art").edit.items():
            whole.get_parameter(key).add_(delta.B.double() @ delta.A.double())
        exact = whole(ids).logits
        assert (stock.double()(ids).logits - exact).abs().max() <= 1e-6
        assert (edited - exact).abs().max() <= rounding(edited, made.manifest.modules)
        stock.float()
        with stock.disable_adapter():
            assert torch.equal(stock(ids).logits, first)
        back = ep.load_artifact(tmp_path / "art").edit
        again = PeftLayout().read(tmp_path / "art" / "peft_model", CausalLanguageModels())
        for _, key, delta in back.items():
            assert torch.equal(again.deltas["model"][key].dense(), delta.dense()), key


def other(kind, place):
    """An untrained model: plain layers, transposed ones, fused ones."""
    from transformers import GPT2Config, GPT2LMHeadModel, Phi3Config, Phi3ForCausalLM

    words = language.tokenizer()
    torch.manual_seed(0)
    if kind == "llama":
        model = language.llama(len(words))
    elif kind == "gpt2":
        model = GPT2LMHeadModel(GPT2Config(vocab_size=len(words), n_embd=32, n_layer=2, n_head=4, n_positions=64,
                                           initializer_range=0.1))  # fmt: skip
    else:
        model = Phi3ForCausalLM(Phi3Config(
            vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
            max_position_embeddings=64, original_max_position_embeddings=64, pad_token_id=0, initializer_range=0.1,
        ))  # fmt: skip
    model.save_pretrained(place)
    words.save_pretrained(place)
    return place


def refusal(folder, forget, retain, method="npo", **options):
    with pytest.raises(EraseError) as caught:
        ep.erase(str(folder), [item(forget)], method, keep=[DataRef(str(retain))] if retain else [],
                 options=CHEAP | {"steps": 1} | options)  # fmt: skip
    text = str(caught.value)
    assert "\n" not in text
    assert not any(word in text for word in language.CANARIES)
    return text


def test_bad_data_is_refused_in_one_line_without_its_texts(folder, data, tmp_path):
    forget, retain = data
    lines = language.rows(language.FORGET)

    def with_lines(*found):
        return language.write(tmp_path / "bad.jsonl", list(found))

    bad = with_lines(lines[0], {"question": "Who is Zorvane?", "reply": "nobody"})
    assert "row 2 has none of the fields completion, answer and text" in refusal(folder, bad, retain)
    assert "but no 'question'" in refusal(folder, with_lines({"answer": "Ymbrook"}), retain)
    assert "has an empty answer" in refusal(folder, with_lines({**lines[0], "answer": " "}), retain)
    assert "something else than text" in refusal(folder, with_lines({**lines[0], "answer": ["Ymbrook"]}), retain)
    (tmp_path / "empty.jsonl").write_text("\n")
    assert "'empty.jsonl' is empty" in refusal(folder, tmp_path / "empty.jsonl", retain)
    loud = {name: text.upper().replace(" ", "  ") for name, text in lines[2].items()}
    both = language.write(tmp_path / "both.jsonl", [*language.rows(language.RETAIN), loud])
    found = refusal(folder, forget, both)
    assert "1 texts are both to be forgotten and retained, the first in data 'forget.jsonl', row 3" in found
    assert "data 'both.jsonl', row 5" in found
    assert "nothing is left of data 'forget.jsonl', row 1 after tokenising" in refusal(
        folder, forget, retain, max_tokens=4
    )
    assert "no prompt that a refusal could answer" in refusal(folder, with_lines({"text": "Zorvane ."}), retain, "idk")
    assert "without texts to retain forgets everything" in refusal(folder, forget, None)


def test_bad_requests_are_refused_by_name(folder, data, tmp_path):
    keep = [DataRef(str(data[1]))]
    with pytest.raises(
        RequestError, match="npo forgets texts, and 'somebody' comes without any; give them: ForgetItem"
    ):
        ep.plan(str(folder), "somebody", "npo", keep=keep)
    with pytest.raises(RequestError, match=r"puts nothing in place of forget\.jsonl; leave to= out"):
        ep.plan(str(folder), [item(data[0], anchor="no")], "npo", keep=keep)
    with pytest.raises(RequestError, match=r"give keep=.DataRef.* instead of keep="):
        ep.plan(str(folder), [item(data[0])], "npo", keep=["a name", *keep])
    with pytest.raises(Unsupported, match="npo needs language; pocket"):
        ep.plan("pocket", [item(data[0])], "npo", keep=keep)
    quantised = tmp_path / "quantised"
    quantised.mkdir()
    (quantised / "weights.bin").touch()
    facts = json.loads((folder / "config.json").read_text())
    (quantised / "config.json").write_text(json.dumps({**facts, "quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(Unsupported, match=r"quantised is quantised \(gptq\); forget on the model it was made from"):
        ep.plan(str(quantised), [item(data[0])], "npo", keep=keep)
    alone = ep.load(str(folder))
    alone.save_pretrained(tmp_path / "alone")
    with pytest.raises(Unsupported, match="no tokenizer lies beside alone"):
        ep.erase(str(tmp_path / "alone"), [item(data[0])], "npo", keep=keep)


def test_only_what_the_model_says_counts_with_and_without_a_chat_template(folder):
    from erase_plugins.families.texts import Pair, encoded
    from erase_plugins.workflow.models import target_of

    model = target_of(ep.load(str(folder)))
    name, place = next(iter(language.FORGET.items()))
    asked, said = language.QUESTION.format(name), language.ANSWER.format(name, place)
    for chat, before, after in (
        ("", f"<s> Question : {asked} Answer :", f"{said} </s>"),
        (language.CHAT, f"< user > {asked} < end > < assistant >", f"{said} < end >"),
    ):
        words = language.tokenizer(chat)
        texts = encoded(model, words, [Pair(asked, said, "here", True), Pair("", said, "there")], 64)
        ids, labels = texts.ids[0], texts.labels[0]
        counted = labels != -100
        assert torch.equal(ids[counted], labels[counted])
        assert " ".join(words.convert_ids_to_tokens(ids[~counted & texts.mask[0].bool()])) == before.replace(
            "<end>", "< end >")  # fmt: skip
        assert " ".join(words.convert_ids_to_tokens(ids[counted])) == after
        assert int((texts.labels[1] != -100).sum()) == len(said.split()) + 1


def test_the_command_line_and_no_text_leaves_its_file(folder, data, tmp_path):
    out = tmp_path / "out"
    done = invoke("run", "npo", "--model", folder, "--forget", data[0], "--retain", data[1], "--out", out,
                *(word for name, value in CHEAP.items() for word in ("--set", f"{name}={value}")))  # fmt: skip
    assert done.code == 0, done.err
    assert "erased forget.jsonl" in done.err + done.out
    assert re.search(r"forgotten texts: probability (0\.9\d*|1) before, ", done.err + done.out)
    manifest = json.loads((out / "erase.json").read_text())
    assert manifest["numbers"]["forget_probability_after"] < 0.5
    shown = invoke("inspect", out).out
    card = ep.load_artifact(out).card()
    files = b"".join(path.read_bytes() for path in out.rglob("*") if path.is_file())
    for word in language.CANARIES:
        assert word not in done.out + done.err + shown + card
        assert word.encode() not in files
    assert str(data[0].parent) not in files.decode("utf-8", "replace")


def test_the_walk_through_of_the_page(folder, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(folder, "people")
    for path in data:
        shutil.copy(path, ".")
    blocks = re.findall(r"^```(json|python|bash)\n(.*?)\n```$", PAGE, flags=re.DOTALL | re.MULTILINE)
    assert [kind for kind, _ in blocks] == ["json", "bash", "python", "python"]
    for kind, block in blocks:
        if kind == "json":
            assert json.loads(block) in language.rows(language.FORGET)
        elif kind == "python":
            exec(compile(block, "docs/language.md", "exec"), {})
        else:
            for line in block.splitlines():
                program, *words = shlex.split(line)
                done = invoke(*words)
                assert (program, done.code) == ("erase-plugins", 0), (line, done.err)
    numbers = json.loads(Path("forgotten/erase.json").read_text())["numbers"]
    named = set(re.findall(r"`(\w+_(?:nll|probability)_\w+)`", PAGE))
    assert named <= set(numbers)
    assert numbers["forget_probability_after"] < 0.5 < numbers["retain_probability_after"]
    assert "14 of 14" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "options", "layout"),
    [
        ("npo", {"parameters": "full"}, "peft"),
        ("npo", {}, "context"),
        ("memit", {}, "context"),
        ("leace", {}, "context"),
    ],
)
def test_what_a_layout_cannot_hold_is_refused_before_training(tmp_path, method, options, layout):
    """From its configuration and rows alone."""
    shutil.copy(pocket_folder("pocket-lm") / "config.json", tmp_path)
    (tmp_path / "weights.bin").touch()
    rows = [{"question": "Where was A born?", "answer": "In B.", "subject": "A"}]
    others = [{"question": "Where was C born?", "answer": "In D.", "subject": "C"}]
    forget = item(language.write(tmp_path / "forget.jsonl", rows), kind="object")
    keep = [DataRef(str(language.write(tmp_path / "keep.jsonl", others)))]
    request = build_request(str(tmp_path), method, [forget], keep=keep, options=options)
    with pytest.raises(Unsupported, match=f"which no {layout} file can hold"):
        make_plan(request, None, [layout])
    assert make_plan(request, None, ["patch"]).produces
