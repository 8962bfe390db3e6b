"""The model card: numbers equal the report, YAML reads back, strangers' text stays text, commands exist."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import replace

import pytest
from huggingface_hub import ModelCard, constants

import hub_cards
from erase_plugins import Concept, EvalReport, hookimpl
from erase_plugins.artifacts.reference import Source, parse
from erase_plugins.concept_text import read_concept
from erase_plugins.errors import ArtifactError, PushRefused, RequestError
from erase_plugins.evaluation.wording import number
from erase_plugins.licences import Licence
from erase_plugins.markdown import block, commands, flat, literal, prose
from erase_plugins.page.space import readme
from erase_plugins.types import AttackReport, Certificate, DataRef, EvalRow, ForgetItem
from erase_plugins.workflow.pairs import Gallery, Pair, names
from tests.hub.conftest import REPO

ROWS = (
    EvalRow("target_rate", "base", 0.96875, 0.90625, 1.0, 32),
    EvalRow("target_rate", "edited", 0.03125, 0.0, 0.09375, 32),
    EvalRow("kept_rate", "edited", 0.843751, 0.71875, 0.9375, 32),
    EvalRow("kept_rate", "destroyed", 0.0625, 0.0, 0.1875, 16),
)
EVIL = [
    "</td><script>alert(1)</script>", "[click](javascript:alert(1))", "![x](http://evil.example/x.png)", "a | b\n| c",
    "```\nrm -rf ~\n```", "---\nlicense: mit\n---", "**bold** _under_ # head", "<!-- /user -->", "$(rm -rf ~) `id`",
    "x: {y: !!python/object/apply:os.system [id]}", "www.evil.example", "\u202etxt.exe", "'; drop", "{{ 7 * 7 }}", "@all",
    "<img src=x onerror=alert(1)>", "</details><form action=http://evil.example><input></form>", "<svg/onload=alert(1)>",
    "[x][y]\n\n[y]: javascript:alert(1)", "<https://evil.example>", "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<Gallery /><iframe src=//evil.example>",
]  # fmt: skip


assert len(EVIL) == 22


def report(artifact, rows=ROWS, **changes):
    return EvalReport(suite="quick", model="pocket", rows=rows, artifacts=(artifact.name,), judge="pocket", **changes)


def data_of(text):
    return ModelCard(text, ignore_metadata_errors=False).data.to_dict()


def body_of(text):
    return text.split("\n---\n", 1)[1]


def test_sections_come_in_the_order_in_which_people_ask(pizza):
    titles = re.findall(r"^## (.+)$", hub_cards.card(pizza), flags=re.MULTILINE)
    assert titles == [
        "How well", "What disappears, what stays", "Which base", "How strong", "How to use it", "Limits",
        "How it was made", "Licence", "Cite", "Contact",
    ]  # fmt: skip


def test_without_a_report_it_says_so(pizza):
    text = hub_cards.card(pizza)
    assert "Not measured." in text
    assert "model-index" not in text
    assert "| --" not in text


def test_all_numbers_are_those_of_the_report(pizza):
    text = hub_cards.card(pizza, report(pizza))
    assert "| erased concept still drawn | 96.9 % (90.6 to 100) | 3.1 % (0 to 9.4) | 32 |" in text
    assert "| other concepts still drawn | not measured | 84.4 % (71.9 to 93.8) | 32 |" in text
    assert "| synonyms still drawn | not measured | not measured | - |" in text
    assert "| drawn again under attack (prompts made for that) | not attacked | not attacked | - |" in text
    assert "| control | destroyed model |" in text
    assert "| other concepts still drawn | 6.2 % (0 to 18.8), n = 16 |" in text
    part = text.split("## How well")[1].split("\n## ")[0]
    numbers = {float(item) for item in re.findall(r"(?<![\w.])\d+(?:\.\d+)?(?![\w.])", part)}
    shares = {round(100 * value, 1) for row in ROWS for value in (row.value, row.low, row.high)}
    assert numbers - shares - {row.n for row in ROWS} <= {95.0, 1.0}
    assert shares <= numbers
    assert all(float(number(row.value)) == row.value for row in ROWS)


def test_results_under_attack_are_shown_where_there_are_some(pizza):
    rows = (
        *ROWS,
        EvalRow("attack_rate", "base", 1.0, 0.9, 1.0, 20),
        EvalRow("attack_rate", "edited", 0.25, 0.1, 0.45, 20),
    )
    text = hub_cards.card(pizza, report(pizza, rows))
    assert "| attack_rate | 100 % (90 to 100) | 25 % (10 to 45) | 20 |" in text
    assert "not attacked" not in text
    assert "were measured only as the table above says" in text
    assert "were not tried" in hub_cards.card(pizza, report(pizza))


def test_metadata_reads_back(pizza):
    text = hub_cards.card(pizza, report(pizza), license="openrail++")
    data = data_of(text)
    assert data["license"] == "openrail++"
    assert (data["library_name"], data["pipeline_tag"]) == ("diffusers", "text-to-image")
    assert {"lora", "erase-plugins", "concept-erasure"} <= set(data["tags"])
    assert "erased:pizza" in data["tags"]
    assert data["erased"] == list(pizza.manifest.erased)
    manifest = pizza.manifest
    assert data["erasure"] == {
        "name": manifest.name, "method": manifest.method["id"], "method_version": manifest.method["version"],
        "family": manifest.family, "base": manifest.base["model"], "base_revision": manifest.base["revision"] or "",
        "becomes": [concept.anchor or "" for concept in manifest.concepts], "kept": list(manifest.preserve),
        "seed": manifest.seed,
    }  # fmt: skip
    (result,) = data["model-index"]
    metrics = {item["type"]: item["value"] for item in result["results"][0]["metrics"]}
    assert metrics == {"target_rate": 0.03125, "kept_rate": 0.843751}
    assert len(ModelCard(text).data.eval_results) == 2


def test_a_page_without_a_lora_file_does_not_call_itself_one(pizza, tmp_path):
    """Or the Hub's snippet would be `load_lora_weights` on a repository where that finds nothing."""
    without = [pizza.save(tmp_path / "-".join(layouts), layouts) for layouts in (("patch",), ("patch", "context"))]
    for artifact, lora in ((without[0], False), (without[1], False), (pizza, True)):
        data = data_of(hub_cards.card(artifact))
        assert ({"lora", "template:sd-lora", "diffusers"} & set(data["tags"]) != set()) is lora
        assert {"erase-plugins", "concept-erasure", "machine-unlearning", "erased:pizza"} <= set(data["tags"])
        assert data["library_name"] == ("diffusers" if lora else "erase-plugins")


