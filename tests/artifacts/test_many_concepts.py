"""Files of closed-form artifacts of very many concepts: rows of the published width, the real tokenizer, 77 rows."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.artifacts.solved import statistics_of
from erase_plugins.artifacts.statistics_file import MANY
from erase_plugins.engine.words import listed
from erase_plugins.workflow.models import as_target
from tests.engine.clip_words import clip_pipe
from tests.methods.wide import WIDTH, wide_sd1

WORDS = list(dict.fromkeys(word for table in listed().values() for word in table if word.isalpha()))


@pytest.fixture(scope="module")
def target():
    return as_target(clip_pipe(wide_sd1().pipe, width=WIDTH))


@pytest.fixture(scope="module")
def made(target, tmp_path_factory):
    """Artifacts of 100 and 300 concepts, as they are in memory and as they come back from their files."""
    found = {}
    for count in (MANY, 300):
        artifact = ep.erase(target, WORDS[:count], "uce", options={"vocabulary_tail": 3})
        folder = tmp_path_factory.mktemp("many") / str(count)
        saved = artifact.save(folder, target=target)
        found[count] = artifact, saved, folder
    return found


@pytest.mark.parametrize("count", [MANY, 300])
def test_patch_and_map_take_less_than_ten_megabytes(made, count):
    _, saved, folder = made[count]
    assert {item.layout for item in saved.manifest.files} == {"patch", "context"}
    assert sum(item.stat().st_size for item in folder.iterdir()) < 10e6


@pytest.mark.parametrize("count", [MANY, 300])
def test_the_sums_come_back_to_the_last_bit(made, count):
    artifact, _, folder = made[count]
    one, other = (statistics_of(item.edit) for item in (artifact, ep.load_artifact(folder)))
    assert all(torch.equal(a, b) for a, b in zip(one.ledgers, other.ledgers, strict=True))
    assert torch.equal(one.kept_ledger, other.kept_ledger)
    assert list(one.members) == list(other.members)


def test_the_map_comes_back(made):
    for count in (MANY, 300):
        artifact, _, folder = made[count]
        wanted = artifact.edit.deltas["unet"]["context"].whole()
        for file, tolerance in (("edit.safetensors", 1e-6), ("context_map.safetensors", 1e-3)):
            found = ep.load_artifact(folder / file).edit.deltas["unet"]["context"].whole()
            assert torch.allclose(found, wanted, atol=tolerance * float(wanted.abs().max()), rtol=tolerance)


def test_adding_on_files_equals_erasing_together(made, target, tmp_path):
    options = {"vocabulary_tail": 3, "window_tail": 6}
    ep.erase(target, WORDS[299], "uce", options=options).save(tmp_path / "one")
    rest = ep.erase(target, WORDS[:299], "uce", options=options)
    rest.save(tmp_path / "rest")
    merged = ep.merge([ep.load_artifact(tmp_path / "rest"), ep.load_artifact(tmp_path / "one")])
    whole, part = statistics_of(made[300][0].edit), statistics_of(merged.edit)
    assert all(torch.equal(a, b) for a, b in zip(whole.ledgers, part.ledgers, strict=True))
    assert torch.equal(whole.kept_ledger, part.kept_ledger)
    assert torch.equal(
        merged.edit.deltas["unet"]["context"].whole(), made[300][0].edit.deltas["unet"]["context"].whole()
    )


def test_revoking_on_files_of_a_hundred_needs_no_model(made, target):
    _, _, folder = made[MANY]
    less = ep.revoke(ep.load_artifact(folder), WORDS[0], forget=True)
    again = ep.erase(target, WORDS[1:MANY], "uce", options={"vocabulary_tail": 3, "window_tail": 6})
    one, other = statistics_of(less.edit), statistics_of(again.edit)
    assert all(torch.equal(a, b) for a, b in zip(one.ledgers, other.ledgers, strict=True))
    assert torch.equal(one.kept_ledger, other.kept_ledger)
