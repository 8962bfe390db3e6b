"""States of what is held in place are harvested once for all methods and processes that hold the same."""

from __future__ import annotations

import pytest
import torch

import erase_plugins as ep
from erase_plugins.engine import pools
from erase_plugins.testing.tiny import tiny_sd1

OPTIONS = {"iterations": 2, "trajectories": 2, "harvest": 2, "steps": 4, "keep_words": 3, "keep_batch": 1}


@pytest.fixture
def harvests(monkeypatch, tmp_path):
    """Number of trajectories of every harvest; the cache is a folder of this test's."""
    monkeypatch.setenv("ERASE_PLUGINS_CACHE", str(tmp_path / "cache"))
    found, real = [], pools.harvest

    def harvest(target, scheduler, noise, *given, **named):
        found.append(len(noise))
        return real(target, scheduler, noise, *given, **named)

    monkeypatch.setattr(pools, "harvest", harvest)
    return found


def erased(method="esd", pipe=None, **options):
    return ep.erase(pipe or tiny_sd1(), "pizza", method, options={**OPTIONS, **options})


def factors(artifact):
    return {f"{part} {key} {name}": value for part, key, delta in artifact.edit.items()
            for name, value in vars(delta).items() if isinstance(value, torch.Tensor)}  # fmt: skip


def test_a_second_run_takes_them_from_the_disk_and_gives_the_same_edit(harvests, monkeypatch):
    first = erased()
    assert len(harvests) == 2  # of the concept and of what is held
    second = erased()
    assert len(harvests) == 3
    monkeypatch.setenv("ERASE_PLUGINS_CACHE", "0")
    alone = erased()
    assert len(harvests) == 5
    for other in (second, alone):
        assert other.manifest.extra["numbers"] == first.manifest.extra["numbers"]
        assert all(torch.equal(value, factors(other)[name]) for name, value in factors(first).items())
    assert factors(first)


def test_another_method_takes_them_too(harvests):
    erased("esd")
    before = len(harvests)
    erased("leco")
    assert len(harvests) == before + 1  # of its own concept


def weight(pipe):
    pipe.unet.conv_in.weight.data[0] *= 1.01


def hook(pipe):
    pipe.unet.mid_block.register_forward_hook(lambda _m, _a, out: out * 1.01)


@pytest.mark.parametrize("change", [weight, hook, "guidance", "seed", "steps"])
def test_nothing_is_taken_where_anything_differs(harvests, change):
    erased()
    before, pipe = len(harvests), tiny_sd1()
    if callable(change):
        change(pipe)
        erased(pipe=pipe)
    elif change == "seed":
        ep.erase(pipe, "pizza", "esd", options=OPTIONS, seed=1)
    else:
        erased(pipe=pipe, **{change: 5})
    assert len(harvests) == before + 2


def test_states_that_would_drive_out_all_else_are_not_kept(harvests, monkeypatch):
    monkeypatch.setattr("erase_plugins.engine.disk_cache.MOST_BYTES", 1000)
    erased()
    erased()
    assert len(harvests) == 4