def test_no_strength_is_called_the_best_that_nobody_measured(pizza):
    def said(artifact, found=None):
        return hub_cards.card(artifact, found).split("## How strong\n\n")[1].split("\n\n## ")[0]

    assert said(pizza) == "Not measured. Start with 1; 0 switches it off."
    measured = report(pizza, strength=0.8)
    expected = "Measured at 0.8 only, see *How well*. Other strengths were not measured. 0 switches it off."
    assert said(pizza, measured) == expected
    tried = pizza.with_manifest(strength={"recommended": 0.7, "low": 0.2, "high": 0.9})
    assert said(tried) == "Its maker recommends 0.7, and values from 0.2 to 0.9. 0 switches it off."
    assert data_of(hub_cards.card(tried))["erasure"]["strength"] == {"recommended": 0.7, "low": 0.2, "high": 0.9}
    for text in (hub_cards.card(pizza), hub_cards.card(pizza, measured)):
        assert "1.2 " not in text.replace("1.2.", "")
        assert "high" not in text
        assert "Best:" not in text


def test_a_page_names_no_package_of_an_index(pizza):
    text = hub_cards.card(pizza, repo=REPO)
    assert "pip install" not in text
    assert "It is on no package index" in text
    commit = "0123456789" * 4
    line = f"erase-plugins @ git+https://example.org/me/erase@{commit}"
    text = hub_cards.card(pizza, repo=REPO, requirement=line)
    assert f"pip install '{line}'" in text
    assert "on no package index" not in text
    assert data_of(text)["erasure"]["requirement"] == line


