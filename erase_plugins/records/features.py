"""Feature matrices: read from files, and made into rows of bounded norm by a rule that looks at one row at a time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase_plugins.errors import CorruptArtifact, RequestError
from erase_plugins.hints import Hint

_FEATURES = ("features", "X", "x", "data", "arr_0")
_LABELS = ("labels", "label", "y", "targets", "target")


@dataclass(frozen=True)
class Rule:
    """Row -> row of norm at most ``norm``: divided by the public constant ``scale``, with a 1 behind it where ``bias``
    is set, and shortened where it is longer.

    A statistic of the data (mean, spread, principal axes) has no place here: it would be a release of its own.
    """

    norm: float = 1.0
    scale: float = 1.0
    bias: bool = True

    def width(self, dim: int) -> int:
        """Length of a row that comes from ``dim`` features."""
        return dim + self.bias

    def rows(self, features: Any) -> Any:
        """The rows of a matrix (records, dim), float64.

        Raises:
            RequestError: no matrix of finite numbers.
        """
        import numpy as np

        if getattr(features, "ndim", 0) != 2 or features.dtype.kind not in "fiub":
            shape = getattr(features, "shape", None)
            raise RequestError(f"features of shape {shape} are no matrix of numbers; give one row per record")
        rows = features.astype(np.float64) / self.scale
        bad = np.flatnonzero(~np.isfinite(rows).all(axis=1))
        if bad.size:
            raise RequestError(f"row {bad[0]} holds NaN or infinity ({bad.size} such rows); nothing was changed")
        if self.bias:
            rows = np.concatenate([rows, np.ones((len(rows), 1))], axis=1)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return rows * np.minimum(1.0, self.norm / np.maximum(lengths, np.finfo(np.float64).tiny))


def load_features(features: str | Path, labels: str | Path | None = None) -> tuple[Any, Any]:
    """A matrix and its labels from .npy, .npz or .safetensors files.

    Args:
        features: the matrix; .npz and .safetensors may hold the labels too.
        labels: a file with the labels only.

    Raises:
        RequestError: not there, another format, or the numbers of rows differ.
    """
    found = _read(Path(features), "features")
    matrix = _pick(found, _FEATURES, Path(features).name)
    if labels is not None:
        values = _pick(_read(Path(labels), "labels"), (*_LABELS, *_FEATURES), Path(labels).name)
    else:
        values = next((found[name] for name in _LABELS if name in found), None)
        if values is None:
            raise RequestError(f"'{Path(features).name}' holds no labels; give them with ", Hint("labels", "FILE"))
    if matrix.ndim == 0 or values.ndim == 0 or len(matrix) != len(values):
        raise RequestError(
            f"features of shape {matrix.shape} and labels of shape {values.shape} do not belong together"
        )
    return matrix, values


def load_matrix(path: str | Path) -> Any:
    """The one matrix of a file; a tensor ``weight`` if there are several.

    Raises:
        RequestError: not there, or another format.
    """
    return _pick(_read(Path(path), "head"), ("weight", *_FEATURES), Path(path).name)


def _read(path: Path, what: str) -> dict[str, Any]:
    import numpy as np

    if not path.is_file():
        raise RequestError(f"no {what} at '{path.name}'; give a .npy, .npz or .safetensors file")
    try:
        if path.suffix == ".npy":
            return {"": np.load(path, allow_pickle=False)}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return {name: file[name] for name in file.files}
        if path.suffix == ".safetensors":
            from erase_plugins.records.weights import read_arrays

            return read_arrays(path)[0]
    except (OSError, ValueError, EOFError, CorruptArtifact) as error:
        raise RequestError(f"'{path.name}' cannot be read as numbers; write it again with numpy.save") from error
    raise RequestError(f"'{path.name}' is not .npy, .npz or .safetensors; write it with numpy.save")


def _pick(found: dict[str, Any], names: tuple[str, ...], file: str) -> Any:
    if len(found) == 1:
        return next(iter(found.values()))
    for name in names:
        if name in found:
            return found[name]
    raise RequestError(f"'{file}' holds {', '.join(sorted(found)) or 'nothing'}; name one of them '{names[0]}'")
