"""Receler: locality, target, attack, learning, refusals, and what stock loaders get.

Bit-exact start, gradients and recording of the erasers are in receler/test_bottleneck_adapters.py, learned rows in
tests/engine/test_attack.py, masks in receler/test_attention_masks.py, resume and round trips in the contract suite, a
run of LEDITS++ in tests/runtime/test_editing.py, official files in tests/artifacts/test_eraser_folder.py.
"""

from __future__ import annotations

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor

import erase_plugins as ep
from erase_plugins.api import plan as make_plan
from erase_plugins.engine.attack import Attack, in_context
from erase_plugins.engine.attention import attention_refs
from erase_plugins.engine.trajectories import guided
from erase_plugins.errors import RequestError, UnknownName, Unsupported
from erase_plugins.methods.receler import locality
from erase_plugins.methods.receler.bottleneck_adapters import Erasers
from erase_plugins.testing.observe import predictions
from erase_plugins.workflow.applying import apply
from erase_plugins.workflow.models import target_of

FAST = {
    "iterations": 4, "trajectories": 2, "harvest": 3, "steps": 5, "keep_words": 0, "precision": "float32", "batch": 2,
    "rank": 4, "adversarial_rows": 2, "adversarial_steps": 2, "stand_in": 0, "templates": "{}", "cooldown": 0.0,
}  # fmt: skip


@pytest.fixture
def target(tiny_sd1):
    return target_of(tiny_sd1(), "tiny")


def erase(target, **options):
    losses = []
    listen = [lambda event: losses.append(event.numbers["loss"]) if "loss" in event.numbers else None]
    return ep.erase(target, "pizza", "receler", options={**FAST, **options}, listeners=listen), losses


def same(one, other):
    pairs = zip(one.edit.items(), other.edit.items(), strict=True)
    return all(torch.equal(x, b.tensors()[name]) for (_, _, a), (_, _, b) in pairs for name, x in a.tensors().items())


def test_locality_is_the_mean_square_outside_the_mask():
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn((2, 16, 3), generator=generator), torch.randn((2, 4, 5), generator=generator)]
    shapes = [(2, 16), (2, 4)]
    assert float(locality(outputs, [torch.ones(shape) for shape in shapes])) == 0
    whole = sum(part.square().mean() for part in outputs) / 2
    torch.testing.assert_close(locality(outputs, [torch.zeros(shape) for shape in shapes]), whole)
    masks = [torch.zeros(shape) for shape in shapes]
    masks[0][:, 3] = 1
    before = locality(outputs, masks)
    outputs[0][:, 3] += 7
    torch.testing.assert_close(locality(outputs, masks), before)
    outputs[0][:, 4] += 7
    assert float(locality(outputs, masks)) > 2 * float(before)


def test_the_target_is_the_empty_prompt_without_guidance_or_difference():
    null, prompt = (torch.randn((2, 4, 8, 8), generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    assert torch.equal(guided(null, prompt, -0.0), null)
    assert torch.equal(guided(null, null, -3.0), null)
    torch.testing.assert_close(guided(null, prompt, -1.0), 2 * null - prompt)


def test_first_loss_is_the_distance_from_teacher_to_target(target):
    """Fresh erasers, no attack: L = (1 + eta)^2 mean (eps(c) - eps(null))^2 on the same states."""
    unit = erase(target, iterations=1, eta=0.0, adversarial="off")[1][0]
    assert unit > 0
    assert erase(target, iterations=1, eta=1.0, adversarial="off")[1][0] == pytest.approx(4 * unit, rel=1e-4)


def test_without_attack_steps_the_erasers_still_learn(target):
    """The official loop trains nothing when the attack is off."""
    _, losses = erase(target, iterations=30, adversarial="off", lr=1e-2, locality=0.0, steps=4, harvest=2, batch=4)
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])