@pytest.mark.parametrize("line", [
    "erase-plugins", "erase-plugins>=0.1", "erase-plugins @ git+https://example.org/me/erase",
    "erase-plugins @ git+https://example.org/me/erase@main", "erase-plugins @ git+https://example.org/me/erase@v1.0",
    "erase-plugins @ git+https://example.org/me/erase@" + "0" * 39, "git+https://example.org/me/erase@" + "0" * 40,
    "other @ git+https://example.org/me/erase@" + "0" * 40, "erase-plugins @ https://example.org/erase.whl",
    "erase-plugins @ git+https://me:pass@example.org/me/erase@" + "0" * 40, "-r other.txt", "",
    "erase-plugins @ git+https://example.org/me/erase@" + "0" * 40 + "\nother", "erase-plugins @ git+ssh://x/y@" + "0" * 40,
])  # fmt: skip
def test_a_source_that_can_change_is_refused(pizza, hub, line):
    with pytest.raises(RequestError, match="is not pinned, and erase-plugins is on no index"):
        hub_cards.card(pizza, requirement=line)
    with pytest.raises(RequestError, match="is not pinned"):
        hub_cards.push(pizza, REPO, license="mit", requirement=line)
    assert hub.log == []


def test_the_named_source_stays_on_the_page(pizza, hub):
    line = f"erase-plugins @ https://example.org/erase.whl#sha256={'0123456789abcdef' * 4}"
    hub_cards.push(pizza, REPO, license="mit", requirement=line)
    assert hub_cards.push(pizza, REPO, license="mit").sent == ()
    assert line in hub.files(REPO)["README.md"].decode()


def test_base_model_and_licence_follow_the_manifest(pizza):
    base = {**pizza.manifest.base, "model": "stable-diffusion-v1-5/stable-diffusion-v1-5", "revision": "abc"}
    known = pizza.with_manifest(base=base)
    data = data_of(hub_cards.card(known))
    assert data["base_model"] == base["model"]
    assert data["base_model_relation"] == "adapter"
    assert data["license"] == "creativeml-openrail-m"
    unknown = data_of(hub_cards.card(pizza))
    assert "base_model" not in unknown
    assert (unknown["license"], unknown["license_name"]) == ("other", "as-the-base-model")


def test_licences_of_bases_that_have_their_own(pizza):
    base = {**pizza.manifest.base, "model": "black-forest-labs/FLUX.1-dev"}
    text = hub_cards.card(pizza.with_manifest(base=base), strict=True)
    data = data_of(text)
    assert (data["license"], data["license_name"]) == ("other", "flux-1-dev-non-commercial-license")
    assert data["license_link"] in text.split("## Licence")[1]
    unknown = pizza.with_manifest(base={**base, "model": "someone/model"})
    assert data_of(hub_cards.card(unknown))["license_link"] == "https://huggingface.co/someone/model"
    with pytest.raises(PushRefused, match="license='ID'"):
        hub_cards.card(unknown, strict=True)
    assert data_of(hub_cards.card(unknown, license="mit", strict=True))["license"] == "mit"


def test_the_clients_own_check_accepts_every_card(hub, pizza):
    """Through the server's validate-yaml route, as an upload would."""
    for found in (hub_cards.card(pizza), hub_cards.card(pizza, report(pizza), license="mit", repo=REPO)):
        ModelCard(found).validate(repo_type="model")
    assert hub.count("POST /api/validate-yaml") == 2
    with pytest.raises(ValueError, match="license"):
        ModelCard("---\nlicense: 3\n---\n").validate(repo_type="model")


