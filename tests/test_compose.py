"""Merge, add and revoke on the embedded model: exactly the joint solution."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

import erase_plugins as ep
from erase_plugins.errors import ArtifactError, BaseMismatch, RequestError
from erase_plugins.workflow.models import target_of

FAST = {"vocabulary": 40}


@pytest.fixture(scope="module")
def made(pocket_target):
    return {
        "pizza": ep.erase(pocket_target, "pizza", options=FAST),
        "dog": ep.erase(pocket_target, "dog", options=FAST),
        "both": ep.erase(pocket_target, ["pizza", "dog"], options=FAST),
        "three": ep.erase(pocket_target, ["pizza", "dog", "car"], options=FAST),
    }


def matrix(artifact) -> torch.Tensor:
    delta = artifact.edit.deltas["unet"]["context"]
    return delta.B.double() @ delta.A.double()


def tensors(artifact) -> dict:
    return dict(artifact.edit.deltas["unet"]["context"].tensors(), **artifact.edit.statistics)


def test_merge_is_the_joint_solution_bit_for_bit(made) -> None:
    merged = ep.merge([made["dog"], made["pizza"]])
    assert torch.equal(matrix(merged), matrix(made["both"]))
    assert merged.manifest.erased == ("dog", "pizza")
    stacked = matrix(made["dog"]) + matrix(made["pizza"])
    assert float((stacked - matrix(merged)).norm() / matrix(merged).norm()) > 0.01


def test_what_one_part_was_to_keep_is_not_erased_in_silence(made, pocket_target) -> None:
    """Merged with an older artifact, a revoked concept was erased again without a word."""
    revoked = ep.revoke(made["three"], "car")
    assert "car" in revoked.manifest.preserve
    for mode in ("joint", "sum"):
        again = ep.merge([revoked, made["three"]], mode=mode).manifest
        assert ("car" in again.erased, "car" in again.preserve) == (True, False)
        assert "'car' is erased, although one of the parts was to keep it" in again.warnings
    assert not ep.merge([made["dog"], made["pizza"]]).manifest.warnings
    assert not ep.add(revoked, "car", pocket_target).manifest.warnings


def test_a_concept_that_two_parts_erase_otherwise_is_told(made, pocket_target) -> None:
    """The first one's replacement was taken, the last one's stood in the manifest."""
    cat, car = (ep.erase(pocket_target, ep.Concept("dog", anchor=text), options=FAST) for text in ("cat", "car"))
    merged = ep.merge([cat, car])
    assert torch.allclose(matrix(merged), matrix(cat), atol=1e-6)
    assert [concept.anchor for concept in merged.manifest.concepts] == ["cat"]
    assert any("'dog' was erased otherwise in 'erase_dog'" in text for text in merged.manifest.warnings)
    assert not ep.merge([made["dog"], made["both"]]).manifest.warnings


def test_add_equals_erasing_together(made, pocket_target) -> None:
    added = ep.add(made["both"], "car", pocket_target)
    assert torch.equal(matrix(added), matrix(made["three"]))
    with pytest.raises(ArtifactError, match="already"):
        ep.add(added, "car", pocket_target)


def test_revoke_with_forget_equals_never_having_had_it(made) -> None:
    for name, tensor in tensors(ep.revoke(made["three"], "car", forget=True)).items():
        assert torch.equal(tensor, tensors(made["both"])[name]), name


def test_revoke_keeps_the_concept_from_then_on(made, pocket_target) -> None:
    cond = pocket_target.encode(["car"])
    rows = cond.embeds[0, cond.last[0] :].double()

    def moved(artifact) -> float:
        return float((rows @ matrix(artifact).T).norm())

    revoked = ep.revoke(made["three"], "car")
    assert moved(revoked) < 0.3 * moved(ep.revoke(made["three"], "car", forget=True))
    assert "car" in revoked.manifest.preserve
    assert revoked.manifest.history[-1]["action"] == "revoke"


def test_revoking_what_is_not_there_changes_nothing(made) -> None:
    with pytest.raises(ArtifactError, match="pizza"):
        ep.revoke(made["both"], "piza")


def test_weighted_sum_and_its_limits(made) -> None:
    total = ep.merge([made["dog"], made["pizza"]], weights=[0.5, -2.0], mode="sum")
    expected = 0.5 * matrix(made["dog"]) - 2.0 * matrix(made["pizza"])
    assert float((matrix(total) - expected).norm() / expected.norm()) < 1e-6
    with pytest.raises(RequestError, match="weights"):
        ep.merge([made["dog"], made["pizza"]], weights=[1.0])
    with pytest.raises(RequestError, match="mode"):
        ep.merge([made["dog"], made["pizza"]], mode="blend")
    with pytest.raises(RequestError, match="two"):
        ep.merge([made["dog"]])


def test_a_sum_says_what_counts_twice_in_it(made) -> None:
    summed = ep.merge([made["dog"], made["both"]], mode="sum")
    assert summed.manifest.warnings == (
        "'erase_dog' and 'erase_pizza_dog' both hold 'dog', which counts twice in their sum",
    )
    assert not ep.merge([made["dog"], made["pizza"]], mode="sum").manifest.warnings
    assert not ep.merge([made["dog"], made["both"]]).manifest.warnings


def test_different_solver_settings_are_summed_with_a_note_or_refused(made, pocket_target) -> None:
    other = ep.erase(pocket_target, "car", options={**FAST, "lam": 0.9})
    with pytest.raises(ArtifactError, match="solver"):
        ep.merge([made["dog"], other], mode="joint")
    merged = ep.merge([made["dog"], other])
    assert any("summed" in note for note in merged.manifest.notes)


def test_different_bases_are_refused(made, tiny_sd1) -> None:
    other = ep.erase(tiny_sd1(), "pizza", options={"vocabulary": 0})
    with pytest.raises(BaseMismatch, match=r"unet|text_encoder"):
        ep.merge([made["dog"], other])


def test_three_hundred_members_merge_quickly_and_exactly(tiny_sd1) -> None:
    import time

    target = target_of(tiny_sd1())
    words = [word for word in target.vocabulary() if len(word) > 3][:300]
    options = {"vocabulary": 0, "tokens": "last"}
    artifacts = [ep.erase(target, word, options=options, to="a person") for word in words]
    started = time.process_time()
    merged = ep.merge(artifacts)
    assert time.process_time() - started < 5
    less = ep.revoke(merged, words[17], forget=True)
    never = ep.merge([item for index, item in enumerate(artifacts) if index != 17][::-1])
    for name, tensor in tensors(never).items():
        assert torch.equal(tensor, tensors(less)[name]), name


def noted(artifact, *notes, numbers=None):
    extra = {**artifact.manifest.extra, **({} if numbers is None else {"numbers": numbers})}
    return ep.Artifact(replace(artifact.manifest, notes=notes, warnings=(), extra=extra), artifact.edit)


def test_notes_of_all_are_kept_and_leave_with_their_concept(made) -> None:
    both = ep.merge([noted(made["dog"], "dog -> a cat", "shared"), noted(made["pizza"], "pizza -> a cake", "shared")])
    assert both.manifest.notes == ("dog -> a cat", "shared", "pizza -> a cake")
    assert ep.revoke(both, "dog").manifest.notes == ("shared", "pizza -> a cake")
    spoken = noted(made["both"], "hotdog stays", "dog and pizza meet", "no dog")
    assert ep.revoke(spoken, "dog").manifest.notes == ("hotdog stays", "dog and pizza meet")
    many = ep.merge([noted(made["dog"], *map(str, range(30))), made["pizza"]]).manifest.notes
    assert (len(many), many[23]) == (25, "23")
    assert many[-1].endswith(" more notes stand in what was merged")


def test_numbers_of_a_run_are_not_those_of_what_was_made_from_it(made) -> None:
    first = noted(made["dog"], numbers={"kept_rows_change": 0.5})
    assert "numbers" not in ep.merge([first, made["pizza"]]).manifest.extra
    assert "numbers" not in ep.merge([first, made["pizza"]], mode="sum").manifest.extra
    assert "numbers" not in ep.revoke(noted(made["both"], numbers={"loss": 1.0}), "dog").manifest.extra
    assert first.manifest.extra["numbers"] == {"kept_rows_change": 0.5}


def test_notes_about_files_are_of_the_folder_that_was_written(made, pocket_target, tmp_path) -> None:
    alone = noted(made["both"], "pizza -> a cake").save(tmp_path / "alone")
    assert any(text.startswith("no kohya file: ") and "give the base model" in text for text in alone.manifest.notes)
    whole = ep.load_artifact(tmp_path / "alone").save(tmp_path / "whole", target=pocket_target)
    assert whole.manifest.notes == ("pizza -> a cake",)
