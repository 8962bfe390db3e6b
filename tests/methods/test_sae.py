"""SAeUron: steering as a formula, the autoencoder, where it hangs, the artifact on a tiny model, what is refused."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.sparse_features import FEATURES, steering
from erase_plugins.engine.sparse_coder import SparseCoder, fit, largest
from erase_plugins.errors import RequestError, Unsupported
from erase_plugins.methods.sae import place
from erase_plugins.runtime.sparse_features import SparseFeatures
from erase_plugins.types import Concept
from erase_plugins.workflow.models import target_of
from tests import classifiers
from tests.methods.runs import check_comes_off

FAST = {
    "steps": 4, "harvest": 2, "seeds": 1, "words": 4, "features": 32, "k": 4, "iterations": 6, "batch": 32,
    "templates": "a {}",
}  # fmt: skip
ONE = {
    "encode": torch.tensor([[1.0, 0.0]]), "bias": torch.tensor([-0.5]), "threshold": torch.tensor([0.2]),
    "decode": torch.tensor([[0.0, 1.0]]), "factor": torch.tensor([-1.0]),
}  # fmt: skip


def test_an_activation_above_its_threshold_is_multiplied() -> None:
    """z of (1, 0) is 0.5, and -1 times it takes 2 * 0.5 of the direction away; z of (0.6, 0) is 0.1, below 0.2."""
    tokens = torch.tensor([[1.0, 0.0], [0.6, 0.0]])
    assert torch.allclose(steering(tokens, ONE), torch.tensor([[0.0, -1.0], [0.0, 0.0]]))
    assert not steering(tokens, {**ONE, "factor": torch.tensor([1.0])}).any()
    empty = {name: part[:0] for name, part in ONE.items()}
    assert not steering(tokens, empty).any()


def drawn(*size: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed))


def test_the_sparse_form_is_the_dense_one() -> None:
    """decode(z') + (h - decode(z)) with the whole autoencoder."""
    decode = drawn(12, 6)
    coder = SparseCoder(
        drawn(12, 6, seed=1), drawn(12, seed=2), decode / decode.norm(dim=1, keepdim=True), drawn(6, seed=3), 0.3
    )
    h, chosen, least = drawn(40, 6, seed=4), torch.tensor([2, 7]), torch.tensor([0.1, 0.9])
    z = coder.codes(h)
    scaled = z.clone()
    scaled[:, chosen] = torch.where(z[:, chosen] > least, -3.0 * z[:, chosen], z[:, chosen])
    dense = (scaled @ coder.decode + coder.centre) + (h - (z @ coder.decode + coder.centre))
    assert torch.allclose(h + steering(h, coder.parts(chosen, least, -3.0)), dense, atol=1e-5)


def test_a_batch_keeps_its_largest_activations() -> None:
    z = torch.tensor([[3.0, 0.0, 1.0], [2.0, 5.0, 0.5]])
    assert largest(z, 3).tolist() == [[3.0, 0.0, 0.0], [2.0, 5.0, 0.0]]


def test_rows_of_few_directions_are_explained_in_any_unit() -> None:
    directions = torch.nn.functional.normalize(drawn(8, 16), dim=1)
    active = torch.rand(2000, 8, generator=torch.Generator().manual_seed(5))
    rows = torch.where(active > 0.8, active, 0.0) @ directions

    def trained(scale: float) -> SparseCoder:
        return fit(scale * rows, 32, 3, 300, 256, 1e-2, 1 / 32, torch.Generator().manual_seed(6), lambda step: None)

    one, ten = trained(1.0), trained(10.0)
    assert one.unexplained < 0.1
    assert torch.allclose(ten.decode, one.decode, atol=1e-3)
    assert ten.threshold == pytest.approx(10 * one.threshold, rel=1e-2)
    assert torch.allclose(one.decode.norm(dim=1), torch.ones(32), atol=1e-5)


def test_maps_are_steered_like_tokens_and_other_widths_refused() -> None:
    network = SparseFeatures(ONE)
    tokens = drawn(2, 6, 2)
    as_map = tokens.transpose(1, 2).reshape(2, 2, 2, 3)
    assert torch.allclose(network(as_map).flatten(2).transpose(1, 2), network(tokens))
    with pytest.raises(Unsupported, match="features of width 2 met an output of width 5"):
        network(torch.zeros(1, 3, 5))
    with pytest.raises(Unsupported, match="steered features need encode"):
        SparseFeatures({"encode": ONE["encode"]})


def test_the_block_is_that_of_the_kind_or_the_named_one(pocket_target) -> None:
    assert place(pocket_target.info, "", "object").path == "up_blocks.1.attentions.1.proj_out"
    assert place(pocket_target.info, "mid_block.attentions.0", "object").path == "mid_block.attentions.0.proj_out"
    with pytest.raises(Unsupported, match="no attention block 'up'; it has down_blocks"):
        place(pocket_target.info, "up", "object")


def test_an_artifact_changes_predictions_and_comes_off_again(tiny_sd1) -> None:
    pipe = tiny_sd1()
    target = target_of(pipe, "tiny")
    artifact = ep.erase(target, ["pizza", "dog"], "sae", options=FAST)
    ((_, key, addon),) = artifact.edit.items()
    assert key == place(target.info, "", "object").path and addon.type == FEATURES
    addon.weights["threshold"].fill_(-1.0)
    check_comes_off(pipe, target, artifact, drawn(1, *target.info.latent_shape))


def test_more_features_than_there_are_is_refused() -> None:
    with pytest.raises(RequestError, match="at most the number of features, 16"):
        ep.plan("pocket", Concept("pizza"), "sae", options={"features": 16, "chosen": 17})


def test_few_features_need_a_negative_factor_and_many_do_damage_on_digits() -> None:
    """Trends of the specification (test C.8) on a network 64-128-128-10: class 3 and the rest, held out."""
    net, (x, y, held, labels) = classifiers.perceptron()
    body, head = net[:4], net[4]
    with torch.no_grad():
        rows, unseen = body(x), body(held)
    coder = fit(rows, 512, 8, 700, 256, 2e-3, 1 / 32, torch.Generator().manual_seed(0), lambda step: None)
    means = [coder.mean(rows[chosen]) for chosen in (y == 3, y != 3)]
    score = means[0] / means[0].sum() - means[1] / means[1].sum()
    best, least = score.argsort(descending=True), coder.mean(rows)

    def right(count: int, factor: float) -> tuple[float, float]:
        chosen = best[:count]
        with torch.no_grad():
            seen = head(unseen + steering(unseen, coder.parts(chosen, least[chosen], factor))).argmax(-1) == labels
        return float(seen[labels == 3].float().mean()), float(seen[labels != 3].float().mean())

    three, rest = right(0, 0.0)
    assert coder.unexplained < 0.05
    assert three > 0.9 and right(16, 1.0) == (three, rest)
    assert right(1, 0.0)[0] > 0.5 and right(2, -1.0)[0] <= 0.05
    assert right(16, 0.0)[0] <= 0.05 and right(16, 0.0)[1] > rest - 0.05
    assert right(16, -5.0)[1] < right(4, -5.0)[1] < right(1, -5.0)[1] < right(1, -1.0)[1]