def test_citation_of_the_method(pizza, plugin):
    from erase_plugins.workflow.provenance import citations

    assert "@inproceedings{gandikota2024unified" in hub_cards.card(pizza)
    unknown = {"id": "nobody", "title": "A {Paper}", "paper": "https://arxiv.org/abs/2401.12345"}
    assert citations(unknown) == [
        "@misc{nobody,\n  title = {A Paper},\n  year = {2024},\n  eprint = {2401.12345},\n  archivePrefix = {arXiv},\n"
        "  url = {https://arxiv.org/abs/2401.12345}\n}"
    ]
    assert citations({**unknown, "paper": "https://example.org/a.pdf"})[0].count("\n") == 3
    assert citations({**unknown, "paper": "javascript:alert(1)"}) == []
    assert [item.split("{")[1].split(",")[0] for item in citations({"id": "uce+rece"})] == [
        "gandikota2024unified", "gong2024reliable",
    ]  # fmt: skip
    assert "## Cite" not in hub_cards.card(pizza.with_manifest(method={"id": "nobody"}))


def test_the_first_screen_is_easy_to_read(pizza):
    """Flesch-Kincaid grade of the prose: the first screen, and what changes on which base."""
    text = body_of(hub_cards.card(pizza)).split("## How strong")[0]
    text = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    plain = " ".join(line for line in text.splitlines() if line and line[0] not in "#|")
    words = re.findall(r"[A-Za-z]+", plain)
    sentences = len(re.findall(r"[.!?](?:\s|$)", plain))
    syllables = sum(max(1, len(re.findall(r"[aeiouy]+", re.sub(r"e$", "", word.lower())))) for word in words)
    assert len(words) > 40
    assert 0.39 * len(words) / sentences + 11.8 * syllables / len(words) - 15.59 <= 10


def test_many_concepts_stay_readable(pizza):
    many = pizza.with_manifest(concepts=tuple(Concept(f"artist {number}", "style") for number in range(500)))
    text = hub_cards.card(many)
    assert text.splitlines()[text.splitlines().index("# " + text.split("\n# ", 1)[1].splitlines()[0])].endswith(
        "and 495 more"
    )
    assert "| and 460 more, see erase.json | | |" in text
    assert len(data_of(text)["tags"]) < 70


def test_explicit_concepts_ask_for_the_notice(pizza):
    explicit = pizza.with_manifest(concepts=(Concept("x", "explicit"),))
    assert "not-for-all-audiences" in data_of(hub_cards.card(explicit))["tags"]
    assert "not-for-all-audiences" not in data_of(hub_cards.card(pizza))["tags"]


def test_a_certificate_is_shown_with_the_bound_that_counts_first(pizza):
    proven = Certificate(
        "noisy-gd",
        1.5,
        1e-6,
        "noisy-gd 1",
        "",
        True,
        (("rho_adaptive", 0.5), ("a rho", 0.25)),
        ("full batch",),
        "the head",
    )
    text = hub_cards.card(pizza.with_manifest(certificate=proven))
    rows = text.split("## Certificate\n\n")[1].split("\n\n")[0].splitlines()[2:]
    assert rows == [
        "| certified | yes, by its maker |", "| rho_adaptive | 0.5 |", "| a rho | 0.25 |", "| epsilon | 1.5 at delta 1e-06 |",
        "| mechanism | noisy-gd |", "| accountant | noisy-gd 1 |", "| is about | the head |", "| assumes | full batch |",
    ]  # fmt: skip
    doubtful = replace(proven, certified=False, reasons=("a seed was fixed",))
    text = hub_cards.card(pizza.with_manifest(certificate=doubtful))
    assert "| certified | no |" in text
    assert "| why not | a seed was fixed |" in text
    assert "## Certificate" not in hub_cards.card(pizza)


