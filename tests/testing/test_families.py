"""The contract of families: the built-in ones and those of other packages keep it, and broken rules are noticed."""

from __future__ import annotations

import re
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from erase_plugins import hookimpl
from erase_plugins.errors import RequestError
from erase_plugins.families.transformers_model import HostedClassifier
from erase_plugins.manager import get_manager
from erase_plugins.testing import tiny
from erase_plugins.testing.capable import CAPABLE
from erase_plugins.testing.families import CHECKS, FamilyContract
from tests.families import outside_family
from tests.outside import erase_llama, erase_vit


class TestBuiltIn(FamilyContract):
    models = {
        "sd1": tiny.tiny_sd1, "sdxl": tiny.tiny_sdxl, "sd3": tiny.tiny_sd3, "flux": tiny.tiny_flux,
        "image-classifier": erase_vit.build, "causal-lm": erase_llama.build,
    }  # fmt: skip


def marked(seed=0):
    """The vision transformer of another package, of a class that no built-in family knows."""
    host = erase_vit.build(seed)
    host.__class__ = Marked
    return host


class Marked(type(erase_vit.build())):
    pass


class Outside(erase_vit.TinyViT):
    """Ours to break: names for its files, and the classifiers of `marked`."""

    id, architectures = "odd", ("Marked",)

    def info(self, model, configs):
        known = {"architectures": ["ViTForImageClassification"]}
        found = erase_vit.TinyViT().info(model, {"model": {**configs["model"], **known}})
        return replace(found, family=self, configs=configs, profiles=("odd",))

    def stem(self, layout, component, path, config=None):
        return f"{component}.{path}"

    def locate(self, layout, stem, config=None):
        component, _, path = stem.partition(".")
        return (component, path) if component == "model" else None


def failed(build=marked, **changes):
    item = type("Odd", (Outside,), changes)()
    planted = type("Planted", (), {"erase_families": hookimpl(lambda self: [item], specname="erase_families")})()
    with get_manager().temporary(planted, "planted"):
        contract = type("TestOdd", (FamilyContract,), {"models": {"odd": staticmethod(build)}})
        contract.checks = tuple(
            check for check in CHECKS if check.__name__ != "opens_what_was_saved" or build is not marked
        )
        return contract().report("odd")


def test_a_good_one_passes():
    assert failed() == {}


def test_a_pipeline_of_no_library_keeps_it():
    with get_manager().temporary(outside_family, "outside-family"):
        contract = type("TestToy", (FamilyContract,), {"models": {"toy": staticmethod(outside_family.build)}})
        assert contract().report("toy") == {}


def listed(change):
    """`info` with other modules."""
    return {"info": lambda self, model, configs: replace(Outside.info(self, model, configs), refs=change(
        Outside.info(self, model, configs).refs))}  # fmt: skip


def hosted(**functions):
    """A model whose answers are others."""
    kind = type("Answers", (HostedClassifier,), functions)
    return {"wrap": lambda self, host, name=None: kind(host, name, self)}


def first(**fields):
    return listed(lambda refs: (replace(refs[0], **fields), *refs[1:]))


def drawn(self, batch):
    return HostedClassifier.logits(self, batch) + torch.rand(1)


def same_weights(seed):
    return marked(0)


class Saved(Marked):
    """One that is saved with other weights."""

    def save_pretrained(self, folder):
        erase_vit.build(3).save_pretrained(folder)


def saved_wrong(seed=0):
    host = erase_vit.build(seed)
    host.__class__ = Saved
    return host


