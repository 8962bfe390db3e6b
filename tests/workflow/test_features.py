"""Records of pictures: features of a classifier and of the judge of a text-to-image model, deleted with a certificate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import erase_plugins as ep
from erase_plugins.errors import RequestError, UnknownName, Unsupported
from erase_plugins.families.source import pocket_folder
from erase_plugins.pocket.judge import PocketJudge
from erase_plugins.workflow.features import features_of
from tests.cli.conftest import erase  # noqa: F401

SHOWN = ("pizza", "owl", "tractor")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Six pictures of each of three concepts in folders, and six others of each."""
    place = tmp_path_factory.mktemp("drawn")
    data = load_file(pocket_folder("pocket-classifier") / "pictures.safetensors")
    names = ep.load("pocket-classifier").config.id2label
    for number, name in names.items():
        for split, kind in (("train", "known"), ("test", "fresh")) if name in SHOWN else ():
            folder = place / kind / name
            folder.mkdir(parents=True)
            for row, picture in enumerate(data[f"{split}.pictures"][data[f"{split}.labels"] == number]):
                Image.fromarray(picture.permute(1, 2, 0).numpy()).resize((64, 64)).save(folder / f"{row}.png")
    return place


def test_the_judge_shows_what_it_sees(drawn):
    found = features_of("pocket", str(drawn / "known"))
    judge = PocketJudge()
    assert found.rows.shape == (18, 256)
    assert [found.names[number] for number in found.labels[::6]] == sorted(SHOWN)
    first = Image.open(drawn / "known" / "owl" / "0.png").convert("RGB")
    own = judge.features(torch.from_numpy(np.asarray(first).copy()).permute(2, 0, 1)[None].float() / 255)
    assert np.abs(found.rows[0] - own[0].double().numpy()).max() < 1e-5
    assert found.longest is None


def test_a_record_is_deleted_from_a_head_on_the_judge(drawn, erase, tmp_path):  # noqa: F811
    matrix, head = tmp_path / "seen.npz", tmp_path / "head"
    ran = erase("records", "features", "pocket", "--pictures", drawn / "known", "--out", matrix, "--json")
    assert ran.code == 0, ran.err
    assert (ran.data["rows"], ran.data["dim"]) == (18, 256)
    assert ran.data["scale"] is None  # nothing bounds the length of these
    words = ("--features", matrix, "--classes", str(ran.data["classes"]), "--scale", "4", "--lam", "0.05")
    made = erase("records", "init", head, *words, "--rho-dp", "200", "--json")
    assert made.code == 0, made.err
    assert erase("records", "release", head).code == 0
    gone = erase("records", "delete", head, "--id", made.data["ids"][0], "--json")
    assert gone.code == 0, gone.err
    assert erase("records", "release", head, "--out", tmp_path / "published").code == 0
    assert erase("verify-certificate", tmp_path / "published").code == 0
    from erase_plugins.records.head import Head

    fresh = features_of("pocket", str(drawn / "fresh"))
    assert (Head.read(tmp_path / "published").predict(fresh.rows) == fresh.labels).mean() > 0.8


def test_a_classifier_shows_what_goes_into_its_head_and_how_long_it_can_be(tmp_path, erase):  # noqa: F811
    ran = erase("records", "features", "pocket-classifier", "--out", tmp_path / "seen.npz", "--json")
    assert ran.code == 0, ran.err
    data = np.load(tmp_path / "seen.npz")
    assert np.linalg.norm(data["features"], axis=1).max() <= ran.data["scale"]
    assert f"--scale {ran.data['scale']:.17g}" in erase(
        "records", "features", "pocket-classifier", "--out", tmp_path / "again.npz"
    ).out.replace("\n", " ")


def test_what_does_not_fit_is_one_line(drawn, tmp_path, erase):  # noqa: F811
    (drawn / "strange" / "no such thing").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(drawn / "strange" / "no such thing" / "a.png")
    with pytest.raises(UnknownName, match="label of judge pocket"):
        features_of("pocket", str(drawn / "strange"))
    with pytest.raises(RequestError, match="a judge has no pictures of its own"):
        features_of("pocket", None)
    with pytest.raises(Unsupported, match="no classifier"):
        features_of("pocket-lm", None)
    (tmp_path / "there.npz").write_bytes(b"mine")
    for words, text in (
        (("--out", tmp_path / "there.npz"), "exists already"), (("--out", tmp_path / "a.csv"), "no .npz file"),
        (("--pictures", tmp_path / "none", "--out", tmp_path / "b.npz"), "no data at"),
    ):  # fmt: skip
        ran = erase("records", "features", "pocket-classifier", *words)
        assert ran.code != 0
        assert text in ran.err
        assert "\n" not in ran.err.strip()
    assert (tmp_path / "there.npz").read_bytes() == b"mine"
