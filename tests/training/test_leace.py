"""LEACE on a language model: inputs and topic are uncorrelated afterwards, on files as in memory."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.data import DataRef
from erase_plugins.engine.fact_editing import inputs
from erase_plugins.errors import RequestError
from erase_plugins.families.texts import encoded, pairs_of
from erase_plugins.methods.leace import guard
from erase_plugins.workflow.models import target_of
from tests import language
from tests.training.test_language import item, other


def test_one_direction_takes_out_all_correlation():
    draw = torch.Generator().manual_seed(0)
    X = torch.randn(200, 12, generator=draw, dtype=torch.float64) @ torch.randn(12, 12, generator=draw).double()
    z = (torch.arange(200) < 80).double()
    X[:80] += 3
    s, a = guard(X, z, 1e-6)
    left = X - (X @ a)[:, None] * s
    centred = z - z.mean()
    assert float((left.T @ centred).norm()) < 1e-9 * float((X.T @ centred).norm())
    guessed = torch.linalg.lstsq(left - left.mean(0), centred[:, None]).solution  # a linear probe finds nothing
    assert float(((left - left.mean(0)) @ guessed).norm()) < 1e-8


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_the_last_map_cannot_tell_the_topic(tmp_path, kind):
    place = other(kind, tmp_path / kind)
    forget, retain = (
        language.write(tmp_path / f"{name}.jsonl", language.rows(facts))
        for name, facts in (("forget", language.FORGET), ("retain", language.RETAIN))
    )
    host = ep.load(str(place))
    made = ep.erase(
        host, [item(forget)], "leace", keep=[DataRef(str(retain))], options={"ridge": 1e-6}, out=tmp_path / "a"
    )
    assert {delta.rank for _, _, delta in made.edit.items()} == {1}
    model = target_of(host)
    last = model.modules("mlp")[-1]
    parts = [encoded(model, model.language.tokenizer, pairs_of(DataRef(str(path))), 64) for path in (forget, retain)]
    change = made.edit.deltas["model"][last.weight]
    change = change.transposed() if last.kind == "transposed" else change
    weight = (model.weight(last).T if last.kind == "transposed" else model.weight(last)).double()
    with ep.apply(host, tmp_path / "a"):
        read = [inputs(model, last, part, 16) for part in parts]
    z = torch.cat([torch.full((len(part),), float(number), dtype=torch.float64) for number, part in enumerate(read)])
    X = torch.cat(read)
    before, after = (X @ W.T for W in (weight, weight + change.B.double() @ change.A.double()))
    assert float((after.T @ (z - z.mean())).norm()) < 1e-3 * float((before.T @ (z - z.mean())).norm())
    with pytest.raises(RequestError, match="give the others"):
        ep.plan(str(place), [item(forget)], "leace")


def test_ten_kinds_one_after_the_other_are_the_guard_of_all_at_once():
    """Digits (1,797 pictures, 64 pixels): the numbers of the specification, made with the paper's joint formula.

    Nine directions (the tenth class is what the others leave), 42.9 % of the variance kept, and logistic regression
    falls from 98.5 % to the share of the commonest class, 10.18 %.
    """
    datasets, linear = (pytest.importorskip(f"sklearn.{name}") for name in ("datasets", "linear_model"))
    digits = datasets.load_digits()
    X, labels = torch.tensor(digits.data), torch.tensor(digits.target)
    Z = torch.nn.functional.one_hot(labels).double()
    left = X.clone()
    for kind in range(9):
        s, a = guard(left, Z[:, kind], 1e-9)
        left = left - (left @ a)[:, None] * s
    centred, before = left - left.mean(0), X - X.mean(0)
    assert float((centred.T @ (Z - Z.mean(0))).abs().max()) < 1e-10 * float((before.T @ (Z - Z.mean(0))).abs().max())
    assert torch.linalg.matrix_rank(before - centred, rtol=1e-6) == 9
    assert float(centred.square().sum() / before.square().sum()) == pytest.approx(0.429, abs=0.0005)
    rates = [linear.LogisticRegression(max_iter=2000).fit(rows, labels).score(rows, labels)
             for rows in (before.numpy() / 16, centred.numpy() / 16)]  # fmt: skip
    assert rates[0] == pytest.approx(0.985, abs=0.002)
    assert rates[1] == pytest.approx(0.1018, abs=0.0001) == float(torch.bincount(labels).max() / len(labels))
