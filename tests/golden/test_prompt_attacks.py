"""Attacks by prompts against replays of the official code: UnlearnDiffAtk steps, Ring-A-Bell vector and generation.

Runs every case in --golden-dir whose JSON holds them; unseen cases follow the same format.
"""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import diffusers
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPTextConfig, CLIPTextModel

from erase_plugins.evaluation.attacks.discrete import Choice, choice_gradient, simplex
from erase_plugins.evaluation.attacks.encoder_search import encoder_fitness, mean_difference
from erase_plugins.evaluation.attacks.genetic import next_generation, search
from erase_plugins.evaluation.attacks.vocabulary import WordTable
from erase_plugins.families.diffusers_target import DiffusersTarget
from erase_plugins.families.target import Tokens
from erase_plugins.manager import get_manager

RELATIVE = 1e-6


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--golden-dir"))
        files = [path for path in sorted(folder.glob("*.json"))
                 if {"unlearndiffatk", "ring_a_bell"} <= json.loads(path.read_text()).keys()]  # fmt: skip
        metafunc.parametrize("case", files, ids=[path.stem for path in files], indirect=True, scope="module")


class Case:
    """Description, tensors, and the tiny model in float64 with the erased tensors put in."""

    def __init__(self, file: Path) -> None:
        self.data = json.loads(file.read_text())
        self.tensors = load_file(file.with_suffix(".safetensors"))
        model = self.data["model"]
        encoder = CLIPTextModel(CLIPTextConfig(**model["text_config"]))
        unet = diffusers.UNet2DConditionModel(**model["unet_config"])
        own = set(encoder.state_dict())
        text = self.part("te")
        prefix = "" if set(text) & own else "text_model."
        encoder.load_state_dict({prefix + name: value for name, value in text.items()}, strict=False)
        assert set(text) & {name.removeprefix(prefix) for name in own}
        unet.load_state_dict({**self.part("unet"), **self.part("erased")})
        pipe = SimpleNamespace(
            unet=unet.double().eval(), text_encoder=encoder.double().eval(), scheduler=diffusers.DDIMScheduler()
        )
        self.target = DiffusersTarget(pipe, "golden", get_manager().family("sd1"))
        vocabulary = model["text_config"]["vocab_size"]
        empty = torch.full((model["length"],), model["eos_and_pad"])
        empty[0] = model["bos"]
        self.table = WordTable(
            tuple(f"w{number}" for number in range(vocabulary)), {"text_encoder": torch.arange(vocabulary)},
            {"text_encoder": empty},
        )  # fmt: skip

    def part(self, name: str) -> dict[str, torch.Tensor]:
        return {
            key.removeprefix(f"{name}."): value for key, value in self.tensors.items() if key.startswith(f"{name}.")
        }

    def encoded(self, ids: torch.Tensor) -> torch.Tensor:
        return self.target.encode_live(Tokens({"text_encoder": ids}, (1,) * len(ids))).embeds.detach()


@pytest.fixture(scope="module")
def case(request):
    return Case(request.param)


def close(found, expected, relative=RELATIVE):
    scale = float(expected.abs().max())
    assert float((found - expected).abs().max()) <= relative * max(scale, 1e-30)


def test_unlearndiffatk_steps(case):
    uda, alphas = case.data["unlearndiffatk"], case.tensors["alphas_cumprod"]
    latents = case.tensors["uda.x0"].double()
    ids = case.tensors["uda.prompt_ids"]
    prompt = Tokens({"text_encoder": ids}, (uda["prompt_len"],), ("p",))
    choice = Choice(1, uda["k"], len(case.table.words), torch.float64)
    for number, step in enumerate(uda["steps"]):
        stored = case.part(f"uda.{number}")
        choice.share = stored["u_before"].clone()
        picks = torch.tensor([step["sampled_ids"]])
        noise, alpha = stored["noise"].double(), float(alphas[step["t"]])
        gradient, error = choice_gradient(case.target, case.table, prompt, picks, latents, noise, step["t"], alpha)
        assert float(error) == pytest.approx(step["loss_mse"], rel=RELATIVE)
        close(gradient, stored["grad_u"])
        choice.step(gradient, [0], uda["lr"], uda["weight_decay_coupled_L2"])
        close(choice.mean, stored["exp_avg"])
        close(choice.square, stored["exp_avg_sq"])
        close(choice.share, stored["u_projected_exact"])
        assert (choice.share > 0).sum(-1)[0].tolist() == step["support_per_row_exact"]
        if min(step["argmax_margin"]) > 1e-6:
            assert choice.best()[0].tolist() == step["argmax_ids"]
            made = case.table.put(prompt, choice.best())
            assert made.ids["text_encoder"][0].tolist() == step["ids_after_insertion"]


def test_simplex_projections(case):
    for item in case.data["unlearndiffatk"]["simplex_projection"]:
        found = simplex(torch.tensor(item["in"], dtype=torch.float64))
        assert found.tolist() == pytest.approx(item["exact"], abs=1e-12), item["name"]


def test_ring_a_bell_vector_and_fitness(case):
    rab, eta = case.part("rab"), case.data["ring_a_bell"]["eta"]
    vector = mean_difference(case.encoded(rab["pairs_p_ids"]), case.encoded(rab["pairs_q_ids"]))
    close(vector, rab["concept_vector"])
    wanted = case.encoded(rab["source_ids"])[0] + eta * vector
    close(wanted, rab["target"][0])
    size = case.data["ring_a_bell"]["K"]
    fitness = encoder_fitness(case.target, case.table, wanted)(rab["population"][:, 1 : 1 + size].numpy())
    assert fitness == pytest.approx(rab["fitness"].numpy(), rel=RELATIVE)
    order = np.argsort(fitness)
    assert order.tolist() == case.data["ring_a_bell"]["argsort"]
    kept = rab["population"][order.tolist()][: len(order) // 2]
    assert torch.equal(kept, rab["kept"])


class Listed:
    """The random numbers that the official code drew, in their order."""

    def __init__(self, draws):
        self.draws = list(draws)

    def random(self):
        name, value = self.draws.pop(0)
        assert name == "random.random"
        return value

    def randint(self, low, high):
        name, limits, value = self.draws.pop(0)
        assert (name, limits) == ("numpy.random.randint", [low, high])
        return value


def test_ring_a_bell_generation(case):
    data, rab = case.data["ring_a_bell"], case.part("rab")
    kept = rab["kept"][:, 1 : 1 + data["K"]].numpy()
    for elite, name in ((True, "after_mutation_clean"), (False, "after_mutation_official")):
        draws = Listed([*data["draws_crossover"], *data["draws_mutation"]])
        made = next_generation(kept, draws, (1, case.data["model"]["bos"]), elite)
        assert draws.draws == []
        assert made.tolist() == rab[name][:, 1 : 1 + data["K"]].tolist(), name
    assert made[0].tolist() != kept[0].tolist() or not data["elite_changed_by_official"]


def test_a_source_without_a_direction_is_its_own_optimum(case):
    rab, size = case.part("rab"), case.data["ring_a_bell"]["K"]
    source = rab["source_ids"][0, 1 : 1 + size].tolist()
    row = [source]
    wanted = case.encoded(case.table.tokens(torch.tensor(row)).ids["text_encoder"])[0]
    done = search(encoder_fitness(case.target, case.table, wanted), size, 62, 16, 10, 0, start=row)
    assert done.rows[0] == source and done.losses[0] == pytest.approx(0, abs=1e-12)
