"""Concepts that mean nothing to a model: cut, unreadable, unknown, or no change at all; each is told, none passes."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.api import build_request
from erase_plugins.artifacts.edit import ContextMap, Dense, Edit, LowRank
from erase_plugins.engine.wording import doubts
from erase_plugins.errors import RequestError, RunRefused
from erase_plugins.workflow.models import target_of
from erase_plugins.workflow.run import judges

LONG = "pizza with cheese and olives " * 80
SMALL = {"vocabulary": 60}


def told(target, *names, **options):
    return [str(item) for item in doubts(build_request("pocket", "uce", list(names), **options), target, judges())]


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ({"concepts": [LONG]}, "a concept"),
        ({"concepts": [ep.Concept("pizza", prompts=(LONG,))]}, "a concept"),
        ({"concepts": ["pizza"], "to": LONG}, "what takes its place"),
        ({"concepts": ["pizza"], "keep": [LONG]}, "what is kept"),
    ],
    ids=["concept", "phrasing", "anchor", "keep"],
)
def test_a_phrase_that_would_be_cut_is_refused(pocket_target, arguments, what):
    with pytest.raises(RequestError, match=rf"\({what}\) has \d{{3,}} tokens, the text encoder of pocket reads 30"):
        ep.erase(pocket_target, **arguments, options=SMALL)


def test_the_longest_phrase_that_fits_is_not_refused(pocket_target):
    fits = " ".join(["pizza"] * 30)
    assert len(pocket_target.pieces(fits)) == 30
    ep.erase(pocket_target, fits, options=SMALL)
    with pytest.raises(RequestError, match="has 31 tokens"):
        ep.erase(pocket_target, f"{fits} pizza", options=SMALL)


def test_it_is_refused_for_methods_that_train_too(pocket_target):
    with pytest.raises(RequestError, match="the end would be cut without a trace"):
        ep.erase(pocket_target, LONG, "esd", options={"iterations": 1, "trajectories": 1, "steps": 3, "keep_words": 0})


@pytest.mark.parametrize("name", ["pizza", "Pizza", "two pizzas", "a slice of pizza", "puppy", "noto", "blue"])
def test_names_of_the_world_raise_no_doubt(pocket_target, name):
    assert told(pocket_target, name) == []


def test_names_outside_of_a_complete_world_are_known_to_be_unknown(pocket_target):
    (text,) = told(pocket_target, "zxqv blorf")
    assert text.startswith("'zxqv blorf' is nothing that pocket was trained to draw; it draws dog, cat")
    (text,) = told(pocket_target, "Van Gogh", kind="style")
    assert text.startswith("'Van Gogh' is nothing that pocket was trained to draw")
    (text,) = told(pocket_target, "piza")
    assert "did you mean 'pizza'?" in text


def test_characters_without_a_token_are_told(pocket_target):
    found = told(pocket_target, "pizza 比萨")
    assert any("has characters for which the text encoder has no token; it reads pizza" in text for text in found), (
        found
    )


def test_without_a_complete_world_pieces_only_raise_a_question():
    """As with every tokenizer of full size: any word has known pieces, so nothing is refused for them."""
    from erase_plugins.testing.tiny import tiny_sd1

    target = target_of(tiny_sd1(), "full-size")
    (found,) = doubts(build_request("pocket", "uce", ["zxqv blorf"]), target, judges())
    assert not found.certain
    assert "is read in pieces: zxqv (z x q v), blorf (blo r f)" in str(found)
    assert "whether full-size knows it cannot be told from that" in str(found)
    assert doubts(build_request("pocket", "uce", ["pizza"]), target, judges()) == ()


def test_a_doubt_stays_with_the_artifact(pocket_target):
    notes = []
    artifact = ep.erase(
        pocket_target, "zxqv blorf", options=SMALL,
        listeners=[lambda event: notes.append(event.message) if event.kind == "note" else None],
    )  # fmt: skip
    assert any("is nothing that pocket was trained to draw" in text for text in artifact.manifest.warnings)
    assert any(text.startswith("warning: 'zxqv blorf' is nothing") for text in notes)
    with pytest.warns(UserWarning, match="'zxqv blorf' is nothing that pocket was trained to draw"):
        ep.erase(pocket_target, "zxqv blorf", options=SMALL)


@pytest.mark.parametrize("method", ["uce", "rece"])
def test_a_style_is_not_stored_at_full_rank_and_moves_its_rows_as_before(pocket_target, method):
    """64 random phrasings give 1,600 rows, which fill all 256 directions: most of them for nothing."""
    from erase_plugins.artifacts.solved import statistics_of

    artifact = ep.erase(pocket_target, "noto", method, kind="style")
    ((_, _, change),) = list(artifact.edit.items())
    assert change.A.shape[0] <= 130
    statistics = statistics_of(artifact.edit)
    (member,) = statistics.members.values()
    rows, guides = (part.double() for part in member.pair())
    moved = rows @ (change.B.double() @ change.A.double()).T
    if method == "uce":  # the normal equations, written out
        H = statistics.kept_gram(1)
        G = rows.T @ rows
        exact = torch.linalg.solve(
            0.5 * torch.eye(256, dtype=torch.float64) + G + H, (guides - rows).T.matmul(rows).T
        ).T
        assert ((moved - rows @ exact.T).norm() / (rows @ exact.T).norm()) < 0.02
    assert (rows + moved - guides).norm() < 0.8 * (rows - guides).norm()
    again = get_edit(method, statistics)
    assert torch.equal(change.A, again.A) and torch.equal(change.B, again.B)


def get_edit(method, statistics):
    from erase_plugins.manager import get_manager

    ((_, _, change),) = list(get_manager().method(method).solve(statistics, get_manager().family("sd1")).items())
    return change


def test_the_change_of_what_is_kept_is_measured_without_a_picture(pocket_target):
    """A style that the model knows moves little; one that it does not know moves everything, and that is said."""
    known, unknown = (ep.erase(pocket_target, name, kind="style") for name in ("noto", "Van Gogh"))
    share = unknown.manifest.extra["numbers"]["kept_rows_change"]
    assert known.manifest.extra["numbers"]["kept_rows_change"] < 0.1 < 0.2 < share
    assert not any("other pictures will change" in text for text in known.manifest.warnings)
    assert any(
        f"move by {share:.0%} on average: other pictures will change" in text for text in unknown.manifest.warnings
    )


@pytest.mark.parametrize("method", ["uce", "esd", "concept-ablation"])
def test_a_concept_that_becomes_itself_is_refused(pocket_target, method):
    with pytest.raises(RequestError, match="'pizza' would become itself"):
        ep.plan(pocket_target, ["pizza"], method, to=" Pizza ")


def test_an_edit_that_changes_nothing_is_refused(pocket_target, tmp_path):
    with pytest.raises(RunRefused, match="uce found nothing to change: every change is zero"):
        ep.erase(pocket_target, "pizza", options={**SMALL, "erase_scale": 0.0}, out=tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("delta", "nothing"),
    [
        (LowRank(torch.zeros(1, 4), torch.ones(4, 1)), True), (LowRank(torch.ones(1, 4), torch.ones(4, 1)), False),
        (ContextMap(torch.ones(1, 4), torch.zeros(4, 1)), True), (Dense(torch.zeros(4, 4)), True),
        (Dense(torch.zeros(4)), True), (Dense(torch.ones(4)), False),
    ],
)  # fmt: skip
def test_what_counts_as_nothing(delta, nothing):
    assert Edit("sd1", {"unet": {"x.weight": delta}}).is_nothing is nothing
    assert Edit("sd1", {}).is_nothing
