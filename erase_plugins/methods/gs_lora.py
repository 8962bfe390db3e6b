"""GS-LoRA: group-sparse LoRA for forgetting classes (Zhao et al., CVPR 2024, arXiv 2403.11530).

LoRA on the two feed-forward linears of every block of a classifier is trained to push the cross-entropy of what is
forgotten above a bound, while pictures to retain are replayed; a group lasso switches blocks off that are not needed:

    L = CE(f(x_r), y_r) + beta relu(bound - CE(f(x_f), y_f)) + alpha(epoch) sum_blocks sqrt(sum_P ||P||_F^2)

with P the LoRA factors A and B of both linears of a block, and alpha(epoch) = 0 in the first ``warmup`` epochs. The
clamp acts on the mean over a batch. Delta W = (lora_alpha / rank) B A.

Differs from the official code:
    - one pass for both batches instead of two, with equal numbers (a transformer has no batch norm);
    - an epoch is ``epoch_steps`` batches, so that the plan needs no data; pools are cycled in a new order each time;
    - the first-epoch warm-up of alpha also holds where the official continual scripts leave it out;
    - ``bound`` and ``beta`` fit heads with a plain softmax (the published 105-110 belongs to CosFace logits);
    - blocks whose change is below ``off`` of the largest one are left out of the file, which the paper only counts;
    - the last iterate is kept; the official code picks the best one on the test set.
"""

from __future__ import annotations

from erase_plugins.hookspecs import hookimpl
from erase_plugins.training import GroupSparse

_CITATION = """\
@inproceedings{zhao2024continual,
  title = {Continual Forgetting for Pre-trained Vision Models},
  author = {Zhao, Hongbo and Ni, Bolin and Fan, Junsong and Wang, Yuxi and Chen, Yuntao and Meng, Gaofeng and Zhang,
            Zhaoxiang},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2024}
}"""


class GSLoRA(GroupSparse):
    """Group-sparse LoRA on the feed-forward layers."""

    id = "gs-lora"
    title = "GS-LoRA (group-sparse LoRA)"
    paper = "https://arxiv.org/abs/2403.11530"
    citation = _CITATION
    summary = (
        "makes a classifier forget classes: LoRA on feed-forward layers, a bounded loss, a group lasso over blocks"
    )


@hookimpl
def erase_methods() -> list[GSLoRA]:
    return [GSLoRA()]