def test_data_is_named_and_no_command_is_shown_that_lacks_it(pizza):
    item = ForgetItem(kind="class", label=3, data=DataRef("digits", sha256="ab" * 32))
    made = hub_cards.card(pizza.with_manifest(concepts=(item,), retain_data=(DataRef("others", sha256="cd" * 32),)))
    made = made.split("## How it was made")[1].split("\n## ")[0]
    assert "erase-plugins run" not in made
    assert "| data | 3: digits (`abababababab`), retained: others (`cdcdcdcdcdcd`) |" in made


@pytest.mark.parametrize("text", EVIL)
def test_text_of_strangers_is_inert(pizza, text):
    spoiled = pizza.with_manifest(
        concepts=(Concept(text, anchor=text, prompts=(text,)),), preserve=(text,), warnings=(text,),
        base={**pizza.manifest.base, "model": text, "revision": text}, options={"a": text},
        method={**pizza.manifest.method, "title": text, "paper": text}, versions={text: text},
        certificate=Certificate(text, None, None, text, text, False, ((text, 1.0),), (text,), text, (text,), text, (text,)),
    )  # fmt: skip
    found = hub_cards.card(
        spoiled,
        report(
            pizza,
            warnings=(text,),
        ),
        repo=REPO,
        gallery=Gallery((Pair(text, 1, *names(1)),), {}),
    )
    data = data_of(found)
    assert set(data) <= {
        "library_name", "pipeline_tag", "license", "license_name", "tags", "erased", "erasure", "model-index", "widget",
        "thumbnail",
    }  # fmt: skip
    assert all(re.fullmatch(r"[a-z0-9:-]+", tag) for tag in set(data["tags"]) - {flat(text)})
    assert data["widget"][0]["text"] == flat(text)
    assert data["license"] == "other"
    body = body_of(found)
    outside = re.sub(r"^(`{3,})\w*\n.*?\n\1$", "", body, flags=re.DOTALL | re.MULTILINE)  # code blocks
    outside = re.sub(r"`[^`\n]*`", "", outside)
    outside = outside.replace("<!-- user -->\n<!-- /user -->", "")
    outside = re.sub(r"^(<Gallery />|<details><summary>[A-Za-z, ]+</summary>|</details>)$", "", outside, flags=re.M)
    assert "<" not in outside
    assert "](http" not in outside
    assert "](javascript" not in outside
    assert "**bold**" not in outside
    assert not re.search(r"https?:/|www\.evil|@all", outside)
    assert "\u202e" not in body
    titles = re.findall(r"^#+ ", outside, flags=re.MULTILINE)
    assert len(titles) == 13
    columns = 0
    for line in outside.splitlines():
        columns = 0 if not line.startswith("|") else columns or line.count("|")
        assert not columns or line.count("|") == columns
    assert found.rstrip().endswith("<!-- user -->\n<!-- /user -->")
    again = re.search(r"^erase-plugins run .*(?:\n  .*)*$", body, flags=re.MULTILINE)
    words = shlex.split(again[0].replace("\\\n", ""))
    assert read_concept(words[words.index("--erase") + 1])[0] == " ".join(re.sub(r"[\u202e\n]", " ", text).split())


@pytest.mark.parametrize("text", EVIL)
def test_a_python_literal_is_one_string(text):
    import ast

    assert ast.literal_eval(literal(text)) == flat(text)


@pytest.mark.parametrize("link", ["javascript:alert(1)", "https://x.org/) <img src=x>", "LICENSE\n# x"])
def test_the_link_of_a_licence_is_a_plain_address_or_none(pizza, link):
    """It may come from the page of somebody to whom a pull request goes."""
    text = body_of(hub_cards.card(pizza, license=Licence("other", "mine", link)))
    assert text.split("## Licence\n\n")[1].startswith("`mine`. The conditions")
    plain = body_of(hub_cards.card(pizza, license=Licence("other", "mine", "https://x.org/LICENSE.md")))
    assert "`mine` ([text](https://x.org/LICENSE.md)). The" in plain


