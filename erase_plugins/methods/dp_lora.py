"""DP-LoRA: an adapter whose training bounds what it can tell of one person (Abadi et al., CCS 2016, arXiv 1607.00133).

It learns the rows that stay (``--retain``) by DP-SGD: every step draws each person with probability q, clips each one's
gradient, averaged over all of that person's rows, to norm C, adds noise N(0, (sigma C)^2) to the sum and divides by the
expected number. What the steps cost together is counted in Renyi divergence and kept as ``epsilon`` at ``delta``: for
every person, whatever else is known, the adapter is nearly as likely without them.

It promises something of this adapter and of persons in these rows, nothing of what the base has read. The noise comes
from the operating system's seed, not from the request's, so a run cannot be repeated to the bit, and there are no
checkpoints. The manifest holds no likelihood of these rows, which the noise would not cover.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from erase_plugins.errors import RequestError
from erase_plugins.hookspecs import hookimpl
from erase_plugins.options import option
from erase_plugins.training import TrainingRun
from erase_plugins.training.asked import ask
from erase_plugins.training.learned import LearnedMethod, LearnedOptions

if TYPE_CHECKING:
    from erase_plugins.artifacts.edit import Edit

_CITATION = """\
@inproceedings{abadi2016deep,
  title = {Deep Learning with Differential Privacy},
  author = {Abadi, Martin and Chu, Andy and Goodfellow, Ian and McMahan, H. Brendan and Mironov, Ilya and
            Talwar, Kunal and Zhang, Li},
  booktitle = {ACM Conference on Computer and Communications Security},
  year = {2016}
}"""


@dataclass(frozen=True)
class DPOptions(LearnedOptions):
    """Options of DP-LoRA."""

    rate: float = option(0.1, "probability of a person to be drawn in a step", low=1e-6, high=1.0)
    sigma: float = option(1.0, "noise, in clipping norms", low=1e-3, high=1e4)
    clip: float = option(1.0, "largest norm of a person's gradient", low=1e-9, high=1e9)
    delta: float = option(1e-5, "probability in which the bound may fail", low=1e-12, high=0.1)


class DPLora(LearnedMethod):
    """Differentially private fine-tuning."""

    id = "dp-lora"
    title = "DP-LoRA (differentially private fine-tuning)"
    paper = "https://arxiv.org/abs/1607.00133"
    citation = _CITATION
    summary = "trains an adapter on the texts that stay, which can tell little of any one person: a bound in numbers"
    Options = DPOptions

    def train(self, run: TrainingRun) -> Edit:
        import torch

        from erase_plugins.engine.loop import Scale, gradients
        from erase_plugins.engine.optimizers import make_optimizer
        from erase_plugins.engine.private import clipped, epsilon, noisy_mean, secret_generator

        options, people = run.options, self.people(run.request)
        if options.delta * len(people.names) >= 1:
            raise RequestError(f"delta {options.delta:g} must be far below 1 by the {len(people.names)} people")
        if people.lone:
            run.ctx.warn(f"{people.lone} rows name no subject and count as people of their own; the bound is for rows")
        run.ctx.start(run.plan.steps)
        run.adapters, secret = self.trainable(run), secret_generator()
        expected = options.rate * len(people.names)
        with run.adapters, self.spare(run):
            texts = [self.texts(run, pairs) for pairs in people.pairs]
            parameters, scale = run.adapters.parameters(), Scale.of(run.target)
            optimizer = make_optimizer(options.optimizer, parameters, options.lr, options.weight_decay)
            for step in range(run.plan.steps):
                total = [torch.zeros_like(part) for part in parameters]
                for number in (torch.rand(len(texts), generator=secret) < options.rate).nonzero().flatten().tolist():
                    loss = ask(run.target, texts[number]).mean
                    parts = clipped(gradients(loss, parameters, scale), options.clip)
                    total = [sum_ + part for sum_, part in zip(total, parts, strict=True)]
                noise = [torch.randn(part.shape, generator=secret).to(part) for part in parameters]
                for part, grad in zip(
                    parameters, noisy_mean(total, options.clip, options.sigma, expected, noise), strict=True
                ):
                    part.grad = grad
                optimizer.step()
                run.ctx.step(step + 1, run.plan.steps)
            spent = epsilon(options.rate, options.sigma, run.plan.steps, options.delta)
            run.ctx.numbers |= {"epsilon": spent, "delta": options.delta, "people": len(people.names)}
            run.ctx.note(f"epsilon {spent:.3g} at delta {options.delta:g} for every one of {len(people.names)} people")
            return self.edit(run)


@hookimpl
def erase_methods() -> list[DPLora]:
    return [DPLora()]
