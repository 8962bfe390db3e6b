"""ROME: rank-one model editing (Meng et al., NeurIPS 2022, arXiv 2202.05262).

One map is changed as little as ordinary keys of second moment C allow, so that the key k of a fact gives its new value:

    dW = r u^T / (u^T k),  u = C^-1 k',  k' the mean of the key over beginnings in front of the prompt.

Several facts are solved for together, and the keys of retained subjects give exactly what they gave; with one fact and
none retained this is the published edit.

Differs from the official code: asks for a refusal instead of a new fact; ordinary text is what the model makes up
itself; float64, in the space of the facts; the factors are kept as a LoRA.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from erase_plugins.hookspecs import hookimpl
from erase_plugins.training import FactMethod, FactOptions, Keys

if TYPE_CHECKING:
    from torch import Tensor

_CITATION = """\
@inproceedings{meng2022locating,
  title = {Locating and Editing Factual Associations in {GPT}},
  author = {Meng, Kevin and Bau, David and Andonian, Alex and Belinkov, Yonatan},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2022}
}"""


class ROME(FactMethod):
    """Rank-one model editing."""

    id = "rome"
    title = "ROME (rank-one model editing)"
    paper = "https://arxiv.org/abs/2202.05262"
    citation = _CITATION
    summary = "closed form on one MLP layer of a language model: its keys of a fact give another answer, exactly"
    depth = (1 / 6, 1 / 6)
    by_map = True
    plain_weight = None
    Options = FactOptions

    def factor(self, keys: Keys, options: FactOptions) -> Tensor:
        from erase_plugins.engine.key_edits import rome

        return rome(keys.C, keys.plain, keys.kept, keys.facts)


@hookimpl
def erase_methods() -> list[ROME]:
    return [ROME()]