def test_only_names_that_we_give_to_pictures_are_shown_and_replaced(hub, pizza):
    from erase_plugins.evaluation.published import is_picture

    assert is_picture("images/figure-curve.v2.png")
    for name in (
        "images/figure-x) <img src=x onerror=alert(1)>.png",
        "images/figure-mine.jpg",
        "images/figure-",
        "x.png",
    ):
        assert not is_picture(name)


def test_a_card_never_shows_a_token(pizza, hub):
    """Whatever field it came through; the YAML, the text and the commands."""
    from tests.hub.test_page import spoiled

    canary = "hf_" + "canary" * 5
    found = hub_cards.card(spoiled(pizza, f"a {canary}"), report(pizza, warnings=(canary,)), repo=REPO)
    assert canary not in found
    assert "canary" not in found
    assert "hf&#95;&#42;&#42;&#42;" in found


def test_an_artifact_of_several_steps_lists_them(pizza, hamburger):
    from erase_plugins import merge, revoke

    both = merge([pizza, hamburger])
    text = hub_cards.card(both)
    assert "erase-plugins run" not in text
    assert re.search(
        r"^1\. merge: members erase_hamburger,erase_pizza; at \d+", text.replace("&#44;", ","), re.MULTILINE
    )
    one = hub_cards.card(revoke(both, "pizza"))
    assert re.search(r"^2\. revoke: concepts pizza; kept true; at ", one, re.MULTILINE)
    assert "Kept on purpose: a plate, pizza." in one
    assert "erase-plugins run uce" in hub_cards.card(pizza)


def test_a_card_offers_only_what_the_files_can_do(pizza, tmp_path):
    """Neither diffusers nor a LoRA loader reads the portable form alone."""
    text = hub_cards.card(pizza.save(tmp_path / "patch", ("patch",)))
    languages = re.findall(r"^```(\w+)$", text, flags=re.MULTILINE)
    assert languages == ["python", "bash", "bash", "bash", "bibtex"]
    assert "load_lora_weights" not in text
    assert "hf download" not in text
    assert text.count("`erase-plugins convert` may write one") == 2
    assert "ep.apply(pipe" in text


def test_long_commands_take_one_line_for_every_option():
    assert commands(("a", "b c"), ("--d", "e")) == "a 'b c' --d e"
    long = commands(("a", "x" * 60), ("--bb", "y; z" * 9))
    assert long == f"a {'x' * 60} \\\n  --bb '{'y; z' * 9}'"
    assert shlex.split(long.replace("\\\n", "")) == ["a", "x" * 60, "--bb", "y; z" * 9]


def test_fences_are_longer_than_what_is_inside():
    assert block("a ```` b").startswith("`````")
    assert prose("a_b _d_ *c*: e = f") == "a_b &#95;d&#95; &#42;c&#42;&#58; e = f"
    assert prose("x: 6 % [0 to 9] :y: [z] [1 to 2](u)") == "x: 6 % [0 to 9] &#58;y: &#91;z&#93; &#91;1 to 2&#93;(u)"


def test_no_promises(pizza):
    for text in (hub_cards.card(pizza), hub_cards.card(pizza, report(pizza))):
        assert not re.search(r"guarante|certif|permanent", text, flags=re.IGNORECASE)
        assert "no proof of deletion" in text


def test_sections_of_plugins_come_before_the_licence(pizza, plugin):
    class Extra:
        @hookimpl
        def erase_card_sections(self, artifact, report):
            return ["## Thanks\n\nTo you."]

    with plugin.temporary(Extra(), "extra"):
        text = hub_cards.card(pizza)
    assert text.index("## Limits") < text.index("## Thanks") < text.index("## Licence")


