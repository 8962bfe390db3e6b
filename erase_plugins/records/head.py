"""A published head: the weights, what is done to features before them, and what comes out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from erase_plugins.errors import ArtifactError, CorruptArtifact
from erase_plugins.records.features import Rule
from erase_plugins.records.weights import HEAD, LEARNED, read_arrays, write_arrays

_KEY = "erase_plugins.records"


@dataclass(frozen=True, eq=False)
class Head:
    """A linear head on frozen features.

    Attributes:
        weight: (outputs, dim) float64, or (outputs, rank) of a low-rank change.
        rule: what is done to every row first, in learning and in use.
        loss: softmax, logistic or huber.
        fixed: (rank, dim) first factor of a low-rank change.
        start: (outputs, dim) frozen head below it, for rows that the rule has scaled.
    """

    weight: Any
    rule: Rule
    loss: str
    fixed: Any = None
    start: Any = None

    @property
    def merged(self) -> Any:
        """(outputs, dim) float64, whatever the head is made of."""
        whole = self.weight if self.fixed is None else self.weight @ self.fixed
        return whole if self.start is None else whole + self.start

    def logits(self, features: Any) -> Any:
        """(records, outputs) for features (records, dim) as they come from the frozen model.

        Raises:
            RequestError: no matrix of finite numbers.
        """
        rows = self.rule.rows(features)
        if rows.shape[1] != self.merged.shape[1]:
            raise ArtifactError(f"the features have {features.shape[1]} columns, the head is for another number")
        if self.fixed is None:
            return rows @ self.weight.T
        out = (rows @ self.fixed.T) @ self.weight.T
        return out if self.start is None else out + rows @ self.start.T

    def predict(self, features: Any) -> Any:
        """Class numbers of softmax, 0 or 1 of logistic, the value itself of huber."""
        logits = self.logits(features)
        if self.loss == "softmax":
            return logits.argmax(axis=1)
        return (logits[:, 0] > 0).astype(int) if self.loss == "logistic" else logits[:, 0]

    def write(self, path: Path, facts: Mapping[str, Any]) -> None:
        """Writes the file; ``facts`` go into its header."""
        arrays = {LEARNED: self.weight, "fixed": self.fixed, "start": self.start}
        rule = {"norm": self.rule.norm, "scale": self.rule.scale, "bias": self.rule.bias}
        text = json.dumps({"schema": 1, "loss": self.loss, "rule": rule, **facts}, sort_keys=True)
        write_arrays(path, {name: item for name, item in arrays.items() if item is not None}, {_KEY: text})

    @classmethod
    def read(cls, place: str | Path) -> Head:
        """The head in a file, or in the folder of a release.

        Raises:
            ArtifactError: not there.
            CorruptArtifact: another file, or damaged.
        """
        path = Path(place) / HEAD if Path(place).is_dir() else Path(place)
        if not path.is_file():
            raise ArtifactError(f"no head at '{Path(place).name}'; give the folder of a release")
        arrays, metadata = read_arrays(path)
        try:
            facts = json.loads(metadata[_KEY])
            rule = Rule(float(facts["rule"]["norm"]), float(facts["rule"]["scale"]), bool(facts["rule"]["bias"]))
            head = cls(arrays[LEARNED], rule, str(facts["loss"]), arrays.get("fixed"), arrays.get("start"))
            if head.merged.ndim != 2:
                raise ValueError("no matrix")
        except (KeyError, ValueError, TypeError) as error:
            raise CorruptArtifact(f"'{path.name}' is not a head of erase-plugins") from error
        return head

    def write_peft(self, folder: Path, module: str) -> list[str]:
        """Writes the low-rank change as peft reads it, float32, for the classifier module of the frozen model.

        Longer rows were shortened in learning and are not by peft; without a constant in the row that changes no
        class, since all logits of a row grow together. For low-rank heads without a constant only.
        """
        import numpy as np

        rank = int(self.fixed.shape[0])
        config = {
            "peft_type": "LORA", "r": rank, "lora_alpha": rank, "target_modules": [module], "lora_dropout": 0.0,
            "bias": "none", "task_type": None, "inference_mode": True, "base_model_name_or_path": None,
        }  # fmt: skip
        names = ["adapter_config.json", "adapter_model.safetensors"]
        (folder / names[0]).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        stem = f"base_model.model.{module}"
        tensors = {
            f"{stem}.lora_A.weight": (self.fixed / self.rule.scale).astype(np.float32),
            f"{stem}.lora_B.weight": self.weight.astype(np.float32),
        }
        write_arrays(folder / names[1], tensors, {"format": "pt"})
        return names
