"""LiRA and RMIA: scores worked out by hand, shadows that are kept, and a model that has plainly learned by heart."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import RequestError
from erase_plugins.evaluation import membership
from erase_plugins.evaluation.membership import Shadows, lira, logit_gap, rmia, shadows, summary
from erase_plugins.evaluation.unlearning import Parts, auc, measure
from erase_plugins.families.labelled import Labelled
from erase_plugins.workflow.models import target_of
from tests import classifiers
from tests.classifiers import vit


def part(*margins):
    """Pictures whose one value is the margin of their class over the other one."""
    return Labelled(torch.tensor(margins, dtype=torch.float32).reshape(-1, 1, 1, 1), torch.zeros(len(margins)).long())


def model(margin=lambda batch: batch.flatten(1)[:, 0]):
    return SimpleNamespace(
        classifier=SimpleNamespace(logits=lambda batch: torch.stack([margin(batch), 0 * margin(batch)], 1))
    )


def test_the_gap_of_logits():
    wide = torch.tensor([[2.0, 0.0, 0.0], [0.0, 50.0, 0.0]])
    found = logit_gap(wide, torch.tensor([0, 1]))
    assert found[0].item() == pytest.approx(2.0 - math.log(2))
    assert found[1].item() == pytest.approx(50.0 - math.log(2))  # 1 - p is 0 in float64


def test_lira_by_hand():
    inside = torch.tensor([[True, False], [False, True]] * 2)
    phi = torch.tensor([[5.0, 1.0], [1.0, 5.0], [7.0, 3.0], [3.0, 7.0]], dtype=torch.float64)
    found = Shadows(part(4.0), part(4.5), part(0.0), inside, phi, torch.zeros(4, 1, dtype=torch.float64))
    told = torch.cat(lira(model(), found))
    # both means are 6 inside and 2 outside, both pooled variances (2 + 2) / 2 = 2
    wanted = [((x - 2) ** 2 - (x - 6) ** 2) / 4 for x in (4.0, 4.5)]
    assert told.tolist() == pytest.approx(wanted)
    nobody = Shadows(*(found.forget, found.others, found.z), torch.zeros(4, 2, dtype=torch.bool), phi, found.compared)
    assert torch.cat(lira(model(), nobody)).tolist() == pytest.approx([0.0, 0.5 / math.sqrt(20 / 3)])


def test_the_likelihood_ratio_has_a_spread_of_its_own_for_either_kind():
    """Inside 4 and 8, outside 1 and 3 for one picture, the other way round in the other; see a normal law's density."""
    inside = torch.tensor([[True, False], [False, True]] * 2)
    phi = torch.tensor([[4.0, 1.0], [1.0, 4.0], [8.0, 3.0], [3.0, 8.0]], dtype=torch.float64)
    found = Shadows(part(4.0), part(4.5), part(0.0), inside, phi, torch.zeros(4, 1, dtype=torch.float64))
    known, strange = torch.distributions.Normal(6.0, math.sqrt(8)), torch.distributions.Normal(2.0, math.sqrt(2))
    wanted = [float(known.log_prob(torch.tensor(x)) - strange.log_prob(torch.tensor(x))) for x in (4.0, 4.5)]
    assert torch.cat(lira(model(), found)).tolist() == pytest.approx(wanted, rel=1e-5)


def test_from_32_shadows_on_every_picture_has_a_spread_of_its_own():
    """Sixteen shadows at +1 and sixteen at -1: variance 32 / 31; the other picture's phi are three times as far."""
    phi = torch.tensor([[1.0, 3.0], [-1.0, -3.0]] * 16, dtype=torch.float64)
    for count, spreads in ((32, [1.0, 3.0]), (31, None)):
        found = Shadows(part(2.0), part(2.0), part(0.0), torch.zeros(count, 2, dtype=torch.bool), phi[:count],
                        torch.zeros(count, 1, dtype=torch.float64))  # fmt: skip
        told = torch.cat(lira(model(), found))
        if spreads:
            assert told.tolist() == pytest.approx([2 / (spread * math.sqrt(32 / 31)) for spread in spreads])
        else:  # one spread for both
            ratio = (2 - float(phi[:count, 0].mean())) / (2 - float(phi[:count, 1].mean()))
            assert float(told[0] / told[1]) == pytest.approx(ratio)


def test_rmia_by_hand():
    """The model gives 0.6 to the picture, and of two shadows the one that did not see it 0.4: a ratio of 3/2.

    The three it is compared with have 0.9, 0.6 and 0.5, and 0.45, 0.5 and 0.5 by all shadows: 2, 6/5 and 1.
    """
    logit = lambda *values: torch.tensor(values, dtype=torch.float64).logit()  # noqa: E731
    found = Shadows(
        part(float(logit(0.6))), part(float(logit(0.2))), part(*logit(0.9, 0.6, 0.5).tolist()),
        torch.tensor([[True, False], [False, False]]), torch.stack([logit(0.8, 0.4), logit(0.4, 0.4)]),
        torch.stack([logit(0.3, 0.4, 0.5), logit(0.6, 0.6, 0.5)]),
    )  # fmt: skip
    seen, other = rmia(model(), found)
    assert seen.tolist() == pytest.approx([2 / 3])
    assert other.tolist() == [0.0]  # 0.2 / 0.4