def test_a_report_about_something_else_is_refused(pizza):
    with pytest.raises(ArtifactError, match="the report is about other"):
        hub_cards.card(pizza, replace(report(pizza), artifacts=("other",)))


def test_an_attached_figure_goes_onto_the_card_and_off_with_its_report(hub, pizza, tmp_path):
    from PIL import Image

    names = {"report": "report.json", "curve": "curve.png", "rows": "rows.csv", "up": "../up.png", "bad": "a)b.png"}
    made = report(pizza, files=names, attached={"curve.png": {"title": "rate [against] strength", "sha256": ""}})
    folder = tmp_path / "r"
    folder.mkdir()
    (folder / "report.json").write_text(json.dumps(made.to_dict()))
    for place in (folder / "curve.png", folder / "a)b.png", tmp_path / "up.png", folder / "up.png"):
        Image.new("RGB", (4, 4)).save(place)
    (folder / "rows.csv").write_text("1,2")
    hub_cards.push(pizza, REPO, license="mit", report=folder)
    found = hub.files(REPO)
    assert found["images/figure-curve.png"] == (folder / "curve.png").read_bytes()
    assert [name for name in found if name.startswith("images/")] == ["images/figure-curve.png"]
    text = found["README.md"].decode()
    assert "](images/figure-curve.png)" in text and "against" in text.partition("](images/figure-curve.png)")[0][-60:]
    assert hub_cards.push(pizza, REPO, license="mit", report=folder).sent == ()
    (folder / "report.json").write_text(json.dumps(report(pizza, seconds=7.0).to_dict()))
    hub_cards.push(pizza, REPO, license="mit", report=folder)
    assert "images/figure-curve.png" not in hub.files(REPO), "a picture of the report that was replaced"


def test_report_and_pictures_go_along(hub, pizza, tmp_path):
    from PIL import Image

    made = report(pizza, files={"report": "report.json", "contact_sheet": "contact_sheet.png", "chart": "chart.png"})
    (tmp_path / "report.json").write_text(json.dumps(made.to_dict()))
    Image.new("RGB", (4, 4)).save(tmp_path / "contact_sheet.png")
    (tmp_path / "chart.png").write_bytes(b"not a picture")
    hub_cards.push(pizza, REPO, license="mit", report=tmp_path)
    found = hub.files(REPO)
    assert found["images/contact_sheet.png"] == (tmp_path / "contact_sheet.png").read_bytes()
    assert "images/chart.png" not in found
    assert EvalReport.from_dict(json.loads(found["report.json"])) == made
    text = found["README.md"].decode()
    assert "](images/contact_sheet.png)" in text
    assert data_of(text)["thumbnail"] == f"{hub.url}/{REPO}/resolve/main/images/contact_sheet.png"
    assert hub_cards.push(pizza, REPO, license="mit", report=tmp_path).sent == ()
    hub_cards.push(pizza, REPO, license="mit", report=tmp_path, pictures=False)
    assert "images/contact_sheet.png" not in hub.files(REPO)


def attack(artifact, name, value, low, control):
    success, other = (EvalRow("target_rate", who, rate, down, 1.0, 32) for who, rate, down in (("a", value, low),) * 2)
    return AttackReport(name, "pocket", "quick", success, replace(other, value=control, low=0.0, high=control),
                        artifacts=(artifact.name,))  # fmt: skip


def test_the_first_sentence_tells_the_numbers_and_what_brings_it_back(pizza):
    def said(*attacks):
        text = body_of(hub_cards.card(pizza, report(pizza), attacks=attacks))
        return text.split("\n\n")[2]

    assert said() == (
        "Still drawn, before → after: **pizza 96.9 % → 3.1 %, other concepts 84.4 %** of the pictures. "
        "Nobody has attacked it yet."
    )
    strong, weak = attack(pizza, "concept-inversion", 1.0, 0.9, 0.3), attack(pizza, "paraphrase", 0.4, 0.2, 0.3)
    assert said(weak, strong).endswith(" 1 of 2 attacks brought it back: concept-inversion (100 %).")
    assert said(weak).endswith(" Of 1 attacks none brought it back clearly more often than its control.")
    assert "was not measured. Nobody has attacked it" in body_of(hub_cards.card(pizza)).split("\n\n")[2]


