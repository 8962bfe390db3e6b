"""`UCE.run` and `RECE.run` against stored results of the official implementations (float64, relative 1e-6).

Runs every case in --golden-dir whose JSON describes a closed form; unseen cases follow the same format.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from erase_plugins.api import build_request
from erase_plugins.artifacts import closed_form
from erase_plugins.artifacts.closed_form import adversarial_from_sums, solve_factors, solve_map
from erase_plugins.artifacts.edit import CONTEXT
from erase_plugins.engine import collect
from erase_plugins.engine.context import RunContext
from erase_plugins.engine.prompt_templates import paired_rows
from erase_plugins.families.base import Conditioning, ModuleRef, Target, TargetInfo
from erase_plugins.manager import get_manager
from erase_plugins.methods.uce.tensor_targets import tensor_values
from erase_plugins.types import Concept

TOLERANCE = 1e-6


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        folder = Path(metafunc.config.getoption("--golden-dir"))
        files = [path for path in sorted(folder.glob("*.json")) if "uce_last" in json.loads(path.read_text())]
        metafunc.parametrize("case", files, ids=[path.stem for path in files], indirect=True)


class Case:
    """One golden case: description, tensors, and the rows our own selection picks."""

    def __init__(self, path: Path) -> None:
        self.data = json.loads(path.read_text())
        self.tensors = load_file(path.with_suffix(".safetensors"))
        self.W0 = {
            name.removeprefix("W0."): tensor.double() for name, tensor in self.tensors.items() if name.startswith("W0.")
        }
        prompts = self.data["prompts"]
        self.cond = Conditioning(
            embeds=torch.stack([self.tensors[f"emb.{item['index']}"] for item in prompts]),
            last=tuple(item["last_token_index"] for item in prompts),
            prompts=tuple(item["text"] for item in prompts),
        )
        self.width = self.cond.embeds.shape[-1]

    def pairs(self, part: dict, mode: str) -> list[tuple[torch.Tensor, torch.Tensor]]:
        return [
            paired_rows(self.cond, self.cond, i, j, mode)
            for i, j in zip(part["erase_idx"], part["guide_idx"], strict=True)
        ]

    def kept(self, indices: list[int], mode: str) -> torch.Tensor:
        rows = [paired_rows(self.cond, self.cond, i, i, "last" if mode == "last" else "all")[0] for i in indices]
        H = torch.zeros(self.width, self.width, dtype=torch.float64)
        for row in rows:
            H += row.T @ row
        return H

    def weights(self, part: dict, W: dict, pairs: list) -> dict[str, torch.Tensor]:
        """Edited weights of one adversarial step of RECE."""
        e, p, lam = part["erase_scale"], part["preserve_scale"], part["lamb"]
        C, S = torch.cat([a for a, _ in pairs]), torch.cat([b for _, b in pairs])
        H = p * self.kept(part["preserve_idx"], "all")
        if part.get("technique", "replace") == "replace":
            K = solve_map(e * C.T @ C, e * S.T @ C, H, lam)
            return {name: weight + weight @ K for name, weight in W.items()}
        A, _ = solve_factors(C, S, torch.full((len(C),), e, dtype=torch.float64), H, lam)
        out = {}
        for name, weight in W.items():
            values = torch.cat([tensor_values(weight, a.T, b.T) for a, b in pairs], dim=1)
            out[name] = weight + (values - weight @ C.T) @ A
        return out

    def run(self, method: str, part: dict, tokens: str, **options: Any) -> dict[str, torch.Tensor]:
        """Weights under the edit of the method's own `run`, on stored embeddings and weights."""
        target = GoldenTarget(self)
        texts = [item["text"] for item in self.data["prompts"]]
        concepts = [
            Concept(texts[i], anchor=texts[j]) for i, j in zip(part["erase_idx"], part["guide_idx"], strict=True)
        ]
        request = build_request(
            "golden", method, concepts, keep=[texts[i] for i in part["preserve_idx"]],
            options={"tokens": tokens, "vocabulary": 0, "aliases": False, "fillers": 0, "lam": part["lamb"],
                     "erase_scale": part["erase_scale"], "keep_scale": part["preserve_scale"], **options},
        )  # fmt: skip
        chosen = get_manager().method(method)
        edit = chosen.run(chosen.plan(request, target.info), target, RunContext(method))
        group = edit.deltas["unet"]
        if CONTEXT in group:
            K = group[CONTEXT].B.double() @ group[CONTEXT].A.double()
            return {name: weight + weight @ K for name, weight in self.W0.items()}
        return {name: weight + group[f"{name}.weight"].dense().double() for name, weight in self.W0.items()}


