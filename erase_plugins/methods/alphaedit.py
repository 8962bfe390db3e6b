"""AlphaEdit: edits inside the null space of ordinary keys (Fang et al., ICLR 2025, arXiv 2410.02355).

With N the projector on the directions that ordinary keys hardly use, K the keys of the facts and P retained keys,

    dW = R K^T N [ (K K^T + P P^T) N + L2 I ]^-1,

so that a key outside of N's range gives exactly what it gave. ``L2`` here is in units of the mean length of the facts'
keys inside it, and N holds a share of all directions, where the official threshold (0.02) hangs on a model's scale.

Differs from the official code: asks for a refusal instead of a new fact; keys of retained subjects stand where it has
those of earlier edits; ordinary text is what the model makes up itself; float64, in the space of the facts; a LoRA.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import FactMethod, FactOptions, Keys

if TYPE_CHECKING:
    from torch import Tensor

_CITATION = """\
@inproceedings{fang2025alphaedit,
  title = {{AlphaEdit}: Null-Space Constrained Knowledge Editing for Language Models},
  author = {Fang, Junfeng and Jiang, Houcheng and Wang, Kun and Ma, Yunshan and Shi, Jie and Wang, Xiang and
            He, Xiangnan and Chua, Tat-Seng},
  booktitle = {International Conference on Learning Representations},
  year = {2025}
}"""


@dataclass(frozen=True)
class AlphaEditOptions(FactOptions):
    """Options of AlphaEdit."""

    null_share: float = option(0.7, "share of all directions that count as unused", low=0.01, high=0.99)
    l2: float = option(0.05, "weight of the change itself, in units of the facts' keys", low=1e-9, high=1e6)


class AlphaEdit(FactMethod):
    """Null-space edits of facts."""

    id = "alphaedit"
    title = "AlphaEdit (null-space editing of facts)"
    paper = "https://arxiv.org/abs/2410.02355"
    citation = _CITATION
    summary = "closed form on a language model's early MLP layers, in directions that ordinary text does not use"
    Options = AlphaEditOptions

    def factor(self, keys: Keys, options: AlphaEditOptions) -> Tensor:
        from erase_plugins.engine.key_edits import alphaedit, null_space

        inside = null_space(keys.C, options.null_share)
        scale = float((keys.facts * (inside @ keys.facts)).sum(0).mean())
        return alphaedit(inside, keys.facts, max(options.l2 * scale, 1e-12), keys.kept)


@hookimpl
def erase_methods() -> list[AlphaEdit]:
    return [AlphaEdit()]