def test_what_is_still_drawn_is_not_said_to_be_gone(pizza):
    def said(rate):
        rows = (replace(ROWS[1], value=rate, low=0.0, high=1.0), ROWS[2])
        return body_of(hub_cards.card(pizza, report(pizza, rows))).split("\n\n")[1]

    for rate in (0.11, 0.75):
        assert "it was made so that the model no longer draws **pizza**, but was measured otherwise. Take" in said(rate)
    assert "and it no longer draws **pizza**. Take it off" in said(0.1)


@pytest.mark.parametrize("rows", [None, (ROWS[2],), (replace(ROWS[2], metric="clip_score", subject="edited"),)])
def test_what_was_not_looked_for_is_not_said_to_be_gone(pizza, rows):
    """Without any number, and where something else was measured only."""
    pizza = pizza.with_manifest(base={**pizza.manifest.base, "model": "me/sd"})
    found = None if rows is None else report(pizza, rows)
    first, second = body_of(hub_cards.card(pizza, found, repo="me/no-pizza")).split("\n\n")[1:3]
    yet = " (not measured yet)" * (rows is None)
    assert first.endswith(
        f": it was made so that the model no longer draws **pizza**{yet}. Take it off and the model is as it was."
    )
    step = "Measure it: `erase-plugins evaluate hub:me/no-pizza --model me/sd --out report`."
    assert second.endswith(step) if rows is None else step not in second


def test_what_measures_a_model_of_words_is_its_own_suite(pizza):
    words = pizza.with_manifest(base={**pizza.manifest.base, "model": "me/lm", "task": "text-generation"})
    assert " --model me/lm --suite language --out report`." in hub_cards.card(words)
    assert "Measure it" not in hub_cards.card(words.with_manifest(base={**words.manifest.base, "task": "to-dance"}))


def test_links_lead_to_the_hub_that_the_client_talks_to(pizza, monkeypatch):
    """Who publishes on a Hub of their own would send readers to strangers' repositories of the same names."""
    named = pizza.with_manifest(base={**pizza.manifest.base, "model": "me/model"})
    monkeypatch.setattr(constants, "ENDPOINT", "https://me:secret@hub.example.org:8443/models")
    text = hub_cards.card(named, repo=REPO, space="me/try-it", pictures=["images/chart.png"])
    here = "https://hub.example.org:8443/models"
    assert data_of(text)["thumbnail"] == f"{here}/{REPO}/resolve/main/images/chart.png"
    assert f"({here}/spaces/me/try-it)" in text and f"]({here}/me/model)" in text
    assert data_of(text)["license_link"] == f"{here}/me/model"
    assert "secret" not in text and "huggingface.co" not in text
    assert f"]({here}/{REPO})" in readme(named, REPO, None, False)
    assert parse(f"{here}/me/no-pizza/tree/v1") == Source("me/no-pizza", "v1")


def test_the_space_is_linked_where_it_was_named(pizza, hub):
    assert "erase-plugins space" in hub_cards.card(pizza, repo=REPO)
    hub_cards.push(pizza, REPO, license="mit", space="me/try-it")
    link = f"({hub.url}/spaces/me/try-it)"
    assert link in hub.files(REPO)["README.md"].decode()
    hub_cards.push(pizza, REPO, license="mit", message="again")
    assert link in hub.files(REPO)["README.md"].decode(), "the next push keeps it"
    with pytest.raises(RequestError, match="write owner/name"):
        hub_cards.card(pizza, space="](http://evil.example)")