BROKEN = {
    "title": ({"title": ""}, "describes_itself", "title"),
    "blind": ({"detect": lambda self, configs: False}, "knows_its_models", "detect does not know its own model"),
    "greedy": ({"detect": lambda self, configs: "model" in configs}, "knows_its_models", "detect takes {'model': {}}"),
    "of another": ({"detect": lambda self, configs: bool(configs.get("model", {}).get("architectures"))}, "knows_its_models",
                   "detect takes pocket-classifier, of image-classifier"),
    "profiles": ({"info": lambda self, model, configs: replace(Outside.info(self, model, configs), profiles=("vit",))},
                 "spec_needs_no_weights", "lack the family's id"),
    "component": (first(component="body"), "spec_needs_no_weights", "modules of body"),
    "shape": (first(shape=(1, 2)), "modules_are_the_models", "not (1, 2)"),
    "bias": (first(bias=False), "modules_are_the_models", "info says otherwise"),
    "absent": (first(path="nowhere"), "modules_are_the_models", "model.nowhere is listed and cannot be read"),
    "none": (listed(lambda refs: ()), "modules_are_the_models", "info lists no modules"),
    "twice": (listed(lambda refs: (*refs, refs[0])), "modules_are_the_models", "listed twice"),
    "groups": ({"groups": {"all": lambda ref: False}}, "modules_are_the_models", "no module is in any of the groups all"),
    "one name": ({"stem": lambda self, layout, component, path, config=None: "model.x",
                  "locate": lambda self, layout, stem, config=None: ("model", "vit.embeddings.patch_embeddings.projection")}, "names_go_both_ways", "the same name"),
    "one way": ({"locate": lambda self, layout, stem, config=None: None}, "names_go_both_ways", "is located at None"),
    "labels": (hosted(labels=("a", "a", "b", "c")), "capabilities_are_there", "name every class"),
    "answers": (hosted(logits=drawn), "capabilities_are_there", "asked twice, logits differ"),
    "gradients": (hosted(logits=lambda self, batch: HostedClassifier.logits(self, batch).detach()), "capabilities_are_there",
                  "no gradients"),
    "deaf": (hosted(logits=lambda self, batch: torch.ones(len(batch), 4)), "edits_go_on_and_off", "does not show"),
}  # fmt: skip


@pytest.mark.parametrize(("changes", "check", "told"), BROKEN.values(), ids=BROKEN)
def test_broken_rules_are_noticed(changes, check, told):
    found = failed(**changes)
    assert told in found.get(check, ""), found


class Codec:
    """Pictures of 4 pixels a side to latents of 2, by means of 2 times 2 pixels."""

    def picture_size(self):
        return 4, 4

    def latents(self, pictures, generator):
        if pictures.shape[1] != 3:
            raise ValueError(f"{pictures.shape[1]} channels")
        return torch.nn.functional.avg_pool2d(pictures, 2)


def mean(self, pictures, generator):
    return torch.nn.functional.avg_pool2d(pictures, 2).mean(1, keepdim=True).expand(-1, 3, -1, -1)


@pytest.mark.parametrize(
    ("latents", "told"),
    [
        (Codec.latents, ""),
        (lambda self, pictures, generator: pictures, "latents have the shape (2, 3, 4, 4), not (2, 3, 2, 2)"),
        (lambda self, pictures, generator: Codec().latents(pictures, generator) / 0, "latents hold NaN or infinity"),
        (lambda self, pictures, generator: torch.rand(2, 3, 2, 2), "asked twice, latents differ"),
        (
            lambda self, pictures, generator: torch.rand(2, 3, 2, 2, generator=generator),
            "do not depend on the pictures",
        ),
        (lambda self, pictures, generator: Codec().latents(pictures.clamp_(0), generator), "changes the pictures"),
        (mean, "one channel in place of three are encoded"),
    ],
    ids=["sound", "shape", "infinite", "another", "blind", "in-place", "grey"],
)
def test_a_codec_is_asked(latents, told):
    codec = type("Odd", (Codec,), {"latents": latents})()
    model = SimpleNamespace(codec=codec, info=SimpleNamespace(latent_shape=(3, 2, 2)))
    if not told:
        CAPABLE["codec"](model)
        return
    with pytest.raises(AssertionError, match=re.escape(told)):
        CAPABLE["codec"](model)


def test_models_that_do_not_differ_are_noticed():
    assert "have the same weights" in failed(same_weights)["weights_have_a_fingerprint"]


def test_a_model_that_is_saved_as_another_is_noticed():
    found = failed(saved_wrong, architectures=("Saved", "Marked"))
    assert "is taken for one of image-classifier" in found["opens_what_was_saved"]


def test_a_family_without_a_model_is_named():
    with pytest.raises(RequestError, match="no model of family sd1"):
        FamilyContract().case("sd1")
    with pytest.raises(RequestError, match="no test: give FamilyContract the registered ids"):
        FamilyContract().pytest_generate_tests(type("Metafunc", (), {"fixturenames": ("item_check",)})())
