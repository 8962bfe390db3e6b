"""RECE on the embedded model."""

from __future__ import annotations

import torch

import erase_plugins as ep
from erase_plugins.artifacts.closed_form import adversarial_map
from erase_plugins.artifacts.solved import statistics_of

FAST = {"vocabulary": 60}


def matrix(artifact) -> torch.Tensor:
    delta = artifact.edit.deltas["unet"]["context"]
    return delta.B.double() @ delta.A.double()


def test_no_epochs_is_uce(pocket_target) -> None:
    rece = ep.erase(pocket_target, "pizza", method="rece", options={**FAST, "epochs": 0})
    uce = ep.erase(pocket_target, "pizza", options=FAST)
    assert float((matrix(rece) - matrix(uce)).norm() / matrix(uce).norm()) < 1e-5


def test_derived_embeddings_no_longer_work_after_a_round(pocket_target) -> None:
    """Rows derived against UCE land near the guide under RECE, near the concept under UCE."""
    uce = ep.erase(pocket_target, "pizza", options=FAST)
    rece = ep.erase(pocket_target, "pizza", method="rece", options=FAST)
    statistics = statistics_of(rece.edit)
    eye = torch.eye(256, dtype=torch.float64)
    rows, guides = (part.double() for part in statistics.members["pizza"].pair())
    attack = rows @ adversarial_map(eye + matrix(uce), statistics.sigma, 0.1).T
    root = torch.linalg.cholesky(statistics.sigma + 1e-9 * eye)

    def distance(artifact, goal: torch.Tensor) -> float:
        return float(((attack + attack @ matrix(artifact).T - goal) @ root).norm())

    assert distance(uce, rows) < 0.5 * distance(uce, guides)
    assert distance(rece, guides) < 0.5 * distance(rece, rows)


def test_statistics_carry_sigma_and_merge_exactly(pocket_target) -> None:
    parts = [ep.erase(pocket_target, name, method="rece", options=FAST) for name in ("dog", "pizza")]
    both = ep.erase(pocket_target, ["dog", "pizza"], method="rece", options=FAST)
    assert torch.equal(matrix(ep.merge(parts)), matrix(both))


def test_epochs_follow_the_kind() -> None:
    assert ep.plan("pocket", "pizza", "rece").options["epochs"] == 1
    explicit = ep.plan("pocket", ep.Concept("nudity", kind="explicit"), "rece")
    assert explicit.options["epochs"] == 3


def test_rank_cap(pocket_target) -> None:
    artifact = ep.erase(pocket_target, "pizza", method="rece", options={**FAST, "rank": 12})
    assert artifact.manifest.rank == 12
    assert 0 < artifact.edit.meta["truncation_error"] < 0.3
