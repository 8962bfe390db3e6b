"""RMU: representation misdirection (Li et al., ICML 2024, arXiv 2403.03218).

The hidden state h of texts to forget is led to a fixed random direction, that of texts to retain stays:

    F = mean over texts of mean over tokens and widths of (h - c u)^2,   R the same of (h - h_0),

with u a random unit vector, h_0 the unchanged model, both behind one early block; only the last MLP maps of that block
and the two before it are trained. c is in units of the median length of h, where the official value hangs on a model.

Differs from the official code: LoRA instead of the weights; the first token of a text is left out, whose state is
thousands of times as large as any other and would be all of the loss; the pass ends behind the block.
"""

from __future__ import annotations

from erase_plugins.hookspecs import hookimpl
from erase_plugins.training.steered import SteeredMethod

_CITATION = """\
@inproceedings{li2024wmdp,
  title = {The {WMDP} Benchmark: Measuring and Reducing Malicious Use with Unlearning},
  author = {Li, Nathaniel and Pan, Alexander and Gopal, Anjali and others},
  booktitle = {International Conference on Machine Learning},
  year = {2024}
}"""


class RMU(SteeredMethod):
    """Representation misdirection."""

    id = "rmu"
    title = "RMU (representation misdirection)"
    paper = "https://arxiv.org/abs/2403.03218"
    citation = _CITATION
    summary = "makes a language model forget texts: leads their hidden states to nowhere, early in the model"


@hookimpl
def erase_methods() -> list[RMU]:
    return [RMU()]
