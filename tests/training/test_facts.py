"""Closed-form edits of facts: answers change, neighbours stay, the solves are right, bad requests are one line."""

from __future__ import annotations

import json

import pytest
import torch

import erase_plugins as ep
from erase_plugins.data import DataRef
from erase_plugins.engine import key_edits
from erase_plugins.errors import EraseError, RequestError, Unsupported
from erase_plugins.families.texts import PLAIN
from tests import language
from tests.training.test_language import item, numbers, other

METHODS = ("memit", "alphaedit", "rome")
CHEAP = {"statistics_tokens": 512, "value_lr": 0.2, "value_steps": 60}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return language.trained(tmp_path_factory.mktemp("facts") / "model", refuses=True)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(facts to forget, facts to retain)."""
    return language.both(tmp_path_factory.mktemp("data"), language.named)


@pytest.mark.parametrize("method", METHODS)
def test_facts_give_way_more_than_their_neighbours(folder, data, method):
    """A model of two blocks copies half of an answer from the question, so the rest is what an edit can reach."""
    found = ep.erase(str(folder), [item(data[0])], method, keep=[DataRef(str(data[1]))], options=CHEAP)
    seen = numbers(found)
    lost = {
        side: seen[f"{side}_probability_before"] - seen[f"{side}_probability_after"] for side in ("forget", "retain")
    }
    assert seen["forget_probability_before"] > 0.9
    assert lost["forget"] > 0.2
    assert lost["forget"] > 1.2 * lost["retain"]
    assert found.edit.rank == len(language.FORGET)


@pytest.mark.parametrize(("protect", "count"), [(1.0, 2), (0.0, 1)])
def test_the_words_around_a_protected_subject_stay(folder, data, monkeypatch, protect, count):
    """A retained row is ordinary text; what the model says of its subject itself is protected as well."""
    from erase_plugins.engine import fact_editing

    given, found = fact_editing.ordinary_keys, []

    def noted(model, refs, texts, skip=()):
        found.extend(tuple(text.tolist()) for text in texts)
        return given(model, refs, texts, skip)

    monkeypatch.setattr(fact_editing, "ordinary_keys", noted)
    ep.erase(str(folder), [item(data[0])], "memit", keep=[DataRef(str(data[1]))],
             options={**CHEAP, "value_steps": 2, "protect": protect})  # fmt: skip
    words = language.tokenizer("")
    for name in language.RETAIN:
        start = tuple(words(PLAIN.format(language.QUESTION.format(name)))["input_ids"])
        assert sum(row[: len(start)] == start for row in found) == count, name


def test_a_model_goes_on_with_prompts_of_different_lengths_up_to_the_end(folder):
    from erase_plugins.engine.fact_editing import continued
    from erase_plugins.families.texts import Pair, fact_of, tokenizer_of
    from erase_plugins.workflow.models import target_of

    target = target_of(ep.load(str(folder)))
    tokenizer = tokenizer_of(target)
    name = next(iter(language.RETAIN))
    prompts = [PLAIN.format(language.QUESTION.format(name)), f"Question: {name}"]
    facts = [fact_of(tokenizer, Pair(prompt, ".", "row", subject=name)) for prompt in prompts]
    found = continued(target, facts, 12)
    for fact, text in zip(facts, found, strict=True):
        front = torch.tensor([[*fact.start, *fact.prompt]])
        wanted = target.language.generate(front, 12)[0].tolist()
        end = wanted.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in wanted else len(wanted)
        assert text.tolist() == wanted[:end]
    assert len(found[0]) < len(facts[0].start) + len(facts[0].prompt) + 12  # the answer has an end


def test_a_name_with_the_forgotten_answer_in_one_wording_is_protected_in_none(folder, data, monkeypatch):
    """It is another name of the same."""
    from dataclasses import replace

    from erase_plugins.engine import fact_editing
    from erase_plugins.training import facts

    def named(_target, _tokenizer, forget, _kept, _count):
        return [replace(forget[0], prompt=text.format(name), subject=name) for name in ("user", "assistant")
                for text in (language.QUESTION, "Where {} ?")]  # fmt: skip

    def said(_model, every, _count):
        answer = words(language.ANSWER.format(*next(iter(language.FORGET.items()))))["input_ids"][1:]
        return [torch.tensor([*fact.start, *fact.prompt, *(answer if number == others else [])])
                for number, fact in enumerate(every)]  # fmt: skip

    def kept(_model, _refs, texts, skip=()):
        found.append([words.decode(text) for text in texts])
        return given(_model, _refs, texts, skip)

    words, others, found, given = language.tokenizer(), len(language.RETAIN), [], fact_editing.ordinary_keys
    monkeypatch.setattr(facts, "peers", named)
    monkeypatch.setattr(fact_editing, "continued", said)
    monkeypatch.setattr(fact_editing, "ordinary_keys", kept)
    ep.erase(str(folder), [item(data[0])], "memit", keep=[DataRef(str(data[1]))], options={**CHEAP, "value_steps": 2})
    assert sum("user" in text for text in found[1]) == 0
    assert sum("assistant" in text for text in found[1]) == 2


def test_likelihoods_are_those_of_some_rows_of_many():
    from erase_plugins.training.facts import _spread

    assert _spread(4).tolist() == [0, 1, 2, 3]
    assert _spread(65).tolist() == list(range(0, 65, 2))
    assert len(_spread(6400)) == 64


def test_keys_of_a_padded_batch_are_those_of_each_text(folder):
    from erase_plugins.engine.fact_editing import ordinary_keys
    from erase_plugins.workflow.models import target_of

    target = target_of(ep.load(str(folder)))
    refs = target.info.modules("mlp_out")
    texts = [torch.arange(3, 9), torch.arange(4, 7), torch.arange(5, 15)]
    both = ordinary_keys(target, refs, texts, [1, 2, 4])
    alone = [ordinary_keys(target, refs, [text], [skip]) for text, skip in zip(texts, (1, 2, 4), strict=True)]
    for place, found in enumerate(both):
        assert len(found) == 5 + 1 + 6
        torch.testing.assert_close(found, torch.cat([part[place] for part in alone]), rtol=1e-5, atol=1e-6)


def system(seed=0, size=24, facts=3, kept=4):
    """C, K, P of random keys."""
    draw = torch.Generator().manual_seed(seed)
    spread = torch.randn(size, size, generator=draw, dtype=torch.float64)
    keys = torch.randn(size, facts + kept, generator=draw, dtype=torch.float64)
    return spread @ spread.T / size + 0.1 * torch.eye(size, dtype=torch.float64), keys[:, :facts], keys[:, facts:]


def far(found, wanted):
    return float((found - wanted).norm() / wanted.norm())


def test_small_systems_equal_those_of_the_size_of_the_layer():
    C, K, P = system()
    eye = torch.eye(len(C), dtype=C.dtype)
    for kept in (None, P):
        both = K @ K.T + (0 if kept is None else kept @ kept.T)
        assert far(key_edits.memit(C, K, 7.0, kept), torch.linalg.solve(7.0 * C + both, K).T) < 1e-10
        N = key_edits.null_space(C, 0.5)
        assert far(key_edits.alphaedit(N, K, 0.3, kept), torch.linalg.solve(N @ both + 0.3 * eye, N @ K).T) < 1e-10
    # the constrained least squares of ROME as one system of in + facts + kept unknowns
    S = torch.cat([K, P], 1)
    wanted = torch.cat([torch.eye(3, dtype=C.dtype), torch.zeros(4, 3, dtype=C.dtype)])
    whole = torch.cat([torch.cat([C, S], 1), torch.cat([S.T, torch.zeros(7, 7, dtype=C.dtype)], 1)])
    right = torch.cat([torch.zeros(len(C), 3, dtype=C.dtype), wanted])
    assert far(key_edits.rome(C, K, P).T, torch.linalg.solve(whole, right)[: len(C)]) < 1e-10


def test_what_the_edits_promise():
    C, K, P = system(1)
    R = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    eye = torch.eye(3, dtype=C.dtype)
    assert torch.linalg.matrix_rank(R @ key_edits.memit(C, K, 1.0)) == 3
    assert far(R @ key_edits.memit(C, K, 1e-9) @ K, R) < 1e-6
    assert far(key_edits.memit(C, K, 1e-9), key_edits.rome(C, K)) < 1e-6
    away = torch.randn(len(C), 1, dtype=C.dtype)
    X = torch.linalg.solve(C, K)
    away = away - X @ torch.linalg.lstsq(X, away).solution
    assert float((key_edits.memit(C, K, 1.0) @ away).norm()) < 1e-10
    N = key_edits.null_space(C, 0.5)
    outside = away - N @ away
    for kept in (None, P):
        assert float((key_edits.alphaedit(N, K, 0.1, kept) @ outside).norm()) < 1e-12
    for factor in (lambda kept: key_edits.memit(C, K, 1.0, kept), lambda kept: key_edits.alphaedit(N, K, 0.1, kept)):
        assert float((R @ factor(P) @ P).norm()) < float((R @ factor(None) @ P).norm())
    A = key_edits.rome(C, K, P)
    assert float((A @ K - eye).norm()) < 1e-10
    assert float((A @ P).norm()) < 1e-10
    with pytest.raises(RequestError, match="look the same to the model"):
        key_edits.rome(C, torch.cat([K, K[:, :1]], 1))


@pytest.mark.parametrize("kind", ["llama", "gpt2", "phi3"])
def test_the_files_are_the_edit_and_the_model_comes_back(data, tmp_path, kind):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    place = other(kind, tmp_path / kind)
    host = ep.load(str(place))
    ids = torch.tensor([[1, 5, 9, 12, 7]])
    made = ep.erase(
        host, [item(data[0])], "memit", keep=[DataRef(str(data[1]))], options=CHEAP | {"layers": "0-1"},
        out=tmp_path / "art",
    )  # fmt: skip
    assert made.manifest.modules == 2
    with torch.no_grad():
        first = host(ids).logits
        with ep.apply(host, tmp_path / "art"):
            edited = host(ids).logits
        assert torch.equal(host(ids).logits, first)
        assert float((edited - first).abs().max()) > 1e-4
        stock = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(place), tmp_path / "art" / "peft_model")
        assert float((stock.eval()(ids).logits - edited).abs().max()) <= 1e-6
        whole = AutoModelForCausalLM.from_pretrained(place).double()
        for _, key, delta in made.edit.items():
            whole.get_parameter(key).add_(delta.B.double() @ delta.A.double())
        assert float((stock.double()(ids).logits - whole(ids).logits).abs().max()) <= 1e-6


def refused(folder, forget, retain, match, method="memit", **more):
    """The message of a refused run, one line without a word of the texts."""
    with pytest.raises(EraseError, match=match) as caught:
        ep.erase(
            str(folder), [item(forget, **more)], method, keep=[DataRef(str(retain))] if retain else [],
            options={"value_steps": 1, "statistics_tokens": 64},
        )  # fmt: skip
    assert "\n" not in str(caught.value)
    assert not any(word in str(caught.value) for word in language.CANARIES)


def test_bad_rows_are_refused_in_one_line_without_their_texts(folder, data, tmp_path):
    forget, retain = data
    lines = language.named(language.FORGET)

    def bad(*found):
        return language.write(tmp_path / "bad.jsonl", list(found))

    refused(folder, bad(language.rows(language.FORGET)[0]), retain, r"row 1 does not say whom it is about; add")
    refused(folder, bad(lines[0] | {"subject": "Ymbrook"}), retain, r"prompt of data 'bad\.jsonl', row 1 does not hold")
    refused(folder, bad(lines[0] | {"subject": 7}), retain, r"something else than text in .* or 'subject'")
    refused(folder, bad({"text": "Zorvane .", "subject": "Zorvane"}), retain, "no prompt that a refusal could answer")
    refused(folder, forget, bad(lines[1]), "both to be forgotten and retained")
    again = {**lines[0], "question": "Who is Zorvane ?"}
    refused(folder, forget, bad(again), r"subject of data 'bad\.jsonl', row 1 is that of data 'forget\.jsonl', row 1")
    refused(folder, bad(lines[0]), retain, "has that answer already", anchor=lines[0]["answer"])
    long = lines[0] | {"question": "Zorvane " * 70}
    refused(folder, bad(long), retain, r"row 1 needs \d+ tokens and .* reads 64; shorten it")
    twice = {**lines[0], "answer": "Zorvane was born ."}
    refused(folder, bad(lines[0], twice), retain, "look the same to the model", method="rome")
    with pytest.raises(RequestError, match="layers '7' are none of"):
        ep.plan(str(folder), [item(forget)], "memit", options={"layers": "7"})


def test_models_that_cannot_be_edited_are_refused(folder, data, tmp_path):
    from transformers import Gemma2Config, Gemma2ForCausalLM

    words = language.tokenizer()
    torch.manual_seed(0)
    model = Gemma2ForCausalLM(Gemma2Config(
        vocab_size=len(words), hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=64, initializer_range=0.1,
    ))  # fmt: skip
    model.save_pretrained(tmp_path / "gemma")
    words.save_pretrained(tmp_path / "gemma")
    refused(tmp_path / "gemma", *data, "changes what its MLP layers give")
    small = language.llama(len(words) - 4)
    small.save_pretrained(tmp_path / "small")
    words.save_pretrained(tmp_path / "small")
    refused(tmp_path / "small", *data, r"tokenizer beside small has \d+ tokens and the model \d+")
    facts = json.loads((folder / "config.json").read_text())
    (tmp_path / "int4").mkdir()
    (tmp_path / "int4" / "weights.bin").touch()
    (tmp_path / "int4" / "config.json").write_text(
        json.dumps({**facts, "quantization_config": {"quant_method": "bitsandbytes", "load_in_4bit": True}})
    )
    with pytest.raises(Unsupported, match=r"int4 is quantised \(bitsandbytes\)"):
        ep.plan(str(tmp_path / "int4"), [item(data[0])], "memit", keep=[DataRef(str(data[1]))])


def test_subjects_are_found_by_the_template_or_without_one(folder):
    from erase_plugins.families.texts import Pair, fact_of

    asked = language.QUESTION.format("Zorvane")
    for chat in ("", language.CHAT):
        words = language.tokenizer(chat)
        fact = fact_of(words, Pair(asked, "nobody knows .", "here", True, subject="Zorvane"))
        assert words.convert_ids_to_tokens(fact.prompt[fact.last]) == "Zorvane"
        assert words.convert_ids_to_tokens(list(fact.start)) == ([] if chat else ["<s>"])


def test_texts_that_the_model_makes_up_follow_their_generator(folder):
    from erase_plugins.workflow.models import target_of

    model = target_of(ep.load(str(folder))).language
    start = torch.ones((3, 1), dtype=torch.long)
    first, again, other_ = (model.sample(start, 12, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.shape == (3, 13)
    assert torch.equal(first, again)
    assert not torch.equal(first, other_)
    # with a cache as without: the drawn tokens are those of the plain distribution
    draw, ids = torch.Generator().manual_seed(1), start
    with torch.no_grad():
        for _ in range(12):
            chances = model.logits(ids)[:, -1].softmax(-1)
            ids = torch.cat([ids, torch.multinomial(chances, 1, generator=draw)], 1)
    assert torch.equal(first, ids)


def spread_over(folder, data, monkeypatch, method, **options):
    """The edits of a run in which every value is to move by 1 along the first width, with the keys it solved for."""
    from erase_plugins.engine import fact_editing
    from erase_plugins.training.facts import FactMethod

    given, solved = type(method).factor, []

    def values(model, ref, site, rows, essence, how, step=None):
        delta = torch.zeros(int(rows.owner.max()) + 1, 32, dtype=torch.float64)
        delta[:, 0] = 1.0
        return delta, torch.zeros(len(delta), dtype=torch.float64)

    def factor(self, keys, options):
        solved.append(keys)
        return given(self, keys, options)

    assert isinstance(method, FactMethod)
    with monkeypatch.context() as patch:
        patch.setattr(fact_editing, "find_values", values)
        patch.setattr(type(method), "factor", factor)
        found = ep.erase(
            str(folder), [item(data[0])], method.id, keep=[DataRef(str(data[1]))],
            options={"statistics_tokens": 512, "peers": 0, "prefixes": 0, "value_steps": 1} | options,
        )  # fmt: skip
    return found, solved


def test_every_block_takes_its_share_of_what_is_left(folder, data, monkeypatch):
    """MEMIT's spread over layers: of n blocks the first takes 1/n, the last all that is left.

    With ROME's factor, which is exact, the first of two blocks moves its own output by half of the goal, and in the
    end nothing is missed.
    """
    from erase_plugins.methods.rome import ROME

    found, solved = spread_over(folder, data, monkeypatch, ROME(), layers="0-1", protect=0.0)
    first, second = (delta for _, _, delta in found.edit.items())
    assert len(solved) == 2
    moved = first.B.double() @ first.A.double() @ solved[0].plain
    wanted = torch.zeros_like(moved)
    wanted[0] = 0.5
    # half of the goal at the last block is asked of the first one's map as it stands
    assert torch.allclose(moved, wanted, atol=1e-5)
    assert numbers(found)["value_missed"] < 1e-4
    assert second.dense().abs().max() > 1e-4


def test_protected_keys_count_with_their_weight(folder, data, monkeypatch):
    """P P^T stands beside K K^T, so that keys of weight w are w times as much in it: sqrt(w) in P."""
    from erase_plugins.methods.rome import ROME

    kept = {weight: spread_over(folder, data, monkeypatch, ROME(), protect=weight)[1][0].kept for weight in (1.0, 9.0)}
    assert torch.allclose(kept[9.0], 3 * kept[1.0], rtol=1e-6)


def test_what_a_model_says_of_a_protected_subject_counts_with_the_same_weight(folder, data, monkeypatch):
    from erase_plugins.methods.rome import ROME

    C = {weight: spread_over(folder, data, monkeypatch, ROME(), protect=weight)[1][0].C for weight in (0.0, 1.0, 9.0)}
    assert float((C[1.0] - C[0.0]).abs().max()) > 0
    assert torch.allclose(C[9.0] - C[0.0], 9 * (C[1.0] - C[0.0]), rtol=1e-5, atol=1e-9)


def test_keys_of_what_stands_around_a_subject_begin_at_its_last_token(folder, data, monkeypatch):
    from erase_plugins.engine import fact_editing

    given, found = fact_editing.ordinary_keys, []

    def kept(model, refs, texts, skip=()):
        found.append([words.decode(text[start]) for text, start in zip(texts, skip, strict=False)])
        return given(model, refs, texts, skip)

    words = language.tokenizer()
    monkeypatch.setattr(fact_editing, "ordinary_keys", kept)
    ep.erase(str(folder), [item(data[0])], "memit", keep=[DataRef(str(data[1]))],
             options={**CHEAP, "value_steps": 2, "peers": 0})  # fmt: skip
    assert found == [[], list(language.RETAIN)]


def test_a_prompt_may_be_as_long_as_the_model_reads_with_its_answer_and_a_beginning(monkeypatch):
    from types import SimpleNamespace

    from erase_plugins.families.texts import Fact
    from erase_plugins.methods.memit import MEMIT
    from erase_plugins.training import facts

    target = SimpleNamespace(info=SimpleNamespace(model="m"))
    fact = Fact((1,), (2, 3, 4), 1, (5, 6), "row 1")
    for prefixes, need in ((0, 6), (2, 10)):
        options = SimpleNamespace(prefix_tokens=4, prefixes=prefixes)
        monkeypatch.setattr(facts, "_limit", lambda _target, need=need: need)
        MEMIT()._check_length(target, [fact], options)
        monkeypatch.setattr(facts, "_limit", lambda _target, need=need: need - 1)
        with pytest.raises(RequestError, match=f"row 1 needs {need} tokens and m reads {need - 1}"):
            MEMIT()._check_length(target, [fact], options)


@pytest.mark.parametrize(("start", "chat", "count"), [((1,), "", 3), ((1,), "x", 3), ((), "", 3), ((), "x", 1)])
def test_nothing_stands_in_front_of_the_turn_of_a_chat(start, chat, count):
    from types import SimpleNamespace

    from erase_plugins.families.texts import Fact
    from erase_plugins.methods.memit import MEMIT

    tokenizer = SimpleNamespace(bos_token_id=1, eos_token_id=2, chat_template=chat)
    sample = lambda first, length, generator: torch.arange(len(first) * (length + 1)).view(len(first), -1)  # noqa: E731
    info = SimpleNamespace(components=lambda role: ("model",), configs={"model": {"max_position_embeddings": 9}})
    target = SimpleNamespace(language=SimpleNamespace(tokenizer=tokenizer, sample=sample), info=info)
    options = SimpleNamespace(statistics_tokens=20, prefix_tokens=2, prefixes=2)
    ctx = SimpleNamespace(generator=lambda name: None)
    texts, front = MEMIT()._ordinary(target, ctx, options, [Fact(start, (2,), 0, (3,), "row")], None)
    assert [len(text) for text in texts] == [9, 9, 9]
    assert front == [(), (1, 2), (10, 11)][:count]


@pytest.mark.parametrize(
    ("after", "retained", "told"),
    [(1.1, 1.2, []), (1.0, 1.2, ["as likely as before"]), (1.1, 1.21, ["less likely by 0.21 nat"])],
)
def test_what_an_edit_did_not_do_or_did_too_much_is_told(after, retained, told):
    from types import SimpleNamespace

    from erase_plugins.methods.memit import MEMIT

    warned = []
    numbers = {
        "forget_nll_before": 1.0,
        "forget_nll_after": after,
        "retain_nll_before": 1.0,
        "retain_nll_after": retained,
    }
    numbers |= {f"answer_probability_{when}": 0.1 for when in ("before", "after")}
    MEMIT()._tell(SimpleNamespace(numbers=numbers, note=lambda text: None, warn=warned.append), 0.1, 0.2)
    assert len(warned) == len(told)
    assert all(part in text for part, text in zip(told, warned, strict=True))


@pytest.mark.parametrize(("method", "mean"), [("rome", 5.0), ("memit", 4.0), ("alphaedit", 4.0)])
def test_the_mean_of_a_key_over_beginnings(monkeypatch, method, mean):
    """Plain 1, behind beginnings 4 and 10. ROME: the mean of all three. MEMIT's code takes means by the length of the
    beginnings first, none being one of two lengths: (1 + (4 + 10) / 2) / 2, and AlphaEdit goes by it."""
    from erase_plugins.engine import fact_editing
    from erase_plugins.manager import get_manager

    monkeypatch.setattr(fact_editing, "rows_of", lambda *given, **named: None)
    monkeypatch.setattr(fact_editing, "keys", lambda *given: [torch.tensor([[1.0], [4.0], [10.0]])])
    found = get_manager().method(method)._keys(None, None, [None], [(), (5,), (6,)], torch.eye(1), None)
    assert found.facts.tolist() == [[mean]]
    assert found.plain.tolist() == [[1.0]]


def test_values_that_are_good_enough_are_left_alone(folder):
    """From the first evaluation on, whose loss is below ``enough``: nothing moves, and nothing more is asked."""
    from erase_plugins.engine import fact_editing
    from erase_plugins.families.texts import fact_of, pair_of, tokenizer_of
    from erase_plugins.workflow.models import target_of

    model = target_of(ep.load(str(folder)))
    ref = model.info.modules("mlp_out")[0]
    found = [fact_of(tokenizer_of(model), pair_of(row, "here")) for row in language.named(language.FORGET)[:2]]
    asked = fact_editing.rows_of(found, ((),), [fact.answer for fact in found])
    plain, seen = fact_editing.rows_of(found, cut=True), []
    site = fact_editing.block_of(model, ref)

    def moved(**how):
        seen.clear()
        descent = fact_editing.Descent(steps=4, decay=0.0, kl=0.0, **how)
        delta, _ = fact_editing.find_values(model, ref, site, asked, plain, descent, lambda *told: seen.append(told[0]))
        return delta.abs().amax(1)

    assert moved(enough=1e9).tolist() == [0.0, 0.0]
    assert seen == [1]
    assert (moved(enough=0.0) > 0).all()
    assert seen == [1, 2, 3, 4]


def test_weights_of_memit_and_alphaedit_are_in_units_of_the_keys():
    """C = I of width 4, one key of length 3. MEMIT: k^T (4 lam I + k k^T)^-1 k = 9 / (4 lam + 9).

    AlphaEdit with all of k in the null space, and its weight l2 in units of k^T k: 9 / (9 l2 + 9).
    """
    from erase_plugins.manager import get_manager
    from erase_plugins.training import Keys

    key = torch.tensor([[3.0], [0.0], [0.0], [0.0]], dtype=torch.float64)
    keys = Keys(torch.eye(4, dtype=torch.float64), key, key, None)
    memit, alphaedit = (get_manager().method(name) for name in ("memit", "alphaedit"))
    found = memit.factor(keys, memit.Options(lam=0.5)) @ key
    assert float(found) == pytest.approx(9 / 11, rel=1e-9)
    unused = Keys(torch.diag(torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)), key, key, None)
    found = alphaedit.factor(unused, alphaedit.Options(null_share=0.25, l2=0.5)) @ key
    assert float(found) == pytest.approx(9 / 13.5, rel=1e-9)


def test_a_moment_is_a_mean_and_its_ridge_a_share_of_the_mean_diagonal():
    """Keys (1, 0) and (0, 2): mean outer product diag(1/2, 2), mean diagonal 5/4, a tenth of it on the diagonal."""
    found = key_edits.moment(torch.tensor([[1.0, 0.0], [0.0, 2.0]]), 0.1)
    assert torch.allclose(found, torch.tensor([[0.625, 0.0], [0.0, 2.125]], dtype=torch.float64), rtol=1e-12)
