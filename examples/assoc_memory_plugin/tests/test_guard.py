"""The guard: recognition by cosine, false alarms, forgetting, files that were tampered with."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
from erase_assoc_memory.coding import Coder, GramEncoder
from erase_assoc_memory.file import load_guard, save_guard
from erase_assoc_memory.guard import Guard
from erase_assoc_memory.memory import CliqueMemory
from safetensors.numpy import load_file, save_file

from erase_plugins.errors import CorruptArtifact, RequestError

NAMES = [
    "van gogh",
    "monet",
    "picasso",
    "rembrandt",
    "banksy",
    "hokusai",
    "salvador dali",
    "frida kahlo",
    "mickey mouse",
    "darth vader",
    "pikachu",
    "batman",
    "superman",
    "harry potter",
    "shrek",
    "homer simpson",
    "super mario",
    "yoda",
    "coca cola",
    "starbucks",
    "ferrari",
    "lego",
    "pizza",
    "hamburger",
    "tractor",
    "giraffe",
    "parachute",
    "golf ball",
    "garbage truck",
    "cassette player",
]
WORDS = [
    "table",
    "chair",
    "river",
    "mountain",
    "woman",
    "man",
    "child",
    "dog",
    "cat",
    "horse",
    "bird",
    "tree",
    "forest",
    "house",
    "street",
    "city",
    "night",
    "morning",
    "shadow",
    "painting",
    "photo",
    "drawing",
    "sketch",
    "portrait",
    "landscape",
    "red",
    "blue",
    "green",
    "yellow",
    "old",
    "new",
    "small",
    "large",
    "quiet",
    "stormy",
    "winter",
    "summer",
    "garden",
    "window",
    "door",
    "bridge",
    "boat",
    "train",
    "bicycle",
    "coffee",
    "bread",
    "apple",
    "flower",
    "rose",
    "cloud",
    "rain",
    "snow",
    "sun",
    "moon",
    "star",
]
FORMS = ("a photo of a {} {} near a {}", "a {} {} with two {}s in the rain", "{} and {} on a {}, oil on canvas")


def ordinary(count: int, seed: int = 0) -> list[str]:
    rng = np.random.default_rng(seed)
    return [str(rng.choice(FORMS)).format(*rng.choice(WORDS, 3)) for _ in range(count)]


@pytest.fixture(scope="module")
def guard():
    built = Guard.new(GramEncoder())
    for name in NAMES:
        built.add(GramEncoder(), name)
    return built


def vectors(count: int, seed: int, dim: int = 768) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def near(rows: np.ndarray, cosine: float, seed: int) -> np.ndarray:
    other = vectors(len(rows), seed)
    other -= (other * rows).sum(1, keepdims=True) * rows
    other /= np.linalg.norm(other, axis=1, keepdims=True)
    return cosine * rows + np.sqrt(1 - cosine**2) * other


def test_cosines_and_false_alarms_of_the_table():
    """100 random embeddings, tau .25: cosine .9 found in > 97 %, fewer than .5 % false; without overlap most."""
    coder, memory, concepts = Coder(np.zeros(768, np.float32)), CliqueMemory(), vectors(100, 0)
    for code in coder.codes(concepts):
        memory.store(code)
    made = Guard("test", coder, memory, tau=0.25)

    def flagged(rows: np.ndarray) -> float:
        return float(np.mean([item.flagged for item in made.check_rows(list(rows[:, None]))]))

    assert flagged(near(concepts, 0.9, 1)) > 0.97
    assert flagged(vectors(3000, 2)) < 0.005
    made.tau = 1e-9
    assert flagged(vectors(3000, 2)) > 0.5  # recall always lands somewhere


def test_centring_is_not_optional():
    """Embeddings that share a direction (mutual cosine .6): without their mean everything is alike."""
    shared = vectors(1, 9)
    concepts, others = (
        np.sqrt(0.6) * shared + np.sqrt(0.4) * vectors(count, seed) for count, seed in ((100, 0), (2000, 2))
    )
    shares = []
    for mean in (np.zeros(768, np.float32), np.sqrt(0.6).astype(np.float32) * shared[0]):
        coder, memory = Coder(mean), CliqueMemory()
        for code in np.unique(coder.codes(concepts), axis=0):
            memory.store(code)
        made = Guard("test", coder, memory, tau=0.25)
        shares.append(np.mean([item.flagged for item in made.check_rows(list(others[:, None].astype(np.float32)))]))
    assert shares[0] > 0.9
    assert shares[1] < 0.01


def test_clean_names_are_found_and_ordinary_prompts_pass(guard):
    prompts = [f"a castle in the style of {name} at dusk" for name in NAMES]
    found = guard.check(GramEncoder(), prompts)
    assert np.mean([item.flagged and item.label == name for item, name in zip(found, NAMES, strict=True)]) >= 0.95
    assert np.mean([item.flagged for item in guard.check(GramEncoder(), ordinary(5000))]) <= 0.01


def test_forgotten_concepts_are_unknown_and_the_others_stay(guard):
    encoder, built = GramEncoder(), Guard.new(GramEncoder())
    for name in NAMES:
        built.add(encoder, name)
    rebuilt = Guard.new(encoder)
    for name in NAMES[1:]:
        rebuilt.add(encoder, name)
    built.forget(encoder, "Van Gogh")
    assert (built.memory.links == rebuilt.memory.links).all()
    assert (built.memory.counts == rebuilt.memory.counts).all()
    found = [item.flagged for item in built.check(encoder, [f"a {name}" for name in NAMES])]
    assert found == [False] + [True] * (len(NAMES) - 1)
    with pytest.raises(RequestError, match="never stored"):
        built.forget(encoder, "van gogh")


def test_learning_from_noisy_examples_stores_what_they_share():
    coder = Coder(np.zeros(768, np.float32))
    encoder = SimpleNamespace(id="test", tau=0.25)
    made, concept = Guard("test", coder, CliqueMemory(), 0.25), vectors(1, 0)
    examples = near(np.repeat(concept, 20, 0), 0.9, 3)
    made.learn(encoder, "thing", examples)
    assert made.check_rows([concept])[0].label == "thing"
    with pytest.raises(RequestError, match="too little in common"):
        made.learn(encoder, "nothing", vectors(20, 5))


def test_calibration_keeps_the_wanted_rate():
    encoder, made = GramEncoder(), Guard.new(GramEncoder())
    for name in NAMES:
        made.add(encoder, name)
    made.calibrate(encoder, ordinary(1000), 0.01)
    assert np.mean([item.flagged for item in made.check(encoder, ordinary(1000))]) <= 0.01
    with pytest.raises(RequestError, match="10 prompts"):
        made.calibrate(encoder, ordinary(10), 0.01)
    with pytest.raises(RequestError, match="not ordinary"):
        made.calibrate(encoder, ["a pizza"] * 200, 0.01)


def test_names_are_only_told_when_the_prompt_passed(guard):
    clear = guard.check(GramEncoder(), ["a quiet river in winter", "", "!!!"])
    assert [item.flagged for item in clear] == [False] * 3
    assert [item.label for item in clear] == [""] * 3


def test_bad_input_is_refused(guard):
    encoder = GramEncoder()
    for concept, said in (("", "empty"), ("pizza", "stored already"), ("a b c d", "4 words"), ("!!", "0 words")):
        with pytest.raises(RequestError, match=said):
            guard.add(encoder, concept)
    with pytest.raises(RequestError, match="made with encoder 'grams'"):
        guard.check(SimpleNamespace(id="other", tau=0.4), ["a pizza"])
    with pytest.raises(RequestError, match="shape"):
        guard.check_rows([np.zeros((1, 5), np.float32)])
    with pytest.raises(RequestError, match="NaN"):
        guard.check_rows([np.full((1, 2048), np.nan, np.float32)])
    with pytest.raises(RequestError, match="equals the mean"):
        guard.check_rows([guard.coder.mean[None]])
    with pytest.raises(RequestError, match="tau 0"):
        Guard("x", guard.coder, guard.memory, tau=0.0)
    with pytest.raises(RequestError, match="mean embedding"):
        Coder(np.array([np.nan], np.float32))


def test_files_come_back_bit_for_bit(guard, tmp_path):
    path = tmp_path / "guard.safetensors"
    save_guard(guard, path)
    again = load_guard(path)
    assert (again.memory.links == guard.memory.links).all()
    assert (again.memory.counts == guard.memory.counts).all()
    assert (again.labels, again.tau, again.encoder_id) == (guard.labels, guard.tau, guard.encoder_id)
    first = path.read_bytes()
    save_guard(again, path)
    assert path.read_bytes() == first
    save_guard(guard, path, counts=False, names=False)
    public = load_guard(path)
    found = public.check(GramEncoder(), ["a pizza"])[0]
    assert (found.flagged, found.label) == (True, "")
    with pytest.raises(RequestError, match="keeps no counts"):
        public.forget(GramEncoder(), "pizza")
    public.forget(GramEncoder(), "pizza", anti=True)
    assert not public.check(GramEncoder(), ["a pizza"])[0].flagged


def _asymmetric(tensors, header):
    tensors["assoc.w"][0] ^= 128 >> 7


def _inside(tensors, header):
    tensors["assoc.w"][0, 0] |= 64
    tensors["assoc.w"][1, 0] |= 128


def _counts(tensors, header):
    tensors["assoc.counts"][0, 500] += 1


def _mean(tensors, header):
    tensors["assoc.mean"][3] = np.nan


def _codes(tensors, header):
    tensors["assoc.codes"][0, 0] = (tensors["assoc.codes"][0, 0] + 1) % 32


def _shape(tensors, header):
    header["clusters"] = 16


def _extra(tensors, header):
    tensors["assoc.more"] = np.zeros(3, np.float32)


def _newer(tensors, header):
    header["schema"] = 2


@pytest.mark.parametrize("damage", [_asymmetric, _inside, _counts, _mean, _codes, _shape, _extra, _newer])
def test_damaged_files_are_refused(guard, tmp_path, damage):
    import json

    from erase_assoc_memory.file import HEADER
    from safetensors import safe_open

    path = tmp_path / "guard.safetensors"
    save_guard(guard, path)
    with safe_open(path, "numpy") as file:
        header = json.loads(file.metadata()[HEADER])
    tensors = {name: tensor.copy() for name, tensor in load_file(path).items()}
    damage(tensors, header)
    save_file(tensors, path, {"format": "pt", HEADER: json.dumps(header)})
    with pytest.raises(CorruptArtifact, match=r"guard\.safetensors"):
        load_guard(path)


def test_foreign_files_are_refused(tmp_path):
    for name, data in (("text.safetensors", b"hello"), ("empty.safetensors", b"")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(CorruptArtifact, match=name):
            load_guard(tmp_path / name)
    save_file({"x": np.zeros(2, np.float32)}, tmp_path / "lora.safetensors")
    with pytest.raises(CorruptArtifact, match="lora"):
        load_guard(tmp_path / "lora.safetensors")
    with pytest.raises(RequestError, match="guard add"):
        load_guard(tmp_path / "missing.safetensors")