def test_attack_steps_lower_the_distance_to_what_the_teacher_drew(target):
    erasers = Erasers(target, attention_refs(target.info), 4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        for part in erasers.parameters():
            part.add_(0.3 * torch.randn(part.shape, generator=torch.Generator().manual_seed(1)))
    draw = torch.Generator().manual_seed(2)
    x, times = torch.randn((2, *target.info.latent_shape), generator=draw), torch.tensor([301, 701])
    cond = target.encode(["pizza"] * 2)
    with torch.no_grad():
        wanted = target.predict(x, times, cond)
    attack = Attack(torch.rand((4, target.info.width), generator=draw), 1e-2)

    def distance(rows, _step):
        return (target.predict(x, times, in_context(cond, rows)) - wanted).square().mean()

    with erasers:
        losses = attack.run(distance, 10)
    assert losses[1] < losses[0]
    assert losses[-1] < losses[0]


def test_learning_lowers_the_loss_under_attack_and_on_held_out_states(target):
    artifact, losses = erase(target, iterations=60, lr=1e-2, rank=8, batch=4, steps=6, harvest=4, trajectories=6,
                             adversarial_steps=4)  # fmt: skip
    assert sum(losses[-10:]) <= 0.7 * sum(losses[:10])
    x = torch.randn((6, *target.info.latent_shape), generator=torch.Generator().manual_seed(77))
    times, cond = torch.tensor([901, 751, 601, 451, 301, 151]), target.encode(["pizza"] * 6)
    with torch.no_grad():
        null, prompt = target.predict(x, times, target.encode([""] * 6)), target.predict(x, times, cond)
        wanted = guided(null, prompt, -artifact.manifest.options["eta"])
        with apply(target.pipe, artifact):
            after = target.predict(x, times, cond)
    assert float((after - wanted).square().mean()) < 0.9 * float((prompt - wanted).square().mean())


def test_the_attack_changes_the_result_and_starts_after_the_warmup(target):
    plain = erase(target, adversarial="off")[0]
    assert same(plain, erase(target, warmup=10)[0])
    assert not same(plain, erase(target, warmup=0)[0])
    assert not same(erase(target, adversarial_steps=1)[0], erase(target, adversarial_steps=3)[0])


def test_erasers_stay_silent_outside_the_mask(target, monkeypatch):
    """With a quarter of the picture inside, the change outside is smaller than inside, and smaller than without."""
    from erase_plugins.methods.receler import attention_masks as masks

    def quarter(warmth, _threshold):
        mask = torch.zeros_like(warmth)
        mask[:, : mask.shape[1] // 2, : mask.shape[2] // 2] = 1
        return mask

    monkeypatch.setattr(masks, "binary_mask", quarter)

    def sizes(**options):
        artifact, _ = erase(target, iterations=60, lr=1e-2, adversarial="off", mask_scale=2, batch=4, **options)
        erasers = Erasers(target, attention_refs(target.info), 4)
        erasers.load(
            {f"unet:{key}.{name}": part for _, key, d in artifact.edit.items() for name, part in d.weights.items()}
        )
        x = torch.randn((4, *target.info.latent_shape), generator=torch.Generator().manual_seed(5))
        with torch.no_grad(), erasers, erasers.recording() as seen:
            target.predict(x, torch.full((4,), 401), target.encode(["pizza"] * 4))
        out = next(part for part in seen.values() if part.shape[1] == 64).abs().mean(-1).unflatten(1, (8, 8))
        inside = float(out[:, :4, :4].mean())
        return inside, (float(out.sum()) - 4 * 16 * inside) / (4 * 48)

    (inside, outside), (_, loose) = sizes(locality=100.0), sizes(locality=0.0)
    assert outside < inside
    assert outside < loose


def test_applied_the_model_keeps_its_names_and_attention_processors_do_not_matter(target):
    artifact = erase(target)[0]
    pipe = target.pipe
    names, base = list(pipe.unet.state_dict()), predictions(pipe)
    with apply(pipe, artifact):
        assert list(pipe.unet.state_dict()) == names
        edited = predictions(pipe)
        before = dict(pipe.unet.attn_processors)
        pipe.unet.set_attn_processor(AttnProcessor())
        torch.testing.assert_close(predictions(pipe), edited, rtol=0, atol=1e-5)
        pipe.unet.set_attn_processor(before)
    assert float((edited - base).abs().max()) > 1e-4
    assert torch.equal(predictions(pipe), base)


def test_student_rollouts_train_too(target):
    artifact, losses = erase(target, rollout="student", iterations=2)
    assert len(losses) == 2
    assert (
        artifact.manifest.extra["numbers"]["unet_forwards"]
        > erase(target, iterations=2)[0].manifest.extra["numbers"]["unet_forwards"]
    )


def test_several_concepts_have_their_own_rows(target):
    artifact = ep.erase(target, ["pizza", "dog"], "receler", options=FAST)
    assert artifact.manifest.erased == ("pizza", "dog")


@pytest.fixture
def watched(target, monkeypatch):
    """Runs a training; (prompts, embeddings, timesteps) of the last pass of the denoiser in every step."""
    from erase_plugins.engine import loop

    passes = []
    predict, train = target.predict, loop.train

    def spy(x, timestep, cond):
        passes.append((cond.prompts, cond.embeds.detach().clone(), timestep))
        return predict(x, timestep, cond)

    def run(concepts, **options):
        found = []

        def spied(ctx, adapters, loss, *rest):
            def one(step):
                passes.clear()
                value = loss(step)
                found.append(passes[-1])
                return value

            return train(ctx, adapters, one, *rest)

        monkeypatch.setattr(loop, "train", spied)
        ep.erase(target, concepts, "receler", options={**FAST, "locality": 0.0, "batch": 1, **options})
        return found

    target.predict = spy
    return run


def test_concepts_take_turns_and_each_is_attacked_by_its_own_rows(target, watched):
    """Rows stand behind the prompt's one word; Adam moves every value by at most its step size of 0.1."""
    steps = watched(["pizza", "dog"], adversarial_steps=1, adversarial_lr=0.1)
    assert [prompts for prompts, _, _ in steps] == [("pizza",), ("dog",), ("pizza",), ("dog",)]
    last = target.encode(["pizza", "dog"]).last
    pizza, dog, pizza_later, dog_later = (
        embeds[0, last[n % 2] + 1 : last[n % 2] + 3] for n, (_, embeds, _) in enumerate(steps)
    )
    for first, later in ((pizza, pizza_later), (dog, dog_later)):
        assert 0 < float((later - first).abs().max()) <= 0.1 * 1.01
    assert float((pizza - dog).abs().max()) > 0.3  # drawn apart, uniform in 0..1
    assert 0 <= float(torch.stack([pizza, dog]).min()) < 0.3
    assert 0.7 < float(torch.stack([pizza, dog]).max()) <= 1


def test_each_concept_goes_through_all_of_its_states(watched):
    """Five states of either concept in ten steps: no state twice before every one was met."""
    steps = watched(["pizza", "dog"], iterations=10, adversarial="off", trajectories=2, harvest=5)
    for number in (0, 1):
        assert len({float(timestep) for _, _, timestep in steps[number::2]}) == 5


@pytest.mark.parametrize("warmup", [0, 1, 3])
def test_the_first_attacked_step_is_the_one_after_the_warmup(target, watched, warmup):
    steps = watched("pizza", warmup=warmup, adversarial_steps=1)
    plain = target.encode(["pizza"]).embeds
    assert [torch.equal(embeds, plain) for _, embeds, _ in steps] == [step < warmup for step in range(4)]


def test_lora_files_hold_the_stand_in_and_say_its_error(target, tmp_path):
    artifact = erase(target, iterations=20, lr=1e-2, stand_in=24)[0]
    saved = artifact.save(tmp_path / "out", target=target)
    notes = [note for note in saved.manifest.notes if "stand-in, relative error" in note]
    assert {note.split(" ")[0] for note in notes} == {"diffusers", "peft", "kohya"}
    errors = [delta.config["linear"]["error"] for _, _, delta in artifact.edit.items()]
    assert all(0 < error < 1.5 for error in errors)
    expected, base = {}, predictions(target.pipe)
    with apply(target.pipe, artifact):
        exact = predictions(target.pipe)
    for item in saved.manifest.files:
        if item.layout in ("diffusers", "kohya"):
            with apply(target.pipe, tmp_path / "out" / item.name):
                expected[item.layout] = predictions(target.pipe)
            target.pipe.load_lora_weights(str(tmp_path / "out"), weight_name=item.name)
            torch.testing.assert_close(predictions(target.pipe), expected[item.layout], rtol=1e-4, atol=1e-5)
            target.pipe.unload_lora_weights()
    assert float((expected["kohya"] - exact).square().mean()) < float((base - exact).square().mean())


def test_without_a_stand_in_stock_loaders_get_nothing_and_are_told(target, tmp_path):
    artifact = erase(target)[0]
    saved = artifact.save(tmp_path / "out", target=target)
    assert {item.layout for item in saved.manifest.files} == {"patch"}
    assert any("cannot carry added modules" in note for note in saved.manifest.notes)
    with pytest.raises(Unsupported, match="added modules"):
        artifact.save(tmp_path / "other", ("kohya",), target=target)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"rank": 16}, RequestError, "no bottleneck"),
        ({"adversarial": "on"}, UnknownName, "adversarial"),
        ({"adversarial_rows": 0}, RequestError, "adversarial_rows"),
        ({"adversarial_rows": 30}, RequestError, "no room"),
        ({"templates": "a photo"}, RequestError, "no {}"),
        ({"mask_threshold": 2}, RequestError, "mask_threshold"),
    ],
)
def test_wrong_options_are_refused_at_plan_time(target, options, error, words):
    with pytest.raises(error, match=words):
        make_plan(target, "pizza", "receler", options={**FAST, **options})


def test_wrong_requests_are_refused(target):
    with pytest.raises(RequestError, match="no to="):
        make_plan(target, "pizza", "receler", to="bread", options=FAST)
    with pytest.raises(RequestError, match="no content tokens"):
        ep.erase(target, "<|endoftext|>", "receler", options=FAST)
    with pytest.raises(RequestError, match="do not fit"):
        ep.erase(target, "pizza " * 30, "receler", options=FAST)


def test_the_plan_knows_the_papers_numbers_and_those_of_the_embedded_model():
    ready = make_plan("pocket", "pizza", "receler")
    assert ready.options["rank"] == 16
    assert ready.file_bytes == 4 * sum(2 * 16 * d + 16 + d for d in (64, 128, 256, 128, 128, 64, 64))
    style = make_plan("pocket", "noto", "receler", kind="style")
    assert style.options["locality"] == 0.0
