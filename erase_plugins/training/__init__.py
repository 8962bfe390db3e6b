"""What a method that trains is made of: the base class, its run, and options that such methods share. No torch.

`TrainedMethod` plans, counts the cost, trains with checkpoints and makes the edit; a method says where it may write
(`modules`), what it needs before the first step (`prepare`) and its `loss`.
"""

from erase_plugins.families.labelled import Labelled
from erase_plugins.training.asked import Asked, preference
from erase_plugins.training.facts import FactMethod, FactOptions, Keys
from erase_plugins.training.group_sparse import GroupSparse, GroupSparseOptions, factors, gs_lora_terms
from erase_plugins.training.labelled import LabelledMethod, LabelledOptions
from erase_plugins.training.language import LanguageMethod
from erase_plugins.training.language_options import LanguageOptions, PreferenceOptions
from erase_plugins.training.method import Cost, TrainedMethod, TrainingRun
from erase_plugins.training.options import LoopOptions, RolloutOptions, TrainingOptions, WeightOptions
from erase_plugins.training.staged import StagedMethod

__all__ = [
    "Asked",
    "Cost",
    "FactMethod",
    "FactOptions",
    "GroupSparse",
    "GroupSparseOptions",
    "Keys",
    "Labelled",
    "LabelledMethod",
    "LabelledOptions",
    "LanguageMethod",
    "LanguageOptions",
    "LoopOptions",
    "PreferenceOptions",
    "RolloutOptions",
    "StagedMethod",
    "TrainedMethod",
    "TrainingOptions",
    "TrainingRun",
    "WeightOptions",
    "factors",
    "gs_lora_terms",
    "preference",
]  # fmt: skip
