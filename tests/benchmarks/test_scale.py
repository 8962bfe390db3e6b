"""What `benchmarks.scale` draws: concepts to choose settings on are others, and no word keeps its phrasing."""

from __future__ import annotations

from types import SimpleNamespace

import torch

from benchmarks.many import CONCEPTS
from benchmarks.scale import _name, erased, prompts
from erase_plugins.artifacts.edit import AddOn, Edit, LowRank


def test_settings_are_chosen_on_other_concepts() -> None:
    assert erased(20, "test") == CONCEPTS
    assert len(set(erased(20, "held-apart"))) == 20 and not set(erased(20, "held-apart")) & set(CONCEPTS)
    assert len(set(erased(100, "test"))) == len(set(erased(100, "held-apart"))) == 100


def test_every_word_comes_in_other_phrasings() -> None:
    gone = ("dog", "pizza")
    sets = prompts(gone, 3, 0)
    assert len(sets["target"]) == 6 and len(sets["kept"]) == 3 * 154
    assert len(sets["synonyms"]) % 3 == 0
    for part in sets.values():
        words = len(part) // 3
        texts = {tuple(part[turn * words + place].text for turn in range(3)) for place in range(words)}
        assert all(len(set(row)) == 3 for row in texts)
        assert len({prompt.seed for prompt in part}) == len(part)
    assert not [prompt for prompt in sets["kept"] if prompt.expected["concept"] in gone]


def test_what_was_judged_belongs_to_one_edit() -> None:
    one, two = torch.zeros(1, 4), torch.ones(1, 4)
    deltas = [
        LowRank(one, one.T), LowRank(one, two.T), AddOn("gated_lowrank", {"down": one}, {"gates": [0]}),
        AddOn("gated_lowrank", {"down": two}, {"gates": [0]}), AddOn("gated_lowrank", {"down": one}, {"gates": [1]}),
    ]  # fmt: skip
    made = [SimpleNamespace(edit=Edit("sd1", {"unet": {"to_v": delta}})) for delta in deltas]
    assert len({_name([], item, 8) for item in (*made, None)}) == 6