def test_both_tell_what_only_the_model_knows_from_what_every_model_knows():
    others, forget = [5.0] * 10, [4.0] * 10  # held-out pictures are easier for everybody
    phi = torch.tensor([forget + others], dtype=torch.float64)
    found = Shadows(
        part(*forget), part(*others), part(*others), torch.zeros(1, 20, dtype=torch.bool), phi,
        torch.tensor([others], dtype=torch.float64),
    )  # fmt: skip
    learned = model(lambda batch: torch.where(batch.flatten(1)[:, 0] == 4.0, 4.5, batch.flatten(1)[:, 0]))
    for attack in (lira, rmia):
        assert auc(*attack(model(), found)) == pytest.approx(0.5)
        assert auc(*attack(learned, found)) == 1.0
    parts = Parts(part(*forget), part(*forget), part(*others, *others))
    assert measure(learned, parts)["auc"] == 0.0  # the plain loss attack is fooled


def test_intervals_hold_what_is_known():
    generator = torch.Generator().manual_seed(0)
    members, others = (torch.randn(200, generator=generator) + shift for shift in (1.0, 0.0))
    found = summary(members, others, 0)
    value, low, high = found["auc"]
    assert value == auc(members, others)
    assert low < 0.7602 < high  # of two unit Gaussians at distance 1: Phi(1 / sqrt 2)
    # DeLong's standard error of the same area, 1.96 of it on either side; resampling 300 times is good to some 6 %
    above = (members[:, None] > others[None]).double()
    error = math.sqrt(float(above.mean(1).var() / len(members) + above.mean(0).var() / len(others)))
    assert high - low == pytest.approx(2 * 1.96 * error, rel=0.08)
    assert summary(torch.ones(10), torch.zeros(10), 0)["tpr"] == (1.0, pytest.approx(0.7), 1.0)


@pytest.fixture
def learned_by_heart():
    """A model that was trained on noise with random labels, and what it saw and did not see."""
    generator = torch.Generator().manual_seed(0)
    target = target_of(vit(("a", "b", "c"), width=16, layers=1))
    pool = Labelled(torch.randn(180, 1, 8, 8, generator=generator), torch.randint(3, (180,), generator=generator))
    seen = pool[torch.arange(90)]
    parts = Parts(seen[torch.arange(30)], seen[torch.arange(30, 90)], pool[torch.arange(90, 180)])
    optimizer = torch.optim.AdamW(target.host.parameters(), 1e-2)
    for _ in range(150):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(target.classifier.logits(seen.pictures), seen.labels).backward()
        optimizer.step()
    return target, parts


def test_shadows_find_it_are_kept_and_go_on_where_a_run_was_killed(learned_by_heart, monkeypatch, tmp_path):
    monkeypatch.setenv("ERASE_PLUGINS_CACHE", str(tmp_path))
    target, parts = learned_by_heart
    before = {name: value.clone() for name, value in target.host.state_dict().items()}
    told = []

    def killed(done, total):
        told.append((done, total))
        if done == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shadows(target, parts, 4, 60, online=True, progress=killed)
    assert told == [(0, 4), (1, 4), (2, 4)]
    kept = {item: item.stat().st_mtime_ns for item in tmp_path.glob("shadow-*")}
    assert len(kept) == 2
    written = []
    inner = membership.disk_cache.write
    monkeypatch.setattr(membership.disk_cache, "write", lambda key, data: (written.append(key), inner(key, data)))
    found = shadows(target, parts, 4, 60, online=True)
    assert len(written) == 2
    assert torch.equal(found.inside.sum(0), torch.full((75,), 2))
    assert torch.equal(found.inside[0], ~found.inside[1])
    again = shadows(target, parts, 4, 60, online=True)
    assert len(written) == 2
    assert torch.equal(again.asked, found.asked)
    assert all(torch.equal(before[name], value) for name, value in target.host.state_dict().items())
    for attack in (lira, rmia):
        assert summary(*attack(target, found), 0)["auc"][1] > 0.5
    offline = shadows(target, parts, 2, 60)
    assert not offline.inside.any()
    assert len(written) == 4
    assert auc(*lira(target, offline)) > 0.6
    clean = target_of(vit(("a", "b", "c"), width=16, layers=1, seed=7))  # never trained at all
    for attack in (lira, rmia):
        assert abs(auc(*attack(clean, offline)) - 0.5) < 0.2


def test_what_cannot_be_measured_is_refused(learned_by_heart):
    target, parts = learned_by_heart
    with pytest.raises(RequestError, match="come in pairs, and 3 is odd"):
        shadows(target, parts, 3, 1, online=True)
    bare = Parts(parts.forget, parts.retain, parts.test, parts.test[torch.arange(0)])
    with pytest.raises(RequestError, match="no held-out pictures of the forgotten classes"):
        shadows(target, bare, 2, 1)


def test_rows_of_the_suite(tmp_path, monkeypatch):
    monkeypatch.setenv("ERASE_PLUGINS_CACHE", str(tmp_path / "cache"))
    folder = classifiers.small(tmp_path / "model", train=200, test=80)
    short = {"epochs": 2, "epoch_steps": 2, "warmup": 0}
    made = ep.erase(str(folder), ["three"], "gs-lora", kind="class", options=short)
    asked = {"references": 2, "epochs": 1, "online": True, "probe": True, "relearn": 2}
    found = ep.evaluate(str(folder), made, "classifier", settings=asked)
    table = {(row.metric, row.subject): row for row in found.rows}
    for name in ("lira_auc", "lira_tpr", "rmia_auc", "rmia_tpr"):
        for subject in ("base", "edited"):
            row = table[name, subject]
            assert 0 <= row.low <= row.value <= row.high <= 1
        assert table[name, "base"].n == int((classifiers.digits()["train.labels"][:200] == 3).sum())
    assert table["lira_auc", "base"].high > table["lira_auc", "base"].low
    assert found.details["membership"]["form"] == "online"
    assert {("probe", "edited"), ("prototype", "edited"), ("relearned", "destroyed")} <= set(table)
    with pytest.raises(RequestError, match="1 is odd"):
        ep.evaluate(str(folder), made, "classifier", settings={"references": 1, "online": True})
