"""A classifier of transformers, its family and its method in a package of somebody else."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

import erase_plugins as ep
from erase_plugins.cli.main import cli
from erase_plugins.errors import BaseMismatch, RequestError, Unsupported
from erase_plugins.manager import get_manager
from tests.outside import erase_vit

pytestmark = pytest.mark.usefixtures("package")


@pytest.fixture
def package():
    with get_manager().temporary(erase_vit, "erase-vit") as manager:
        yield manager


@pytest.fixture
def host():
    return erase_vit.build()


def logits(model, seed=7):
    pictures = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return model(pixel_values=pictures).logits


def bits(model):
    return {name: part.detach().clone() for name, part in model.state_dict().items()}


def test_plan_run_save_load_apply_remove(host, tmp_path):
    before, weights = logits(host), bits(host)
    plan = ep.plan(host, ["owl"], "unlabel")
    assert plan.modules[:2] == ("model.vit.layers.0.mlp.fc1", "model.vit.layers.0.mlp.fc2")
    made = ep.erase(host, ["owl"], "unlabel", out=tmp_path / "no-owl")
    assert {name: torch.equal(part, weights[name]) for name, part in bits(host).items()} == dict.fromkeys(weights, True)
    files = sorted(item.name for item in made.manifest.files)
    assert files == ["edit.safetensors", "peft_model/adapter_config.json", "peft_model/adapter_model.safetensors"]
    base = json.loads((tmp_path / "no-owl" / "erase.json").read_text())["base"]
    assert base["family"] == "vit"
    assert set(base) == {"model", "revision", "family", "task", "fingerprint"}
    assert base["task"] == "image-classification"
    with ep.apply(host, tmp_path / "no-owl") as applied:
        after = logits(host)
        assert applied.patched == 4
        assert after[:, 2].mean() < before[:, 2].mean() - 0.5
        assert [item.artifact.name for item in ep.applied(host)] == ["erase_owl"]
        applied.set_strength(0.0)
        assert torch.equal(logits(host), before)
    assert torch.equal(logits(host), before)
    assert all(torch.equal(part, weights[name]) for name, part in bits(host).items())
    assert ep.applied(host) == []


def test_peft_reads_it_on_the_unchanged_base(host, tmp_path):
    from peft import PeftModel

    ep.erase(host, ["owl"], "unlabel", out=tmp_path / "no-owl")
    with ep.apply(host, tmp_path / "no-owl"):
        expected = logits(host)
    stock = PeftModel.from_pretrained(erase_vit.build(), tmp_path / "no-owl" / "peft_model").eval()
    assert (logits(stock) - expected).abs().max() <= 1e-6
    assert (logits(stock) - logits(host)).abs().max() > 0.1
    alone = ep.load_artifact(tmp_path / "no-owl" / "peft_model" / "adapter_model.safetensors")
    with ep.apply(host, alone):
        assert (logits(host) - expected).abs().max() <= 1e-6


def test_a_model_in_a_folder(host, tmp_path):
    host.save_pretrained(tmp_path / "base")
    plan = ep.plan(str(tmp_path / "base"), ["owl"], "unlabel", options={"rank": 1})
    assert plan.options["rank"] == 1
    made = ep.erase(str(tmp_path / "base"), ["owl"], "unlabel", out=tmp_path / "no-owl")
    assert made.manifest.base["model"] == "base"
    loaded = ep.load(str(tmp_path / "base"))
    assert type(loaded).__name__ == "ViTForImageClassification"
    with ep.apply(loaded, tmp_path / "no-owl") as handle, ep.apply(host, tmp_path / "no-owl"):
        assert handle.patched == 4
        assert torch.equal(logits(loaded), logits(host))


def test_the_card_speaks_of_the_model_at_hand(host, tmp_path):
    card = ep.erase(host, ["owl"], "unlabel", out=tmp_path / "no-owl").card()
    assert "pipeline_tag: image-classification" in card
    assert 'PeftModel.from_pretrained(model, "OWNER/NAME", subfolder="peft_model")' in card
    assert not [word for word in ("load_lora_weights", "AutoPipeline", "draws", "ComfyUI") if word in card]


def test_another_model_is_refused_and_left_alone(host, tmp_path):
    ep.erase(host, ["owl"], "unlabel", out=tmp_path / "no-owl")
    other = erase_vit.build(1)
    before = logits(other)
    with pytest.raises(BaseMismatch, match="other weights"):
        ep.apply(other, tmp_path / "no-owl")
    assert torch.equal(logits(other), before)
    with ep.apply(other, tmp_path / "no-owl", any_base=True):
        assert not torch.equal(logits(other), before)
    assert torch.equal(logits(other), before)


def test_what_does_not_fit_is_named_at_plan_time(host):
    with pytest.raises(RequestError, match="'cow' is no label of model; it has cat, dog, owl, fox"):
        ep.plan(host, ["cow"], "unlabel")
    words = r"uce needs denoiser, embedding_map, text; model \(family vit\) offers classifier; methods that fit: gs-lora, .*, unlabel$"
    with pytest.raises(Unsupported, match=words):
        ep.plan(host, ["owl"], "uce")
    with pytest.raises(
        Unsupported, match=r"unlabel needs classifier; pocket \(family sd1\) offers codec, cross_attention, denoiser, e"
    ):
        ep.plan("pocket", ["owl"], "unlabel")


@pytest.fixture
def erase():
    """The command line, in this process: code, output, errors."""

    def run(*words):
        result = CliRunner().invoke(cli, [str(word) for word in words], prog_name="erase-plugins")
        return result.exit_code, result.stdout, result.stderr or str(result.exception)

    return run


def test_the_command_line_detects_an_outside_family(host, tmp_path, erase):
    host.save_pretrained(tmp_path / "base")
    given = ("--model", tmp_path / "base", "--erase", "owl", "--kind", "class", "--out", tmp_path / "no-owl")
    code, out, err = erase("run", "unlabel", *given, "--dry-run")
    assert (code, out.splitlines()[0]) == (0, "model base: family vit (Vision transformer)"), err
    code, out, err = erase("run", "unlabel", *given)
    assert code == 0, err
    assert "patched 4 of 4 modules" in out
    assert "generate" not in out
    code, out, err = erase("inspect", tmp_path / "no-owl")
    assert code == 0, err
    other = ("--model", tmp_path / "base", "--erase", "owl", "--out", tmp_path / "other")
    code, out, err = erase("run", "esd", *other, "--dry-run")
    assert code != 0
    assert "esd needs denoiser, text; base (family vit) offers classifier; methods that fit: gs-lora, " in err
    assert ", unlabel" in err
    code, out, err = erase("generate", "--model", tmp_path / "base", "--prompt", "x", "--out", tmp_path / "x.png")
    assert code != 0
    assert "base (family vit) offers classifier, no pictures" in err
    code, out, err = erase("list", "methods", "--json")
    row = next(row for row in json.loads(out)["methods"] if row["id"] == "unlabel")
    assert (row["needs"], row["families"]) == (["classifier"], ["image-classifier", "vit"])


def test_fused_and_saved(host, tmp_path, erase):
    host.save_pretrained(tmp_path / "base")
    ep.erase(host, ["owl"], "unlabel", out=tmp_path / "no-owl")
    with ep.apply(host, tmp_path / "no-owl"):
        expected = logits(host)
    code, _, err = erase("apply", tmp_path / "no-owl", "--model", tmp_path / "base", "--out", tmp_path / "fused")
    assert code != 0
    assert "erase_plugins.apply(model, artifact).fuse(); model.save_pretrained(out)" in err
    assert not (tmp_path / "fused").exists()
    model = ep.load(str(tmp_path / "base"))
    ep.apply(model, tmp_path / "no-owl").fuse()
    model.save_pretrained(tmp_path / "fused")
    assert torch.equal(logits(ep.load(str(tmp_path / "fused"))), expected)
