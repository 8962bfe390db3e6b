"""Where the losses of language methods start and how their gradients begin and end, by what their papers say of them."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from erase_plugins.families.texts import IGNORED, Texts
from erase_plugins.manager import get_manager
from erase_plugins.methods.undial import adjusted_cross_entropy
from erase_plugins.training import Asked, preference

WORDS = 11


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def texts(rows=3, tokens=5, before=None, prompt=2):
    ids = torch.randint(WORDS, (rows, tokens), generator=torch.Generator().manual_seed(1))
    labels = ids.clone()
    labels[:, :prompt] = IGNORED
    return Texts(ids, labels, torch.ones_like(ids), before)


def forgetting(method, forget, answers=None, **options):
    return (
        get_manager().method(method).forget_loss(SimpleNamespace(options=SimpleNamespace(**options)), forget, answers)
    )


def slope(loss, logits):
    return torch.autograd.grad(loss, logits, retain_graph=True)[0]


def test_npo_begins_as_gradient_ascent_on_summed_losses():
    """At the start its gradient is that of -sum L / n; GA, which counts tokens, has the same for texts of one length."""
    logits = random(3, 5, WORDS).requires_grad_()
    start = Asked(texts(), logits).nll.detach()
    asked = Asked(texts(before=start), logits)
    loss = forgetting("npo", asked, beta=0.1)
    assert loss.item() == pytest.approx(20 * math.log(2), rel=1e-12)
    torch.testing.assert_close(slope(loss, logits), slope(-asked.nll.sum() / 3, logits), rtol=1e-10, atol=1e-14)
    torch.testing.assert_close(
        slope(loss, logits), 3 * slope(forgetting("graddiff", asked), logits), rtol=1e-10, atol=0
    )


def test_npo_is_gradient_ascent_for_small_beta_and_lets_go_of_what_is_forgotten():
    logits = random(3, 5, WORDS).requires_grad_()
    start = Asked(texts(), logits).nll.detach()
    moved = Asked(texts(before=start - torch.tensor([3.0, 40.0, -5.0])), logits)  # not at the start
    ascent = slope(-moved.nll.sum(), logits)
    alike = lambda beta: float(torch.cosine_similarity(slope(forgetting("npo", moved, beta=beta), logits).flatten(),  # noqa: E731
                                                       ascent.flatten(), dim=0))  # fmt: skip
    assert alike(1e-6) > 0.9999 > alike(1.0)
    each = slope(forgetting("npo", moved, beta=1.0), logits).flatten(1).norm(dim=1) / ascent.flatten(1).norm(dim=1)
    wanted = 2 / 3 / (1 + torch.tensor([3.0, 40.0, -5.0], dtype=torch.float64).exp())  # 2 sigmoid(-rise) / n
    torch.testing.assert_close(each, wanted, rtol=1e-6, atol=0)


def test_a_memorised_token_gives_ascent_nothing_to_begin_with_and_undial_does():
    norms = {"graddiff": [], "undial": []}
    for sure in (5.0, 15.0, 30.0):
        logits = torch.zeros(1, 2, WORDS, dtype=torch.float64)
        given = Texts(torch.tensor([[0, 4]]), torch.tensor([[IGNORED, 4]]), torch.ones(1, 2, dtype=torch.long))
        logits[0, 0, 4] = sure
        logits.requires_grad_()
        adjusted = adjusted_cross_entropy(logits, logits.detach(), given.labels, 40.0)
        norms["graddiff"].append(float(slope(forgetting("graddiff", Asked(given, logits)), logits).norm()))
        norms["undial"].append(float(slope(adjusted, logits).norm()))
    assert norms["graddiff"][2] < 1e-11 < norms["graddiff"][1] < 1e-4
    assert min(norms["undial"]) > 0.9


def test_simnpo_counts_per_token_and_npo_per_text():
    """Every token of the answer once more, each as likely as before: twice the sum, the same mean."""
    logits = random(2, 4, WORDS)
    given = texts(2, 4)
    long = Texts(given.ids.repeat(1, 2), torch.cat([given.labels, given.labels], 1), torch.ones(2, 8, dtype=torch.long))
    twice = torch.cat([logits, logits], 1)
    twice[:, 3] = logits[:, 1]  # never read: the second copy begins with two tokens that do not count
    short, longer = Asked(given, logits), Asked(long, twice)
    assert torch.allclose(longer.nll, 2 * short.nll) and torch.equal(longer.counts, 2 * short.counts)
    values = [float(forgetting("simnpo", item, beta=4.5, delta=0.7)) for item in (short, longer)]
    assert values[0] == pytest.approx(values[1], rel=1e-12)
    by_hand = -2 / 4.5 * torch.nn.functional.logsigmoid(4.5 * (short.nll / 2 - 0.7)).mean()
    assert values[0] == pytest.approx(float(by_hand), rel=1e-12)
    summed = [float(preference(item.nll, 0.1)) for item in (short, longer)]
    assert summed[1] < 0.9 * summed[0]


def test_a_refusal_that_is_the_answer_teaches_nothing():
    """Both sides of the preference are the same text, wherever the model is by now."""
    logits = random(3, 5, WORDS).requires_grad_()
    both = Asked(texts(before=torch.tensor([1.0, 2.0, 50.0], dtype=torch.float64)), logits)
    for beta in (0.1, 1.0, 4.0):
        loss = forgetting("dpo-idk", both, both, beta=beta)
        assert loss.item() == pytest.approx(2 / beta * math.log(2), rel=1e-12)
        assert float(slope(loss, logits).abs().max()) == 0.0


def test_the_unchanged_model_is_the_one_without_adapters(tmp_path):
    """Switched off, they are as a model that never had any, to the last bit."""
    import erase_plugins as ep
    from erase_plugins.engine.adapters import Adapters
    from erase_plugins.workflow.models import target_of
    from tests.training.test_language import other

    place = other("llama", tmp_path / "model")
    model, copy = (target_of(ep.load(str(place))) for _ in range(2))
    ids = torch.arange(3, 12)[None]
    given = Texts(ids, ids, torch.ones_like(ids))
    method = get_manager().method("npo")
    adapters = Adapters(model, model.info.modules("linear"), 4, 2.0, torch.Generator().manual_seed(0))
    with adapters:
        for name, part in adapters.named_parameters().items():
            if name.endswith(".B"):
                part.data.normal_(generator=torch.Generator().manual_seed(2))
        run = SimpleNamespace(target=model, adapters=adapters)
        found = method.unchanged(run, given).each(lambda scores: scores)
        changed = method._ask(run, given).scores.each(lambda scores: scores)
    wanted = method._ask(SimpleNamespace(target=copy), given).scores.each(lambda scores: scores)
    assert torch.equal(found, wanted)
    assert float((changed - wanted).abs().max().detach()) > 1e-2
