"""MEMIT: mass editing of memories in closed form (Meng et al., ICLR 2023, arXiv 2210.07229).

The change of each map is the least-squares answer to the keys K of the facts against ordinary keys of second moment C,

    dW = R K^T (lam C + K K^T + P P^T)^-1,

spread over several blocks: each takes its share of what is still missing at the last one. ``lam`` here is in units of
the map's input width, where the paper gives 15,000 for 14,336 inputs.

Differs from the official code: asks for a refusal instead of a new fact; keys P of retained subjects count as they are;
ordinary text is what the model makes up itself, the first token of every text left out; the systems are of the size of
the facts, in float64; the factors are kept as a LoRA.
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
@inproceedings{meng2023massediting,
  title = {Mass-Editing Memory in a Transformer},
  author = {Meng, Kevin and Sharma, Arnab Sen and Andonian, Alex and Belinkov, Yonatan and Bau, David},
  booktitle = {International Conference on Learning Representations},
  year = {2023}
}"""


@dataclass(frozen=True)
class MemitOptions(FactOptions):
    """Options of MEMIT."""

    lam: float = option(0.1, "weight of ordinary keys, in units of the map's input width", low=1e-9, high=1e6)


class MEMIT(FactMethod):
    """Mass editing of memories."""

    id = "memit"
    title = "MEMIT (mass editing of memories)"
    paper = "https://arxiv.org/abs/2210.07229"
    citation = _CITATION
    summary = "closed form on a language model's early MLP layers: many facts at once, each answered with a refusal"
    Options = MemitOptions

    def factor(self, keys: Keys, options: MemitOptions) -> Tensor:
        from erase_plugins.engine.key_edits import memit

        return memit(keys.C, keys.facts, options.lam * len(keys.C), keys.kept)


@hookimpl
def erase_methods() -> list[MEMIT]:
    return [MEMIT()]