class GoldenTarget(Target):
    """Stored embeddings and projections of one case; nothing else can be asked."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.places = {text: row for row, text in enumerate(case.cond.prompts)}
        refs = tuple(ModuleRef("unet", name, "linear", tuple(W.shape), False) for name, W in case.W0.items())
        family = get_manager().family("sd1")
        self.info = TargetInfo(family, "golden", {}, refs, (), case.width, case.cond.embeds.shape[1], (4, 8, 8))

    def weight(self, ref: ModuleRef) -> torch.Tensor:
        return self.case.W0[ref.path]

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        return self.case.cond[[self.places[prompt] for prompt in prompts]]

    def module(self, ref: ModuleRef) -> Any:
        raise NotImplementedError

    predict = scheduler = vocabulary = fingerprint = module  # type: ignore[assignment]
    device, dtype = torch.device("cpu"), torch.float32  # type: ignore[assignment]


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    return Case(request.param)


def relative(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def compare(found: dict[str, torch.Tensor], case: Case, prefix: str) -> None:
    assert found
    for name, weight in found.items():
        assert relative(weight, case.tensors[f"{prefix}.{name}"]) < TOLERANCE, name


def test_uce_last(case: Case, monkeypatch) -> None:
    """The official code of 2025 keeps the last row of a kept prompt and no empty prompt; we keep all rows of both."""
    part = case.data["uce_last"]

    def last_rows(prompts: Sequence[str], target: GoldenTarget, _recipe: Any) -> dict[str, torch.Tensor]:
        cond = target.encode(prompts)
        return {text: cond.embeds[n, cond.last[n]][None] for n, text in enumerate(prompts)}

    monkeypatch.setattr(collect, "_keep", last_rows)
    compare(case.run("uce", part, "last"), case, "f64.uce_last.W")


def test_uce_window(case: Case) -> None:
    part = case.data["uce_window"]
    for (a, b), window in zip(case.pairs(part, "window"), part["windows"], strict=True):
        assert len(a) == window["erase"][1] - window["erase"][0] == len(b) == window["guide"][1] - window["guide"][0]
    found = case.run(
        "uce", part, "window", technique=part.get("technique", "replace"), keep_empty=part["preserve_scale"]
    )
    compare(found, case, "f64.uce_window.W")


def test_rece(case: Case) -> None:
    """Adversarial rows and weights of every epoch, from layer sums (also where layers share no map)."""
    part = case.data["rece"]
    W = {name: case.tensors[f"f64.uce_window.W.{name}"] for name in case.W0}
    pairs = case.pairs(part, "all")
    for epoch in range(part["epochs"]):
        A = sum(weight.T @ weight for weight in W.values())
        X = sum(W[name].T @ case.W0[name] for name in W)
        R = adversarial_from_sums(A, X, part["regular_scale"], part.get("emb_computing", "close_regzero"))
        adversarial = [(a @ R.T, b) for a, b in pairs]
        for k, (rows, _) in enumerate(adversarial):
            assert relative(rows, case.tensors[f"f64.rece.adv.{epoch}.{k}"]) < TOLERANCE
        W = case.weights(part, W, adversarial)
        compare(W, case, f"f64.rece.W.{epoch}")


@pytest.mark.parametrize("epochs", [1, 2, 3])
def test_rece_run(case: Case, monkeypatch, epochs: int) -> None:
    """The official script erases and keeps other rows in its rounds than its start did; the rounds get those rows."""
    part, window = case.data["rece"], case.data["uce_window"]
    if "tensor" in (part.get("technique"), window.get("technique")) or part["emb_computing"] != "close_regzero":
        pytest.skip("layers share no common map in this case; test_rece covers it")
    if epochs > part["epochs"]:
        pytest.skip("the case has fewer epochs")
    rows = case.pairs(part, "all")
    C, S = torch.cat([a for a, _ in rows]), torch.cat([b for _, b in rows])
    e, H = part["erase_scale"], part["preserve_scale"] * case.kept(part["preserve_idx"], "all")
    step = closed_form.rece_step

    def official_rows(M, sigma, _G, _X, _H, *more):
        return step(M, sigma, e * C.T @ C, e * S.T @ C, H, *more)

    monkeypatch.setattr(closed_form, "rece_step", official_rows)
    found = case.run("rece", window, "window", epochs=epochs, regular_scale=part["regular_scale"],
                     adversarial_lam=part["lamb"], hold=False)  # fmt: skip
    compare(found, case, f"f64.rece.W.{epochs - 1}")
