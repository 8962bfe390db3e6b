"""Words that are one token: what is emitted reads back as what was chosen."""

from __future__ import annotations

import pytest
import torch

from erase_plugins.errors import RequestError
from erase_plugins.evaluation.attacks.vocabulary import forbidden_words, word_table
from erase_plugins.pocket.world import pocket_world
from erase_plugins.workflow.models import target_of


@pytest.mark.parametrize("kind", ["tiny_sd1", "tiny_sdxl"])
def test_prompts_read_back_as_they_were_chosen(kind, request):
    target = target_of(request.getfixturevalue(kind)(), "tiny")
    table = word_table(target, ["owl", "pizza"])
    assert len(table.words) > 800 and not {"owl", "pizza"} & set(table.words)
    rows = torch.randint(len(table.words), (40, 5), generator=torch.Generator().manual_seed(0))
    made = table.tokens(rows)
    again = target.tokens(list(made.prompts))
    assert made.last == again.last == (5,) * 40
    put = table.put(target.tokens(["a owl on a red background"] * 40), rows)
    read = target.tokens(list(put.prompts))
    assert put.last == read.last
    for name in made.ids:
        assert torch.equal(made.ids[name], again.ids[name])
        assert torch.equal(put.ids[name], read.ids[name])


def test_a_prompt_without_room_is_refused(pocket_target):
    table = word_table(pocket_target)
    long = pocket_target.tokens(["a " * 28])
    with pytest.raises(
        RequestError, match="a prompt of 28 tokens leaves no room for 3 more; the text encoder reads 30"
    ):
        table.put(long, torch.zeros(1, 3, dtype=torch.long))


def test_forbidden_words():
    world = pocket_world()
    assert forbidden_words(world, ["owl"], "name") == {"owl"}
    assert forbidden_words(world, ["owl", "fluent"], "synonyms") == {"owl", "hoot", "wise", "fluent", "3d", "glossy"}
    assert forbidden_words(world, ["owl"], "none") == set()
