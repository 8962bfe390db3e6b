"""Training on mapped prompts equals training on the edited model; both parts make one edit."""

from __future__ import annotations

import torch

from erase_plugins.artifacts.edit import CONTEXT, ContextMap, Edit, LowRank
from erase_plugins.artifacts.store import lower_for
from erase_plugins.engine.adapters import Adapters
from erase_plugins.training.embedding_map import map_rows, mapped, stacked
from erase_plugins.workflow.models import target_of


def change(width: int = 32, scale: float = 0.3) -> ContextMap:
    generator = torch.Generator().manual_seed(4)
    return ContextMap(
        torch.randn((5, width), generator=generator) * scale, torch.randn((width, 5), generator=generator) * scale
    )


def test_stacked_edit_predicts_what_the_student_predicted_in_training(tiny_sd1) -> None:
    target, delta = target_of(tiny_sd1()), change()
    refs = target.modules("attn")
    adapters = Adapters(target, refs, 3, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        for part in adapters.parameters():
            part.add_(torch.randn(part.shape, generator=torch.Generator().manual_seed(2)) * 0.2)
    x, cond = torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(3)), target.encode(["pizza", "a dog"])
    with torch.no_grad(), adapters:
        expected = target.predict(x, 500, mapped(cond, delta))
        with adapters.disabled():
            assert torch.equal(target.predict(x, 500, cond), target_of(tiny_sd1()).predict(x, 500, cond))
    closed = Edit("sd1", {"unet": {CONTEXT: delta}})
    edit = stacked(closed, adapters.edit(), [ref.weight for ref in target.modules("cross_kv")])
    assert edit.kinds == {"contextmap", "lowrank"}
    parameters = dict(target.pipe.unet.named_parameters())
    with torch.no_grad():
        for _, key, part in lower_for(edit, target).items():
            parameters[key].add_(part.dense())
        found = target.predict(x, 500, cond)
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-5


def test_only_readers_of_the_context_take_the_map_in() -> None:
    delta = change()
    trained = Edit("sd1", {"unet": {name: LowRank(torch.eye(32)[:3], torch.ones(8, 3)) for name in ("k", "q")}})
    edit = stacked(Edit("sd1", {"unet": {CONTEXT: delta}}), trained, ["k"])
    assert torch.equal(edit.deltas["unet"]["q"].A, torch.eye(32)[:3])
    torch.testing.assert_close(edit.deltas["unet"]["k"].A, torch.eye(32)[:3] @ (torch.eye(32) + delta.B @ delta.A))


def test_rows_are_mapped_in_their_own_dtype() -> None:
    delta, rows = change(), torch.randn((2, 7, 32), generator=torch.Generator().manual_seed(0))
    expected = rows + rows @ (delta.B @ delta.A).T
    torch.testing.assert_close(map_rows(rows, delta), expected)
    assert map_rows(rows.half(), delta).dtype == torch.float16
