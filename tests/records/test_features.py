"""Feature files and the rule for rows: one row at a time, never longer than the bound; heads that are none are refused."""

from __future__ import annotations

import numpy as np
import pytest
from safetensors.numpy import save_file

from erase_plugins.errors import ArtifactError, CorruptArtifact, RequestError
from erase_plugins.records.features import Rule, load_features, load_matrix
from erase_plugins.records.head import Head

X = np.arange(12, dtype=np.float32).reshape(4, 3)
Y = np.array([0, 1, 2, 1])


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    np.savez(tmp_path / "short.npz", X=X, y=Y)
    np.savez(tmp_path / "odd.npz", first=X, second=Y)
    save_file({"features": X, "labels": Y}, tmp_path / "both.safetensors")
    save_file({"weight": X, "bias": X[0]}, tmp_path / "layer.safetensors")
    (tmp_path / "broken.npy").write_bytes(b"\x93NUMPY\x01\x00 no header")
    (tmp_path / "broken.npz").write_bytes(b"PK no zip")
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 40)
    return tmp_path


@pytest.mark.parametrize(
    "names", [("x.npy", "y.npy"), ("short.npz", None), ("both.safetensors", None), ("short.npz", "y.npy")]
)
def test_every_format_gives_the_same(files, names):
    features, labels = load_features(files / names[0], names[1] and files / names[1])
    assert (features == X).all()
    assert (labels == Y).all()


def test_the_weight_of_a_layer(files):
    assert (load_matrix(files / "layer.safetensors") == X).all()


@pytest.mark.parametrize("name", ["broken.npy", "broken.npz", "broken.safetensors"])
def test_broken_files_are_one_line(files, name):
    with pytest.raises(RequestError, match=f"'{name}' cannot be read as numbers"):
        load_features(files / name)


def test_names_that_say_nothing_are_asked_for(files):
    with pytest.raises(RequestError, match="holds first, second; name one of them 'features'"):
        load_features(files / "odd.npz")
    with pytest.raises(RequestError, match="give them with labels="):
        load_features(files / "x.npy")


def test_rows_are_shortened_one_by_one():
    draw = np.random.default_rng(0)
    raw = draw.normal(size=(50, 6)) * np.geomspace(1e-3, 1e3, 50)[:, None]
    for bias in (True, False):
        rule = Rule(0.7, 2.0, bias)
        rows = rule.rows(raw)
        assert rows.shape == (50, rule.width(6))
        assert np.linalg.norm(rows, axis=1).max() <= 0.7 * (1 + 1e-12)
        for k in (0, 20, 49):  # what the others are does not matter
            assert (rule.rows(raw[k : k + 1])[0] == rows[k]).all()
    short = Rule(0.7, 2.0, False).rows(raw)[0]
    assert short == pytest.approx(raw[0] / 2, rel=1e-12)


def test_a_head_is_read_back_and_others_are_refused(files):
    head = Head(np.ones((2, 3)), Rule(1.0, 3.0, False), "softmax")
    head.write(files / "head.safetensors", {"release": 1})
    again = Head.read(files)
    assert again.rule == head.rule
    assert again.predict(X).tolist() == head.predict(X).tolist()
    with pytest.raises(ArtifactError, match="2 columns"):
        again.logits(X[:, :2])
    with pytest.raises(CorruptArtifact, match="not a head"):
        Head.read(files / "layer.safetensors")
    with pytest.raises(ArtifactError, match="no head at"):
        Head.read(files / "gone")
